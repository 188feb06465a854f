//! Reads by Diesel, with diesel-async and its pools of deadpool.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use diesel::pg::{Pg, PgMetadataLookup, PgQueryBuilder, PgTypeMetadata};
use diesel::prelude::*;
use diesel::query_builder::bind_collector::RawBytesBindCollector;
use diesel::query_builder::{AsQuery, QueryBuilder, QueryFragment, QueryId};
use diesel::sql_types::Text;
use diesel_async::methods::LoadQuery;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use sqlx::Arguments;
use sqlx::postgres::PgArguments;
use tidegate::{Cache, Database, PolicyError};

use crate::declare::{Argument, Declared, Server, declare};
use crate::{Failure, layer, unavailable};

diesel::table! {
    users (id) {
        id -> Integer,
        name -> Text,
        visits -> Integer,
    }
}

/// The pools of the service.
#[derive(Clone)]
pub struct Service {
    pub db: Database,
    pub primary: Pool<AsyncPgConnection>,
    pub replica: Option<Pool<AsyncPgConnection>>,
}

impl Service {
    /// As `RunQueryDsl::load`, for responses that are cached.
    ///
    /// # Errors
    ///
    /// If the read fails, or no server has what it must see.
    pub async fn cached_load<'q, Q, R>(&self, query: Q) -> Result<Vec<R>, Failure>
    where
        Q: AsQuery,
        Q::Query: QueryFragment<Pg> + LoadQuery<'q, AsyncPgConnection, R> + Send + 'q,
        R: Send,
    {
        let query = query.as_query();
        let (sql, arguments) = statement(&query)?;
        let (mut conn, declared) = self.open(&sql, &arguments).await?;
        let rows = query.load(&mut conn).await?;
        declared.end();
        Ok(rows)
    }

    /// A connection to the replica, or to the primary if the replica is behind or down.
    async fn open(
        &self,
        sql: &str,
        arguments: &PgArguments,
    ) -> Result<(Object<AsyncPgConnection>, Declared), Failure> {
        if let Some(replica) = &self.replica
            && let Ok(opened) = self.open_at(Server::Replica, replica, sql, arguments).await
        {
            return Ok(opened);
        }
        self.open_at(Server::Primary, &self.primary, sql, arguments).await
    }

    async fn open_at(
        &self,
        server: Server,
        pool: &Pool<AsyncPgConnection>,
        sql: &str,
        arguments: &PgArguments,
    ) -> Result<(Object<AsyncPgConnection>, Declared), Failure> {
        let mut conn = pool.get().await?;
        let position: Position =
            diesel::sql_query(Database::POSITION).get_result(&mut conn).await?;
        let (position, arguments) = (&position.tidegate_position, arguments.clone());
        let declared = declare((&self.db, server), position, sql, arguments).await?;
        Ok((conn, declared))
    }

    /// Runs a statement that writes.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub async fn write<Q>(&self, statement: Q) -> Result<usize, Failure>
    where
        Q: QueryFragment<Pg> + QueryId + Send,
    {
        let mut conn = self.primary.get().await?;
        let written = statement.execute(&mut conn).await;
        // Also after an error: if the connection broke, the statement may have been committed.
        self.db.wrote();
        Ok(written?)
    }
}

#[derive(QueryableByName)]
struct Position {
    #[diesel(sql_type = Text)]
    tidegate_position: String,
}

/// The text and the arguments that Diesel will send. `debug_query` would show both in one text, as a different
/// statement for each value.
fn statement(query: &impl QueryFragment<Pg>) -> Result<(String, PgArguments), Failure> {
    let mut sql = PgQueryBuilder::new();
    query.to_sql(&mut sql, &Pg)?;
    let mut collected = RawBytesBindCollector::<Pg>::new();
    query.collect_binds(&mut collected, &mut NoLookup, &Pg)?;
    let mut arguments = PgArguments::default();
    for (kind, value) in collected.metadata.iter().zip(collected.binds) {
        arguments.add(Argument { oid: kind.oid().unwrap_or(0), value })?;
    }
    Ok((sql.finish(), arguments))
}

/// Types that are not built in count as unknown.
struct NoLookup;

impl PgMetadataLookup for NoLookup {
    fn lookup_type(&mut self, _name: &str, _schema: Option<&str>) -> PgTypeMetadata {
        PgTypeMetadata::new(0, 0)
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
    let query = users::table.find(id).select((users::name, users::visits));
    let rows: Vec<(String, i32)> = service.cached_load(query).await.map_err(unavailable)?;
    let (name, visits) = rows.into_iter().next().ok_or(StatusCode::NOT_FOUND)?;
    Ok(format!("{name} {visits}"))
}

async fn visit(state: State<Service>, id: Path<i32>) -> Result<String, StatusCode> {
    let user_row = diesel::update(users::table.find(id.0));
    let update = user_row.set(users::visits.eq(users::visits + 1));
    state.write(update).await.map_err(unavailable)?;
    user(state, id).await
}
