//! Opens a connection for a read, and determines what the read will prove.
//!
//! The position comes from an earlier statement on the same server. A function in the read itself would run after the
//! read's snapshot was taken, and could return a position past changes that the read does not see.

use std::sync::Arc;

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::checkout::Checkout;
use super::database::Database;
use super::deadline::{PATIENCE, within, within_limit};
use super::identity::{ServerIdentity, identity};
use super::route_plan::{Candidate, RoutePlan};
use super::sample::ServerPosition;
use super::server::Server;
use super::{READ_ONLY, SNAPSHOT};
use crate::cache::protocol::{is_far_enough, proven_by_replica};
use crate::cache::{REPLICA_BEHIND, Uncacheable};
use crate::entry::{Epoch, LogPosition, Position};

/// An open connection that may serve a read, and what the read proves.
pub(crate) struct OpenedConnection {
    pub(crate) conn: Conn,
    pub(crate) server: Arc<str>,
    pub(crate) proof: ReadProof,
    /// Nothing can commit: it is a READ ONLY transaction, or a standby and the statement calls no function.
    pub(crate) refuses_writes: bool,
    /// See [`Server::plans`].
    pub(crate) plans: Option<u64>,
}

/// What a read proves.
#[derive(Clone, Debug)]
pub(crate) enum ReadProof {
    Basis(LogPosition),
    Nothing(Uncacheable),
}

/// A pooled connection, or a transaction on one, which keeps statements together behind a transaction-pooling proxy.
pub(crate) enum Conn {
    Pooled(Checkout),
    Within(Transaction<'static, Postgres>),
}

/// A transaction on the primary.
pub(super) struct ReadOnPrimary {
    pub(super) transaction: Transaction<'static, Postgres>,
    pub(super) proof: ReadProof,
}

/// A transaction, and the server on which it was begun.
struct IdentifiedTransaction {
    transaction: Transaction<'static, Postgres>,
    identity: ServerIdentity,
}

/// Why a candidate can't serve the read.
pub(crate) enum SkipReason {
    /// It has not replayed far enough, or is of another epoch.
    Behind,
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for SkipReason {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

impl Conn {
    pub(crate) fn get(&mut self) -> &mut PgConnection {
        match self {
            Self::Pooled(conn) => conn,
            Self::Within(transaction) => transaction,
        }
    }

    async fn identify(&mut self) -> Result<ServerIdentity, sqlx::Error> {
        match self {
            Self::Pooled(conn) => conn.identify().await,
            Self::Within(transaction) => within(identity(&mut **transaction)).await,
        }
    }

    /// Commits the transaction, if there is one.
    pub(crate) async fn end(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Within(transaction) => transaction.commit().await,
            Self::Pooled(_) => Ok(()),
        }
    }
}

/// Opens a connection to a candidate.
pub(crate) async fn open(
    db: &Database,
    candidate: &Candidate,
    plan: &RoutePlan,
) -> Result<OpenedConnection, SkipReason> {
    let mut opened = match candidate {
        Candidate::Primary => {
            open_primary(db.current_primary(plan.must_know_primary()).await, plan).await
        }
        Candidate::Replica(server) => open_replica(server, plan, false).await,
        Candidate::LastResort(server) => open_replica(server, plan, true).await,
    }?;
    if let Conn::Pooled(conn) = &mut opened.conn
        && (plan.may_write || plan.may_write_unseen || plan.may_call)
    {
        conn.may_change();
    }
    Ok(opened)
}

async fn open_primary(server: &Server, plan: &RoutePlan) -> Result<OpenedConnection, SkipReason> {
    let before = server.sample();
    let basis = plan.record.as_ref().and_then(crate::cache::Record::primary_basis);
    if before.is_several()
        && !plan.primary_only
        && (plan.record.is_some() || plan.needs > Position::ZERO || plan.elsewhere.is_some())
    {
        return open_one_primary_of_several(server, plan, basis).await;
    }
    let conn = match plan.elsewhere {
        Some(epoch) => connect_to(server, plan, epoch).await?,
        None => connect(server, plan).await?,
    };
    let after = server.sample();
    // If the name leads to several servers, it is unknown which one a single statement reaches.
    let known = after.at.filter(|_| !before.is_several() && !after.is_several());
    let same = known.filter(|_| after.generation == before.generation || before.at.is_none());
    let proof = proof_of_primary(basis, same);
    let refuses_writes = matches!(conn, Conn::Within(_));
    Ok(opened(conn, server, proof, refuses_writes))
}

pub(super) fn proof_of_primary(
    basis: Option<LogPosition>,
    at: Option<ServerPosition>,
) -> ReadProof {
    match (basis, at) {
        (Some(basis), Some(at)) if at.epoch == basis.epoch => ReadProof::Basis(basis),
        _ => ReadProof::Nothing(epoch_changing()),
    }
}

/// Connects to the primary of an epoch, or to the one that the name leads to now: an idle connection may still lead to an
/// old primary.
async fn connect_to(server: &Server, plan: &RoutePlan, epoch: Epoch) -> Result<Conn, sqlx::Error> {
    let generation = server.sample().generation;
    let mut conn = connect(server, plan).await?;
    if is_outdated(server, epoch, epoch_of(&conn.identify().await?)).await? {
        drop(conn);
        server.renew_since(generation);
        conn = connect(server, plan).await?;
    }
    Ok(conn)
}

/// Whether a connection whose server is in epoch `present` is the wrong one for a write of `epoch`: the name leads
/// to a server in another epoch now.
pub(super) async fn is_outdated(
    server: &Server,
    epoch: Epoch,
    present: Epoch,
) -> Result<bool, sqlx::Error> {
    if present == epoch || server.past().contains(epoch, present) {
        return Ok(false);
    }
    let now = server.probe().await?;
    server.past().note(epoch, now);
    Ok(now != present)
}

fn epoch_of(identity: &ServerIdentity) -> Epoch {
    ServerPosition::from_identity(identity).map_or(Epoch::UNKNOWN, |at| at.epoch)
}

async fn connect(server: &Server, plan: &RoutePlan) -> Result<Conn, sqlx::Error> {
    if plan.read_only {
        return begin(server, READ_ONLY).await.map(Conn::Within);
    }
    let mut conn = server.acquire().await?;
    if plan.primary_only && within(conn.ping()).await.is_err() {
        // A write must not be sent twice, so the connection is pinged first.
        server.renew();
        conn.close();
        drop(conn);
        conn = server.acquire().await?;
    }
    Ok(Conn::Pooled(conn))
}

/// Opens a transaction and identifies its server within it. Behind a transaction-pooling proxy, each transaction can reach
/// a different server. So can each connection, if a name alternates between an old primary and a new one.
async fn open_one_primary_of_several(
    server: &Server,
    plan: &RoutePlan,
    basis: Option<LogPosition>,
) -> Result<OpenedConnection, SkipReason> {
    let ReadOnPrimary { transaction, proof } =
        begin_on_primary(server, READ_ONLY, plan, basis).await?;
    Ok(opened(Conn::Within(transaction), server, proof, true))
}

/// Opens a transaction with one snapshot on the primary, and determines what its reads prove: the snapshot is taken
/// after the work of the current scope has begun.
pub(super) async fn open_read_transaction(
    server: &Server,
    plan: &RoutePlan,
) -> Result<ReadOnPrimary, sqlx::Error> {
    let basis = plan.record.as_ref().and_then(crate::cache::Record::primary_basis);
    let mut begun = begin_on_primary(server, SNAPSHOT, plan, basis).await?;
    if plan.record.is_none() {
        let why = "the read transaction was begun outside the scope of the response";
        begun.proof = ReadProof::Nothing(Uncacheable::new("unnoted-reads", why));
    }
    Ok(begun)
}

async fn begin_on_primary(
    server: &Server,
    sql: &'static str,
    plan: &RoutePlan,
    basis: Option<LogPosition>,
) -> Result<ReadOnPrimary, sqlx::Error> {
    let generation = server.sample().generation;
    let mut begun = begin_identified(server, sql).await?;
    let epoch = plan.elsewhere.or(plan.written.map(|written| written.epoch));
    if let Some(epoch) = epoch
        && is_outdated(server, epoch, epoch_of(&begun.identity)).await?
    {
        drop(begun);
        server.renew_since(generation);
        begun = begin_identified(server, sql).await?;
    }
    let IdentifiedTransaction { transaction, identity } = begun;
    if identity.standby {
        let why = "the primary's address leads to a standby";
        return Err(sqlx::Error::Configuration(why.into()));
    }
    let proof = proof_of_primary(basis, ServerPosition::from_identity(&identity));
    Ok(ReadOnPrimary { transaction, proof })
}

/// Begins a transaction, within the pool's wait for a connection and the time limit for a response.
async fn begin(
    server: &Server,
    sql: &'static str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let limit = server.pool().options().get_acquire_timeout() + PATIENCE;
    within_limit(limit, server.begin(sql)).await
}

fn epoch_changing() -> Uncacheable {
    let why = "the node and the server that served the read are currently in different epochs";
    Uncacheable::new("epoch-changing", why)
}

async fn open_replica(
    server: &Server,
    plan: &RoutePlan,
    anyway: bool,
) -> Result<OpenedConnection, SkipReason> {
    let before = server.sample();
    // A promoted standby keeps its sessions, and accepts writes from then on: these would go unnoticed.
    let is_standby = before.at.is_some_and(|at| at.standby);
    if before.is_several() || plan.read_only && (plan.may_call || !is_standby) {
        return open_one_of_several(server, plan, anyway).await;
    }
    if before.at.is_some_and(|at| is_fit(at, plan)) {
        server.note_replayed(plan.replayed_schema);
    }
    let mut conn = server.acquire().await?;
    let after = server.sample();
    let known = before.at.filter(|_| before.generation == after.generation);
    let mut at = known.filter(|at| is_fit(*at, plan));
    if at.is_none() {
        // It may have replayed far enough since its position was last queried.
        let identity = conn.identify().await?;
        server.observe(&identity);
        at = ServerPosition::from_identity(&identity);
        if plan.read_only && !identity.standby {
            drop(conn);
            return open_one_of_several(server, plan, anyway).await;
        }
        let is_known = before.replayed() >= plan.replayed_schema;
        if !is_known && at.is_some_and(|at| is_fit(at, plan)) {
            // This connection may have been opened before the server replayed the change.
            server.note_replayed(plan.replayed_schema);
            drop(conn);
            conn = server.acquire().await?;
            let identity = conn.identify().await?;
            server.observe(&identity);
            at = ServerPosition::from_identity(&identity);
        }
    }
    finish(Conn::Pooled(conn), server, at, plan, anyway)
}

/// Reads the position and serves the read in one transaction, since separate statements might reach different servers. In
/// READ COMMITTED, the read takes its own snapshot, after the position.
async fn open_one_of_several(
    server: &Server,
    plan: &RoutePlan,
    anyway: bool,
) -> Result<OpenedConnection, SkipReason> {
    let before = server.sample();
    let mut begun = begin_identified(server, READ_ONLY).await?;
    let is_known = before.replayed_by(&begun.identity) >= plan.replayed_schema;
    let at = ServerPosition::from_identity(&begun.identity);
    if !is_known && at.is_some_and(|at| is_fit(at, plan)) {
        // As in `open_replica`: this connection may be from before the change.
        server.note_replayed_by(&begun.identity, plan.replayed_schema);
        drop(begun);
        begun = begin_identified(server, READ_ONLY).await?;
    }
    let IdentifiedTransaction { transaction, identity } = begun;
    let at = ServerPosition::from_identity(&identity);
    finish(Conn::Within(transaction), server, at, plan, anyway)
}

async fn begin_identified(
    server: &Server,
    sql: &'static str,
) -> Result<IdentifiedTransaction, sqlx::Error> {
    let mut transaction = begin(server, sql).await?;
    let identity = within(identity(&mut *transaction)).await?;
    Ok(IdentifiedTransaction { transaction, identity })
}

fn finish(
    conn: Conn,
    server: &Server,
    at: Option<ServerPosition>,
    plan: &RoutePlan,
    anyway: bool,
) -> Result<OpenedConnection, SkipReason> {
    let refuses_writes =
        matches!(conn, Conn::Within(_)) || !plan.may_call && at.is_some_and(|at| at.standby);
    if let Some(proof) = at.and_then(|at| proof_of_replica(at, plan)) {
        return Ok(opened(conn, server, proof, refuses_writes));
    }
    match at {
        // Never if the session would miss its own write.
        Some(at) if anyway && has_own_writes(at, plan) => {
            let why = "it was read from a replica that may be too far behind, since no other server was up";
            let proof = ReadProof::Nothing(Uncacheable::new(REPLICA_BEHIND, why));
            Ok(opened(conn, server, proof, refuses_writes))
        }
        _ => Err(SkipReason::Behind),
    }
}

/// What a read of a replica at a position proves; `None` if the replica can't serve it.
pub(super) fn proof_of_replica(at: ServerPosition, plan: &RoutePlan) -> Option<ReadProof> {
    is_fit(at, plan).then(|| match plan.seen {
        Some(seen) if seen.epoch == at.epoch => {
            let proven = proven_by_replica(at.position, seen.position);
            ReadProof::Basis(LogPosition::new(at.epoch, proven))
        }
        _ => ReadProof::Nothing(epoch_changing()),
    })
}

/// Counts the statement that is about to be sent.
fn opened(conn: Conn, server: &Server, proof: ReadProof, refuses_writes: bool) -> OpenedConnection {
    server.sends();
    let (name, plans) = (server.name.clone(), server.plans());
    OpenedConnection { conn, server: name, proof, refuses_writes, plans }
}

fn is_fit(at: ServerPosition, plan: &RoutePlan) -> bool {
    is_far_enough(at.reached(), LogPosition::new(plan.epoch, plan.needs))
}

fn has_own_writes(at: ServerPosition, plan: &RoutePlan) -> bool {
    plan.written.is_none_or(|written| is_far_enough(at.reached(), written))
}
