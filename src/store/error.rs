//! Why a call to a store failed.

use std::sync::Arc;
use std::time::Duration;

use crate::entry::DecodeError;

/// Why a call to a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store did not respond within this timeout.
    #[error("the store did not respond within {0:?}")]
    Timeout(Duration),
    /// The circuit breaker is open after too many failures, so the store was not called.
    #[error("the store's circuit breaker is open")]
    Open,
    /// Too many writes were in progress, so this one was dropped.
    #[error("too many writes to the store are in progress; this one was dropped")]
    Busy,
    /// The bytes that are stored under the key can't be decoded as an entry of this version.
    #[error("the stored entry can't be decoded: {0}")]
    Decode(DecodeError),
    /// The store returned an error, or could not be reached.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// The same error for each of `count` callers.
    pub(crate) fn repeated(self, count: usize) -> impl Iterator<Item = Self> {
        let error = Arc::new(self);
        (0..count).map(move |_| match *error {
            Self::Timeout(limit) => Self::Timeout(limit),
            Self::Open => Self::Open,
            Self::Busy => Self::Busy,
            Self::Decode(_) | Self::Backend(_) => Self::Backend(Box::new(error.clone())),
        })
    }
}

impl From<DecodeError> for StoreError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}
