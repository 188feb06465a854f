//! Breaking things, one after another.

use std::time::Duration;

use ::redis::cmd;
use axum::http::Method;
use fastrand::Rng;
use nix::sys::signal::Signal;
use tidegate_testing::FaultProxy;
use tokio::time::sleep;

use super::Run;
use super::client::Client;
use super::cluster::{Cluster, Servers, epoch};
use super::redis::Topology;
use crate::Failure;

/// By then each node has looked at the log.
const SEEN_BY_ALL: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug)]
enum Fault {
    RedisKilled,
    RedisHangs,
    RedisFlushed,
    RedisGoesBack,
    RedisCut,
    RedisSlow,
    RedisFailedOver,
    ReplicaLags,
    ReplicaKilled,
    ReplicaCut,
    ListenerKilled,
    ListenerCut,
    ListenerSilent,
    NodeKilled,
    NodeHangs,
    ClockStepped,
    LogTrimmed,
    Crashed,
    FailedOver,
}

/// Each, and what the report calls it.
const ALL: [(Fault, &str); 19] = [
    (Fault::RedisKilled, "Redis killed"),
    (Fault::RedisHangs, "Redis stopped and continued"),
    (Fault::RedisFlushed, "Redis flushed"),
    (Fault::RedisGoesBack, "Redis restored to an older state"),
    (Fault::RedisCut, "a node's connections to Redis cut"),
    (Fault::RedisSlow, "Redis slow for a node"),
    (Fault::RedisFailedOver, "Redis failed over"),
    (Fault::ReplicaLags, "replay paused"),
    (Fault::ReplicaKilled, "a replica killed"),
    (Fault::ReplicaCut, "connections to a replica cut"),
    (Fault::ListenerKilled, "listeners terminated"),
    (Fault::ListenerCut, "a listener cut"),
    (Fault::ListenerSilent, "a listener's connection half open"),
    (Fault::NodeKilled, "a node killed"),
    (Fault::NodeHangs, "a node stopped and continued"),
    (Fault::ClockStepped, "a node's clock stepped"),
    (Fault::LogTrimmed, "the log trimmed under a stopped node"),
    (Fault::Crashed, "a crash of the primary that loses positions"),
    (Fault::FailedOver, "a failover that loses commits"),
];

impl Fault {
    fn is_possible(self, topology: Topology) -> bool {
        match self {
            Self::RedisCut | Self::RedisSlow => topology == Topology::Server,
            Self::RedisFailedOver => topology == Topology::Sentinel,
            _ => true,
        }
    }
}

/// Breaks and mends until the run is over. Each kind comes once before any comes again.
///
/// What can't be broken or mended ends the run: all that followed would be meaningless.
pub(crate) async fn inject(
    run: &Run,
    cluster: &Cluster,
    topology: Topology,
    mut rng: Rng,
) -> Result<(), Failure> {
    let mut left = Vec::new();
    while !run.is_over() {
        sleep(Duration::from_millis(rng.u64(100..600))).await;
        if left.is_empty() {
            left = ALL.to_vec();
            left.retain(|(fault, _)| fault.is_possible(topology));
            rng.shuffle(&mut left);
        }
        let Some((fault, name)) = left.pop() else { continue };
        let hold = Duration::from_millis(rng.u64(200..2500));
        let mut servers = cluster.servers.lock().await;
        let struck = strike(run, cluster, &mut servers, fault, hold, &mut rng).await;
        struck.map_err(|error| format!("{name}: {error}"))?;
        run.report.fault(name);
    }
    Ok(())
}

async fn strike(
    run: &Run,
    cluster: &Cluster,
    servers: &mut Servers,
    fault: Fault,
    hold: Duration,
    rng: &mut Rng,
) -> Result<(), Failure> {
    let (node, replica) = (rng.usize(..servers.lines.len()), rng.usize(..servers.standbys.len()));
    match fault {
        Fault::RedisKilled => servers.redis.kill(hold).await?,
        Fault::RedisHangs => servers.redis.stop(hold).await?,
        Fault::RedisFailedOver => servers.redis.fail_over().await?,
        Fault::RedisFlushed => servers.redis.run::<()>(&cmd("FLUSHALL")).await?,
        Fault::RedisGoesBack => servers.redis.go_back(hold).await?,
        Fault::RedisCut => {
            if let Some(line) = servers.redis.line(node) {
                cut(line, hold).await?;
            }
        }
        Fault::RedisSlow => {
            if let Some(line) = servers.redis.line(node) {
                line.delay(Duration::from_millis(rng.u64(5..200)));
                sleep(hold).await;
                line.heal().await?;
            }
        }
        Fault::ReplicaLags => {
            servers.standbys[replica].pause_replay().await?;
            sleep(hold).await;
            servers.standbys[replica].resume_replay().await?;
        }
        Fault::ReplicaKilled => {
            servers.standbys[replica].kill().await?;
            sleep(hold).await;
            servers.standbys[replica].restart().await?;
        }
        Fault::ReplicaCut => cut(&servers.replica_names[replica], hold).await?,
        Fault::ListenerKilled => {
            let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where application_name = 'tidegate' and pid <> pg_backend_pid()";
            servers.primary.psql(kill).await?;
        }
        Fault::ListenerCut => cut(&servers.lines[node], hold).await?,
        Fault::ListenerSilent => {
            servers.lines[node].freeze();
            sleep(hold).await;
            servers.lines[node].heal().await?;
        }
        Fault::NodeKilled => {
            cluster.announce(node, None);
            if let Some(process) = servers.processes[node].take() {
                process.kill().await?;
            }
            sleep(hold).await;
            cluster.start_node(servers, node).await?;
        }
        Fault::NodeHangs => stop_node(servers, node, hold, "select 1").await?,
        Fault::ClockStepped => {
            set_clock(servers, node, rng.i64(-900_000..900_000)).await?;
            sleep(hold).await;
            set_clock(servers, node, 0).await?;
        }
        Fault::LogTrimmed => {
            let trim = "select tidegate.mark('0', null); select tidegate.trim('0', 1000000)";
            stop_node(servers, node, hold, trim).await?;
        }
        Fault::Crashed => crash(cluster, servers, hold).await?,
        Fault::FailedOver => fail_over(run, cluster, servers, hold).await?,
    }
    Ok(())
}

async fn cut(line: &FaultProxy, hold: Duration) -> Result<(), Failure> {
    line.cut();
    sleep(hold).await;
    Ok(line.heal().await?)
}

/// Puts a node's clock so many milliseconds before the others'.
async fn set_clock(servers: &Servers, node: usize, millis: i64) -> Result<(), Failure> {
    let process = servers.processes[node].as_ref().ok_or("the node is gone")?;
    let url = format!("http://{}/clock", process.address);
    let answer = Client::new().send(Method::PUT, url, millis.to_string(), None).await;
    let status = answer.ok_or("no answer")?.status;
    if status.is_success() { Ok(()) } else { Err(format!("the node said {status}").into()) }
}

/// A node stands still for a while; at its end something is done to the database.
async fn stop_node(
    servers: &Servers,
    node: usize,
    hold: Duration,
    sql: &str,
) -> Result<(), Failure> {
    let process = servers.processes[node].as_ref().ok_or("the node is gone")?;
    process.signal(Signal::SIGSTOP)?;
    sleep(hold).await;
    let done = servers.primary.psql(sql).await;
    process.signal(Signal::SIGCONT)?;
    Ok(done.map(drop)?)
}

/// The primary crashes and recovers. No commit is lost, but positions are that nodes have seen, as long as nobody commits
/// meanwhile and has them flushed.
async fn crash(cluster: &Cluster, servers: &mut Servers, hold: Duration) -> Result<(), Failure> {
    let closed = cluster.gate.write().await;
    let position = async |sql: &str| -> Result<u64, Failure> {
        Ok(servers.primary.psql(&format!("select {sql} - '0/0'")).await?.parse()?)
    };
    // A node marks the log a last time, which flushes it.
    for _ in 0..10 {
        let seen = position("pg_logical_emit_message(false, '', repeat('x', 100000))").await?;
        sleep(SEEN_BY_ALL).await;
        if position("pg_current_wal_flush_lsn()").await? < seen {
            break;
        }
    }
    servers.primary.kill().await?;
    sleep(hold).await;
    servers.primary.restart().await?;
    // Who writes now may do so before a node has begun another history.
    drop(closed);
    sleep(hold).await;
    cluster.set_epoch(epoch(&servers.primary).await?);
    Ok(())
}

/// A standby that stopped receiving takes over; what was committed since is lost.
async fn fail_over(
    run: &Run,
    cluster: &Cluster,
    servers: &mut Servers,
    hold: Duration,
) -> Result<(), Failure> {
    let heir = servers.standbys.remove(0);
    heir.psql("alter system set primary_conninfo = ''; select pg_reload_conf()").await?;
    sleep(hold).await;
    servers.primary.kill().await?;
    let closed = cluster.gate.write().await;
    heir.promote().await?;
    // Nobody is led to it before it is known what was lost.
    let survived = heir.psql("select version from rows order by id").await?;
    let survived: Vec<u64> = survived.lines().map(str::parse).collect::<Result<_, _>>()?;
    let new = epoch(&heir).await?;
    cluster.set_epoch("changing".into());
    run.history.fail_over(&survived);
    cluster.set_epoch(new);
    servers.primary = heir;
    for line in servers.lines.iter().chain([&servers.name]) {
        line.retarget(servers.primary.addr());
        cut(line, Duration::ZERO).await?;
    }
    // For a while there is nothing but what nodes remember, and the other standby is of a history that
    // is over. Making new ones takes a base backup, which moves the log on by a whole segment.
    sleep(hold).await;
    drop(closed);
    sleep(hold).await;
    for replica in 0..servers.replica_names.len() {
        let standby = servers.primary.standby().await?;
        servers.replica_names[replica].retarget(standby.addr());
        cut(&servers.replica_names[replica], Duration::ZERO).await?;
        if let Some(old) = servers.standbys.get_mut(replica) {
            *old = standby;
        } else {
            servers.standbys.push(standby);
        }
    }
    Ok(())
}
