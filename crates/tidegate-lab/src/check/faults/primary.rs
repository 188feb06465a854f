//! The primary crashes, or another server takes its place.

use std::time::Duration;

use tokio::time::sleep;

use super::super::Run;
use super::super::cluster::{Cluster, Servers, epoch};
use super::{cut, unless_cancelled};
use crate::Failure;

/// After this time, each node has read the log.
const SEEN_BY_ALL: Duration = Duration::from_millis(1500);

/// The primary crashes and recovers. No commit is lost, but positions that nodes have seen are, unless a commit flushes
/// them in the meantime.
pub(super) async fn crash(
    run: &Run,
    cluster: &Cluster,
    servers: &mut Servers,
    hold: Duration,
) -> Result<(), Failure> {
    let closed = cluster.gate.write().await;
    let position = async |sql: &str| -> Result<u64, Failure> {
        Ok(servers.primary.psql(&format!("select {sql} - '0/0'")).await?.parse()?)
    };
    // Retry: a node may mark the log once more, which flushes it.
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
    // From here on, a client may write before a node has begun a new history.
    drop(closed);
    sleep(hold).await;
    run.history.set_epoch(epoch(&servers.primary).await?);
    Ok(())
}

/// Promotes a standby that has stopped receiving. Later commits are lost.
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
    // Determine what was lost before clients are led to it.
    let survived = heir.psql("select version from rows order by id").await?;
    let survived: Vec<u64> = survived.lines().map(str::parse).collect::<Result<_, _>>()?;
    let new = epoch(&heir).await?;
    run.history.fail_over(&survived, new)?;
    servers.primary = heir;
    for line in servers.lines.iter().chain([&servers.name]) {
        line.retarget(servers.primary.addr());
        cut(line, Duration::ZERO).await?;
    }
    // For a while, there are only the nodes' caches, and the other standby is of a history that has ended. New standbys
    // need a base backup, which advances the log by a whole segment.
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
