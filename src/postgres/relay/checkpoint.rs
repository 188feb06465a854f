//! The state of a relay, for a node that starts.

use serde::{Deserialize, Serialize};

use crate::entry::{Epoch, Position, Tag};
use crate::postgres::log::{LogSnapshot, Snapshot};
use crate::postgres::published::ResumePoint;

/// Everything that the relay knew of the changes that a snapshot sees: a node that takes it over knows the same, even
/// from an old checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    epoch: u64,
    snapshot: String,
    /// The fingerprint of the schema.
    schema: i64,
    floor: u64,
    /// Hashes of tags, and their fences.
    fences: Vec<(u64, u64)>,
    /// From where the stream of changes of published tables can be continued with the snapshot.
    pub(crate) point: Option<ResumePoint>,
}

impl Checkpoint {
    pub(crate) fn new(
        read: &LogSnapshot,
        schema: i64,
        floor: Position,
        fences: impl Iterator<Item = (Tag, Position)>,
    ) -> Self {
        Self {
            epoch: read.epoch.get(),
            snapshot: read.snapshot.as_str().to_owned(),
            schema,
            floor: floor.get(),
            fences: fences.map(|(tag, fence)| (tag.hash(), fence.get())).collect(),
            point: None,
        }
    }

    /// Whether it is valid for a node that finds this epoch and this schema.
    pub(crate) fn is_of(&self, epoch: Epoch, schema: i64) -> bool {
        // Every writer of the store is trusted, but must not make a node fail.
        let is_whole = self.snapshot().covers(&self.snapshot());
        is_whole && Epoch::new(self.epoch) == epoch && self.schema == schema
    }

    /// The snapshot up to which it is complete.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.snapshot.clone())
    }

    /// Changes before this are not known.
    pub(crate) fn floor(&self) -> Position {
        Position::new(self.floor)
    }

    pub(crate) fn fences(&self) -> impl Iterator<Item = (Tag, Position)> {
        self.fences.iter().map(|(tag, fence)| (Tag::from_hash(*tag), Position::new(*fence)))
    }
}
