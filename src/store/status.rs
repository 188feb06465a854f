//! The state of a store, for operators.

/// The state of a store, including the stores that it wraps. A field is `None` if no store in it has that information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The tier in memory.
    pub memory: Option<MemoryStatus>,
    /// Whether there is a connection to the shared tier, as far as is known.
    pub connected: Option<bool>,
    /// Whether a circuit breaker of a [`Guard`](super::Guard) currently keeps requests from calling the shared tier.
    pub breaker_open: Option<bool>,
    /// The number of writes that a [`Guard`](super::Guard) dropped because too many were in progress.
    pub dropped_writes: u64,
    /// Entries and messages in the shared tier that were ignored, since they are not signed with a secret of this
    /// service; 0 where nothing is signed.
    pub refused: u64,
}

/// The memory use of a store in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStatus {
    /// Entries in it.
    pub entries: u64,
    /// The approximate number of bytes that they take.
    pub bytes: u64,
    /// The largest number of bytes that they may take.
    pub capacity: u64,
}

impl StoreStatus {
    /// Combines the states of two stores. Where both have a value, that of `self` is used; counts are added.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory.or(other.memory),
            connected: self.connected.or(other.connected),
            breaker_open: self.breaker_open.or(other.breaker_open),
            dropped_writes: self.dropped_writes + other.dropped_writes,
            refused: self.refused + other.refused,
        }
    }
}
