//! A cluster of three masters.

use std::io;

use redis::cmd;

use super::RedisServer;
use crate::eventually;

const SLOTS: u16 = 16384;
const NODES: u16 = 3;

/// Three masters that share the slots, without replicas.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the cluster, and waits until it serves every slot.
    ///
    /// # Errors
    ///
    /// If a server does not start, or they do not form a cluster.
    pub async fn start() -> io::Result<Self> {
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
            let node = RedisServer::start_with(&options).await?;
            let range = |number| number * (SLOTS / NODES);
            let last = if number + 1 == NODES { SLOTS } else { range(number + 1) } - 1;
            let mut slots = cmd("CLUSTER");
            slots.arg("ADDSLOTSRANGE").arg(range(number)).arg(last);
            node.run::<()>(&slots).await?;
            let mut epoch = cmd("CLUSTER");
            node.run::<()>(epoch.arg("SET-CONFIG-EPOCH").arg(number + 1)).await?;
            nodes.push(node);
        }
        let cluster = Self { nodes };
        cluster.introduce().await?;
        Ok(cluster)
    }

    async fn introduce(&self) -> io::Result<()> {
        for other in &self.nodes[1..] {
            let (host, port) = (other.addr().ip().to_string(), other.addr().port());
            let mut meet = cmd("CLUSTER");
            self.nodes[0].run::<()>(meet.arg("MEET").arg(host).arg(port)).await?;
        }
        for node in &self.nodes {
            eventually("the cluster is whole", async || {
                let info = node.run::<String>(cmd("CLUSTER").arg("INFO")).await;
                info.is_ok_and(|info| {
                    info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let hosts = self.nodes.iter().map(|node| node.addr().to_string()).collect::<Vec<_>>();
        format!("redis+cluster://{}/", hosts.join(","))
    }

    /// Its nodes.
    pub fn nodes(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }
}
