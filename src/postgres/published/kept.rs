//! The stream of a slot that outlives its connection, which the next node that reads for all can continue.

use std::collections::VecDeque;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tidegate_wal::{Stream, StreamError, kept_slot_name};

use super::ResumePoint;
use crate::clock::{self, Instant};
use crate::postgres::deadline::within;

/// How long the slot keeps what this node has read: a node that takes it over may have followed this one less far.
const KEEP_FOR: Duration = Duration::from_secs(15);

/// How often to look for slots that nobody needs any more.
const CLEAN_EVERY: Duration = Duration::from_mins(1);

/// How often continuing may fail before the stream begins anew, which empties all caches.
const ATTEMPTS: u8 = 3;

/// Whether the server bounds what slots retain, so that one that nobody uses any more can't fill its disk. A stream that is a
/// synchronous standby must not: it would confirm late, and never while a commit waits for it.
const IS_ALLOWED: &str = r"
    select current_setting('max_slot_wal_keep_size') <> '-1'
        and current_setting('synchronous_standby_names') !~* '\*|tidegate'";

/// Drops the slot $1, those that the server has given up, and all that nobody uses if there are more than two, or if they
/// are not bounded: they are left by services that are gone, or that have lost their shared store. Returns whether someone
/// still uses the slot $1.
const DROP_UNUSED: &str = r"
    with unused as (
        select slot_name, wal_status, count(*) over () as many from pg_replication_slots
        where slot_name like 'tidegate\_kept\_%' and database = current_database() and active_pid is null),
    dropped as (
        select pg_drop_replication_slot(slot_name) from unused
        where slot_name = $1 or wal_status = 'lost' or many > 2 or current_setting('max_slot_wal_keep_size') = '-1')
    select exists (select from pg_replication_slots where slot_name = $1 and active_pid is not null)
    from (select count(*) from dropped) d";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotKind {
    /// The server drops it with the connection; or there is no stream.
    #[default]
    Temporary,
    Kept,
    /// The slot was kept, and the stream was continued. There was no watermark since.
    Resumed,
}

/// What a node knows of the slot that outlives its connection.
#[derive(Debug, Default)]
pub(super) struct KeptStream {
    /// Whether the next stream's slot may outlive its connection.
    pub(super) may: bool,
    pub(super) slot: SlotKind,
    /// Where the stream was after the last drain.
    pub(super) point: Option<ResumePoint>,
    /// A slot that nobody can continue any more.
    unneeded: Option<String>,
    /// The positions of earlier points, each with the time until which the slot keeps what follows.
    earlier: VecDeque<(Instant, u64)>,
    /// How often continuing has failed in a row.
    failed: u8,
    cleaned: Option<Instant>,
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
        self.forget();
        drop_unused(conn, self.unneeded.take().as_deref()).await?;
        // The server may create it though this node does not wait for it.
        self.unneeded = self.is_allowed(conn).await?.then(kept_slot_name);
        Ok(self.unneeded.clone())
    }

    /// Notes that a stream has started.
    pub(super) fn has_started(&mut self, is_kept: bool) {
        self.unneeded = None;
        self.slot = if is_kept { SlotKind::Kept } else { SlotKind::Temporary };
    }

    /// Notes that the stream can't be continued.
    pub(super) fn forget(&mut self) {
        if let Some(point) = self.point.take() {
            self.unneeded = Some(point.slot);
        }
        (self.failed, self.cleaned) = (0, None);
        self.earlier.clear();
    }

    /// Notes that the stream can't be continued. Returns whether to try again, since the slot is not lost.
    pub(super) fn fail(&mut self, error: &sqlx::Error) -> bool {
        let is_lost = match error {
            sqlx::Error::Configuration(source) => {
                matches!(source.downcast_ref(), Some(StreamError::SlotLost { .. }))
            }
            _ => false,
        };
        self.failed += 1;
        let retries = !is_lost && self.failed < ATTEMPTS;
        if !retries {
            self.forget();
        }
        retries
    }

    pub(super) fn had_watermark(&mut self) {
        if self.slot == SlotKind::Resumed {
            self.slot = SlotKind::Kept;
        }
        self.failed = 0;
    }

    /// Notes where the stream is, and lets the slot forget what no node needs any more.
    pub(super) fn reach(&mut self, stream: &Stream) {
        self.point = stream.point().map(|point| ResumePoint {
            slot: point.slot.clone(),
            position: point.position,
            fingerprint: point.fingerprint.clone(),
        });
        let now = clock::now();
        if let Some(ResumePoint { position, .. }) = self.point
            && self.earlier.back().is_none_or(|(_, last)| *last < position)
        {
            self.earlier.push_back((now + KEEP_FOR, position));
        }
        while let Some((_, position)) = self.earlier.pop_front_if(|(until, _)| *until <= now) {
            stream.confirm(position);
        }
    }

    /// Drops slots that nobody needs any more, at times, or the own one once no table is published. Returns whether the
    /// stream may go on with its slot.
    pub(super) async fn clean_up(
        &mut self,
        conn: &mut PgListener,
        is_expected: bool,
    ) -> Result<bool, sqlx::Error> {
        if !is_expected {
            self.forget();
            if self.unneeded.is_some() && !drop_unused(conn, self.unneeded.as_deref()).await? {
                self.unneeded = None;
            }
            return Ok(true);
        }
        if !self.may || self.cleaned.is_some_and(|at| at.elapsed() < CLEAN_EVERY) {
            return Ok(true);
        }
        self.cleaned = Some(clock::now());
        drop_unused(conn, None).await?;
        Ok(self.slot == SlotKind::Temporary || self.is_allowed(conn).await?)
    }
}

/// Drops slots that nobody uses; returns whether someone uses this one. It is no error if the server refuses.
async fn drop_unused(conn: &mut PgListener, slot: Option<&str>) -> Result<bool, sqlx::Error> {
    match within(sqlx::query_scalar(DROP_UNUSED).bind(slot).fetch_one(conn)).await {
        Err(error @ sqlx::Error::Database(_)) => {
            tracing::debug!(%error, "can't drop an unused replication slot");
            Ok(false)
        }
        dropped => dropped,
    }
}
