//! Reads by tokio-postgres, with pools of deadpool-postgres.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use bytes::BytesMut;
use deadpool_postgres::{Client, Pool};
use sqlx::Arguments;
use sqlx::postgres::PgArguments;
use tidegate::{Cache, Database, PolicyError};
use tokio_postgres::types::{Format, IsNull, ToSql};
use tokio_postgres::{Row, Statement};

use crate::declare::{Argument, Declared, Server, declare};
use crate::{Failure, layer, unavailable};

type Parameter<'a> = &'a (dyn ToSql + Sync);

/// The pools of the service.
#[derive(Clone)]
pub struct Service {
    pub db: Database,
    pub primary: Pool,
    pub replica: Option<Pool>,
}

impl Service {
    /// As `Client::query`, for responses that are cached.
    ///
    /// # Errors
    ///
    /// If the read fails, or no server has what it must see.
    pub async fn cached_read(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let (client, statement, declared) = self.open(sql, parameters).await?;
        let rows = client.query(&statement, parameters).await?;
        declared.end();
        Ok(rows)
    }

    /// A connection to the replica, or to the primary if the replica is behind or down.
    async fn open(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<(Client, Statement, Declared), Failure> {
        if let Some(replica) = &self.replica
            && let Ok(opened) = self.open_at(Server::Replica, replica, sql, parameters).await
        {
            return Ok(opened);
        }
        self.open_at(Server::Primary, &self.primary, sql, parameters).await
    }

    async fn open_at(
        &self,
        server: Server,
        pool: &Pool,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<(Client, Statement, Declared), Failure> {
        let client = pool.get().await?;
        // With a prepared statement, the position takes one round trip. `query` with a text would take two.
        let position = client.prepare_cached(Database::POSITION).await?;
        let statement = client.prepare_cached(sql).await?;
        let arguments = arguments(&statement, parameters)?;
        let position: String = client.query_one(&position, &[]).await?.try_get(0)?;
        let declared = declare((&self.db, server), &position, sql, arguments).await?;
        Ok((client, statement, declared))
    }

    /// Runs a statement that writes.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub async fn write(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, Failure> {
        let client = self.primary.get().await?;
        let written = client.execute(sql, parameters).await;
        // Also after an error: if the connection broke, the statement may have been committed.
        self.db.wrote();
        Ok(written?)
    }
}

/// The parameters as they will be sent.
fn arguments(statement: &Statement, parameters: &[Parameter<'_>]) -> Result<PgArguments, Failure> {
    let mut arguments = PgArguments::default();
    for (parameter, kind) in parameters.iter().zip(statement.params()) {
        let mut bytes = BytesMut::new();
        let value = match parameter.to_sql_checked(kind, &mut bytes)? {
            IsNull::Yes => None,
            IsNull::No => Some(bytes.to_vec()),
        };
        let oid = match parameter.encode_format(kind) {
            Format::Binary => kind.oid(),
            Format::Text => 0,
        };
        arguments.add(Argument { oid, value })?;
    }
    Ok(arguments)
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
    const SQL: &str = "select name, visits from users where id = $1";
    let rows = service.cached_read(SQL, &[&id]).await.map_err(unavailable)?;
    let row = rows.first().ok_or(StatusCode::NOT_FOUND)?;
    Ok(format!("{} {}", row.get::<_, &str>(0), row.get::<_, i32>(1)))
}

async fn visit(state: State<Service>, id: Path<i32>) -> Result<String, StatusCode> {
    const SQL: &str = "update users set visits = visits + 1 where id = $1";
    state.write(SQL, &[&id.0]).await.map_err(unavailable)?;
    user(state, id).await
}
