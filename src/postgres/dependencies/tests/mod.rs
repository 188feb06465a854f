//! What is found in a text, and what a real server says that it depends on.

#[cfg(feature = "testing")]
mod differential;
mod properties;
#[cfg(feature = "testing")]
mod server;
mod text;
