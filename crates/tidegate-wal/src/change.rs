//! The recorded changes of a table.

use std::collections::BTreeSet;
use std::sync::Arc;

/// A value in a column that changes are keyed by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyValue {
    /// NULL.
    Null,
    /// The value as its type's output function prints it.
    Text(String),
    /// A value of more than 2,000 bytes. All of these share one key, since a value may be large.
    Large,
}

/// A column's value in a row that changed, before the change or after it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// The label that [`KeyColumns::with`](crate::KeyColumns::with) gave the column.
    pub column: Arc<str>,
    /// The value.
    pub value: KeyValue,
}

/// The changes of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// Rows that have one of these values in a key column, before the change or after it. The set is never empty.
    Rows(BTreeSet<RowKey>),
    /// Any row may have changed.
    All,
}

/// The longest value that is recorded, in bytes.
const LONGEST: usize = 2_000;

/// How many keys, and how many bytes of them, are recorded for one table and transaction before all of its rows count as
/// changed.
const MOST_KEYS: usize = 10_000;
const MOST_BYTES: usize = 1_000_000;

impl KeyValue {
    /// A value in the text format, in UTF-8.
    pub(crate) fn from_text(text: &[u8]) -> Self {
        if text.len() > LONGEST {
            return Self::Large;
        }
        // The connection's encoding is UTF-8; a text that is not could be no value in a statement.
        Self::Text(String::from_utf8_lossy(text).into_owned())
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Null | Self::Large => 0,
        }
    }
}

/// Collects the changes of one table.
#[derive(Debug)]
pub(crate) struct TableChanges {
    change: TableChange,
    bytes: usize,
}

impl TableChanges {
    pub(crate) fn new() -> Self {
        Self { change: TableChange::Rows(BTreeSet::new()), bytes: 0 }
    }

    pub(crate) fn add_all(&mut self) {
        self.change = TableChange::All;
    }

    pub(crate) fn add(&mut self, key: RowKey) {
        let TableChange::Rows(keys) = &mut self.change else { return };
        let bytes = key.column.len() + key.value.len();
        if !keys.insert(key) {
            return;
        }
        self.bytes += bytes;
        if keys.len() > MOST_KEYS || self.bytes > MOST_BYTES {
            self.add_all();
        }
    }

    /// The number of keys.
    pub(crate) fn keys(&self) -> usize {
        match &self.change {
            TableChange::Rows(keys) => keys.len(),
            TableChange::All => 0,
        }
    }

    pub(crate) fn into_change(self) -> TableChange {
        self.change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: KeyValue) -> RowKey {
        RowKey { column: "id".into(), value }
    }

    #[test]
    fn more_keys_or_bytes_than_the_limits_count_as_a_change_of_all_rows() {
        for (keys, length, is_all) in [
            (MOST_KEYS, 1, false),
            (MOST_KEYS + 1, 1, true),
            (MOST_BYTES / LONGEST, LONGEST - 2, false),
            (MOST_BYTES / LONGEST + 1, LONGEST - 2, true),
        ] {
            let mut changes = TableChanges::new();
            for number in (0..keys).chain(0..keys) {
                changes.add(key(KeyValue::from_text(format!("{number:0length$}").as_bytes())));
            }
            let is_all_rows = changes.into_change() == TableChange::All;
            assert_eq!(is_all_rows, is_all, "{keys} keys of {length} bytes");
        }
    }

    #[test]
    fn long_values_share_a_key() {
        assert_eq!(KeyValue::from_text(&[b'x'; LONGEST + 1]), KeyValue::Large);
        assert_eq!(KeyValue::from_text(b"x"), KeyValue::Text("x".to_owned()));
    }
}
