//! Reads by `sea-orm`, version 2.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use sea_orm::sea_query::{Expr, ExprTrait, Values};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    EntityTrait, FromQueryResult, QueryFilter, QueryTrait, Statement, TransactionTrait,
};
use sea_query_sqlx::SqlxValues;
use sqlx::IntoArguments;
use tidegate::{Cache, Database, PolicyError};

use crate::declare::{Declared, Server, declare};
use crate::{Failure, layer, unavailable};

pub mod users {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub name: String,
        pub visits: i32,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The pools of the service.
#[derive(Clone)]
pub struct Service {
    pub db: Database,
    pub primary: DatabaseConnection,
    pub replica: Option<DatabaseConnection>,
}

impl Service {
    /// As `Select::all`, for responses that are cached.
    ///
    /// # Errors
    ///
    /// If the read fails, or no server has what it must see.
    pub async fn cached_all<M: FromQueryResult>(
        &self,
        query: impl QueryTrait,
    ) -> Result<Vec<M>, Failure> {
        let statement = query.build(DbBackend::Postgres);
        let (transaction, declared) = self.open(&statement).await?;
        let rows = transaction.query_all_raw(statement).await?;
        declared.end();
        transaction.commit().await?;
        Ok(rows.iter().map(|row| M::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// A transaction on the replica, or on the primary if the replica is behind or down.
    async fn open(
        &self,
        statement: &Statement,
    ) -> Result<(DatabaseTransaction, Declared), Failure> {
        if let Some(replica) = &self.replica
            && let Ok(opened) = self.open_at(Server::Replica, replica, statement).await
        {
            return Ok(opened);
        }
        self.open_at(Server::Primary, &self.primary, statement).await
    }

    async fn open_at(
        &self,
        server: Server,
        pool: &DatabaseConnection,
        statement: &Statement,
    ) -> Result<(DatabaseTransaction, Declared), Failure> {
        // A `DatabaseConnection` is a pool. Only in a transaction do two statements use the same connection.
        let transaction = pool.begin().await?;
        let position = Statement::from_string(DbBackend::Postgres, Database::POSITION);
        let position = transaction.query_one_raw(position).await?;
        let position = position.ok_or(DbErr::RecordNotFound("the position".into()))?;
        let position: String = position.try_get_by_index(0)?;
        // SeaORM passes the values to sqlx in the same way.
        let values = statement.values.clone().unwrap_or(Values(Vec::new()));
        let arguments = SqlxValues(values).into_arguments();
        let declared = declare((&self.db, server), &position, &statement.sql, arguments).await?;
        Ok((transaction, declared))
    }
}

/// `/users/{id}` is cached. `/users/{id}/visit` writes, and returns what it wrote.
///
/// # Errors
///
/// If the policy is wrong.
pub fn router(service: Service, cache: Cache) -> Result<Router, PolicyError> {
    let router = Router::new()
        .route("/users/{id}", get(user))
        .route("/users/{id}/visit", get(visit))
        .layer(layer(cache)?);
    Ok(router.with_state(service))
}

async fn user(State(service): State<Service>, Path(id): Path<i32>) -> Result<String, StatusCode> {
    let query = users::Entity::find_by_id(id);
    let rows: Vec<users::Model> = service.cached_all(query).await.map_err(unavailable)?;
    let user = rows.first().ok_or(StatusCode::NOT_FOUND)?;
    Ok(format!("{} {}", user.name, user.visits))
}

async fn visit(state: State<Service>, id: Path<i32>) -> Result<String, StatusCode> {
    let visits = Expr::col(users::Column::Visits).add(1);
    let update = users::Entity::update_many()
        .col_expr(users::Column::Visits, visits)
        .filter(users::Column::Id.eq(id.0));
    let written = update.exec(&state.primary).await;
    // Also after an error: if the connection broke, the statement may have been committed.
    state.db.wrote();
    written.map_err(unavailable)?;
    user(state, id).await
}
