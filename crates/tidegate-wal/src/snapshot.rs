//! The transactions that are visible at one moment.

use std::fmt;
use std::str::FromStr;

/// Which transactions were visible at one moment: what `pg_current_snapshot()` returns (PostgreSQL manual, section 9.27.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// All transactions before this have ended.
    xmin: u64,
    /// No transaction from this on is seen.
    xmax: u64,
    /// Those in between that had not ended, in ascending order.
    in_progress: Vec<u64>,
}

/// A text that is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot as Postgres prints it: {0}")]
pub struct SnapshotError(String);

impl Snapshot {
    /// Whether it sees a transaction, if that has committed.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || xid < self.xmax && self.in_progress.binary_search(&xid).is_err()
    }

    /// The transactions that `earlier` sees and this one does not. A commit record may be written a while before the
    /// transaction becomes visible, and logical decoding goes by the record.
    pub(crate) fn hides_of(&self, earlier: &Self) -> Vec<u64> {
        let in_progress = self.in_progress.iter().copied();
        let hidden = in_progress.chain(self.xmax..earlier.xmax.max(self.xmax));
        hidden.filter(|xid| earlier.sees(*xid)).collect()
    }

    /// The number of the transaction of which the replication protocol gives the last 32 bits. It is one of the two thousand
    /// million before this snapshot's end, or of as many after it: Postgres allows no older one to be in use.
    pub(crate) fn widen(&self, short: u32) -> u64 {
        let [.., a, b, c, d] = self.xmax.to_be_bytes();
        let distance = short.wrapping_sub(u32::from_be_bytes([a, b, c, d])).cast_signed();
        self.xmax.wrapping_add_signed(distance.into())
    }
}

impl FromStr for Snapshot {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let parsed = || {
            let mut parts = text.splitn(3, ':');
            let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let listed = parts.next()?.split(',').filter(|xid| !xid.is_empty());
            let in_progress: Vec<_> = listed.map(str::parse).collect::<Result<_, _>>().ok()?;
            let is_sorted = in_progress.is_sorted() && in_progress.iter().all(|xid| *xid < xmax);
            // In the snapshot of a slot, xmax can be lower than xmin.
            is_sorted.then_some(Self { xmin, xmax, in_progress })
        };
        parsed().ok_or_else(|| SnapshotError(text.to_owned()))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_progress: Vec<_> = self.in_progress.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, in_progress.join(","))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_snapshot_sees_the_transactions_that_had_ended() {
        let seen = snapshot("10:20:10,15");
        let visible: Vec<_> = (8..22).filter(|xid| seen.sees(*xid)).collect();
        assert_eq!(visible, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
        assert_eq!(seen.to_string(), "10:20:10,15");
        assert!(!snapshot("10:10:").sees(10));
        assert!(snapshot("11:10:").sees(10) && !snapshot("11:10:").sees(11));
    }

    #[test]
    fn a_text_that_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "1:2:x", "1:5:4,3", "1:5:7", "a:b:", "1:2:1:1"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }

    #[test]
    fn commits_on_record_that_a_later_snapshot_hides_are_found() {
        // 12 and 21 have commit records; the later snapshot was taken while they still counted as running.
        let recorded = snapshot("11:22:11");
        assert_eq!(snapshot("11:21:11,12").hides_of(&recorded), [12, 21]);
        assert_eq!(snapshot("11:25:11,23").hides_of(&recorded), [0; 0]);
        assert_eq!(snapshot("30:30:").hides_of(&recorded), [0; 0]);
    }

    #[test]
    fn the_last_bits_of_a_number_are_widened_to_the_nearest_one() {
        let epoch = 1_u64 << 32;
        let end = |xmax: u64| snapshot(&format!("{xmax}:{xmax}:"));
        assert_eq!(end(100).widen(90), 90);
        assert_eq!(end(100).widen(110), 110);
        assert_eq!(end(3 * epoch + 5).widen(7), 3 * epoch + 7);
        assert_eq!(end(3 * epoch + 5).widen(u32::MAX), 3 * epoch - 1);
        assert_eq!(end(3 * epoch - 2).widen(3), 3 * epoch + 3);
    }
}
