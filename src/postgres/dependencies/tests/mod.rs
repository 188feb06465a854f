//! What is found in a text, and what a real server says that it depends on.

mod bodies;
mod differential;
mod limits;
mod narrowed;
mod properties;
mod remembered;
mod rows;
mod server;
mod shadowed;
mod spellings;
mod text;
mod types;
