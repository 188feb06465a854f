//! What is wrong with bytes that should be an entry.

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are fewer bytes than a header has, or than the header says.
    #[error("it is truncated")]
    Truncated,
    /// Not an entry, or one of another version.
    #[error("it is in another format or version")]
    Format,
    /// Not signed with a secret of this service, or changed since.
    #[error("it is not signed with a secret of this service")]
    Signature,
    /// The bytes were changed after they were written.
    #[error("its checksum does not match")]
    Checksum,
    /// The metadata is not what this version writes.
    #[error("its metadata is malformed")]
    Metadata,
    /// The body can't be decompressed, or would be larger than the limit.
    #[error("its body can't be decompressed")]
    Body,
}
