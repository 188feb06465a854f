//! POST requests that only read.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::request::Parts;

/// Which POST requests only read.
#[derive(Clone)]
pub(crate) struct PostReads {
    /// The largest content that is read, in bytes.
    pub(crate) bytes: usize,
    only_reads: Arc<OnlyReads>,
    has_panicked: Arc<AtomicBool>,
}

type OnlyReads = dyn Fn(&Parts, &[u8]) -> bool + Send + Sync;

impl PostReads {
    pub(super) fn new(
        bytes: usize,
        only_reads: impl Fn(&Parts, &[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { bytes, only_reads: Arc::new(only_reads), has_panicked: Arc::default() }
    }

    /// Whether a request with this head and content only reads. `false` if the function panics, which is logged once.
    pub(crate) fn only_reads(&self, route: &str, parts: &Parts, content: &[u8]) -> bool {
        let judge = AssertUnwindSafe(|| (self.only_reads)(parts, content));
        catch_unwind(judge).unwrap_or_else(|_| {
            if !self.has_panicked.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    route,
                    "the function passed to Policy::post_reads panicked; a request for which it panics counts as one \
                     that may write"
                );
            }
            false
        })
    }

    /// The same for another policy of a layer, which has its own entry in the log.
    pub(crate) fn apart(self) -> Self {
        Self { has_panicked: Arc::default(), ..self }
    }
}

impl fmt::Debug for PostReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostReads").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
