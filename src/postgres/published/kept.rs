//! The stream of a slot that outlives its connection. The next relay can continue it.

use std::collections::VecDeque;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tidegate_wal::{Stream, kept_slot_name};

use super::resume_point::ResumePoint;
use crate::clock::{self, Instant};
use crate::postgres::deadline::within;

/// How long the slot keeps what this node has read: a node that takes it over may have followed this one less far.
const KEEP_FOR: Duration = Duration::from_secs(15);

/// How often to search for unneeded slots.
const CLEAN_EVERY: Duration = Duration::from_mins(1);

/// How often to try again to drop a slot that this node does not need and that was still in use, as by a connection that the
/// server has not ended yet.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// Whether the server limits the WAL that slots retain, so that an unused slot can't fill its disk. A stream that is a
/// synchronous standby must not: it would confirm late, and never while a commit waits for it.
const IS_ALLOWED: &str = r"
    select current_setting('max_slot_wal_keep_size') <> '-1'
        and current_setting('synchronous_standby_names') !~* '\*|tidegate'";

/// Drops the slots $1, those that the server has invalidated, and of those that nobody uses now nor did when $2 was read, all if
/// there are more than two, or if they are not bounded: they are left by services that are gone, or that have lost their
/// shared store. Returns which of $1 someone still uses, and which others nobody uses.
const DROP_UNUSED: &str = r"
    with unused as (
        select slot_name::text as name, wal_status,
            count(*) filter (where slot_name::text <> all ($1) and wal_status is distinct from 'lost') over () as many
        from pg_replication_slots
        where slot_name like 'tidegate\_kept\_%' and database = current_database() and active_pid is null),
    dropped as (
        select name, pg_drop_replication_slot(name) from unused
        where name = any ($1) or wal_status = 'lost'
            or name = any ($2) and (many > 2 or current_setting('max_slot_wal_keep_size') = '-1'))
    select array(select slot_name::text from pg_replication_slots
            where slot_name::text = any ($1) and active_pid is not null),
        array(select name from unused where name not in (select name from dropped))";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotKind {
    /// The server drops it with the connection; or there is no stream.
    #[default]
    Temporary,
    /// It outlives the connection.
    Kept,
    /// The slot was kept, and the stream was continued. There was no watermark since.
    Resumed,
}

/// The state of the slot that outlives its connection.
#[derive(Debug, Default)]
pub(super) struct KeptStream {
    /// Whether the next stream's slot may outlive its connection.
    pub(super) may: bool,
    pub(super) slot: SlotKind,
    /// Where the stream was after the last drain.
    pub(super) point: Option<ResumePoint>,
    /// Names of slots to drop once nobody uses them: nobody can continue them, or this node does not know whether the server
    /// has created them.
    unneeded: Vec<String>,
    /// Names of slots that were unused at the last search.
    unused: Vec<String>,
    /// The positions of earlier points, each with the time until which the slot keeps what follows.
    earlier: VecDeque<(Instant, u64)>,
    /// When this node last searched for them.
    cleaned: Option<Instant>,
    /// When it last tried again to drop those that it does not need.
    retried: Option<Instant>,
    /// This node has just raised its floor to the present, so changes that the first watermark can't show make no
    /// difference.
    pub(super) begins: bool,
}

impl KeptStream {
    /// Whether a stream of this node may have such a slot.
    pub(super) async fn is_allowed(&self, conn: &mut PgListener) -> Result<bool, sqlx::Error> {
        Ok(self.may && within(sqlx::query_scalar(IS_ALLOWED).fetch_one(conn)).await?)
    }

    /// Makes room for another slot. Returns its name if it may outlive its connection.
    pub(super) async fn prepare(
        &mut self,
        conn: &mut PgListener,
    ) -> Result<Option<String>, sqlx::Error> {
        self.abandon_point();
        self.unused.clear();
        self.drop_unused(conn).await?;
        if !self.is_allowed(conn).await? {
            return Ok(None);
        }
        let name = kept_slot_name();
        // The server may create it though this node does not wait for it.
        self.unneeded.push(name.clone());
        Ok(Some(name))
    }

    /// Notes that a stream has started.
    pub(super) fn has_started(&mut self, slot: SlotKind) {
        self.slot = slot;
        self.earlier.clear();
    }

    /// Notes that this node can't continue the stream. Only a relay abandons the slot: otherwise, the next relay may use it.
    pub(super) fn abandon_point(&mut self) {
        if let Some(point) = self.point.take()
            && self.may
        {
            self.unneeded.push(point.slot);
        }
        self.earlier.clear();
    }

    /// Notes where another node's stream was.
    pub(super) fn set_point(&mut self, point: Option<ResumePoint>) {
        let slot = |point: &Option<ResumePoint>| point.as_ref().map(|point| point.slot.clone());
        if slot(&point) != slot(&self.point) {
            self.earlier.clear();
        }
        self.point = point;
    }

    pub(super) fn had_watermark(&mut self) {
        if self.slot == SlotKind::Resumed {
            self.slot = SlotKind::Kept;
        }
    }

    /// Notes where the stream is, and lets the server discard the WAL that no node needs any more.
    pub(super) fn reach(&mut self, stream: &Stream) {
        let Some(point) = stream.point() else {
            self.unneeded.extend(self.point.take().map(|point| point.slot));
            return;
        };
        self.unneeded.retain(|name| *name != point.slot);
        let position = point.position;
        self.point = Some(ResumePoint {
            slot: point.slot.clone(),
            position,
            fingerprint: point.fingerprint.clone(),
        });
        let now = clock::now();
        if self.earlier.back().is_none_or(|(_, last)| *last < position) {
            self.earlier.push_back((now + KEEP_FOR, position));
        }
        while let Some((_, position)) = self.earlier.pop_front_if(|(until, _)| *until <= now) {
            stream.confirm(position);
        }
    }

    /// At intervals, drops unneeded slots; without a published table, also this node's own. Returns whether the
    /// stream may go on with its slot: the server's settings may have changed.
    pub(super) async fn clean_up(
        &mut self,
        conn: &mut PgListener,
        is_expected: bool,
    ) -> Result<bool, sqlx::Error> {
        if !is_expected {
            self.unneeded.extend(self.point.take().map(|point| point.slot));
            if !self.unneeded.is_empty() {
                self.drop_unused(conn).await?;
            }
            return Ok(true);
        }
        let is_due = |last: Option<Instant>, every| last.is_none_or(|at| at.elapsed() >= every);
        if !self.may {
            return Ok(true);
        }
        if !is_due(self.cleaned, CLEAN_EVERY) {
            if !self.unneeded.is_empty() && is_due(self.retried, RETRY_EVERY) {
                self.retried = Some(clock::now());
                // Those of others keep their time: they may be used again.
                let unused = std::mem::take(&mut self.unused);
                let dropped = self.drop_unused(conn).await;
                self.unused = unused;
                dropped?;
            }
            return Ok(true);
        }
        self.cleaned = Some(clock::now());
        self.drop_unused(conn).await?;
        Ok(self.slot == SlotKind::Temporary || self.is_allowed(conn).await?)
    }

    /// Drops unused slots. It is no error if the server refuses.
    async fn drop_unused(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        let query = sqlx::query_as::<_, (Vec<String>, Vec<String>)>(DROP_UNUSED);
        let query = query.bind(&self.unneeded).bind(&self.unused);
        match within(query.fetch_one(conn)).await {
            Ok((used, unused)) => {
                (self.unneeded, self.unused) = (used, unused);
                Ok(())
            }
            Err(error @ sqlx::Error::Database(_)) => {
                tracing::debug!(%error, "can't drop an unused replication slot");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
