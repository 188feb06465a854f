//! Errors.

use std::io;

use crate::snapshot::SnapshotError;

/// Why a stream can't be started, or has ended. Unless the variant says otherwise, start another stream. The changes
/// between the two streams are unknown.
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
    /// The connection can't be opened, or was lost.
    #[error("the connection of the stream of changes failed: {0}")]
    Connection(#[from] io::Error),
    /// The server does not offer TLS, or certificates are missing or not accepted.
    #[error("can't use TLS for logical replication: {0}")]
    Tls(String),
    /// The server refused the role, a slot or the stream, or ended the stream with an error.
    #[error("the server refuses the stream of changes: {message} (SQLSTATE {code})")]
    Server {
        /// The SQLSTATE code (PostgreSQL manual, appendix A).
        code: String,
        /// The message, in the server's language.
        message: String,
    },
    /// A slot that outlives its connection is gone, in use, or no longer has all changes from the point where the stream
    /// was to continue.
    #[error("the slot {slot} can't be continued: {why}")]
    SlotLost {
        /// Its name.
        slot: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The server did not report the state of a slot, or did not end the connection that uses it.
    #[error("can't look up the replication slot")]
    Slot(#[source] sqlx::Error),
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
    #[error(
        "no watermark was announced to this stream: call Stream::announce before Stream::reach"
    )]
    NotAnnounced,
    /// The server sent a message that the protocol does not have.
    #[error("the stream of changes can't be decoded: {0}")]
    Decode(&'static str),
    /// The server sent a snapshot that can't be parsed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}
