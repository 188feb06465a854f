//! What is stored, and what it is called.
//!
//! An [`Entry`] is one answer: opaque bytes for the one who stored it, and around them what decides
//! whether it may be served: the [`Key`] that it answers, the [`Tag`]s that it depends on, and the
//! [`Position`] in the database's log, within an [`Epoch`], up to which it is known to be complete.
//! `codec` is the form that an entry has outside this process, and `decoder` reads bincode that may be hostile.

pub(crate) mod codec;
pub(crate) mod decoder;
#[expect(clippy::module_inception, reason = "the type that the folder is about")]
mod entry;
mod key;
mod position;
mod tag;
mod text;
mod value;
mod variants;

pub use entry::Entry;
pub(crate) use entry::Lifetime;
pub use key::{Key, KeyText};
pub use position::{Epoch, Position};
pub use tag::Tag;
pub(crate) use value::ValueHead;
pub(crate) use variants::Variants;
