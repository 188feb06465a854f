//! What is found in a text, and what a real server says that it depends on.

#[cfg(feature = "testing")]
mod bodies;
#[cfg(feature = "testing")]
mod differential;
mod limits;
#[cfg(feature = "testing")]
mod narrowed;
mod properties;
#[cfg(feature = "testing")]
mod remembered;
#[cfg(feature = "testing")]
mod server;
#[cfg(feature = "testing")]
mod spellings;
mod text;
