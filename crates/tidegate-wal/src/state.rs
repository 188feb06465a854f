//! What a stream has delivered so far.

use pgwire_replication::{Lsn, ReplicationEvent};

use crate::error::StreamError;
use crate::options::KeyColumns;
use crate::pending::Pending;
use crate::pgoutput::RowMessage;
use crate::snapshot::Snapshot;
use crate::transaction::{Relations, Transaction};
use crate::watermark::PREFIX;

/// What a stream has delivered so far.
#[derive(Debug)]
pub(crate) struct State {
    relations: Relations,
    /// The transaction that is being delivered.
    open: Option<Transaction>,
    pub(crate) pending: Pending,
    /// The last watermark's snapshot, by which the transactions' numbers are widened.
    pub(crate) newest: Snapshot,
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
    pub(crate) fn new(recorded: Snapshot) -> Self {
        Self {
            relations: Relations::new(),
            open: None,
            pending: Pending::new(recorded.clone()),
            newest: recorded,
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
        self.pending.forget_rows();
        self.open.iter_mut().for_each(Transaction::forget_rows);
    }

    /// Notes what the server has sent. Returns a position up to which everything was read, if one is known.
    pub(crate) fn note(&mut self, event: ReplicationEvent) -> Result<Option<Lsn>, StreamError> {
        match event {
            ReplicationEvent::Begin { xid, final_lsn, .. } => {
                self.open = Some(Transaction::new(self.newest.widen(xid), final_lsn.0));
            }
            ReplicationEvent::XLogData { data, .. } => {
                let open = self.open.as_mut();
                let open = open.ok_or(StreamError::Decode("a change outside a transaction"))?;
                self.relations.note(&RowMessage::decode(&data)?, open)?;
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                if let Some(delivered) = self.open.take().filter(|open| !open.is_empty()) {
                    self.pending.deliver(delivered);
                    self.has_changed = true;
                }
                return Ok(Some(end_lsn));
            }
            ReplicationEvent::Message { transactional, prefix, content, .. } => {
                let awaited = self.awaited.as_deref().map(str::as_bytes);
                // Any role may write messages.
                self.is_reached |= transactional && prefix == PREFIX && awaited == Some(&*content);
            }
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                return Ok(Some(wal_end).filter(|_| self.open.is_none()));
            }
            ReplicationEvent::StoppedAt { .. } => return Err(StreamError::Ended),
        }
        Ok(None)
    }
}
