//! Errors.

use pgwire_replication::PgWireError;

use crate::snapshot::SnapshotError;

/// Why a stream can't be started, or has ended. Unless it says otherwise, start another stream: changes in between are
/// unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The URL or its options can't be used.
    #[error("can't connect for logical replication: {0}")]
    Options(String),
    /// The publication is missing, or would hide changes.
    #[error("can't follow the publication `{name}`: {why}")]
    Publication {
        /// Its name.
        name: String,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// The server refuses logical replication, or the connection was lost.
    #[error("the stream of changes ended: {0}")]
    Replication(#[from] PgWireError),
    /// The server closed the stream.
    #[error("the server ended the stream of changes")]
    Ended,
    /// A watermark could not be taken. The stream can still be used.
    #[error("can't write a watermark on the primary")]
    Announce(#[source] sqlx::Error),
    /// The connection for watermarks leads to another server, timeline or database than the stream.
    #[error(
        "the connection for watermarks leads to another server or database than the stream of changes"
    )]
    OtherServer,
    /// The connection for watermarks is in a transaction, whose messages are delivered only after its commit. The stream can
    /// still be used.
    #[error("a watermark can't be written within a transaction")]
    InTransaction,
    /// No watermark was announced. The stream can still be used.
    #[error("no watermark was announced")]
    NotAnnounced,
    /// The server sent what no version of the protocol has.
    #[error("the stream of changes can't be decoded: {0}")]
    Decode(&'static str),
    /// The server sent a snapshot that can't be parsed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}
