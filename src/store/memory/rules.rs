//! How a full store chooses the entry that it evicts.

/// How a full store chooses the entry that it evicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EvictionRules {
    /// The least recently used entry.
    Lru,
    /// S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
    S3Fifo {
        /// The share of the capacity for the small queue, in percent.
        small_percent: u64,
        /// How often an entry of the small queue must be requested to come into the main one.
        promote_after: u8,
    },
}

/// The rules that a store chooses from. Which of them has the most hits depends on what is requested: the first one if
/// recent entries are requested again, the second one if popularity hardly changes, the third one in between. The last one
/// has the parameters of the paper.
pub(super) const CANDIDATES: [EvictionRules; 4] = [
    EvictionRules::Lru,
    EvictionRules::S3Fifo { small_percent: 5, promote_after: 1 },
    EvictionRules::S3Fifo { small_percent: 30, promote_after: 1 },
    EvictionRules::S3Fifo { small_percent: 10, promote_after: 2 },
];

/// The index of the rules that a store begins with.
pub(super) const FIRST: usize = 1;
