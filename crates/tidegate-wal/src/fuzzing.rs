//! What must hold for any bytes that a server sends. The fuzz target `wal` calls it.

use std::collections::BTreeSet;

use crate::options::KeyColumns;
use crate::pgoutput::{Message, RowMessage};
use crate::snapshot::Snapshot;
use crate::state::State;

/// The length that stands for a watermark.
const WATERMARK: u16 = u16::MAX;

/// A stream of messages, each after its length, with watermarks between them. Each transaction that was delivered and has
/// changed a table must be part of a watermark that sees it, and of no other.
pub fn stream(data: &[u8]) {
    let Some(mut state) = start() else { return };
    let mut rest = data;
    let (mut open, mut delivered, mut seen) = (None, BTreeSet::new(), BTreeSet::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u16::from_be_bytes(*length);
        if length == WATERMARK {
            rest = after;
            let at = state.newest.clone();
            see(&mut state, &at, &mut seen);
            continue;
        }
        let (bytes, after) = after.split_at(after.len().min(length.into()));
        rest = after;
        let Ok(message) = Message::decode(bytes) else { return };
        if state.note(&message).is_err() {
            return;
        }
        match message {
            Message::Begin { xid, .. } => open = Some((state.newest.widen(xid), false)),
            Message::Row(row) => {
                open = open.map(|(xid, changes)| (xid, changes || is_change(&row)));
            }
            Message::Commit { .. } => {
                delivered.extend(open.take().filter(|(_, changes)| *changes).map(|(xid, _)| xid));
            }
            Message::Written { .. } => {}
        }
    }
    let Ok(all) = format!("{0}:{0}:", u64::MAX).parse() else { return };
    see(&mut state, &all, &mut seen);
    delivered.remove(&u64::MAX);
    assert_eq!(delivered, seen);
}

/// The last 32 bits of a transaction's number are near the end of the first of its epochs.
fn start() -> Option<State> {
    let mut state = State::new("4294967000:4294967290:4294967001".parse().ok()?);
    state.key_by(KeyColumns::default().with(1, "id", "id").with(1, "name", "name"));
    Some(state)
}

fn see(state: &mut State, snapshot: &Snapshot, seen: &mut BTreeSet<u64>) {
    for change in state.pending.see(snapshot).changes {
        assert!(snapshot.sees(change.xid), "a watermark contains what its snapshot does not see");
        seen.insert(change.xid);
    }
}

fn is_change(row: &RowMessage<'_>) -> bool {
    match row {
        RowMessage::Insert { .. } | RowMessage::Update { .. } | RowMessage::Delete { .. } => true,
        RowMessage::Truncate { relations } => !relations.is_empty(),
        RowMessage::Relation(_) | RowMessage::Other => false,
    }
}
