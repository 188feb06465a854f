//! Postgres: invalidation through a change log, and reads routed by position.
//!
//! [`Triggers`] installs the schema `tidegate`: statement triggers that record each change of a tracked table in a log,
//! within the writer's own transaction. [`Listener`] follows that log and raises the fences; if nodes share a store with a
//! bus, one of them reads the log for all (`relay`). [`Database`] combines the primary and its replicas: its executors
//! determine what a statement depends on (`lookup`, `dependencies`), choose a server that has replayed far enough
//! (`route_plan`, `sample`), and note in the request's record what the read proves (`attempt`).

mod attempt;
mod backoff;
mod bound;
mod cached;
mod calls;
mod cancel;
mod changes;
mod checkout;
mod connect;
mod connector;
mod database;
mod database_inner;
mod deadline;
mod declared;
mod dependencies;
mod discovery;
mod error;
mod executor;
mod fingerprint;
mod identity;
mod lag;
mod link;
mod listener;
pub(crate) mod log;
mod lookup;
pub(crate) mod lsn;
mod monitor;
mod options;
mod peers;
mod pooler;
mod published;
mod quote;
mod read_transaction;
mod relay;
mod reset;
mod route_plan;
mod sample;
mod server;
mod server_status;
mod session;
mod sql_error;
mod statement;
mod statements;
mod transaction;
mod triggers;
mod words;

/// All statements have one snapshot, and none can write.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Each statement takes its own snapshot, and none can write.
const READ_ONLY: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";

pub use cached::{Cached, Row};
pub use changes::{Change, Changes};
pub use database::Database;
pub use declared::{DeclareError, DeclaredRead};
#[cfg(fuzzing)]
pub(crate) use dependencies::is_read;
pub use discovery::Discovery;
pub use error::DatabaseError;
pub use executor::{Reader, Writer};
pub use lag::ReplicaLag;
pub use listener::Listener;
pub use lsn::LsnError;
pub use options::{DatabaseOptions, ServerOptions};
pub use read_transaction::ReadTransaction;
pub use relay::RelayRole;
#[cfg(fuzzing)]
pub(crate) use relay::message::fuzz as receive;
pub use server_status::ServerStatus;
pub use transaction::Transaction;
pub use triggers::{
    ChangeSource, SchemaError, SchemaStatus, TableStatus, TriggerState, TriggerStatus, Triggers,
};

#[cfg(feature = "admin")]
pub(crate) use {
    dependencies::{Dependencies, tag_name},
    statements::StatementStats,
};
