//! Tests of the analysis of a text, and of its dependencies on a real server.

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
