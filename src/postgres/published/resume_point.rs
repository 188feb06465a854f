//! From where a stream of the changes of published tables can be continued.

use serde::{Deserialize, Serialize};

/// From where another node can continue the stream, if it knows what this one knew after a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResumePoint {
    pub(super) slot: String,
    pub(super) position: u64,
    pub(super) fingerprint: String,
}
