//! Who learns what handlers read.

use std::fmt::Debug;

use super::uncacheable::Uncacheable;

/// Learns what the handlers of a route read. A scope may have one; without it, nothing is recorded.
pub(crate) trait ReadObserver: Debug + Send + Sync {
    /// A response could not be stored.
    fn note_uncacheable(&self, uncacheable: &Uncacheable);

    /// A statement reads a tracked table.
    #[cfg(feature = "postgres")]
    fn note_table(&self, table: &str);

    /// A statement reads a table without triggers.
    #[cfg(feature = "postgres")]
    fn note_untracked(&self, table: &str);

    /// A statement compares the columns `compared` of a table with values, and changes of that table are recorded by none of
    /// them, but by those in `recorded`.
    #[cfg(feature = "postgres")]
    fn note_compared(&self, table: &str, recorded: &[String], compared: &[String]);
}
