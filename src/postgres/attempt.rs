//! A connection to read by, with what the read will prove.
//!
//! The position comes from an earlier statement than the read, on the same server: a function in
//! the same statement runs after the snapshot was taken, and would claim changes that the read
//! does not have.

use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::READ_ONLY;
use super::database::Database;
use super::log::{Identity, identity};
use super::plan::{Candidate, Plan};
use super::sample::At;
use super::server::Server;
use crate::cache::protocol::{is_far_enough, proven_by_replica};
use crate::cache::{REPLICA_BEHIND, Unfit};
use crate::entry::{Epoch, Position};

/// A connection that is fit for a read, and what the read proves.
pub(crate) struct Opened {
    pub(crate) conn: Conn,
    pub(crate) server: Arc<str>,
    pub(crate) proof: Proof,
    /// See [`Server::plans`].
    pub(crate) plans: Option<u64>,
}

/// What a read proves.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    Basis((Epoch, Position)),
    Nothing(Unfit),
}

/// A connection of its own, or one that a proxy could share out between statements.
pub(crate) enum Conn {
    Pooled(PoolConnection<Postgres>),
    Within(Transaction<'static, Postgres>),
}

/// Why a candidate does not serve.
pub(crate) enum Skip {
    /// It is too far back, or of another epoch.
    Behind,
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for Skip {
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

    /// Ends what was begun. The rows are here, so a failure is nobody's.
    pub(crate) async fn end(self) {
        if let Self::Within(transaction) = self {
            let _ = transaction.commit().await;
        }
    }
}

/// Opens a connection to a candidate.
pub(crate) async fn open(
    db: &Database,
    candidate: &Candidate,
    plan: &Plan,
) -> Result<Opened, Skip> {
    match candidate {
        Candidate::Primary => open_primary(&db.inner.primary, plan).await,
        Candidate::Replica(server) => open_replica(server, plan, false).await,
        Candidate::LastResort(server) => open_replica(server, plan, true).await,
    }
}

async fn open_primary(server: &Server, plan: &Plan) -> Result<Opened, Skip> {
    let before = server.sample();
    let basis = plan.record.as_ref().and_then(crate::cache::Record::primary_basis);
    if before.is_pooled
        && !plan.primary_only
        && (plan.record.is_some() || plan.needs > Position::ZERO)
    {
        return open_pooled_primary(server, basis).await;
    }
    // Nobody says which server a single statement reaches.
    let basis = basis.filter(|_| !before.is_pooled);
    let mut conn = server.acquire().await?;
    if plan.primary_only && conn.ping().await.is_err() {
        // A write can't be tried twice, so the connection is tried first.
        server.renew();
        drop(conn.close().await);
        conn = server.acquire().await?;
    }
    let after = server.sample();
    let same = after.at.filter(|_| after.generation == before.generation || before.at.is_none());
    let proof = match (basis, same) {
        (Some(basis), Some(at)) if at.epoch == basis.0 => Proof::Basis(basis),
        _ => Proof::Nothing(epoch_changing()),
    };
    Ok(opened(Conn::Pooled(conn), server, proof))
}

/// Behind a proxy that pools transactions, each can be on another server: this one says who it is.
async fn open_pooled_primary(
    server: &Server,
    basis: Option<(Epoch, Position)>,
) -> Result<Opened, Skip> {
    let mut transaction = server.begin(READ_ONLY).await?;
    let identity: Identity = identity(&mut *transaction).await?;
    if identity.standby {
        let why = "the primary's address leads to a standby";
        return Err(Skip::Failed(sqlx::Error::Configuration(why.into())));
    }
    let at = At::of(&identity);
    let proof = match (basis, at) {
        (Some(basis), Some(at)) if at.epoch == basis.0 => Proof::Basis(basis),
        _ => Proof::Nothing(epoch_changing()),
    };
    Ok(opened(Conn::Within(transaction), server, proof))
}

fn epoch_changing() -> Unfit {
    let why = "the node and the server that was read are not of one epoch just now";
    Unfit::new("epoch-changing", why)
}

async fn open_replica(server: &Server, plan: &Plan, anyway: bool) -> Result<Opened, Skip> {
    let before = server.sample();
    if before.is_several() {
        return open_one_of_several(server, plan, anyway).await;
    }
    let mut conn = server.acquire().await?;
    let after = server.sample();
    let known = before.at.filter(|_| before.generation == after.generation);
    let mut at = known.filter(|at| is_fit(*at, plan));
    if at.is_none() {
        // It may have got there since it was last asked.
        let identity = identity(&mut *conn).await?;
        server.observe(&identity);
        at = At::of(&identity);
    }
    finish(Conn::Pooled(conn), server, at, plan, anyway)
}

/// Each statement might reach another server, so position and read share a transaction; in READ
/// COMMITTED, the read takes a snapshot of its own, after the position.
async fn open_one_of_several(server: &Server, plan: &Plan, anyway: bool) -> Result<Opened, Skip> {
    let mut transaction = server.begin(READ_ONLY).await?;
    let identity: Identity = identity(&mut *transaction).await?;
    finish(Conn::Within(transaction), server, At::of(&identity), plan, anyway)
}

fn finish(
    conn: Conn,
    server: &Server,
    at: Option<At>,
    plan: &Plan,
    anyway: bool,
) -> Result<Opened, Skip> {
    match at {
        Some(at) if is_fit(at, plan) => {
            let proof = match plan.seen {
                Some((epoch, seen)) if epoch == at.epoch => {
                    Proof::Basis((epoch, proven_by_replica(at.position, seen)))
                }
                _ => Proof::Nothing(epoch_changing()),
            };
            Ok(opened(conn, server, proof))
        }
        // Never for a session that would miss its own write.
        Some(at) if anyway && has_own_writes(at, plan) => {
            let why = "it was read from a replica that may be too far back, as nothing else was up";
            let proof = Proof::Nothing(Unfit::new(REPLICA_BEHIND, why));
            Ok(opened(conn, server, proof))
        }
        _ => Err(Skip::Behind),
    }
}

/// Something is about to be sent.
fn opened(conn: Conn, server: &Server, proof: Proof) -> Opened {
    server.sends();
    Opened { conn, server: server.name.clone(), proof, plans: server.plans() }
}

fn is_fit(at: At, plan: &Plan) -> bool {
    is_far_enough((at.epoch, at.position), (plan.epoch, plan.needs))
}

fn has_own_writes(at: At, plan: &Plan) -> bool {
    plan.written.is_none_or(|written| is_far_enough((at.epoch, at.position), written))
}
