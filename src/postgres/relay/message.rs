//! The messages between nodes about the log.
//!
//! Four bytes of magic and version, then bincode. Every publisher on the channel is trusted, unless the bus signs
//! messages (`store/redis/seal.rs`); hostile bytes are dropped.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::entry::{Epoch, Position, decoder};
use crate::postgres::log::Snapshot;
use crate::postgres::published::ResumePoint;
#[cfg(fuzzing)]
use crate::postgres::relay::checkpoint::Checkpoint;

const MAGIC: &[u8; 4] = b"TGR\x04";

/// The changes that one node found in the log, for the other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvalidationBatch {
    epoch: u64,
    /// The batch contains everything that became visible between these two snapshots.
    before: String,
    after: String,
    fence: u64,
    seen: u64,
    from: u64,
    /// Hashes of tags.
    pub(crate) tags: Vec<u64>,
    /// Whether everything may have changed.
    pub(crate) all: bool,
    /// The fingerprint of the schema.
    pub(crate) schema: Option<i64>,
    /// The nonces of the sync requests that were received before the log was polled.
    pub(crate) responds_to: Vec<u64>,
    /// From where the stream of changes of published tables can be continued with the snapshot `after`.
    pub(crate) point: Option<ResumePoint>,
}

/// The positions of one poll of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Positions {
    /// At or past the commits of all reported changes.
    pub(crate) fence: Position,
    /// A position up to which the schema is known; past the fence if there were changes, unless the schema changed during the
    /// poll.
    pub(crate) seen: Position,
    /// Seen on the primary before the poll began.
    pub(crate) from: Position,
}

/// A node's request that the relay poll the log, beginning after it receives this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SyncRequest {
    /// Identifies the request in the response.
    pub(crate) nonce: u64,
    /// Whether a session waits for it.
    pub(crate) urgent: bool,
    /// Whether its sender starts, and requests a checkpoint too.
    pub(crate) joins: bool,
}

impl InvalidationBatch {
    pub(crate) fn new(
        epoch: Epoch,
        before: &Snapshot,
        after: &Snapshot,
        at: Positions,
        tags: Vec<u64>,
    ) -> Self {
        Self {
            epoch: epoch.get(),
            before: before.as_str().to_owned(),
            after: after.as_str().to_owned(),
            fence: at.fence.get(),
            seen: at.seen.get(),
            from: at.from.get(),
            tags,
            all: false,
            schema: None,
            responds_to: Vec::new(),
            point: None,
        }
    }

    /// A batch without changes that responds to no request: it shows only that its sender is still polling the log.
    pub(crate) fn still_polling(epoch: Epoch, published: &Snapshot) -> Self {
        let [fence, seen, from] = [Position::ZERO; 3];
        let at = Positions { fence, seen, from };
        Self::new(epoch, published, published, at, Vec::new())
    }

    pub(crate) fn is_still_polling(&self) -> bool {
        self.tags.is_empty()
            && !self.all
            && self.responds_to.is_empty()
            && self.before == self.after
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch)
    }

    pub(crate) fn at(&self) -> Positions {
        let [fence, seen, from] = [self.fence, self.seen, self.from].map(Position::new);
        Positions { fence, seen, from }
    }

    pub(crate) fn before(&self) -> Snapshot {
        Snapshot::new(self.before.clone())
    }

    pub(crate) fn after(&self) -> Snapshot {
        Snapshot::new(self.after.clone())
    }
}

pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let encoded = bincode::serde::encode_to_vec(message, bincode::config::standard());
    bytes.extend(encoded.unwrap_or_default()); // numbers and strings always encode
    bytes
}

/// Decodes a message; `None` if the bytes are not a message of this version.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    decoder::decode(bytes.strip_prefix(MAGIC)?).ok()
}

/// Decodes hostile bytes as the messages of another node.
#[cfg(fuzzing)]
pub(crate) fn fuzz(body: &[u8]) {
    let bytes = [MAGIC, body].concat();
    if let Some(batch) = decode::<InvalidationBatch>(&bytes) {
        assert_eq!(decode(&encode(&batch)).as_ref(), Some(&batch));
        let (before, after) = (batch.before(), batch.after());
        assert!(!before.covers(&after) || before.covers(&before) && after.covers(&after));
    }
    decode::<SyncRequest>(&bytes);
    if let Some(checkpoint) = decode::<Checkpoint>(&bytes) {
        assert_eq!(decode(&encode(&checkpoint)).as_ref(), Some(&checkpoint));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch() -> InvalidationBatch {
        let (before, after) = (Snapshot::new("5:5:".into()), Snapshot::new("5:9:6,7".into()));
        let [fence, seen, from] = [10, 12, 8].map(Position::new);
        let at = Positions { fence, seen, from };
        let mut batch =
            InvalidationBatch::new(Epoch::new(3), &before, &after, at, vec![1, u64::MAX]);
        (batch.all, batch.schema, batch.responds_to) = (true, Some(-4), vec![77]);
        batch
    }

    #[test]
    fn an_encoded_batch_decodes_unchanged_and_as_no_other_message() {
        let received: InvalidationBatch = decode(&encode(&batch())).unwrap();
        assert_eq!(received, batch());
        assert_eq!((received.epoch(), received.at().seen), (Epoch::new(3), Position::new(12)));
        assert_eq!(received.after(), Snapshot::new("5:9:6,7".into()));
        assert_eq!(decode::<SyncRequest>(&encode(&batch())), None, "a message of another kind");
        let polling = InvalidationBatch::still_polling(Epoch::new(3), &received.after());
        assert!(polling.is_still_polling() && !received.is_still_polling());
    }

    proptest! {
        #[test]
        fn a_damaged_message_never_panics_the_decoder(
            at in 0usize..60, byte: u8, cut in 0usize..60
        ) {
            let mut bytes = encode(&batch());
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(len - cut % len);
            let _ = decode::<InvalidationBatch>(&bytes);
            let _ = decode::<SyncRequest>(&bytes);
        }
    }
}
