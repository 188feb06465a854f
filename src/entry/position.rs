//! Positions in the database's log.

use std::fmt;

/// A place in Postgres' write-ahead log (WAL): an LSN, in bytes since the log began (PostgreSQL manual, "WAL
/// Internals"). Without Postgres, it is the value of a local counter.
///
/// Positions compare as numbers. They mean something only within one [`Epoch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Before every change.
    pub const ZERO: Self = Self(0);
    /// After every change that can ever be.
    pub const MAX: Self = Self(u64::MAX);

    /// The position that is `bytes` bytes into the log.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number behind the position.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position just before this one.
    ///
    /// Suppose that a node has observed the position `W` in the primary's WAL, and then reads from the primary. The
    /// fence ([`Fences`](crate::Fences)) of any change that this read misses is at or past `W`, so the read is
    /// complete up to `W.before()`. It need not be complete up to `W` itself: a commit record that ends there can be
    /// in the WAL before the commit is visible.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Position {
    /// As Postgres prints an LSN: `16/B374D848`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// One uninterrupted history of positions: with Postgres, that of a database on one timeline, from one recovery to the
/// next; without, that of one `Cache`.
///
/// Positions of two epochs say nothing about each other, so an entry of another epoch is never valid. Zero stands for
/// no epoch ([`UNKNOWN`](Self::UNKNOWN)): the node does not know the current one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// No epoch: nothing is valid in it.
    pub const UNKNOWN: Self = Self(0);

    /// The epoch with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The epoch of a Postgres database: a hash of the cluster's system identifier, the database's oid, the timeline
    /// and the history number.
    ///
    /// The oid is part of it because the databases of a cluster share one WAL and its positions, but each has tables
    /// and triggers of its own. A database that was created from another one as its template begins with the template's
    /// history number. Until a node begins the copy's own history, the two epochs differ by the oid alone.
    ///
    /// The history number is part of it because a server that crashes loses WAL that was written but not yet flushed
    /// (PostgreSQL manual, "Reliability and the Write-Ahead Log"). It then uses the same positions for other changes,
    /// on the same timeline. So nodes draw a new history number after each recovery.
    pub fn for_database(
        system_identifier: u64,
        database: u32,
        timeline: u32,
        history: u64,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        // The prefix makes this differ from every epoch that was hashed without the database, so an entry or a token with
        // such an epoch proves nothing.
        hasher.update(b"tidegate epoch of a database");
        hasher.update(&system_identifier.to_le_bytes());
        hasher.update(&database.to_le_bytes());
        hasher.update(&timeline.to_le_bytes());
        hasher.update(&history.to_le_bytes());
        Self(first_u64(hasher.finalize().as_bytes()).max(1))
    }

    /// The number behind the epoch.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is an epoch at all.
    pub const fn is_known(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A position together with the epoch in which it means something.
///
/// It implements no order, since positions of two epochs can't be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogPosition {
    /// The epoch to which the position belongs.
    pub epoch: Epoch,
    /// The position in the log of that epoch.
    pub position: Position,
}

impl LogPosition {
    /// The position `position` in the epoch `epoch`.
    pub const fn new(epoch: Epoch, position: Position) -> Self {
        Self { epoch, position }
    }

    /// Whether this is at or past `other` in the same epoch.
    pub(crate) fn has_reached(self, other: Self) -> bool {
        self.epoch == other.epoch && self.position >= other.position
    }
}

/// The first eight bytes of a hash, as a number.
pub(crate) fn first_u64(hash: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_prints_as_a_postgres_lsn() {
        assert_eq!(Position::new(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Position::new(0xFFFF_FFFF).to_string(), "0/FFFFFFFF");
    }

    #[test]
    fn no_position_is_before_zero() {
        assert_eq!(Position::new(7).before(), Position::new(6));
        assert_eq!(Position::ZERO.before(), Position::ZERO);
    }

    #[test]
    fn another_cluster_database_timeline_or_history_is_a_new_epoch() {
        let before = Epoch::for_database(7_300_000_000_000_000_000, 1, 1, 1);
        assert!(before.is_known());
        assert_ne!(before, Epoch::for_database(7_300_000_000_000_000_000, 2, 1, 1));
        assert_ne!(before, Epoch::for_database(7_300_000_000_000_000_000, 1, 2, 1));
        assert_ne!(before, Epoch::for_database(7_300_000_000_000_000_000, 1, 1, 2));
        assert_ne!(before, Epoch::for_database(7_300_000_000_000_000_001, 1, 1, 1));
    }
}
