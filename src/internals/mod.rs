//! What this project's own benchmarks and tests reach and nobody else can: no part of the public interface.

mod benching;
mod entries;
#[cfg(fuzzing)]
pub mod fuzzing;

pub use benching::{decode, encode, key};
pub use entries::entry;

/// Puts the wall clock of this process, as the library reads it, so many milliseconds before what it is
/// in truth, or behind if negative: what an administrator does, or a virtual machine that was asleep.
pub fn put_clock_forward(millis: i64) {
    crate::clock::put_forward(millis);
}
