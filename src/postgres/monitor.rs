//! Periodically queries the servers' positions.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::identity::{ServerIdentity, identity};
use super::lag::Lag;
use super::sample::ServerPosition;
use super::server::Server;
use super::sql_error::sql_state;
use crate::clock;

/// A server that takes longer to report its position counts as down.
const PATIENCE: Duration = Duration::from_secs(1);

/// The server, the database or the role has no connection left: `too_many_connections` (PostgreSQL manual, appendix A).
const TOO_MANY: &str = "53300";

/// The longest pause between two attempts to reach a server that is down.
const SLOWEST: Duration = Duration::from_secs(1);

/// The task that queries a server; it ends when this is dropped.
pub(crate) struct Monitor(JoinHandle<()>);

impl Monitor {
    pub(crate) fn for_replica(server: &Arc<Server>, every: Duration) -> Self {
        let server = server.clone();
        Self(tokio::spawn(async move {
            watch(
                &server,
                every,
                || true,
                |report| match report {
                    MonitorReport::Identity(identity) => drop(server.observe(identity)),
                    MonitorReport::Refused | MonitorReport::Silence => server.mark_down(),
                },
            )
            .await;
        }))
    }

    /// The primary's position determines which replicas are late. While the listener reports it, this task does not query
    /// the primary: its load must not grow with the number of nodes.
    pub(crate) fn for_primary(server: &Server, lag: &Arc<Lag>) -> Self {
        let (server, lag) = (server.clone(), lag.clone());
        Self(tokio::spawn(async move {
            let primary = |report: &ServerIdentity| {
                ServerPosition::from_identity(report).filter(|at| !at.standby)
            };
            let pooled = server.clone();
            let observe = |report: MonitorReport<'_>| match report {
                MonitorReport::Identity(identity) => match primary(identity) {
                    Some(at) => {
                        lag.note_timeline(identity);
                        lag.observe(at);
                    }
                    None => lag.mark_down(),
                },
                // It has no connection left for this task, and may serve those that the pool has.
                MonitorReport::Refused if pooled.pool().size() > 0 => lag.responds(),
                MonitorReport::Refused | MonitorReport::Silence => lag.mark_down(),
            };
            watch(&server, lag.sample_every(), || !lag.is_reported(), observe).await;
        }))
    }
}

impl Monitor {
    /// Ends the task.
    pub(crate) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The result of a query.
enum MonitorReport<'a> {
    Identity(&'a ServerIdentity),
    /// The server is up, and refuses further connections.
    Refused,
    Silence,
}

/// Queries the server whenever its position is wanted, and passes the result on.
async fn watch(
    server: &Server,
    every: Duration,
    wanted: impl Fn() -> bool,
    mut report: impl FnMut(MonitorReport<'_>),
) {
    let mut backoff = Backoff::new(every, every.max(SLOWEST));
    loop {
        if wanted() {
            match timeout(PATIENCE, server.connector.connect()).await {
                Ok(Ok(mut conn)) => {
                    let began = clock::now();
                    let end = follow(server, &mut conn, every, &wanted, &mut report).await;
                    backoff.ended_after(began.elapsed());
                    if end == MonitorEnd::Silence && wanted() {
                        tracing::warn!(server = %server.label(), "a server does not respond");
                        report(MonitorReport::Silence);
                    }
                }
                Ok(Err(error)) if sql_state(&error).as_deref() == Some(TOO_MANY) => {
                    report(MonitorReport::Refused);
                }
                _ => report(MonitorReport::Silence),
            }
        } else {
            backoff.reset();
        }
        sleep(backoff.pause()).await;
    }
}

/// Why a connection is no longer queried.
#[derive(Debug, PartialEq, Eq)]
enum MonitorEnd {
    /// The server did not respond.
    Silence,
    /// The position is not wanted at present.
    Unwanted,
}

/// Queries the server until it does not respond, or its position is not wanted. If a different server process responds than
/// before, the connection goes through a transaction-pooling proxy.
async fn follow(
    server: &Server,
    conn: &mut PgConnection,
    every: Duration,
    wanted: impl Fn() -> bool,
    report: &mut impl FnMut(MonitorReport<'_>),
) -> MonitorEnd {
    let mut process = None;
    while wanted() {
        let Ok(Ok(identity)) = timeout(PATIENCE, identity(&mut *conn)).await else {
            return MonitorEnd::Silence;
        };
        if *process.get_or_insert(identity.process) != identity.process {
            server.note_shared();
        }
        report(MonitorReport::Identity(&identity));
        sleep(every).await;
    }
    MonitorEnd::Unwanted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by it")]
mod tests {
    use tidegate_testing::Postgres;

    use super::*;
    use crate::entry::{Epoch, Position};
    use crate::postgres::options::{ConnectionSettings, PoolLimits};
    use crate::postgres::server::ServerRole;

    #[tokio::test]
    async fn a_primary_without_a_connection_for_the_monitor_is_not_lost() {
        let postgres = Postgres::start().await.unwrap();
        postgres.psql("create role app login connection limit 1").await.unwrap();
        let url = postgres.url().replace("postgres@", "app@");
        let limits = PoolLimits { connections: 1, ..PoolLimits::default() };
        let settings = ConnectionSettings { limits, ..ConnectionSettings::default() };
        let server =
            Server::new("primary", ServerRole::Primary, &url.as_str().into(), &settings).unwrap();
        let lag = Arc::new(Lag::new(Duration::from_secs(1)));
        let _pooled = server.acquire().await.unwrap();
        let _monitor = Monitor::for_primary(&server, &lag);
        lag.mark_down();
        let (epoch, position) = (Epoch::new(1), Position::new(1));
        tidegate_testing::eventually("it was refused", async || {
            lag.report(ServerPosition { epoch, position, standby: false, seen_at: clock::now() });
            lag.is_reported() && !lag.is_down()
        })
        .await
        .unwrap();
    }
}
