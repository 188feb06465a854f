//! Collects the changes of the transaction that is being delivered.

use std::collections::{BTreeMap, HashMap};

use crate::change::{TableChange, TableChanges};
use crate::error::StreamError;
use crate::options::KeyColumns;
use crate::pgoutput::RowMessage;
use crate::relation::KeyedTable;

/// The changes of one transaction in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The transaction.
    pub xid: u64,
    /// The position of its commit record, in bytes.
    pub commit: u64,
    /// The table's oid.
    pub relation: u32,
    /// Its changed rows.
    pub change: TableChange,
}

/// The changes of a transaction that was delivered, so far.
#[derive(Debug)]
pub(crate) struct TransactionChanges {
    pub(crate) xid: u64,
    pub(crate) commit: u64,
    tables: BTreeMap<u32, TableChanges>,
}

impl TransactionChanges {
    pub(crate) fn new(xid: u64, commit: u64) -> Self {
        Self { xid, commit, tables: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    fn table(&mut self, relation: u32) -> &mut TableChanges {
        self.tables.entry(relation).or_insert_with(TableChanges::new)
    }

    /// The number of keys that it holds.
    pub(crate) fn keys(&self) -> usize {
        self.tables.values().map(TableChanges::keys).sum()
    }

    /// Counts all rows of each changed table as changed.
    pub(crate) fn count_all_rows(&mut self) {
        self.tables.values_mut().for_each(TableChanges::add_all);
    }

    pub(crate) fn into_changes(self) -> impl Iterator<Item = Change> {
        let (xid, commit) = (self.xid, self.commit);
        self.tables.into_iter().map(move |(relation, changes)| Change {
            xid,
            commit,
            relation,
            change: changes.into_change(),
        })
    }
}

/// The tables that the stream has described.
#[derive(Debug)]
pub(crate) struct KeyedTables {
    keyed: KeyColumns,
    known: HashMap<u32, KeyedTable>,
}

impl KeyedTables {
    /// Without columns: each change counts as one of all rows.
    pub(crate) fn new() -> Self {
        Self { keyed: KeyColumns::default(), known: HashMap::new() }
    }

    /// Replaces the columns that changes are keyed by from now on.
    pub(crate) fn key_by(&mut self, keyed: KeyColumns) {
        for (relation, known) in &mut self.known {
            known.key_by(keyed.of(*relation));
        }
        self.keyed = keyed;
    }

    /// Adds the changes of a message to its transaction.
    pub(crate) fn note(
        &mut self,
        message: &RowMessage<'_>,
        open: &mut TransactionChanges,
    ) -> Result<(), StreamError> {
        match message {
            RowMessage::Relation(described) => {
                let wanted = self.keyed.of(described.relation);
                self.known.insert(described.relation, KeyedTable::new(described, wanted));
            }
            RowMessage::Insert { relation, new } => {
                self.known(*relation)?.insert(new, open.table(*relation));
            }
            RowMessage::Update { relation, old, new } => {
                self.known(*relation)?.update(old.as_ref(), new, open.table(*relation));
            }
            RowMessage::Delete { relation, old } => {
                self.known(*relation)?.delete(old, open.table(*relation));
            }
            RowMessage::Truncate { relations } => {
                for relation in relations {
                    open.table(*relation).add_all();
                }
            }
            RowMessage::Other => {}
        }
        Ok(())
    }

    fn known(&self, relation: u32) -> Result<&KeyedTable, StreamError> {
        self.known.get(&relation).ok_or(StreamError::Decode("a change of an unknown table"))
    }
}
