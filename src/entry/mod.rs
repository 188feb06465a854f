//! Entries and their keys.
//!
//! An [`Entry`] is one stored response or value: opaque bytes, and the data that decides whether it may be served. That is
//! its [`Key`], the [`Tag`]s that it depends on, and the [`Position`] in the database's log, within an [`Epoch`], up to
//! which it is known to be complete. `codec` encodes an entry for use outside this process, and `decoder` decodes bincode
//! that may be hostile.

#[cfg(any(feature = "redis", feature = "__internals"))]
pub(crate) mod codec;
mod decode_error;
pub(crate) mod decoder;
#[expect(clippy::module_inception, reason = "the type that the folder is about")]
mod entry;
mod key;
mod lifetime;
#[cfg(all(any(feature = "redis", feature = "__internals"), not(feature = "zstd")))]
mod no_packing;
#[cfg(feature = "zstd")]
mod packing;
mod position;
mod raw;
mod tag;
mod text;
mod value;

pub(crate) use decode_error::DecodeError;
pub use entry::{Entry, EntryVersion};
pub use key::{Key, KeyText};
pub(crate) use lifetime::Lifetime;
#[cfg(all(any(feature = "redis", feature = "__internals"), not(feature = "zstd")))]
pub(crate) use no_packing::Packing;
#[cfg(feature = "zstd")]
pub(crate) use packing::Packing;
pub use position::{Epoch, LogPosition, Position};
pub(crate) use raw::Raw;
pub use tag::Tag;
pub(crate) use value::ValueHead;
