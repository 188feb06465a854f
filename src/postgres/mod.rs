//! Postgres: invalidation by its log of changes, and reads routed by position.
//!
//! [`Triggers`] installs the schema `tidegate`: statement triggers that note each change of a
//! tracked table in a log, within the writer's own transaction. [`Listener`] follows that log and
//! moves the fences; where nodes share a store, one of them does so for all (`relay`). [`Database`] is
//! the primary and its replicas as one: its executors find out what a statement depends on
//! (`dependencies`), choose a server that is far enough (`plan`, `sample`), and note in the record of
//! the request what the read proves (`attempt`).

mod attempt;
mod backoff;
mod bound;
mod cached;
mod calls;
mod cancel;
mod changes;
mod checkout;
mod database;
mod deadline;
mod dependencies;
mod discovery;
mod error;
mod executor;
mod fingerprint;
mod lag;
mod link;
mod listener;
pub(crate) mod log;
pub(crate) mod lsn;
mod monitor;
mod peers;
mod pooler;
mod quote;
mod relay;
mod reset;
mod route_plan;
mod sample;
mod server;
mod server_status;
mod statements;
mod triggers;
mod words;

/// Each statement takes a snapshot of its own, and none writes.
const READ_ONLY: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";

pub use cached::{Cached, Row};
pub use changes::{Change, Changes};
pub use database::{Database, DatabaseOptions};
#[cfg(fuzzing)]
pub(crate) use dependencies::is_read;
pub(crate) use dependencies::{Dependencies, tag_name};
pub use discovery::Discovery;
pub use error::DatabaseError;
pub use executor::{Reader, Writer};
pub use listener::Listener;
pub use lsn::LsnError;
pub use relay::RelayRole;
#[cfg(fuzzing)]
pub(crate) use relay::message::fuzz as hear;
pub use server_status::{ReplicaLag, ServerStatus};
pub(crate) use statements::StatementStats;
pub use triggers::{SchemaError, SchemaStatus, TableStatus, TriggerState, TriggerStatus, Triggers};
