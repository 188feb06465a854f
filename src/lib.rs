//! A cache-aside layer for services that read from Postgres: responses are served from memory or Redis, and each is
//! proven fresh before it is served.
//!
//! ```text
//!  request ─→ CacheLayer ─→ key ─→ memory ─→ Redis ─→ your handler ─→ db.reader() ─→ a replica that
//!                │                   │         │            │                        has caught up,
//!                └── Policy          └─ Fences ┘            └─ Record                or the primary
//!                                         ↑
//!                    Listener ── reads the change log that Triggers write in Postgres
//! ```
//!
//! A [`Record`] notes what a handler reads, and [`Fences`] hold the changes that the node knows of. Together they show
//! whether an entry is fresh.
//!
//! A *node* is one process of the service, with a cache of its own. Start with [`CacheLayer`] around a router, or with
//! [`Cache`] for values without HTTP; both also work without Postgres and Redis, in memory alone. With Postgres,
//! `Triggers` record changes, `Listener` follows them, and `Database` sends each read to a server that is fresh
//! enough. With Postgres and Redis, [`Tiered`] shares responses among nodes. (Without a `Listener`, a node never uses
//! entries that another one has stored.)
//!
//! `Cargo.toml` in the repository describes the features, the README has an example, and `docs/design.md` explains the
//! protocol.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(test, tidegate_shuttle))]
extern crate shuttle_tokio as tokio;

/// Compiles the examples of the README.
#[cfg(all(doctest, feature = "postgres", feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the examples of the guide.
#[cfg(all(doctest, feature = "postgres", feature = "redis"))]
mod guide {
    #[doc = include_str!("../docs/guide/1-start.md")]
    struct Start;
    #[doc = include_str!("../docs/guide/2-policies.md")]
    struct Policies;
    #[doc = include_str!("../docs/guide/3-invalidation.md")]
    struct Invalidation;
    #[doc = include_str!("../docs/guide/4-replicas.md")]
    struct Replicas;
    #[cfg(feature = "admin")]
    #[doc = include_str!("../docs/guide/5-operations.md")]
    struct Operations;
}

#[cfg(feature = "admin")]
mod admin;
mod broken;
mod cache;
mod clock;
mod entry;
mod expiring;
#[cfg(all(test, tidegate_shuttle))]
mod interleaved;
#[cfg(feature = "__internals")]
#[doc(hidden)]
pub mod internals;
mod middleware;
mod observe;
mod outcome;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod redact;
mod secret;
mod store;
mod sync;
#[cfg(feature = "metrics")]
mod telemetry;
mod traffic;

#[cfg(feature = "admin")]
pub use admin::{Admin, TokenError};
pub use cache::{
    AuditReport, Cache, Fences, LogError, Policy, PolicyError, Record, Uncacheable, ValuePolicy,
    ValuePolicyBuilder, VersionError,
};
pub use entry::{Entry, EntryVersion, Epoch, Key, KeyText, LogPosition, Position, Tag};
pub use middleware::{
    Body, CacheLayer, CacheService, ResponseFuture, ScopeLayer, ScopeService, Sessions,
};
pub use outcome::{BypassReason, Counters, Event, MissReason, Outcome, StaleReason};
#[cfg(feature = "postgres")]
pub use postgres::{
    Cached, Change, ChangeSource, Changes, Database, DatabaseError, DatabaseOptions, DeclareError,
    DeclaredRead, Discovery, Listener, LsnError, ReadTransaction, Reader, RelayRole, ReplicaLag,
    Row, SchemaError, SchemaStatus, ServerOptions, ServerStatus, TableStatus, Transaction,
    TriggerState, TriggerStatus, Triggers, Writer,
};
pub use secret::SecretError;
#[cfg(feature = "memory")]
pub use store::Memory;
pub use store::{
    Bus, Found, FoundOrLease, Guard, IsOutdated, Lease, LeaseToken, MemoryStatus, Store,
    StoreError, StoreStatus, Tier, Tiered,
};
#[cfg(feature = "redis")]
pub use store::{Redis, RedisError, RedisInfo, RedisOptions};
#[cfg(feature = "metrics")]
pub use telemetry::{Metric, MetricKind, Metrics};
