//! The state of a session: its role, and the settings that were changed in it.

use std::collections::BTreeMap;

use sqlx::{Error, PgConnection};

use crate::clock::Instant;

const STATE: &str = "
    select s.name::pg_catalog.text, s.setting from pg_catalog.pg_settings s
        where s.source operator(pg_catalog.=) 'session'
    union all select 'role', current_user::pg_catalog.text
    union all select 'session_authorization', session_user::pg_catalog.text";

/// The settings that a session's statements see, in which sessions of the same login may differ. Custom settings
/// (`app.tenant`) are not part of it: the server lists them nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionState(BTreeMap<String, String>);

impl SessionState {
    pub(super) async fn read(conn: &mut PgConnection) -> Result<Self, Error> {
        let rows: Vec<(String, Option<String>)> = sqlx::query_as(STATE).fetch_all(conn).await?;
        let settings = rows.into_iter().map(|(name, value)| (name, value.unwrap_or_default()));
        Ok(Self(settings.collect()))
    }

    /// The names of the settings in which two sessions differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let names = self.0.keys().chain(other.0.keys());
        let mut differ: Vec<String> =
            names.filter(|name| self.0.get(*name) != other.0.get(*name)).cloned().collect();
        differ.sort();
        differ.dedup();
        differ
    }
}

/// The session of connections of a `Database`, as [`Database::POSITION`](super::Database::POSITION) reports it.
#[derive(Debug, Default)]
pub(crate) struct OwnSession {
    pub(super) text: Option<String>,
    /// The last schema change that was known when it was queried: that may have changed a role's settings.
    pub(super) schema: u64,
    pub(super) queried: Option<Instant>,
}
