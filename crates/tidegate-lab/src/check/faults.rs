//! Injects faults, one after another.

mod copy;
mod primary;
mod schema;

use std::io;
use std::time::Duration;

use ::redis::cmd;
use axum::http::Method;
use fastrand::Rng;
use nix::sys::signal::Signal;
use tidegate_testing::{FaultProxy, Postgres};
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::cluster::{Cluster, Servers};
use super::redis::Topology;
use super::schema::Property;
use super::{Options, Run};
use crate::Failure;

/// How long standbys may take to catch up with the primary.
const CATCH_UP: Duration = Duration::from_secs(60);

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
    CopiedBack,
    SchemaChanged(Property),
}

/// All faults, with their names in the report.
const ALL: [(Fault, &str); 23] = [
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
    (Fault::CopiedBack, "the database dropped, and put back from a copy"),
    (Fault::SchemaChanged(Property::Side), "two tables renamed, and back"),
    (Fault::SchemaChanged(Property::Label), "an enum's label renamed, and back"),
    (Fault::SchemaChanged(Property::Columns), "a column added, and dropped"),
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

/// How many responses a run checks before it may end for its number of rounds: on a busy machine, one round has few.
const LEAST: u64 = 2_000;

/// Injects and ends faults until the run is over. Each kind comes once before any kind comes again.
///
/// An error while injecting or ending a fault ends the run, since later results would be meaningless.
pub(crate) async fn inject(
    run: &Run,
    cluster: &Cluster,
    options: &Options,
    mut rng: Rng,
) -> Result<(), Failure> {
    let mut rounds = 0;
    let is_short = |rounds: u64, most: u64| rounds < most || run.responses() < LEAST;
    while !run.is_over() && options.rounds.is_none_or(|most| is_short(rounds, most)) {
        let mut round = ALL.to_vec();
        round.retain(|(fault, _)| fault.is_possible(options.redis));
        rng.shuffle(&mut round);
        for (fault, name) in round {
            sleep(Duration::from_millis(rng.u64(100..=options.hold.div_ceil(4).max(100)))).await;
            if run.is_over() {
                return Ok(());
            }
            let hold = Duration::from_millis(rng.u64(options.hold.div_ceil(12)..=options.hold));
            let mut servers = cluster.servers.lock().await;
            let struck = strike(run, cluster, &mut servers, fault, hold, &mut rng).await;
            struck.map_err(|error| format!("{name}: {error}"))?;
            run.report.fault(name);
        }
        rounds += 1;
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
            let standby = &servers.standbys[replica];
            unless_cancelled(async || standby.pause_replay().await).await?;
            sleep(hold).await;
            unless_cancelled(async || standby.resume_replay().await).await?;
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
        Fault::Crashed => primary::crash(run, cluster, servers, hold).await?,
        Fault::FailedOver => primary::fail_over(run, cluster, servers, hold).await?,
        Fault::CopiedBack => copy::put_back(run, cluster, servers, hold).await?,
        Fault::SchemaChanged(property) => {
            schema::there_and_back(run, servers, property, hold, rng).await?;
        }
    }
    Ok(())
}

async fn cut(line: &FaultProxy, hold: Duration) -> Result<(), Failure> {
    line.cut();
    sleep(hold).await;
    Ok(line.heal().await?)
}

/// Sets a node's clock ahead of the others by some milliseconds.
async fn set_clock(servers: &Servers, node: usize, millis: i64) -> Result<(), Failure> {
    let process = servers.processes[node].as_ref().ok_or("the node is gone")?;
    let url = format!("http://{}/clock", process.address);
    let answer = Client::new().send(Method::PUT, url, millis.to_string(), None).await;
    let status = answer.ok_or("no answer")?.status;
    if status.is_success() { Ok(()) } else { Err(format!("the node said {status}").into()) }
}

/// Stops a node for a while, and runs SQL on the primary at the end.
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

/// Repeats a query on a standby as long as replay cancels it.
///
/// The standby's limit on delaying replay for queries counts from the receipt of the log, so after a pause of replay no
/// time is left.
async fn unless_cancelled<T>(mut ask: impl AsyncFnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match ask().await {
            Err(error) if error.to_string().contains("conflict with recovery") => {
                sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

/// Waits until each standby has replayed what the primary has by now.
async fn caught_up(servers: &Servers) -> Result<(), Failure> {
    let position = servers.primary.psql("select pg_current_wal_flush_lsn()").await?;
    let sql = format!("select pg_last_wal_replay_lsn() >= '{position}'");
    for standby in &servers.standbys {
        let began = Instant::now();
        let template = standby.url_of("template1");
        while unless_cancelled(async || standby.psql_at(&template, &sql).await).await? != "t" {
            if began.elapsed() > CATCH_UP {
                return Err(stuck(standby).await?.into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Describes the state of a standby that does not catch up.
async fn stuck(standby: &Postgres) -> Result<String, Failure> {
    const SESSIONS: &str = "select pg_last_wal_replay_lsn(), pg_get_wal_replay_pause_state(), backend_type, datname, state,
            wait_event_type, wait_event, pg_blocking_pids(pid), now() - xact_start, now() - query_start, left(query, 200)
        from pg_stat_activity where backend_type in ('startup', 'walreceiver', 'client backend')";
    let template = standby.url_of("template1");
    let sessions = unless_cancelled(async || standby.psql_at(&template, SESSIONS).await).await?;
    let log = standby.log();
    let last: Vec<&str> = log.lines().rev().take(5).collect();
    Ok(format!("a standby does not catch up; its sessions:\n{sessions}\nits log ends: {last:?}"))
}
