//! What is found in a text, and what a real server says that it depends on.

mod properties;
#[cfg(feature = "testing")]
mod server;
mod text;
