//! Postgres.

pub(crate) mod dependencies;
