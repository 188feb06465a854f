//! Periodically queries the servers' positions.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::lag::Lag;
use super::log::{ServerIdentity, identity};
use super::sample::ServerPosition;
use super::server::Server;
use crate::clock;

/// A server that takes longer to report its position counts as down.
const PATIENCE: Duration = Duration::from_secs(1);

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
                |said| match said {
                    Some(identity) => drop(server.observe(identity)),
                    None => server.lose(),
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
            let primary = |said: &ServerIdentity| {
                ServerPosition::from_identity(said).filter(|at| !at.standby)
            };
            let observe = |said: Option<&ServerIdentity>| match said.and_then(primary) {
                Some(at) => lag.observe(at),
                None => lag.lose(),
            };
            watch(&server, lag.sample_every(), || !lag.is_reported(), observe).await;
        }))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Queries the server whenever its position is wanted, and passes it on; `None` if the server does not respond.
async fn watch(
    server: &Server,
    every: Duration,
    wanted: impl Fn() -> bool,
    mut told: impl FnMut(Option<&ServerIdentity>),
) {
    let mut backoff = Backoff::new(every, every.max(SLOWEST));
    loop {
        if !wanted() {
            backoff.reset();
        } else if let Ok(Ok(mut conn)) = timeout(PATIENCE, server.options.connect()).await {
            let began = clock::now();
            let end = follow(server, &mut conn, every, &wanted, &mut told).await;
            backoff.ended_after(began.elapsed());
            if end == MonitorEnd::Silence && wanted() {
                tracing::warn!(server = %server.label(), "a server does not respond");
                told(None);
            }
        } else {
            told(None);
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
    told: &mut impl FnMut(Option<&ServerIdentity>),
) -> MonitorEnd {
    let mut process = None;
    while wanted() {
        let Ok(Ok(identity)) = timeout(PATIENCE, identity(&mut *conn)).await else {
            return MonitorEnd::Silence;
        };
        if *process.get_or_insert(identity.process) != identity.process {
            server.note_shared();
        }
        told(Some(&identity));
        sleep(every).await;
    }
    MonitorEnd::Unwanted
}
