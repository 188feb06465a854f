//! The invariants for any bytes that a server sends. The fuzz target `wal` calls it.

use std::collections::BTreeSet;

use crate::options::KeyColumns;
use crate::pgoutput::{Message, RowMessage};
use crate::snapshot::Snapshot;
use crate::state::State;

/// The length that stands for a watermark; the byte after it says how many transactions it sees more than the one before.
const WATERMARK: u16 = u16::MAX;

/// A stream of messages, each after its length, with watermarks between them. Each transaction that was delivered and has
/// changed a table must be part of the first watermark that sees it, and of no other.
pub fn stream(data: &[u8]) {
    let mut end = FIRST;
    let Some(mut state) = start() else { return };
    let mut rest = data;
    let (mut open, mut begun) = (None, BTreeSet::new());
    let (mut delivered, mut seen) = (BTreeSet::new(), BTreeSet::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u16::from_be_bytes(*length);
        if length == WATERMARK {
            let Some((more, after)) = after.split_first() else { break };
            rest = after;
            end += u64::from(*more);
            see(&mut state, end, &mut seen);
            continue;
        }
        let (bytes, after) = after.split_at(after.len().min(length.into()));
        rest = after;
        // Messages after an invalid one are not read.
        let Ok(message) = Message::decode(bytes) else { break };
        if state.note(&message).is_err() {
            break;
        }
        match message {
            Message::Begin { xid, .. } => {
                let xid = state.newest.widen(xid);
                // A server uses each number once.
                if !begun.insert(xid) {
                    return;
                }
                open = Some((xid, false));
            }
            Message::Row(row) => {
                open = open.map(|(xid, changes)| (xid, changes || is_change(&row)));
            }
            Message::Commit { .. } => {
                delivered.extend(open.take().filter(|(_, changes)| *changes).map(|(xid, _)| xid));
            }
            Message::Written { .. } => {}
        }
    }
    see(&mut state, u64::MAX, &mut seen);
    assert_eq!(delivered, seen);
}

/// The end of the first snapshot: just before the last 32 bits of transactions' numbers begin anew.
const FIRST: u64 = (1 << 32) - 6;

fn snapshot(end: u64) -> Option<Snapshot> {
    format!("{end}:{end}:").parse().ok()
}

fn start() -> Option<State> {
    let mut state = State::new(snapshot(FIRST)?);
    state.key_by(KeyColumns::default().with(1, "id", "id").with(1, "name", "name"));
    Some(state)
}

fn see(state: &mut State, end: u64, seen: &mut BTreeSet<u64>) {
    let Some(snapshot) = snapshot(end) else { return };
    let changes = state.pending.see(&snapshot).changes;
    let xids: BTreeSet<u64> = changes.iter().map(|change| change.xid).collect();
    assert!(xids.iter().all(|xid| snapshot.sees(*xid)), "a watermark has what it does not see");
    assert!(xids.is_disjoint(seen), "a second watermark has the same transaction");
    seen.extend(xids);
    state.newest = snapshot;
}

fn is_change(row: &RowMessage<'_>) -> bool {
    match row {
        RowMessage::Insert { .. } | RowMessage::Update { .. } | RowMessage::Delete { .. } => true,
        RowMessage::Truncate { relations } => !relations.is_empty(),
        RowMessage::Relation(_) | RowMessage::Other => false,
    }
}
