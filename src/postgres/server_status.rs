//! The state of a server, for display and monitoring.

use std::sync::Arc;
use std::time::Duration;

use super::lag::{Lag, ReplicaLag};
use super::server::Server;
use crate::entry::LogPosition;

/// A primary whose last known position is older counts as down.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);

/// The state of the primary or a replica.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Its name here: `primary`, `replica-1` and so on.
    pub name: Arc<str>,
    /// The position up to which it has written or replayed, in its epoch; `None` if it can't be reached.
    pub reached: Option<LogPosition>,
    /// How far it is behind the primary; `None` for the primary, or if either position is unknown.
    pub lag: Option<ReplicaLag>,
    /// Whether its address leads to several servers. If so, each read also queries the server's position.
    pub several: bool,
    /// The number of statements that the executors have sent to it, and to earlier servers with its name.
    pub statements: u64,
    /// The number of open connections.
    pub connections: u32,
    /// The number of open connections that are idle.
    pub idle_connections: u32,
    /// The maximum number of open connections.
    pub max_connections: u32,
}

impl ServerStatus {
    pub(crate) fn for_primary(server: &Server, lag: &Lag) -> Self {
        let newest = lag.newest().filter(|at| at.seen_at.elapsed() < REPORTED_WITHIN);
        let reached = newest.map(|at| at.reached());
        Self { reached, ..Self::new(server) }
    }

    pub(crate) fn for_replica(server: &Server, lag: &Lag) -> Self {
        let at = server.at();
        let reached = at.map(|at| at.reached());
        Self { reached, lag: at.and_then(|at| lag.behind(&at)), ..Self::new(server) }
    }

    fn new(server: &Server) -> Self {
        let (connections, idle) = (server.pool().size(), server.pool().num_idle());
        Self {
            name: server.name.clone(),
            reached: None,
            lag: None,
            several: server.sample().is_several(),
            statements: server.statements(),
            connections,
            idle_connections: u32::try_from(idle).unwrap_or(u32::MAX),
            max_connections: server.limits.connections,
        }
    }
}
