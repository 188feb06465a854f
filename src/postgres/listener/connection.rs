//! The direct connection to the primary over which the log is read and notifications arrive.

use std::sync::Arc;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::time::timeout;

use crate::postgres::connector::Connector;
use crate::postgres::database::Database;
use crate::postgres::deadline::{PATIENCE, within};
use crate::postgres::error::DatabaseError;
use crate::postgres::log;
use crate::postgres::pooler::{self, SessionMode};

/// Connects to the primary directly, and starts LISTEN. Everything that is read from the log on this connection is of one
/// history, since no connection survives a recovery, and a standby refuses LISTEN.
pub(in crate::postgres) async fn connect(db: &Database) -> Result<PgListener, DatabaseError> {
    let server = &db.inner.listen;
    let connect = async {
        let pool = server.connector.attempt(|options| pool(&server.connector, options)).await?;
        let mut conn = PgListener::connect_with(&pool).await?;
        conn.eager_reconnect(false);
        conn.ignore_pool_close_event(true);
        log::prepare(&mut conn).await?;
        conn.listen("tidegate").await?;
        Ok(conn)
    };
    let connected = Box::pin(within(connect)).await;
    let mut conn = connected.map_err(|error| DatabaseError::connecting(server.label(), error))?;
    within(log::begin_history(&mut conn)).await.map_err(DatabaseError::from_log)?;
    Ok(conn)
}

/// The pool of one connection that sqlx's listener requires for reconnecting, which is never used here.
async fn pool(connector: &Arc<Connector>, options: PgConnectOptions) -> sqlx::Result<PgPool> {
    let connector = connector.clone();
    PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(PATIENCE)
        .after_connect(move |conn, _| {
            let connector = connector.clone();
            Box::pin(async move { connector.set_up(conn).await })
        })
        .connect_with(options)
        .await
}

/// Checks that a notification sent on this connection is received on it, which shows that no proxy gives its session to
/// others. While the server's queue of notifications is full, another check shows that, and heartbeats find the changes.
pub(in crate::postgres) async fn check_notifications(
    db: &Database,
    conn: &mut PgListener,
) -> Result<(), DatabaseError> {
    if !within(log::notify(&mut *conn)).await.map_err(DatabaseError::from_log)? {
        let checked = timeout(PATIENCE, pooler::sessions(&db.inner.listen.connector, false)).await;
        if let Ok(Ok((mode, extra))) = checked {
            tokio::spawn(within(extra.close()));
            if mode != SessionMode::Own {
                return Err(DatabaseError::Pooled);
            }
        }
        tracing::warn!(
            "the server's notification queue is half full or more, because some session listens but does not read: \
             until that session reads or ends, this node notices changes up to a second late"
        );
        return Ok(());
    }
    match timeout(PATIENCE, conn.try_recv()).await {
        Ok(Ok(Some(_))) => Ok(()),
        _ => Err(DatabaseError::Pooled),
    }
}

pub(in crate::postgres) fn connection_lost() -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection was lost").into()
}
