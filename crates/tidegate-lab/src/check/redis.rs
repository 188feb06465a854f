//! The Redis that nodes share.

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, cmd};
use tidegate_testing::{FaultProxy, RedisSentinel, RedisServer};
use tokio::time::sleep;

use crate::Failure;

/// The topology of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Topology {
    /// One server; each node connects through its own proxy
    Server,
    /// A master and a replica, which Sentinel watches
    Sentinel,
}

/// The servers.
pub(crate) enum SharedRedis {
    Server { server: RedisServer, lines: Vec<FaultProxy> },
    Sentinel(RedisSentinel),
}

impl SharedRedis {
    pub(crate) async fn start(topology: Topology, nodes: usize) -> Result<Self, Failure> {
        if topology == Topology::Sentinel {
            return Ok(Self::Sentinel(RedisSentinel::start().await?));
        }
        let server = RedisServer::start().await?;
        let mut lines = Vec::new();
        for _ in 0..nodes {
            lines.push(FaultProxy::start(server.addr()).await?);
        }
        Ok(Self::Server { server, lines })
    }

    /// The URL for a node.
    pub(crate) fn url(&self, node: usize) -> String {
        match self {
            Self::Server { lines, .. } => format!("redis://{}/", lines[node].addr()),
            Self::Sentinel(servers) => servers.url(),
        }
    }

    /// A node's proxy, if it has one.
    pub(crate) fn line(&self, node: usize) -> Option<&FaultProxy> {
        match self {
            Self::Server { lines, .. } => lines.get(node),
            Self::Sentinel(_) => None,
        }
    }

    /// Kills the server for a while; under Sentinel, the master, which the replica then replaces.
    pub(crate) async fn kill(&mut self, hold: Duration) -> Result<(), Failure> {
        match self {
            Self::Server { server, .. } => {
                server.kill().await?;
                sleep(hold).await;
                server.restart().await?;
            }
            Self::Sentinel(servers) => {
                servers.kill_master().await?;
                sleep(hold).await;
                servers.revive().await?;
                servers.settled().await?;
            }
        }
        Ok(())
    }

    /// Stops the server for a while; under Sentinel, the master. When it continues, the replica may have been promoted, but
    /// the old master does not know that until Sentinel reconfigures it.
    pub(crate) async fn stop(&self, hold: Duration) -> Result<(), Failure> {
        match self {
            Self::Server { server, .. } => {
                server.pause()?;
                sleep(hold).await;
                server.resume()?;
            }
            Self::Sentinel(servers) => {
                let master = servers.server(servers.master().await?)?;
                master.pause()?;
                sleep(hold).await;
                master.resume()?;
                servers.settled().await?;
            }
        }
        Ok(())
    }

    /// Promotes the replica while both servers run. Writes that it has not received are lost.
    pub(crate) async fn fail_over(&self) -> Result<(), Failure> {
        if let Self::Sentinel(servers) = self {
            servers.failover().await?;
            servers.settled().await?;
        }
        Ok(())
    }

    /// Restores the current entries later, as from a dump.
    pub(crate) async fn go_back(&self, hold: Duration) -> Result<(), Failure> {
        let keys: Vec<String> = self.run(cmd("KEYS").arg("*")).await?;
        let mut kept = Vec::new();
        for key in keys {
            if let Some(entry) = self.run::<Option<Vec<u8>>>(cmd("GET").arg(&key)).await? {
                kept.push((key, entry));
            }
        }
        sleep(hold).await;
        self.run::<()>(&cmd("FLUSHALL")).await?;
        for (key, entry) in kept {
            let mut set = cmd("SET");
            set.arg(key).arg(entry).arg("PX").arg(60_000);
            self.run::<()>(&set).await?;
        }
        Ok(())
    }

    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        Ok(match self {
            Self::Server { server, .. } => server.run(command).await?,
            Self::Sentinel(servers) => servers.run(command).await?,
        })
    }
}
