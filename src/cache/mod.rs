//! The core of the cache, independent of HTTP, Redis and Postgres.
//!
//! ```text
//! lookup ── in memory? ── in the shared store? ── in flight? ── FillGuard: compute, then fill
//!               │                │                    │
//!               └─── verdict ────┴────── verdict ─────┘          each time, before serving
//! ```
//!
//! `fence` stores the known changes, `protocol` has the rules that decide freshness, `record` collects the reads of a
//! computation, `flight` lets one request compute while others wait, `refresh` decides by time, and [`Cache`] combines
//! them. The request that computes an entry holds a [`FillGuard`]; if the guard is dropped, a waiting request takes over.
//!
//! A lookup walks down these lines, and each file imports only from its own line and from those below:
//!
//! ```text
//! typed, many, examine
//! lookup: flight, claim, search, result, task, follow
//! hit
//! fill
//! admission, storage, lease, scopes, options, version
//! cache: the handle, and what its clones share
//! flight, log
//! record: nesting, outside, read; proof, notes, scope, unscoped, requirement
//! permit, waits, observer
//! refresh, freshness
//! policy
//! gate, identity, template, streak, miss_hint, names
//! fence, stored_value, fingerprint
//! protocol, uncacheable, hit_for_pass, background, past, audit
//! ```

mod admission;
mod audit;
mod background;
#[expect(clippy::module_inception, reason = "the type that the folder is about")]
mod cache;
#[cfg(feature = "admin")]
mod examine;
mod fence;
mod fill;
mod fingerprint;
mod flight;
mod freshness;
mod gate;
mod hit;
mod hit_for_pass;
mod identity;
mod lease;
mod log;
mod lookup;
mod many;
mod miss_hint;
pub(crate) mod names;
mod observer;
mod options;
mod past;
mod permit;
mod policy;
pub mod protocol;
mod record;
mod refresh;
mod scopes;
mod storage;
mod stored_value;
mod streak;
mod template;
mod typed;
mod uncacheable;
mod version;
mod waits;

pub use audit::AuditReport;
pub(crate) use background::{spawn, to_the_end};
pub use cache::Cache;
#[cfg(feature = "admin")]
pub(crate) use examine::LookupPreview;
pub use fence::Fences;
pub(crate) use fill::{ComputedEntry, VaryMarker};
pub(crate) use fill::{FillGuard, FillOutcome};
pub(crate) use freshness::{AgeLimits, Freshness};
pub(crate) use hit::Hit;
pub(crate) use identity::{ExtensionType, VaryBy, carry};
pub use log::LogError;
pub(crate) use lookup::{Bypass, FlightMode, LookupResult};
pub(crate) use miss_hint::MissHint;
pub(crate) use observer::ReadObserver;
pub(crate) use options::{LookupOptions, Peeked};
pub(crate) use permit::Permit;
pub use policy::{Policy, PolicyError, ValuePolicy, ValuePolicyBuilder};
pub(crate) use policy::{PostReads, QueryPart};
pub use record::Record;
pub(crate) use record::SimulatedProof;
#[cfg(any(all(test, not(tidegate_loom), not(tidegate_shuttle)), fuzzing))]
pub(crate) use refresh::{EntryUse, decide};
pub(crate) use streak::UncacheableStreak;
pub(crate) use template::PolicyTag;
pub use uncacheable::Uncacheable;
pub use version::VersionError;

#[cfg(feature = "postgres")]
pub(crate) use {
    fence::schema_changes,
    log::Log,
    past::PastEpochs,
    record::{
        DatabaseId, Needs, READ_FAILED, REPLICA_BEHIND, Requirement, UnscopedRead, WriteInProgress,
    },
};
