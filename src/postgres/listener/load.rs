//! Loads the log when a node starts, and when a new epoch begins.

use sqlx::postgres::PgListener;

use super::follower::Follower;
use super::housekeeping::MARK_EVERY;
use super::joining::Joined;
use super::recent_fences::RecentFences;
use super::relay_state::RelayState;
use crate::clock::{self, Moment};
use crate::entry::{Position, Tag};
use crate::postgres::deadline::within;
use crate::postgres::fingerprint::{FINGERPRINT_KNOWN_WITHIN, Fingerprint, is_recent};
use crate::postgres::log::{self, LoadedLog, LogSnapshot};
use crate::postgres::peers;
use crate::postgres::published::StreamStart;
use crate::postgres::relay::RelayRole;

/// The state with which a node begins an epoch.
struct EpochStart {
    log: LoadedLog,
    /// All fences: those of the log, and those of a relay's checkpoint.
    fences: Vec<(Tag, Position)>,
    /// The node knows every change that was visible at this time. `None` if it has continued the stream of a relay that is
    /// gone: it knows them after its first drain.
    known_from: Option<Moment>,
}

impl EpochStart {
    fn new(log: LoadedLog, joined: Option<&Joined>, known_from: Option<Moment>) -> Self {
        let fences = log.fences.iter().map(|(name, fence)| (Tag::named(name), *fence));
        let taken_over = joined.into_iter().flat_map(|joined| joined.checkpoint.fences());
        let fences = fences.chain(taken_over).collect();
        Self { log, fences, known_from }
    }
}

impl Follower {
    /// Begins an epoch with the contents of the log and its marks, or with a relay's checkpoint. Returns whether this node then
    /// knows all changes: if it has continued the stream of a relay that is gone, it does so after a drain.
    pub(super) async fn load(&mut self, conn: &mut PgListener) -> Result<bool, sqlx::Error> {
        // Existing connections to the primary may lead to the previous server.
        peers::renew(&self.db.inner.own_writes);
        // A fingerprint from another history is useless.
        self.fingerprint = Fingerprint::default();
        // Read before the log: if event triggers don't record all schema changes, a later change then shows as a
        // difference.
        let schema = self.fingerprint.read(conn).await?;
        (self.schema, self.schema_changed) = (Some(schema), false);
        self.relaying = RelayState::default();
        let start = self.read_start(conn, schema).await?;
        self.begin_epoch(&start);
        // With a mark, a node that starts later knows all changes since then, and can use what this one stores.
        match within(log::mark(&mut *conn, MARK_EVERY, self.schema)).await {
            Err(error @ sqlx::Error::Database(_)) => {
                tracing::debug!(%error, "can't store how far the log has been read: the next node to start may start cold");
            }
            marked => drop(marked?),
        }
        let Some(began) = start.known_from else { return Ok(false) };
        let loaded = start.log;
        // A position past every fence, so that results read from now on are valid at once.
        let (reached, is_settled) =
            within(log::announce_since(&mut *conn, &loaded.snapshot)).await?;
        self.unsettled = !is_settled;
        // Dependencies looked up before `began` have been discarded.
        let is_known = is_settled && is_recent(&began);
        let seen = if is_known { reached } else { loaded.floor };
        self.confirm(loaded.epoch, seen, reached, began);
        Ok(true)
    }

    /// Loads the log, and joins a relay or starts the stream of the changes of published tables.
    async fn read_start(
        &mut self,
        conn: &mut PgListener,
        schema: i64,
    ) -> Result<EpochStart, sqlx::Error> {
        let began = clock::moment();
        let loaded = log::load(conn, schema).await?;
        let mut joined = match loaded.published {
            true => self.join(loaded.epoch).await,
            false => None,
        };
        if let Some(Joined { checkpoint, response: None }) = &joined {
            let (point, read) = (checkpoint.point.clone(), checkpoint.snapshot());
            if !self.published.take_over(&self.db, conn, point, &read).await? {
                joined = None;
            }
        }
        if let Some(joined) = &joined {
            if joined.response.is_some() {
                self.published.follow(joined.checkpoint.point.clone());
            }
            let known_from = joined.response.map(|response| response.sent);
            return Ok(EpochStart::new(joined.over(&loaded), Some(joined), known_from));
        }
        let is_relay = self.elected() == RelayRole::Relay;
        self.published.may_keep(is_relay);
        let starts = if is_relay { StreamStart::Soon } else { self.starts_stream };
        let log = self.published.begin(&self.db, conn, loaded, starts).await?;
        Ok(EpochStart::new(log, None, Some(began)))
    }

    fn begin_epoch(&mut self, start: &EpochStart) {
        let EpochStart { log, fences, known_from } = start;
        self.waiting_since = None;
        // Only now: dependencies looked up before this snapshot may be of an earlier schema, and the snapshot does not show
        // that change.
        self.db.follow_schema(self.fences.change_schema());
        self.settled_at = log.is_settling.then(|| clock::now() + FINGERPRINT_KNOWN_WITHIN);
        self.fences.begin(log.epoch, log.floor, fences.iter().copied());
        self.recent = RecentFences::begin(log.floor, fences);
        if let Some(began) = known_from {
            self.confirm(log.epoch, log.floor, log.seen, *began);
        }
        self.wakeups.promise(log.wakeups);
        self.read = Some(LogSnapshot { epoch: log.epoch, snapshot: log.snapshot.clone() });
        self.counter.send_modify(|counter| counter.epoch = log.epoch);
        let floor = log.floor;
        tracing::info!(epoch = %log.epoch, %floor, fences = fences.len(), "following the change log");
    }
}
