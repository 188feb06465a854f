//! The primary crashes, or another server takes its place.

use std::time::Duration;

use tokio::time::sleep;

use super::super::Run;
use super::super::cluster::{Cluster, Servers, epoch};
use super::{cut, unless_cancelled};
use crate::Failure;

/// By then each node has looked at the log.
const SEEN_BY_ALL: Duration = Duration::from_millis(1500);

/// The primary crashes and recovers. No commit is lost, but positions are that nodes have seen, as long as nobody commits
/// meanwhile and has them flushed.
pub(super) async fn crash(
    cluster: &Cluster,
    servers: &mut Servers,
    hold: Duration,
) -> Result<(), Failure> {
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
pub(super) async fn fail_over(
    run: &Run,
    cluster: &Cluster,
    servers: &mut Servers,
    hold: Duration,
) -> Result<(), Failure> {
    let heir = servers.standbys.remove(0);
    let unfollow = "alter system set primary_conninfo = ''; select pg_reload_conf()";
    unless_cancelled(async || heir.psql(unfollow).await).await?;
    sleep(hold).await;
    servers.primary.kill().await?;
    let closed = cluster.gate.write().await;
    heir.promote().await?;
    // Nobody is led to it before it is known what was lost.
    let survived = heir.psql("select version from rows order by id").await?;
    let survived: Vec<u64> = survived.lines().map(str::parse).collect::<Result<_, _>>()?;
    let new = epoch(&heir).await?;
    cluster.set_epoch("changing".into());
    run.history.fail_over(&survived)?;
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
