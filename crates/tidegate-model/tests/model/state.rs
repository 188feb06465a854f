//! The state of the model.

use std::collections::BTreeSet;

use tidegate::{Epoch, LogPosition, Position};

use super::stream::Stream;

/// A set of transactions.
pub(crate) type Set = u8;

/// A place in the log.
pub(crate) type At = u8;

/// What an epoch is made of. All is of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    /// Its history; the first is 1.
    pub(crate) history: u8,
    /// The database's oid.
    pub(crate) database: u8,
}

impl Identity {
    pub(crate) const FIRST: Self = Self { history: 1, database: 0 };
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) primary: Primary,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) nodes: Vec<Node>,
    /// The invalidation batches that nodes have published. Each may be received at any time, again, or never.
    pub(crate) batches: BTreeSet<Batch>,
    /// What a node that publishes knew after its last drain, for nodes that start.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The position before which the slot delivers nothing any more, of a slot that outlives its connection.
    pub(crate) confirmed: At,
    /// The response while it is computed.
    pub(crate) fill: Option<Fill>,
    /// The stored response, which every node can find.
    pub(crate) kept: Option<Entry>,
    /// A stored value that responses use for one of their parts.
    pub(crate) inner: Option<Entry>,
    pub(crate) session: Option<Session>,
    /// A request that waits for what another one computes.
    pub(crate) waiter: Option<Waiter>,
    pub(crate) restarts: u8,
    pub(crate) broken: Option<Broken>,
}

/// A promise that a response violates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    /// It lacks a transaction that the node had drained.
    Stale,
    /// It lacks a write of its own session.
    OwnWrite,
    /// It shows what a failover has lost.
    Lost,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Primary {
    /// What it reports of itself.
    pub(crate) identity: Identity,
    /// The database to which the name leads.
    pub(crate) database: u8,
    /// A copy of the database, until the name leads to it.
    pub(crate) copy: Option<DatabaseCopy>,
    /// Transactions that are made in the copy only.
    pub(crate) of_copy: Set,
    /// Where the next record goes.
    pub(crate) wal: At,
    pub(crate) transactions: Vec<Transaction>,
    /// How many have begun: the next transaction id.
    pub(crate) begun: u8,
    /// Oldest first.
    pub(crate) marks: Vec<Mark>,
    /// How many there have been.
    pub(crate) marked: u8,
    /// Rows of these are gone from the log.
    pub(crate) trimmed: Set,
    /// The budget of a drain, and of a node that starts: rows that are read at most.
    pub(crate) budget: Option<u8>,
    /// A position that a mark is going to have, where it is read too early.
    pub(crate) early_mark: Option<At>,
    pub(crate) schema: Option<Schema>,
}

/// Another database of the cluster, created with this one as its template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct DatabaseCopy {
    /// What there was when it was created.
    pub(crate) has: Set,
    /// Made by one who uses it already.
    pub(crate) mark: Option<Mark>,
}

/// What a response shows is changed by a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Schema {
    pub(crate) changed_by: usize,
    /// The part of the data that is shown before; the other is after.
    pub(crate) first: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Transaction {
    pub(crate) id: u8,
    /// Where the log was when it wrote its row.
    pub(crate) wrote: At,
    /// Where its commit record ends, and in which history that is.
    pub(crate) commit: At,
    pub(crate) identity: Identity,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    #[default]
    Idle,
    Open,
    /// Its commit record is in the log; nobody on the primary sees it yet.
    InLog,
    Visible,
    RolledBack,
    /// Committed, and gone with the server.
    Lost,
}

/// What a snapshot sees was in the log before `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) sees: Set,
    pub(crate) at: At,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    pub(crate) identity: Identity,
    pub(crate) replayed: At,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    /// The database of the last drain, whatever the node takes it for.
    pub(crate) database: u8,
    /// What the last drain saw.
    pub(crate) drained: Set,
    /// A position seen on the primary.
    pub(crate) seen: At,
    /// A position seen on the primary before the last drain began.
    pub(crate) followed: At,
    pub(crate) floor: At,
    /// Of each part of the data.
    pub(crate) fences: [At; 2],
    /// A drain that has begun.
    pub(crate) poll: Option<Poll>,
    /// The dependencies of the response, once looked up; forgotten when the schema changes.
    pub(crate) known: Option<Known>,
    /// Its place in the stream of changes, where they do not come from the log table.
    pub(crate) stream: Option<Stream>,
}

/// The dependencies of the response according to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    pub(crate) tags: u8,
    /// A position past all that was seen by the one who looked it up.
    pub(crate) at: At,
}

/// A read that is going to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    pub(crate) known: Known,
    /// A position that the node had seen on the primary.
    pub(crate) seen: At,
    /// Whether the node knew that the schema had changed.
    pub(crate) knew: bool,
}

/// What a drain has before it reads its fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Poll {
    pub(crate) snapshot: Set,
    /// A position that was seen before.
    pub(crate) from: At,
    /// Where the log was, for a mutant that takes the fence first.
    pub(crate) early: Option<At>,
    /// The fence and the message of a watermark, once written.
    pub(crate) fence: Option<At>,
    pub(crate) message: Option<At>,
}

/// The result of one node's drain, as published to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Batch {
    pub(crate) identity: Identity,
    /// What the drain before saw, and what this one did.
    pub(crate) before: Set,
    pub(crate) after: Set,
    pub(crate) changed: Set,
    /// Whether rows were missed, or the schema has changed.
    pub(crate) all: bool,
    /// Whether the schema has changed.
    pub(crate) forgets: bool,
    pub(crate) fence: At,
    /// A position seen on the primary.
    pub(crate) seen: At,
    /// One seen before the drain began.
    pub(crate) from: At,
}

/// What a node knew after a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Checkpoint {
    pub(crate) identity: Identity,
    pub(crate) drained: Set,
    pub(crate) seen: At,
    pub(crate) floor: At,
    pub(crate) fences: [At; 2],
    /// Where the stream of changes must continue.
    pub(crate) point: Option<At>,
}

/// A stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) identity: Identity,
    pub(crate) as_of: At,
    /// Which transactions are in the response.
    pub(crate) content: Set,
    /// The parts of the data that it depends on.
    pub(crate) tags: u8,
}

/// A response that is being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fill {
    pub(crate) node: usize,
    /// What the response must contain.
    pub(crate) required: Required,
    /// The read that is going to be sent, where the schema can change.
    pub(crate) plan: Option<Plan>,
    /// Parts that have been read.
    pub(crate) parts: u8,
    /// The read under way: its server, and what was known of it before.
    pub(crate) read: Option<Read>,
    /// Whom the last read was of.
    pub(crate) last: Option<Server>,
    /// What the reads so far prove; `None` before the first.
    pub(crate) proven: Option<(Identity, At)>,
    pub(crate) content: Set,
    /// The parts of the data that it depends on so far.
    pub(crate) tags: u8,
    /// What the request itself has written, and a position seen after that.
    pub(crate) wrote: Set,
    pub(crate) written: Option<(Identity, At)>,
    /// A part was served stale.
    pub(crate) stale: bool,
    /// Its route has no policy: nobody keeps it, and nobody followed its session.
    pub(crate) passes: bool,
    /// The primary was not what the node took it for, or the reads do not fit together.
    pub(crate) spoilt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Read {
    pub(crate) server: Server,
    pub(crate) proves: (Identity, At),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Server {
    Primary,
    Replica(usize),
}

/// What a request requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Required {
    /// The history that the node knew when the request came.
    pub(crate) identity: Identity,
    /// The database that it had drained.
    pub(crate) database: u8,
    /// What the node had drained when the request came.
    pub(crate) drained: Set,
    /// What its session has written.
    pub(crate) written: Set,
}

/// A request that came to a node and waits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Waiter {
    pub(crate) node: usize,
    pub(crate) required: Required,
    /// The position that the node had seen on the primary.
    pub(crate) since: (Identity, At),
}

/// Who reads: what decides which servers and which values will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) node: usize,
    /// Whether the request is the session's.
    pub(crate) own: bool,
    /// A position past what the request itself has written.
    pub(crate) written: Option<(Identity, At)>,
    pub(crate) plan: Option<Plan>,
}

/// A client that has written, and its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(crate) identity: Identity,
    pub(crate) at: At,
    pub(crate) written: Set,
}

pub(crate) const fn epoch(identity: Identity) -> Epoch {
    Epoch::new((identity.database as u64) << 8 | identity.history as u64)
}

pub(crate) const fn position(at: At) -> Position {
    Position::new(at as u64)
}

pub(crate) const fn log_position((identity, at): (Identity, At)) -> LogPosition {
    LogPosition::new(epoch(identity), position(at))
}

/// Back from what the protocol says.
pub(crate) fn at(position: Position) -> At {
    At::try_from(position.get()).unwrap()
}
