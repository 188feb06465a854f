//! Classifies errors: by the server, the connection or the statement.

use std::borrow::Cow;

use sqlx::Error;
use sqlx::postgres::PgDatabaseError;

use crate::postgres::database::Database;
use crate::postgres::route_plan::Candidate;

/// Discards a server's connections if it failed during the read. This does not apply to a server that is busy, that
/// cancelled a query in favour of replay, or that refuses further connections: otherwise all its reads would go to the
/// primary. A message that the driver can't encode or decode concerns only one connection. If the primary failed, or had no
/// connection in time, its monitor finds out whether it still responds.
pub(super) fn give_up(db: &Database, candidate: &Candidate, error: &Error) {
    match (candidate, has_lost_connection(error)) {
        (Candidate::Primary, true) => {
            db.inner.lag.suspect();
            db.inner.primary.renew();
        }
        (Candidate::Primary, false) if matches!(error, Error::PoolTimedOut) => {
            db.inner.lag.suspect();
        }
        (Candidate::Replica(server) | Candidate::LastResort(server), true) => server.lose(),
        (_, false) => {}
    }
}

/// Whether a statement was prepared when its result had other columns. Postgres finds that out before it runs anything
/// (`RevalidateCachedQuery` in plancache.c), and has no code for this alone; its message is in the server's language.
pub(in crate::postgres) fn is_outdated_plan(error: &Error) -> bool {
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
        || code(error).is_some_and(|code| codes.contains(&&*code))
}

/// Whether the primary would certainly return the same error as a standby, after the same work: the driver's own errors,
/// syntax errors, invalid values for a function or operator, errors raised by a function, and the application's statement
/// timeout.
pub(super) fn is_the_statements(error: &Error) -> bool {
    match code(error) {
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
pub(in crate::postgres) fn has_lost_connection(error: &Error) -> bool {
    match error {
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolClosed
        | Error::WorkerCrashed => true,
        _ => code(error).is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
    }
}

/// Whether a server refused a statement because it writes, or locks rows (`read_only_sql_transaction`).
pub(super) fn is_refused_write(error: &Error) -> bool {
    code(error).as_deref() == Some("25006")
}

fn code(error: &Error) -> Option<Cow<'_, str>> {
    let Error::Database(error) = error else { return None };
    error.code()
}
