//! A master and its replica, watched by Sentinel.

use std::io;
use std::net::SocketAddr;

use redis::{Cmd, FromRedisValue, cmd};

use super::RedisServer;
use crate::eventually;

/// A master named `mymaster`, a replica, and one sentinel with a quorum of one.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<RedisServer>,
    sentinel: RedisServer,
}

impl RedisSentinel {
    /// Starts them, and waits until the sentinel knows a replica that it can promote.
    ///
    /// # Errors
    ///
    /// If a server does not start, or the sentinel does not find the replica.
    pub async fn start() -> io::Result<Self> {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await?;
        let port = master.addr().port().to_string();
        let replica = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
        let replica = RedisServer::start_with(&replica).await?;
        let sentinel = RedisServer::start_with(&["--sentinel"]).await?;
        let started = Self { servers: vec![master, replica], sentinel };
        started.watch(&port).await?;
        Ok(started)
    }

    async fn watch(&self, port: &str) -> io::Result<()> {
        let sentinel = &self.sentinel;
        sentinel.run::<()>(words("MONITOR mymaster 127.0.0.1").arg(port).arg(1)).await?;
        for option in ["down-after-milliseconds 500", "failover-timeout 1000"] {
            sentinel.run::<()>(&words(&format!("SET mymaster {option}"))).await?;
        }
        self.settled().await
    }

    /// Waits until one server follows the other, and the sentinel knows a replica that it can promote.
    ///
    /// # Errors
    ///
    /// If that does not happen in time, for example because a server is down.
    pub async fn settled(&self) -> io::Result<()> {
        eventually("the replica follows the master, and the sentinel knows it", async || {
            let known = format!("{:?}", self.replicas().await);
            let healthy = known.contains("master-link-status\", \"ok\"")
                && known.contains("flags\", \"slave\"");
            healthy && self.is_followed().await
        })
        .await
    }

    async fn is_followed(&self) -> bool {
        let Ok(master) = self.master().await else { return false };
        for server in self.servers.iter().filter(|server| server.addr() != master) {
            let link = server.run::<String>(cmd("INFO").arg("replication")).await;
            if !link.is_ok_and(|link| link.contains("master_link_status:up")) {
                return false;
            }
        }
        true
    }

    async fn replicas(&self) -> io::Result<Vec<Vec<String>>> {
        self.sentinel.run(&words("REPLICAS mymaster")).await
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/mymaster", self.sentinel.addr())
    }

    /// The address of the master according to the sentinel.
    ///
    /// # Errors
    ///
    /// If the sentinel does not respond.
    pub async fn master(&self) -> io::Result<SocketAddr> {
        let (host, port): (String, u16) =
            self.sentinel.run(&words("GET-MASTER-ADDR-BY-NAME mymaster")).await?;
        Ok((host.parse::<std::net::IpAddr>().map_err(io::Error::other)?, port).into())
    }

    /// Promotes the replica while both servers run, and waits until the sentinel reports it as the master.
    ///
    /// # Errors
    ///
    /// If the sentinel refuses.
    pub async fn failover(&self) -> io::Result<()> {
        const ATTEMPTS: u32 = 3;
        let before = self.master().await?;
        self.sentinel.run::<()>(&words("FAILOVER mymaster")).await?;
        for _ in 1..ATTEMPTS {
            if self.moved_from(before).await.is_ok() {
                return Ok(());
            }
            // Sentinel gives up if the replica is slow, and then does not try again by itself. It refuses if it has not.
            let _ = self.sentinel.run::<()>(&words("FAILOVER mymaster")).await;
        }
        self.moved_from(before).await
    }

    /// Kills the master, and waits until the sentinel has promoted the replica.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub async fn kill_master(&mut self) -> io::Result<()> {
        let before = self.master().await?;
        for server in self.servers.iter_mut().filter(|server| server.addr() == before) {
            server.kill().await?;
        }
        self.moved_from(before).await
    }

    /// Restarts killed servers. The sentinel turns them into replicas.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub async fn revive(&mut self) -> io::Result<()> {
        for server in self.servers.iter_mut().filter(|server| !server.is_running()) {
            server.restart().await?;
        }
        Ok(())
    }

    /// Runs a command on the master.
    ///
    /// # Errors
    ///
    /// If it can't be reached or answers with an error.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> io::Result<T> {
        let master = self.master().await?;
        self.server(master)?.run(command).await
    }

    /// The server at an address.
    ///
    /// # Errors
    ///
    /// If no server of this group has the address.
    pub fn server(&self, address: SocketAddr) -> io::Result<&RedisServer> {
        let found = self.servers.iter().find(|server| server.addr() == address);
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no server of ours"))
    }

    async fn moved_from(&self, before: SocketAddr) -> io::Result<()> {
        eventually("the sentinel names another master", async || {
            self.master().await.is_ok_and(|master| master != before)
        })
        .await
    }
}

fn words(words: &str) -> Cmd {
    let mut command = cmd("SENTINEL");
    command.arg(words.split(' ').collect::<Vec<_>>());
    command
}
