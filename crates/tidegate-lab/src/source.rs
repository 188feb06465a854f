//! Where nodes learn of changes.

use tidegate::ChangeSource;

/// The value of `--source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Source {
    /// From the log table, which triggers write
    Triggers,
    /// From the write-ahead log, by logical replication
    Wal,
}

impl From<Source> for ChangeSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Triggers => Self::Triggers,
            Source::Wal => Self::LogicalReplication,
        }
    }
}
