//! What a store finds.

use std::sync::Arc;

use crate::entry::Entry;

/// Whether an entry will never be valid again.
pub type IsOutdated = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// An entry and the tier where it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The tier where it was found.
    pub tier: Tier,
}

/// Where an entry was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// In this process.
    Memory,
    /// In the store that nodes share.
    Shared,
}
