//! The servers, and the nodes on them.

use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock};

use sqlx::{Connection, PgConnection};
use tidegate::{Epoch, Triggers};
use tidegate_testing::{FaultProxy, Postgres, Scratch};
use tokio::sync::Mutex;

use super::history::first_group;
use super::process::NodeProcess;
use super::redis::{SharedRedis, Topology};
use super::schema::TABLES;
use super::{GROUPS, ROWS};
use crate::Failure;
use crate::source::Source;

/// The servers' state that tasks share.
pub(crate) struct Cluster {
    /// The URL of the primary, through a proxy that follows failovers.
    pub(crate) primary_url: String,
    /// Writers hold it for reading; a failover holds it for writing.
    pub(crate) gate: tokio::sync::RwLock<()>,
    pub(crate) servers: Mutex<Servers>,
    nodes: RwLock<Vec<Option<String>>>,
}

/// The servers' state that only faults use.
pub(crate) struct Servers {
    pub(crate) primary: Postgres,
    pub(crate) standbys: Vec<Postgres>,
    pub(crate) redis: SharedRedis,
    /// In front of the primary.
    pub(crate) name: FaultProxy,
    /// In front of each standby.
    pub(crate) replica_names: Vec<FaultProxy>,
    /// In front of the primary, for each node's listener.
    pub(crate) lines: Vec<FaultProxy>,
    pub(crate) processes: Vec<Option<NodeProcess>>,
    scratch: Scratch,
}

impl Cluster {
    pub(crate) async fn start(
        nodes: usize,
        redis: Topology,
        source: Source,
    ) -> Result<Self, Failure> {
        // Flush uncommitted records late, so that a crash loses something.
        // Keep enough of the log for a standby that was down or did not replay, whatever checkpoints came in between.
        // Limit the delay of replay: a standby that replays a TRUNCATE holds its lock until the commit. If it waits for the
        // end of a query's snapshot, and the query waits for that lock, only this limit ends it: Postgres detects no
        // deadlock there.
        let settings = [
            ("wal_writer_delay", "10s"),
            ("wal_keep_size", "1GB"),
            ("max_standby_streaming_delay", "2s"),
            ("wal_level", "logical"),
            ("max_replication_slots", "20"),
            ("max_wal_senders", "20"),
            // So that slots outlive the connections of relays.
            ("max_slot_wal_keep_size", "1GB"),
        ];
        let primary = Postgres::start_with(&settings).await?;
        set_up(&primary, source).await?;
        let standbys = vec![primary.standby().await?, primary.standby().await?];
        let redis = SharedRedis::start(redis, nodes).await?;
        let name = FaultProxy::start(primary.addr()).await?;
        let mut replica_names = Vec::new();
        for standby in &standbys {
            replica_names.push(FaultProxy::start(standby.addr()).await?);
        }
        let mut lines = Vec::new();
        for _ in 0..nodes {
            lines.push(FaultProxy::start(primary.addr()).await?);
        }
        let servers = Servers {
            primary,
            standbys,
            redis,
            name,
            replica_names,
            lines,
            processes: (0..nodes).map(|_| None).collect(),
            scratch: Scratch::new()?,
        };
        let cluster = Self {
            primary_url: url(servers.name.addr()),
            gate: tokio::sync::RwLock::new(()),
            servers: Mutex::new(servers),
            nodes: RwLock::new(vec![None; nodes]),
        };
        for node in 0..nodes {
            cluster.start_node(&mut *cluster.servers.lock().await, node).await?;
        }
        Ok(cluster)
    }

    /// The epoch of the first primary.
    pub(crate) async fn first_epoch(&self) -> Result<String, Failure> {
        epoch(&self.servers.lock().await.primary).await
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The address of a node, if it is up.
    pub(crate) fn node(&self, node: usize) -> Option<String> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)[node].clone()
    }

    pub(crate) fn is_up(&self, address: &str) -> bool {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().flatten().any(|node| node == address)
    }

    pub(crate) async fn start_node(
        &self,
        servers: &mut Servers,
        node: usize,
    ) -> Result<(), Failure> {
        let replicas: Vec<_> = servers.replica_names.iter().map(|name| url(name.addr())).collect();
        let environment = [
            ("POSTGRES_PRIMARY_URL", self.primary_url.clone()),
            ("POSTGRES_LISTEN_URL", url(servers.lines[node].addr())),
            ("POSTGRES_REPLICA_URL", replicas.join(",")),
            ("REDIS_URL", servers.redis.url(node)),
        ];
        let log = servers.scratch.path().join(format!("node-{node}"));
        let process = NodeProcess::start(&environment, &log).await?;
        self.announce(node, Some(process.address.clone()));
        servers.processes[node] = Some(process);
        Ok(())
    }

    /// Adds or removes a node's address for readers.
    pub(crate) fn announce(&self, node: usize, address: Option<String>) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)[node] = address;
    }
}

async fn set_up(primary: &Postgres, source: Source) -> Result<(), Failure> {
    let rows = (0..ROWS).map(|row| format!("({row}, 0, {})", first_group(row)));
    let rows = rows.collect::<Vec<_>>().join(", ");
    let table = "create table rows (id int primary key, version bigint not null, grp int not null)";
    primary.psql(&format!("{table}; insert into rows values {rows}; {TABLES}")).await?;
    let mut conn = PgConnection::connect(&primary.url()).await?;
    // Record changes of all rows as bulk changes.
    let triggers = Triggers::new().source(source.into()).columns("rows", &["grp"]);
    let triggers = triggers.row_limit(GROUPS);
    let others = ["labels", "wide", "east", "west"];
    others.into_iter().fold(triggers, Triggers::table).install(&mut conn).await?;
    Ok(())
}

/// The epoch of a primary; begins it if no node has.
pub(crate) async fn epoch(primary: &Postgres) -> Result<String, Failure> {
    primary.psql("select tidegate.begin_history()").await?;
    let sql = "select system_identifier, d.oid, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), last_value
        from pg_control_system(), tidegate.history, pg_database d where datname = current_database()";
    let said = primary.psql(sql).await?;
    let mut said = said.split('|');
    let mut next = || said.next().ok_or("no identity");
    let (system, database, timeline, history) = (next()?, next()?, next()?, next()?);
    let timeline = u32::from_str_radix(timeline, 16)?;
    let (system, database) = (system.parse()?, database.parse()?);
    Ok(Epoch::for_database(system, database, timeline, history.parse()?).to_string())
}

fn url(address: SocketAddr) -> String {
    format!("postgres://postgres@{address}/postgres")
}
