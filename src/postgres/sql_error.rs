//! Classifies the driver's errors: by the server, the connection or the statement.

use std::borrow::Cow;

use sqlx::Error;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
#[cfg(feature = "wal")]
use tidegate_wal::StreamError;

/// The SQLSTATE of an error that the server sent (PostgreSQL manual, appendix A).
pub(crate) fn sql_state(error: &Error) -> Option<Cow<'_, str>> {
    match error {
        // The stream of changes has a client of its own.
        #[cfg(feature = "wal")]
        Error::Configuration(source) => match source.downcast_ref()? {
            StreamError::Server { code, .. } => Some(code.into()),
            _ => None,
        },
        _ => error.as_database_error().and_then(DatabaseError::code),
    }
}

/// Whether a statement was prepared when its result had other columns. Postgres finds that out before it runs anything
/// (`RevalidateCachedQuery` in plancache.c), and has no code for this alone; its message is in the server's language.
pub(super) fn is_outdated_plan(error: &Error) -> bool {
    let Error::Database(error) = error else { return false };
    let postgres = error.try_downcast_ref::<PgDatabaseError>();
    postgres.is_some_and(|error| {
        error.code() == "0A000" && error.routine() == Some("RevalidateCachedQuery")
    })
}

/// Whether the error is specific to this server, so that another server may succeed. PostgreSQL manual, appendix A.
pub(super) fn is_the_servers(error: &Error) -> bool {
    // A recovery conflict on a standby; too many connections; a write on a standby.
    let codes = ["40001", "40P01", "53300", "25006"];
    has_lost_connection(error)
        || matches!(error, Error::PoolTimedOut)
        || sql_state(error).is_some_and(|code| codes.contains(&&*code))
}

/// Whether the primary would certainly return the same error as a standby, after the same work: the driver's own errors,
/// syntax errors, invalid values for a function or operator, errors raised by a function, and the application's statement
/// timeout.
pub(super) fn is_the_statements(error: &Error) -> bool {
    match sql_state(error) {
        Some(code) => {
            let classes = ["21", "22", "P0"];
            classes.contains(&code.get(..2).unwrap_or_default())
                || ["42601", "57014"].contains(&&*code)
        }
        // A type is looked up on the server by its name, and may be part of a migration.
        None => !matches!(error, Error::TypeNotFound { .. }),
    }
}

/// Whether the connection broke, or the server is shutting down or starting up.
pub(super) fn has_lost_connection(error: &Error) -> bool {
    match error {
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolClosed
        | Error::WorkerCrashed => true,
        _ => sql_state(error).is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
    }
}

/// Whether a server refused a statement because it writes, or locks rows (`read_only_sql_transaction`).
pub(super) fn is_refused_write(error: &Error) -> bool {
    sql_state(error).as_deref() == Some("25006")
}

/// Whether the server ended a statement because it took too long, or waited too long for a lock: `query_canceled`,
/// `lock_not_available`.
pub(super) fn is_ended_by_limit(error: &Error) -> bool {
    sql_state(error).is_some_and(|code| code == "57014" || code == "55P03")
}
