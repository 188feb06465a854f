//! How nodes find out about changes.

/// How nodes find out about a table's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeSource {
    /// Triggers write each change to a log table.
    #[default]
    Triggers,
    /// Nodes read the write-ahead log by logical replication: one node for all that share a Redis, otherwise each node.
    /// No trigger runs, but each UPDATE and DELETE writes the whole old row to the write-ahead log.
    ///
    /// Every node needs the feature `wal`; the server needs `wal_level = logical`; the listener's role needs the
    /// attribute `REPLICATION` (on RDS the role `rds_replication`). Each table gets `REPLICA IDENTITY FULL`, and
    /// becomes part of the publication `tidegate`. Without a Redis that nodes share, a node starts with an empty
    /// cache. When another node takes over reading for all, the caches of all nodes become empty, unless
    /// `max_slot_wal_keep_size` is set. [`Triggers::row_limit`](crate::Triggers::row_limit) does not apply: a
    /// transaction counts as a change of all rows of a table if it changes more than 10,000 values of the table's key
    /// columns, or more than a megabyte of them.
    LogicalReplication,
}

/// The source of the environment, for this project's own tests, which run with either.
#[cfg(feature = "__internals")]
pub(super) fn default_source() -> ChangeSource {
    match std::env::var("TIDEGATE_TEST_SOURCE").as_deref() {
        Ok("wal") => ChangeSource::LogicalReplication,
        _ => ChangeSource::default(),
    }
}

#[cfg(not(feature = "__internals"))]
pub(super) fn default_source() -> ChangeSource {
    ChangeSource::default()
}
