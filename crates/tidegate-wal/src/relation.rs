//! A table as the stream describes it, and the keys of a change of one of its rows.

use std::sync::Arc;

use crate::change::{KeyValue, RowKey, TableChanges};
use crate::options::KeyColumn;
use crate::pgoutput::{RelationMessage, ReplicaIdentity, Tuple, TupleValue};

/// A table, and the columns that its changes are keyed by.
#[derive(Debug)]
pub(crate) struct KeyedTable {
    identity: ReplicaIdentity,
    /// As described: each column's name, and whether the replica identity contains it.
    columns: Vec<(String, bool)>,
    keyed: Vec<KeyedColumn>,
    /// There is no column to key changes by, or one of them is missing: it was dropped or renamed, as the table may have
    /// been, or the publication lacks it.
    lacks_column: bool,
}

#[derive(Debug)]
struct KeyedColumn {
    label: Arc<str>,
    /// Its place in the rows that are sent.
    place: usize,
    /// Whether the replica identity contains it, so that its old value is known.
    is_identified: bool,
}

/// The value that a row has in a column, or had.
enum Known<'a> {
    Value(TupleValue<'a>),
    Unknown,
}

impl KeyedTable {
    pub(crate) fn new(message: &RelationMessage<'_>, wanted: &[KeyColumn]) -> Self {
        let columns = message.columns.iter();
        let columns = columns.map(|column| (column.name.to_owned(), column.is_identified));
        let (identity, keyed) = (message.identity, Vec::new());
        let mut relation = Self { identity, columns: columns.collect(), keyed, lacks_column: true };
        relation.key_by(wanted);
        relation
    }

    /// Replaces the columns that changes are keyed by.
    pub(crate) fn key_by(&mut self, wanted: &[KeyColumn]) {
        let find = |wanted: &KeyColumn| {
            let place = self.columns.iter().position(|(name, _)| *name == wanted.name)?;
            let is_identified = self.columns[place].1;
            Some(KeyedColumn { label: wanted.label.clone(), place, is_identified })
        };
        let keyed: Vec<_> = wanted.iter().filter_map(find).collect();
        self.lacks_column = keyed.is_empty() || keyed.len() < wanted.len();
        self.keyed = keyed;
    }

    /// Adds the keys of an inserted row.
    pub(crate) fn insert(&self, new: &Tuple<'_>, changes: &mut TableChanges) {
        self.add(changes, |column| [known(new, column)]);
    }

    /// Adds the keys of an updated row. `old` are the values before, as far as the server sends them: all with
    /// `REPLICA IDENTITY FULL`, otherwise those of the identity if one of them has changed.
    pub(crate) fn update(
        &self,
        old: Option<&Tuple<'_>>,
        new: &Tuple<'_>,
        changes: &mut TableChanges,
    ) {
        let old_is_whole = self.identity == ReplicaIdentity::Full;
        self.add(changes, |column| {
            let before = match old {
                Some(old) if old_is_whole || column.is_identified => known(old, column),
                // No value of the identity has changed. If all values are the identity, they are always sent.
                None if column.is_identified && !old_is_whole => known(new, column),
                _ => Known::Unknown,
            };
            let after = match new.value(column.place) {
                // A large value that has not changed is not sent again.
                Some(TupleValue::Unchanged) => match old {
                    Some(old) if old_is_whole || column.is_identified => known(old, column),
                    _ => Known::Unknown,
                },
                _ => known(new, column),
            };
            [before, after]
        });
    }

    /// Adds the keys of a deleted row.
    pub(crate) fn delete(&self, old: &Tuple<'_>, changes: &mut TableChanges) {
        let old_is_whole = self.identity == ReplicaIdentity::Full;
        self.add(changes, |column| match old_is_whole || column.is_identified {
            true => [known(old, column)],
            false => [Known::Unknown],
        });
    }

    fn add<'a, const N: usize>(
        &self,
        changes: &mut TableChanges,
        values: impl Fn(&KeyedColumn) -> [Known<'a>; N],
    ) {
        if self.lacks_column {
            return changes.add_all();
        }
        for column in &self.keyed {
            for value in values(column) {
                let value = match value {
                    Known::Value(TupleValue::Null) => KeyValue::Null,
                    Known::Value(TupleValue::Text(text)) => KeyValue::from_text(text),
                    Known::Value(TupleValue::Unchanged) | Known::Unknown => {
                        return changes.add_all();
                    }
                };
                changes.add(RowKey { column: column.label.clone(), value });
            }
        }
    }
}

fn known<'a>(tuple: &Tuple<'a>, column: &KeyedColumn) -> Known<'a> {
    tuple.value(column.place).map_or(Known::Unknown, Known::Value)
}
