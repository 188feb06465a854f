//! Asking servers, again and again, how far they are.

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

/// A server that takes longer than this to say how far it is counts as down.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to reach a server that is down.
const SLOWEST: Duration = Duration::from_secs(1);

/// The task that asks; it ends when this is dropped.
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

    /// What the primary's log reaches tells which replicas are late. While it is told of by whoever
    /// follows the log, the primary is left in peace: what it is asked must not grow with the number of
    /// nodes.
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

/// Asks whenever it is wanted; `None` is told when there is no answer.
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
                tracing::warn!(server = %server.label(), "a server does not answer");
                told(None);
            }
        } else {
            told(None);
        }
        sleep(backoff.pause()).await;
    }
}

/// Why a connection is no longer asked.
#[derive(Debug, PartialEq, Eq)]
enum MonitorEnd {
    /// There was no answer.
    Silence,
    /// No answer is wanted.
    Unwanted,
}

/// Asks until there is no answer, or none is wanted. Where another process of the server answers than before, a proxy
/// shares its sessions out.
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
