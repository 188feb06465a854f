//! Invalidation by Postgres.
//!
//! [`Triggers`] installs the schema `tidegate`: statement triggers that note each change of a
//! tracked table in a log, within the writer's own transaction. `log` reads that log: what has
//! become visible since the last look, and a position that all of it lies before. `lsn` turns what
//! Postgres prints into a [`Position`](crate::Position).

pub(crate) mod log;
pub(crate) mod lsn;
mod triggers;

pub use lsn::LsnError;
pub use triggers::{SchemaError, Status, TableStatus, TriggerState, TriggerStatus, Triggers};
//! Postgres.

pub(crate) mod dependencies;
