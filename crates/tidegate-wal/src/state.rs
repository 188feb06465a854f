//! The state of a stream: everything that it has delivered so far.

use crate::error::StreamError;
use crate::options::KeyColumns;
use crate::pending::Pending;
use crate::pgoutput::Message;
use crate::snapshot::Snapshot;
use crate::transaction::{KeyedTables, TransactionChanges};
use crate::watermark::PREFIX;

/// What a stream has delivered so far.
#[derive(Debug)]
pub(crate) struct State {
    relations: KeyedTables,
    /// The transaction that is being delivered.
    open: Option<TransactionChanges>,
    pub(crate) pending: Pending,
    /// The last watermark's snapshot, by which the transactions' numbers are widened.
    pub(crate) newest: Snapshot,
    /// For a stream that is continued: what this snapshot sees may be delivered once more.
    known: Option<Snapshot>,
    /// The content of the message of the watermark under way.
    pub(crate) awaited: Option<String>,
    /// Whether that message was delivered.
    pub(crate) is_reached: bool,
    /// Whether a transaction was delivered since the last watermark was announced.
    pub(crate) has_changed: bool,
    /// Whether the stream has ended, and why, until that was reported.
    pub(crate) is_over: bool,
    pub(crate) ended: Option<StreamError>,
}

impl State {
    /// For a slot that was just created: `recorded` sees the transactions whose commit records are from before it.
    pub(crate) fn new(recorded: Snapshot) -> Self {
        Self::with(Pending::new(recorded.clone()), recorded)
    }

    /// For a stream that is continued from a watermark with this snapshot.
    pub(crate) fn resumed(snapshot: Snapshot) -> Self {
        Self { known: Some(snapshot.clone()), ..Self::with(Pending::resumed(), snapshot) }
    }

    fn with(pending: Pending, newest: Snapshot) -> Self {
        Self {
            relations: KeyedTables::new(),
            open: None,
            pending,
            newest,
            known: None,
            awaited: None,
            is_reached: false,
            has_changed: false,
            is_over: false,
            ended: None,
        }
    }

    /// Replaces the columns that changes are keyed by. Changes that were delivered with others count as changes of all rows.
    pub(crate) fn key_by(&mut self, keyed: KeyColumns) {
        self.relations.key_by(keyed);
        self.pending.count_all_rows();
        self.open.iter_mut().for_each(TransactionChanges::count_all_rows);
    }

    /// Notes what the server has delivered. Returns a position up to which everything was read, if one is known.
    pub(crate) fn note(&mut self, message: &Message<'_>) -> Result<Option<u64>, StreamError> {
        match message {
            Message::Begin { xid, commit } => {
                self.open = Some(TransactionChanges::new(self.newest.widen(*xid), *commit));
            }
            Message::Row(row) => {
                let open = self.open.as_mut();
                let open = open.ok_or(StreamError::Decode("a change outside a transaction"))?;
                self.relations.note(row, open)?;
            }
            Message::Commit { end } => {
                let is_known = |xid| self.known.as_ref().is_some_and(|known| known.sees(xid));
                let delivered =
                    self.open.take().filter(|open| !open.is_empty() && !is_known(open.xid));
                if let Some(delivered) = delivered {
                    self.pending.deliver(delivered);
                    self.has_changed = true;
                }
                return Ok(Some(*end));
            }
            Message::Written { is_transactional, prefix, content } => {
                let awaited = self.awaited.as_deref().map(str::as_bytes);
                // Any role may write messages.
                self.is_reached |=
                    *is_transactional && *prefix == PREFIX && awaited == Some(*content);
            }
        }
        Ok(None)
    }

    /// Whether everything before the position of the server's next message was read: within a transaction, parts of it
    /// were not.
    pub(crate) fn is_between_transactions(&self) -> bool {
        self.open.is_none()
    }
}
