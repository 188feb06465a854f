//! What is known of a server, for people and their monitoring.

use std::sync::Arc;
use std::time::Duration;

use super::lag::Lag;
use super::server::Server;
use crate::entry::{Epoch, Position};

/// A primary that was not heard of for longer is taken to be down.
const HEARD: Duration = Duration::from_secs(5);

/// What is known of the primary or a replica.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Its name here: `primary`, `replica-1` and so on.
    pub name: Arc<str>,
    /// How far it has written, or replayed, in which epoch; `None` if it can't be reached.
    pub reached: Option<(Epoch, Position)>,
    /// How far it is behind the primary; `None` for the primary, and where either is not known.
    pub lag: Option<ReplicaLag>,
    /// Whether its name stands for several servers, so that each read asks for its position.
    pub several: bool,
    /// How many statements the executors have sent to it, and to servers that had its name before.
    pub statements: u64,
    /// Connections that are open.
    pub connections: u32,
    /// Of these, those that nobody uses.
    pub idle_connections: u32,
}

/// How far a replica is behind the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLag {
    /// Bytes of the log that it has yet to replay.
    pub bytes: u64,
    /// How long ago the primary had more than the replica has; at least, since what the primary had
    /// is remembered for no longer than `DatabaseOptions::max_lag`.
    pub time: Duration,
}

impl ServerStatus {
    pub(crate) fn for_primary(server: &Server, lag: &Lag) -> Self {
        let newest = lag.newest().filter(|at| at.seen.elapsed() < HEARD);
        let reached = newest.map(|at| (at.epoch, at.position));
        Self { reached, ..Self::new(server) }
    }

    pub(crate) fn for_replica(server: &Server, lag: &Lag) -> Self {
        let at = server.at();
        let reached = at.map(|at| (at.epoch, at.position));
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
        }
    }
}
