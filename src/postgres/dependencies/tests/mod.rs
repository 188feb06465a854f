//! What is found in a text, and what a real server says that it depends on.

#[cfg(feature = "testing")]
mod differential;
mod limits;
mod properties;
#[cfg(feature = "testing")]
mod remembered;
#[cfg(feature = "testing")]
mod server;
mod text;
#[cfg(feature = "testing")]
mod types;
