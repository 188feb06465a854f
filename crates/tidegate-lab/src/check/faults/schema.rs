//! The schema changes, and changes back.

use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::super::Run;
use super::super::cluster::Servers;
use super::super::history::Fate;
use super::super::schema::Property;
use super::{caught_up, unless_cancelled};
use crate::Failure;

/// Changes a property of the schema and then back, at once or after a while. Meanwhile a node may be stopped, or a standby
/// may not replay.
pub(super) async fn there_and_back(
    run: &Run,
    servers: &mut Servers,
    property: Property,
    hold: Duration,
    rng: &mut Rng,
) -> Result<(), Failure> {
    let (there, sql, back) = property.change(run.history.next_version());
    let node = rng.usize(..servers.lines.len());
    let stopped = servers.processes[node].as_ref().filter(|_| rng.bool());
    let lagging = servers.standbys.first().filter(|_| stopped.is_none() && rng.bool());
    if let Some(node) = stopped {
        node.signal(Signal::SIGSTOP)?;
    }
    if let Some(standby) = lagging {
        unless_cancelled(async || standby.pause_replay().await).await?;
    }
    let mut changed = change(run, servers, property, &there, &sql).await;
    if changed.is_ok() {
        sleep(if rng.bool() { hold } else { Duration::ZERO }).await;
        changed = change(run, servers, property, property.home(), &back).await;
    }
    if let Some(standby) = lagging {
        sleep(hold).await;
        unless_cancelled(async || standby.resume_replay().await).await?;
    }
    if let Some(node) = stopped {
        node.signal(Signal::SIGCONT)?;
    }
    changed?;
    // Otherwise a failover could undo the change.
    caught_up(servers).await
}

async fn change(
    run: &Run,
    servers: &Servers,
    property: Property,
    shows: &str,
    sql: &str,
) -> Result<(), Failure> {
    run.schema.begin(property, shows);
    servers.primary.psql(sql).await?;
    run.schema.end(property, Fate::Committed(Instant::now()));
    Ok(())
}
