//! Reads that another driver runs.
//!
//! Tidegate does not run such a read, so it can neither choose the server nor query the position. The application queries
//! the position on the connection that will serve the read, and declares the read before it runs. From then on, the same
//! rules apply as to a read of Tidegate's own: what the statement depends on is looked up, and the read proves what the
//! position proves.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, Error, Execute, Postgres};

use super::attempt::{ReadProof, is_outdated, proof_of_primary, proof_of_replica};
use super::checkout::CloseOnCancel;
use super::database::Database;
use super::deadline::within;
use super::dependencies::parameters;
use super::executor::{note, schema_changing};
use super::identity::ServerIdentity;
use super::lsn;
use super::route_plan::RoutePlan;
use super::sample::ServerPosition;
use super::session::OwnSession;
use super::statement::RepeatableStatement;
use super::words::may_write;
use crate::cache::{READ_FAILED, Record, Uncacheable};
use crate::clock;

/// How often a session is compared with a new connection of the `Database` if it differs.
const AGAIN: Duration = Duration::from_secs(1);

/// What the position is written as: fields separated by spaces.
const POSITION: &str = concat!(
    "select pg_catalog.concat_ws(' ', i.system_identifier, i.database, coalesce(i.timeline, 0), i.history, i.standby,
        coalesce(i.position, '-'), i.started, i.process,
        pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.=) 'read committed',
        pg_catalog.pg_current_xact_id_if_assigned() is null,
        pg_catalog.pg_my_temp_schema() operator(pg_catalog.=) 0::pg_catalog.oid,
        pg_catalog.md5(pg_catalog.concat_ws(' ', current_user,
            array(select s from pg_catalog.unnest(pg_catalog.current_schemas(true)) s
                where s operator(pg_catalog.!~~) 'pg\\_temp\\_%'),
            pg_catalog.current_setting('row_security'), pg_catalog.current_setting('standard_conforming_strings'))))
        as tidegate_position
    from (",
    include_str!("sql/identity.sql"),
    ") i"
);

/// Why a declared read can't be part of a cached response. [`Behind`](Self::Behind) and [`Lookup`](Self::Lookup) can
/// occur at any time. All others point to a fault in the statement, or in how the application sets up its connection or
/// its role.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// The server lacks something that the read must see. Read from the primary instead, and declare that read.
    #[error("the server lacks changes that the read must see: run the read on the primary instead")]
    Behind,
    /// What the statement depends on could not be looked up, or the session could not be compared.
    #[error("what the read depends on could not be looked up: {0}")]
    Lookup(Error),
    /// The `position` that was passed is not a result of the query [`Database::POSITION`].
    #[error("`{0}` is not a position: pass on the text that the query Database::POSITION returns")]
    Position(String),
    /// The standby does not report its timeline.
    #[error(
        "the server does not report its timeline: `grant pg_read_all_stats to` the role that connects"
    )]
    Silent,
    /// The connection leads to another database.
    #[error("the connection leads to a different database than this Database")]
    OtherDatabase,
    /// The session of the connection differs from Tidegate's own sessions, so a name could mean another object, or
    /// other rows could be visible.
    #[error(
        "the connection differs from the Database's own connections in role, search_path, row_security or \
         standard_conforming_strings, or it has had temporary objects: give both the same settings"
    )]
    OtherSession,
    /// The transaction's snapshot may be older than the position.
    #[error(
        "the transaction is not READ COMMITTED, so its snapshot may be older than its position"
    )]
    Isolation,
    /// The transaction has written something, so the read may include uncommitted changes.
    #[error(
        "the transaction has written something: what it reads is not committed, so don't declare it, and call \
         Database::wrote after the commit"
    )]
    Wrote,
    /// The number of bound arguments differs from the number of the statement's parameters.
    #[error(
        "the statement takes {needed} arguments, and {given} are bound: bind one for each, in the order of their numbers"
    )]
    Arguments {
        /// The highest parameter number in the statement: 3 for `$3`.
        needed: usize,
        /// The number of arguments that are bound.
        given: usize,
    },
    /// The statement writes; only reads can be declared.
    #[error("the statement writes: don't declare it, and call Database::wrote after the commit")]
    NotARead,
}

/// A declared read, which another driver runs; returned by [`Database::declare_read`].
///
/// Call [`end`](Self::end) when all rows of the read have arrived. If this is dropped without that call, the read
/// counts as failed, and the response is not stored.
#[must_use = "call `end` once the rows have arrived"]
pub struct DeclaredRead {
    plan: RoutePlan,
    /// It calls a function that may write, and counts as a write for the later reads of the scope.
    may_write: bool,
    has_ended: bool,
}

/// The result of [`Database::POSITION`].
struct DeclaredPosition {
    identity: ServerIdentity,
    is_read_committed: bool,
    has_written: bool,
    has_temporary: bool,
    session: String,
}

impl DeclaredPosition {
    fn read(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let mut next = || fields.next();
        let is_true = |field: &str| field == "t";
        let identity = ServerIdentity {
            system_identifier: next()?.parse::<i64>().ok()?.cast_unsigned(),
            database: next()?.parse().ok()?,
            timeline: Some(next()?.parse().ok()?).filter(|timeline| *timeline > 0),
            history: next()?.parse().ok()?,
            standby: is_true(next()?),
            position: Some(next()?).filter(|at| *at != "-").map(lsn::read).transpose().ok()?,
            started: next()?.parse().ok()?,
            process: next()?.parse().ok()?,
            address: None,
            port: None,
            queried: clock::now(),
        };
        let (is_read_committed, has_written) = (is_true(next()?), !is_true(next()?));
        let has_temporary = !is_true(next()?);
        let session = next().filter(|session| session.len() == 32)?.to_owned();
        let is_complete = next().is_none();
        is_complete.then_some(Self {
            identity,
            is_read_committed,
            has_written,
            has_temporary,
            session,
        })
    }
}

impl Database {
    /// A query for the position of the server behind a connection, for [`declare_read`](Self::declare_read). It returns one
    /// row with one column of type text.
    pub const POSITION: &'static str = POSITION;

    /// Declares a read that another driver is about to run, so that the current response depends on it as on a read through
    /// [`reader`](Self::reader).
    ///
    /// 1. On the connection that will serve the read, run [`POSITION`](Self::POSITION), which takes one round trip.
    /// 2. Call this with the resulting text, and with the statement and its arguments as a query of sqlx. sqlx does not
    ///    run it; its text and arguments show the tables and rows. If the driver does not disclose its SQL, give a
    ///    statement that has at least the dependencies of the read. This statement must read the same rows or more
    ///    (`select from users where id = $1`), use the same functions and views, and use the time of day if the read uses
    ///    it.
    /// 3. Run the read, and call [`DeclaredRead::end`] when all of its rows have arrived.
    ///
    /// Declare each read by itself, and run nothing between the position and the read: no write, no `set`, no statement that
    /// makes a temporary table. Don't read from a cursor that was opened before. If several servers are behind the
    /// connection, as with a transaction-pooling proxy, run the query for the position and the read in one READ COMMITTED
    /// transaction. After a write by another driver, call [`wrote`](Self::wrote).
    ///
    /// Postgres may keep a prepared statement's old meaning when a new table hides another one of the same name. Tidegate
    /// reopens its own connections after a change of the schema; other drivers' connections have to be reopened by the
    /// application after such a migration.
    ///
    /// # Errors
    ///
    /// See [`DeclareError`]. After [`DeclareError::Behind`], read from the primary, and declare that read. After any other
    /// error the response is not stored; the read may run all the same, on the primary.
    ///
    /// ```no_run
    /// # struct Client; struct Row;
    /// # impl Client { async fn query_one(&self, sql: &str, with: &[&i32]) -> std::io::Result<Row> { Ok(Row) } }
    /// # impl Row { fn get(&self, column: usize) -> String { String::new() } }
    /// # async fn example(db: tidegate::Database, client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use tidegate::Database;
    ///
    /// const NAME: &str = "select name from users where id = $1";
    ///
    /// let position: String = client.query_one(Database::POSITION, &[]).await?.get(0);
    /// let read = db.declare_read(&position, sqlx::query(NAME).bind(7)).await?;
    /// let name: String = client.query_one(NAME, &[&7]).await?.get(0);
    /// read.end();
    /// # Ok(()) }
    /// ```
    pub async fn declare_read<'q>(
        &self,
        position: &str,
        statement: impl Execute<'q, Postgres>,
    ) -> Result<DeclaredRead, DeclareError> {
        let declared = DeclaredPosition::read(position)
            .ok_or_else(|| DeclareError::Position(position.chars().take(100).collect()));
        let statement = RepeatableStatement::take(statement).map_err(DeclareError::Lookup);
        // The future is large, and is part of the futures of its callers.
        let read = Box::pin(async { self.declare(declared?, statement?).await }).await;
        if let Err(error) = &read
            && !matches!(error, DeclareError::Behind)
            && let Some(record) = Record::current()
        {
            record.note_uncacheable(Uncacheable::new("unnoted-reads", error.to_string()));
        }
        read
    }

    async fn declare(
        &self,
        declared: DeclaredPosition,
        statement: RepeatableStatement,
    ) -> Result<DeclaredRead, DeclareError> {
        if declared.identity.database() != self.inner.identity {
            return Err(DeclareError::OtherDatabase);
        }
        if !declared.is_read_committed {
            return Err(DeclareError::Isolation);
        }
        if declared.has_written {
            return Err(DeclareError::Wrote);
        }
        let given = statement.arguments.as_ref().map_or(0, PgArguments::len);
        let needed = parameters(statement.sql.as_str()).unwrap_or(given);
        if needed != given {
            return Err(DeclareError::Arguments { needed, given });
        }
        let at = ServerPosition::from_identity(&declared.identity).ok_or(DeclareError::Silent)?;
        let plan = RoutePlan::for_statement(self, &statement, false).await;
        if may_write(statement.sql.as_str()) {
            return Err(DeclareError::NotARead);
        }
        if declared.has_temporary || !self.is_own_session(&declared.session, plan.schema).await? {
            return Err(DeclareError::OtherSession);
        }
        let (server, proof) = match at.standby {
            true => ("replica", declared_at_replica(at, &plan)?),
            false => ("primary", self.declared_at_primary(at, &plan).await?),
        };
        // Before the rows arrive, since the application may use them before it ends the read.
        note(&plan, &server.into(), &proof);
        if let Some(record) = &plan.record {
            record.open_read();
        }
        // The other driver's connection does not refuse the writes of a function that the statement calls.
        let calls = plan.may_write || plan.may_write_unseen || plan.may_call;
        let may_write = calls && !at.standby;
        if may_write {
            plan.own.open();
        }
        Ok(DeclaredRead { plan, may_write, has_ended: false })
    }

    /// After a failover, a connection may lead to an old primary that still runs. It lacks later writes.
    async fn declared_at_primary(
        &self,
        at: ServerPosition,
        plan: &RoutePlan,
    ) -> Result<ReadProof, DeclareError> {
        let primary = &self.inner.primary;
        if primary.at().is_none_or(|known| known.epoch != at.epoch) {
            let present = primary.probe().await.map_err(DeclareError::Lookup)?;
            if present != at.epoch {
                return Err(DeclareError::Behind);
            }
        }
        let written = plan.written.map(|written| written.epoch).or(plan.elsewhere);
        if let Some(epoch) = written
            && is_outdated(primary, epoch, at.epoch).await.map_err(DeclareError::Lookup)?
        {
            return Err(DeclareError::Behind);
        }
        let basis = plan.record.as_ref().and_then(Record::primary_basis);
        Ok(proof_of_primary(basis, Some(at)))
    }

    /// Whether a session is like those of this `Database`, in which dependencies are looked up.
    async fn is_own_session(&self, session: &str, schema: u64) -> Result<bool, DeclareError> {
        let mut own = self.inner.own_session.lock().await;
        let is_present = own.schema >= schema;
        if is_present && own.text.as_deref() == Some(session) {
            return Ok(true);
        }
        // If sessions differ, or the primary does not respond, callers must not wait for that one after the other.
        if is_present && own.queried.is_some_and(|queried| queried.elapsed() < AGAIN) {
            if own.text.is_some() {
                return Ok(false);
            }
            let why = "the settings of the Database's own connections could not be read a moment ago: try again";
            return Err(DeclareError::Lookup(Error::Protocol(why.into())));
        }
        let text = self.query_own_session().await;
        // If it failed, what was known before may be from before the schema change.
        *own = OwnSession {
            text: text.as_ref().ok().cloned(),
            schema: own.schema.max(schema),
            queried: Some(clock::now()),
        };
        Ok(text.map_err(DeclareError::Lookup)? == session)
    }

    async fn query_own_session(&self) -> Result<String, Error> {
        within(async {
            let mut acquired = self.inner.primary.acquire().await?;
            let mut conn = CloseOnCancel::new(&mut acquired);
            let text: String = sqlx::query_scalar(POSITION).fetch_one(conn.get()).await?;
            conn.done();
            let own = DeclaredPosition::read(&text).map(|own| own.session);
            own.ok_or_else(|| Error::Protocol("the server's position can't be read".into()))
        })
        .await
    }
}

fn declared_at_replica(at: ServerPosition, plan: &RoutePlan) -> Result<ReadProof, DeclareError> {
    let is_for_primary = plan.primary_only || plan.sees_on_primary;
    let proof = if is_for_primary { None } else { proof_of_replica(at, plan) };
    proof.ok_or(DeclareError::Behind)
}

impl DeclaredRead {
    /// Ends the read. Call this when all of its rows have arrived.
    pub fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for DeclaredRead {
    fn drop(&mut self) {
        // A write whose end is unknown may still commit. Outside any scope it would count as open until the process ends.
        if self.may_write && (self.has_ended || self.plan.own.is_of_process()) {
            self.plan.own.close(true);
        }
        let Some(record) = &self.plan.record else { return };
        if !self.has_ended {
            let why = "a declared read did not end: call DeclaredRead::end when all of its rows have arrived";
            record.note_uncacheable(Uncacheable::new(READ_FAILED, why));
        }
        if record.schema() != self.plan.schema {
            record.note_uncacheable(schema_changing());
        }
        record.close_read();
    }
}

impl fmt::Debug for DeclaredRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeclaredRead").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_position_is_read() {
        let session = "0".repeat(32);
        let text = format!("-5 16384 1 7 f 0/3000148 1700000000000000 42 t t t {session}");
        let declared = DeclaredPosition::read(&text);
        assert!(declared.is_some_and(|it| it.is_read_committed && !it.has_written));
        for wrong in
            ["", "0", &text[1..text.len() - 1], &format!("{text} t"), &text.replace(' ', "  ")]
        {
            assert!(DeclaredPosition::read(wrong).is_none(), "{wrong}");
        }
    }
}
