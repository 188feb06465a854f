//! Transactions that were delivered and are not visible yet. This file has the rules that `tidegate-model` explores as
//! `Stream`.

use crate::snapshot::Snapshot;
use crate::transaction::{Change, TransactionChanges};

/// The transactions that no watermark's snapshot has seen yet.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Transactions that were delivered.
    delivered: Vec<TransactionChanges>,
    /// The number of their keys.
    keys: usize,
    /// Which commits were on record when the stream began: none of them is delivered. `None` after the first watermark.
    recorded: Option<Snapshot>,
    /// Transactions of whose changes nothing is known: those of `recorded` that the first watermark did not see, and
    /// those beyond the limits.
    unknown: Vec<u64>,
}

/// The transactions that a watermark's snapshot is the first to see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) changes: Vec<Change>,
    /// Whether it also sees transactions of whose changes nothing is known.
    pub(crate) has_unknown: bool,
}

/// How many keys are held for all transactions before all rows of their tables count as changed, and how many transactions
/// before nothing is known of their changes.
const MOST_KEYS: usize = 100_000;
const MOST: usize = 100_000;

impl Pending {
    /// `recorded` sees the transactions whose commit records are from before the stream.
    pub(crate) fn new(recorded: Snapshot) -> Self {
        Self { delivered: Vec::new(), keys: 0, recorded: Some(recorded), unknown: Vec::new() }
    }

    /// For a stream that is continued: no commit that is not visible to its first snapshot is from before it.
    pub(crate) fn resumed() -> Self {
        Self { delivered: Vec::new(), keys: 0, recorded: None, unknown: Vec::new() }
    }

    /// The position before which no commit record is needed any more, if the last watermark's message is at `message`:
    /// to continue from there, and from its snapshot, misses nothing. `None` if the transactions that are not visible
    /// yet are unknown.
    pub(crate) fn resumable_from(&self, message: u64) -> Option<u64> {
        let oldest = self.delivered.iter().map(|transaction| transaction.commit).min();
        self.unknown.is_empty().then_some(oldest.map_or(message, |oldest| oldest.min(message)))
    }

    pub(crate) fn deliver(&mut self, transaction: TransactionChanges) {
        self.keys += transaction.keys();
        self.delivered.push(transaction);
        if self.keys > MOST_KEYS {
            self.count_all_rows();
        }
        if self.delivered.len() > MOST {
            self.unknown.extend(self.delivered.drain(..).map(|transaction| transaction.xid));
            self.keys = 0;
        }
    }

    /// Counts all rows of each changed table as changed.
    pub(crate) fn count_all_rows(&mut self) {
        self.delivered.iter_mut().for_each(TransactionChanges::count_all_rows);
        self.keys = 0;
    }

    /// Whether something waits to become visible.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.delivered.is_empty() || !self.unknown.is_empty()
    }

    /// Completes a watermark: the stream has delivered everything that its snapshot sees, or never will.
    pub(crate) fn see(&mut self, snapshot: &Snapshot) -> Seen {
        let recorded = self.recorded.take();
        let is_first = recorded.is_some();
        // The first watermark sees the rest of what was on record.
        self.unknown.extend(recorded.iter().flat_map(|recorded| snapshot.hides_of(recorded)));
        let before = self.unknown.len();
        self.unknown.retain(|xid| !snapshot.sees(*xid));
        let has_unknown = is_first || self.unknown.len() < before;
        let visible = self.delivered.extract_if(.., |transaction| snapshot.sees(transaction.xid));
        let changes = visible.flat_map(TransactionChanges::into_changes).collect();
        self.keys = self.delivered.iter().map(TransactionChanges::keys).sum();
        Seen { changes, has_unknown }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::change::TableChange;
    use crate::options::KeyColumns;
    use crate::pgoutput::{RowMessage, Tuple};
    use crate::transaction::KeyedTables;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    fn transaction(xid: u64) -> TransactionChanges {
        let mut transaction = TransactionChanges::new(xid, xid * 100);
        let truncate = RowMessage::Truncate { relations: vec![7] };
        KeyedTables::new().note(&truncate, &mut transaction).unwrap();
        transaction
    }

    fn xids(seen: &Seen) -> Vec<u64> {
        seen.changes.iter().map(|change| change.xid).collect()
    }

    /// After the first watermark, which knows nothing.
    fn begun(recorded: &str, first: &str) -> Pending {
        let mut pending = Pending::new(snapshot(recorded));
        assert!(pending.see(&snapshot(first)).has_unknown);
        pending
    }

    #[test]
    fn a_transaction_that_is_not_visible_yet_is_part_of_a_later_watermark() {
        let mut pending = begun("10:10:", "10:10:");
        for xid in [11, 10, 12] {
            pending.deliver(transaction(xid));
        }
        assert_eq!(xids(&pending.see(&snapshot("10:13:10"))), [11, 12]);
        assert_eq!(xids(&pending.see(&snapshot("10:13:10"))), [0; 0]);
        assert!(pending.is_waiting());
        let seen = pending.see(&snapshot("13:13:"));
        assert_eq!((xids(&seen), seen.has_unknown), (vec![10], false));
        assert!(!pending.is_waiting());
    }

    #[test]
    fn a_commit_from_before_the_stream_that_becomes_visible_later_is_unknown() {
        // 10 and 12 had commit records when the stream began; 11 was running.
        let mut pending = begun("11:13:11", "10:12:10,11");
        let mut has_unknown = |text| pending.see(&snapshot(text)).has_unknown;
        assert!(!has_unknown("10:12:10,11"));
        assert!(!has_unknown("10:12:10"), "11 was running, so it is delivered");
        assert!(has_unknown("10:14:10,13"), "12 became visible");
        assert!(!has_unknown("10:14:10"));
        assert!(has_unknown("14:14:"), "10 became visible");
        assert!(!has_unknown("15:15:"));
    }

    /// Every transaction that the snapshot does not see was delivered from that position on.
    #[test]
    fn a_stream_can_continue_from_the_oldest_commit_that_is_not_visible() {
        let mut pending = begun("10:10:", "10:10:");
        assert_eq!(pending.resumable_from(900), Some(900));
        for xid in [11, 10, 12] {
            pending.deliver(transaction(xid));
        }
        pending.see(&snapshot("10:13:10"));
        assert_eq!(pending.resumable_from(1300), Some(1000));
        pending.see(&snapshot("13:13:"));
        assert_eq!(pending.resumable_from(1300), Some(1300));
        let unknown = begun("11:13:11", "10:12:10,11");
        assert_eq!(unknown.resumable_from(1300), None, "10 and 12 are never delivered");
    }

    #[test]
    fn more_transactions_than_the_limit_are_unknown() {
        let mut pending = begun("10:10:", "10:10:");
        let last = 10 + MOST as u64;
        for xid in 10..last {
            pending.deliver(transaction(xid));
        }
        let none = pending.see(&snapshot("10:10:"));
        assert_eq!((xids(&none), none.has_unknown), (vec![], false));
        pending.deliver(transaction(last));
        let seen = pending.see(&snapshot(&format!("10:{}:10", last + 1)));
        assert_eq!((xids(&seen), seen.has_unknown), (vec![], true));
        assert!(pending.see(&snapshot("1000000:1000000:")).has_unknown, "10 became visible");
        assert!(!pending.is_waiting());
    }

    #[test]
    fn more_keys_than_the_limit_count_as_changes_of_all_rows() {
        let mut pending = begun("10:10:", "10:10:");
        let mut relations = KeyedTables::new();
        relations.key_by(KeyColumns::default().with(7, "id", "id"));
        let described = crate::pgoutput::relation_of_one_column(7, "id");
        let mut insert = |xid: u64, rows: usize| {
            let mut transaction = TransactionChanges::new(xid, xid);
            relations.note(&described, &mut transaction).unwrap();
            for row in 0..rows {
                let value = row.to_string();
                let new = Tuple::from_text(value.as_bytes());
                relations.note(&RowMessage::Insert { relation: 7, new }, &mut transaction).unwrap();
            }
            pending.deliver(transaction);
        };
        for xid in 10..20 {
            insert(xid, 10_000);
        }
        insert(20, 1);
        let changes = pending.see(&snapshot("30:30:")).changes;
        assert_eq!(changes.len(), 11);
        assert!(changes.iter().all(|change| change.change == TableChange::All));
    }
}
