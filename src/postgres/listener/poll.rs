//! Polls the log once, and checks the schema at intervals.

use sqlx::postgres::PgListener;

use super::follower::{Follower, RunningWriters};
use super::pace::{BUSY, HEARTBEAT};
use super::relay_state::TakenRequests;
use crate::clock;
use crate::entry::{Position, Tag};
use crate::postgres::fingerprint::FINGERPRINT_KNOWN_WITHIN;
use crate::postgres::log::{DrainMode, Drained, LogSnapshot};
use crate::postgres::published::{DrainRequest, PublishedDrain};
use crate::postgres::relay::RelayRole;
use crate::postgres::relay::message::Positions;

/// If there are this many commits between two polls, a notification for each costs more than it is worth.
const MANY: u32 = 8;

impl Follower {
    /// Polls the log, and publishes the result in response to other nodes' sync requests. `from` is a position seen on the
    /// primary before. Returns whether the log had changes, which should have caused a notification.
    pub(super) async fn drain(
        &mut self,
        conn: &mut PgListener,
        from: Position,
        requests: TakenRequests,
    ) -> Result<bool, sqlx::Error> {
        let begins = self.read.is_none();
        if begins && self.load(conn).await? {
            return Ok(false);
        }
        let Some(LogSnapshot { epoch, snapshot }) = self.read.clone() else { return Ok(false) };
        // The position from before may be of another epoch.
        let from = if begins { self.seen() } else { from };
        self.published.may_keep(self.elected() == RelayRole::Relay);
        let began = clock::moment();
        let mode = DrainMode { announce: self.schema_changed, suppress_notify_from: Some(MANY) };
        let request = DrainRequest { prev: &snapshot, epoch: Some(epoch), mode };
        let drained = self.published.drain(&self.db, conn, request, &mut self.detail).await?;
        let PublishedDrain { log: mut drained, published } = drained;
        self.notify_suppressed |= drained.notify_suppressed;
        self.counter.send_modify(|counter| counter.polls += 1);
        if drained.epoch != epoch {
            tracing::warn!(%epoch, now = %drained.epoch, "a new epoch has begun: a failover, or a crash of the primary");
            // A stream may take longer to start than the server lets a session be idle that suppresses notifications.
            self.resume_notify(conn).await?;
            // If it is not current after that, the next drain makes it so.
            return self.load(conn).await.map(|_is_current| false);
        }
        // With a watermark, the next drain reads some rows again, whose notification this one has had.
        let has_changes = !drained.tags.is_empty() && published.snapshot.is_none();
        if published.is_altered {
            // Nodes that read with the old publication may have stored results meanwhile.
            self.settled_at = Some(clock::now() + FINGERPRINT_KNOWN_WITHIN);
        }
        published.add_to(&mut drained);
        if drained.schema_changed {
            // Before anything is confirmed: later reads must not use the previous schema.
            self.note_schema_change();
        }
        let all = drained.is_all() || self.schema_changed;
        self.raise_all(&drained, all);
        self.schema_changed = false;
        // Reads use the schema as of this drain, so they must not prove a position past a schema change that it missed.
        let is_known = !drained.unsettled && self.fingerprint.is_current();
        let seen = if is_known { drained.seen } else { self.seen() };
        self.unsettled = drained.unsettled;
        self.confirm(epoch, seen, drained.seen, began);
        self.fences.follow(from);
        let at = Positions { fence: drained.fence, seen, from };
        self.publish(&drained, &snapshot, all, at, requests);
        self.take(drained);
        Ok(has_changes)
    }

    fn raise_all(&mut self, drained: &Drained, all: bool) {
        if drained.trimmed {
            tracing::warn!("changes were trimmed before they were read: all entries are invalid");
        }
        if all {
            self.raise_floor(drained.fence);
        }
        for tag in &drained.tags {
            self.raise(Tag::named(tag), drained.fence);
        }
    }

    fn take(&mut self, drained: Drained) {
        self.wakeups.promise(drained.wakeups);
        let are_known = drained.in_progress.iter().all(|writer| self.running.ids.contains(writer));
        let pause = if are_known { (self.running.pause * 2).min(HEARTBEAT) } else { BUSY };
        self.running = RunningWriters { ids: drained.in_progress, pause };
        self.read = Some(LogSnapshot { epoch: drained.epoch, snapshot: drained.snapshot });
    }

    /// Finds schema changes that no event trigger has recorded. Each one invalidates all entries.
    pub(super) async fn check_schema(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        let schema = self.fingerprint.read(conn).await?;
        if self.schema.replace(schema).is_some_and(|known| known != schema) {
            self.note_schema_change();
            // The next drain's fence is later than the fingerprint's snapshot, so it is past the commit of the change.
            self.schema_changed = true;
            self.settled_at = Some(clock::now() + FINGERPRINT_KNOWN_WITHIN);
        } else if self.settled_at.is_some_and(|at| at <= clock::now()) {
            // After this node raised its floor, nodes that had not noticed the change yet may have stored results that they
            // read with the previous schema.
            self.schema_changed = true;
            self.settled_at = None;
        }
        Ok(())
    }

    pub(super) fn note_schema_change(&self) {
        self.db.follow_schema(self.fences.change_schema());
        tracing::info!("the schema has changed: all entries are invalid");
    }
}
