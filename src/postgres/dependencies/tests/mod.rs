//! What is found in a text, and what a real server says that it depends on.

mod differential;
mod limits;
mod properties;
mod remembered;
mod server;
mod text;
