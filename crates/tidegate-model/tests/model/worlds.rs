//! What is explored.

use super::rules::Mutant;
use super::state::Set;

/// Bounds of an exploration. Within them everything can happen in any order.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each switches something on of its own")]
pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) transactions: usize,
    pub(crate) nodes: usize,
    pub(crate) replicas: usize,
    /// Reads in one response; transactions take turns in what they change.
    pub(crate) parts: u8,
    /// How often the log is marked; as soon as there are two marks it may be trimmed.
    pub(crate) marks: u8,
    /// Rows that a drain reads at most, and a node that starts.
    pub(crate) budget: Option<u8>,
    pub(crate) restarts: u8,
    pub(crate) fails_over: bool,
    /// Whether the name comes to lead to a copy of the database, and the transactions that are made in the copy only.
    pub(crate) copy: Option<Set>,
    pub(crate) session: bool,
    /// The part of responses that is a value, which is stored as well.
    pub(crate) inner: Option<u8>,
    /// That may be served stale.
    pub(crate) serves_stale: bool,
    /// Whether requests themselves write.
    pub(crate) writes: bool,
    /// Whether there are requests whose response is not stored.
    pub(crate) passes: bool,
    /// Whether requests wait for what others compute, whatever changes meanwhile.
    pub(crate) waits: bool,
    /// The part of the data that responses show until the last transaction changes the schema, if it does.
    pub(crate) schema: Option<u8>,
    /// How many batches are published.
    pub(crate) batches: usize,
    /// Whether nodes that receive batches poll the log as well.
    pub(crate) receivers_poll: bool,
    /// Whether nodes that start take over what one that publishes has left.
    pub(crate) joins: bool,
    /// Whether changes come from a logical replication slot, and not from the log table.
    pub(crate) streams: bool,
    /// Whether the slot outlives its connection, and the node its own.
    pub(crate) resumes: bool,
    pub(crate) mutant: Option<Mutant>,
}

impl World {
    pub(crate) const ONE_NODE: Self = Self {
        name: "one node",
        transactions: 2,
        nodes: 1,
        replicas: 0,
        parts: 1,
        marks: 1,
        budget: None,
        restarts: 0,
        fails_over: false,
        copy: None,
        session: false,
        inner: None,
        serves_stale: false,
        writes: false,
        passes: false,
        waits: false,
        schema: None,
        batches: 0,
        receivers_poll: false,
        joins: false,
        streams: false,
        resumes: false,
        mutant: None,
    };
    pub(crate) const REPLICAS: Self = Self { name: "replicas", replicas: 2, ..Self::ONE_NODE };
    pub(crate) const TWO_READS: Self =
        Self { name: "two reads in a response", replicas: 1, parts: 2, ..Self::ONE_NODE };
    pub(crate) const MARKS: Self =
        Self { name: "marks and a restart", marks: 2, restarts: 1, ..Self::ONE_NODE };
    pub(crate) const BUDGET: Self =
        Self { name: "more changes than a drain reads", budget: Some(1), ..Self::MARKS };
    pub(crate) const SESSION: Self = Self {
        name: "a session on two nodes",
        transactions: 1,
        nodes: 2,
        replicas: 1,
        session: true,
        ..Self::ONE_NODE
    };
    pub(crate) const WAITS: Self =
        Self { name: "requests that wait", replicas: 1, waits: true, ..Self::ONE_NODE };
    pub(crate) const WAITS_SESSION: Self = Self {
        name: "a session that waits",
        transactions: 2,
        session: true,
        replicas: 0,
        ..Self::WAITS
    };
    pub(crate) const WAITS_FAILOVER: Self = Self {
        name: "a failover, and requests that wait",
        transactions: 1,
        fails_over: true,
        ..Self::WAITS
    };
    pub(crate) const FAILOVER: Self =
        Self { name: "a failover", replicas: 2, fails_over: true, ..Self::ONE_NODE };
    /// Both databases are written while there are two.
    pub(crate) const COPY: Self =
        Self { name: "a database and its copy", copy: Some(0b10), ..Self::ONE_NODE };
    pub(crate) const COPY_WRITTEN: Self = Self {
        name: "a database and its copy, which alone is written",
        transactions: 1,
        copy: Some(0b1),
        ..Self::ONE_NODE
    };
    pub(crate) const RELAY: Self =
        Self { name: "a relayed node", nodes: 2, batches: 2, ..Self::ONE_NODE };
    pub(crate) const RELAY_SESSION: Self =
        Self { name: "a session on a relayed node", session: true, batches: 1, ..Self::RELAY };
    pub(crate) const RELAY_LOOKS: Self = Self {
        name: "a relayed node that also polls",
        batches: 1,
        receivers_poll: true,
        ..Self::SESSION
    };
    pub(crate) const RELAY_FAILOVER: Self = Self {
        name: "a failover, and a relayed node",
        transactions: 1,
        replicas: 1,
        restarts: 1,
        fails_over: true,
        batches: 1,
        ..Self::RELAY
    };
    pub(crate) const RELAY_JOIN: Self = Self {
        name: "a failover, and a node that joins a relay",
        joins: true,
        ..Self::RELAY_FAILOVER
    };

    pub(crate) const NESTED: Self = Self {
        name: "a response that uses a value",
        replicas: 0,
        inner: Some(0),
        ..Self::TWO_READS
    };
    pub(crate) const BUDGET_NESTED: Self = Self {
        name: "a response that uses a value, and more changes than a drain reads",
        budget: Some(1),
        ..Self::NESTED
    };
    pub(crate) const NESTED_STALE: Self = Self {
        name: "a response that uses a value, which may be stale",
        serves_stale: true,
        ..Self::NESTED
    };
    pub(crate) const NESTED_FAILOVER: Self = Self {
        name: "a failover, and a response that uses a value",
        transactions: 1,
        replicas: 1,
        fails_over: true,
        ..Self::NESTED
    };
    pub(crate) const NESTED_SESSION: Self = Self {
        name: "a session, and responses that are not stored",
        transactions: 1,
        replicas: 1,
        session: true,
        passes: true,
        ..Self::NESTED
    };
    pub(crate) const OWN_WRITES: Self = Self {
        name: "a request that writes and reads",
        transactions: 1,
        replicas: 1,
        writes: true,
        ..Self::NESTED
    };

    pub(crate) const SCHEMA_AWAY: Self = Self {
        name: "a change of the schema, away from what is written",
        replicas: 1,
        schema: Some(0),
        ..Self::ONE_NODE
    };
    pub(crate) const SCHEMA_TOWARDS: Self = Self {
        name: "a change of the schema, towards what is written",
        schema: Some(1),
        ..Self::SCHEMA_AWAY
    };
    pub(crate) const RELAY_SCHEMA: Self = Self {
        name: "a change of the schema, and a relayed node",
        nodes: 2,
        batches: 1,
        ..Self::SCHEMA_TOWARDS
    };

    pub(crate) const SCHEMA_NODES: Self = Self {
        name: "a change of the schema, and two nodes",
        nodes: 2,
        replicas: 0,
        ..Self::SCHEMA_TOWARDS
    };
    /// Too large to be explored to its end: for a mutant alone.
    pub(crate) const SCHEMA_SESSION: Self =
        Self { name: "a change of the schema, and a session", session: true, ..Self::SCHEMA_NODES };

    pub(crate) const STREAM: Self =
        Self { name: "a stream of changes", streams: true, ..Self::ONE_NODE };
    pub(crate) const STREAM_RESTART: Self = Self {
        name: "a stream of changes that starts over",
        transactions: 1,
        restarts: 1,
        ..Self::STREAM
    };
    pub(crate) const STREAM_RESUME: Self = Self {
        name: "a stream of changes that is continued",
        transactions: 1,
        restarts: 2,
        resumes: true,
        ..Self::STREAM
    };
    pub(crate) const STREAM_REPLICAS: Self =
        Self { name: "a stream of changes, and replicas", streams: true, ..Self::REPLICAS };
    /// With a replica as well, it takes more than 20 GiB.
    pub(crate) const STREAM_SESSION: Self = Self {
        name: "a stream of changes, and a session",
        streams: true,
        replicas: 0,
        ..Self::SESSION
    };
    pub(crate) const STREAM_FAILOVER: Self = Self {
        name: "a stream of changes, and a failover",
        streams: true,
        replicas: 1,
        transactions: 1,
        ..Self::FAILOVER
    };

    /// Those of up to six million states, each part of the protocol in one of them at least.
    pub(crate) const SMALL: [Self; 21] = [
        Self::ONE_NODE,
        Self::REPLICAS,
        Self::TWO_READS,
        Self::BUDGET_NESTED,
        Self::RELAY_FAILOVER,
        Self::RELAY_JOIN,
        Self::NESTED,
        Self::NESTED_STALE,
        Self::NESTED_FAILOVER,
        Self::NESTED_SESSION,
        Self::OWN_WRITES,
        Self::WAITS,
        Self::WAITS_SESSION,
        Self::WAITS_FAILOVER,
        Self::SCHEMA_AWAY,
        Self::SCHEMA_TOWARDS,
        Self::COPY,
        Self::STREAM,
        Self::STREAM_RESTART,
        Self::STREAM_RESUME,
        Self::STREAM_FAILOVER,
    ];

    pub(crate) const LARGE: [Self; 11] = [
        Self::RELAY_SCHEMA,
        Self::SCHEMA_NODES,
        Self::MARKS,
        Self::BUDGET,
        Self::SESSION,
        Self::FAILOVER,
        Self::RELAY,
        Self::RELAY_SESSION,
        Self::RELAY_LOOKS,
        Self::STREAM_REPLICAS,
        Self::STREAM_SESSION,
    ];

    /// Whether even a mutant is caught after tens of millions of states only.
    pub(crate) fn is_huge(&self) -> bool {
        self.name == Self::SCHEMA_SESSION.name
    }

    pub(crate) fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }
}
