//! The cache itself, with neither HTTP nor Redis nor Postgres in it.
//!
//! ```text
//! lookup ── at hand? ── in the shared store? ── is another at it? ── Lead: make it, then fill
//!              │               │                       │
//!              └── verdict ────┴──────── verdict ──────┘        every time, before it is served
//! ```
//!
//! `fence` keeps what is known of changes, `protocol` is the rule, `record` notes what was read while
//! an answer was made, `flight` lets one make it while others wait, `refresh` decides by time,
//! and [`Cache`] puts them together. A [`FillGuard`] is the duty to make one answer; it is a value, so
//! that dropping it hands the duty on.

mod audit;
#[expect(clippy::module_inception, reason = "the type that the folder is about")]
mod cache;
#[cfg(feature = "admin")]
mod examine;
mod fence;
mod fill;
mod fingerprint;
mod flight;
mod freshness;
mod identity;
mod lease;
mod log;
mod lookup;
mod many;
mod past;
mod permit;
mod policy;
pub mod protocol;
mod record;
mod refresh;
mod stored_value;
mod streak;
mod template;
mod typed;
mod version;
mod waits;

pub use audit::AuditReport;
pub use cache::Cache;
pub(crate) use cache::{spawn, to_the_end};
#[cfg(feature = "admin")]
pub(crate) use examine::LookupPreview;
pub use fence::Fences;
pub(crate) use fence::schema_changes;
pub(crate) use fill::ComputedEntry;
pub(crate) use fill::{FillGuard, FillOutcome};
pub(crate) use freshness::{AgeLimits, Freshness};
pub(crate) use log::Log;
pub use log::LogError;
pub(crate) use lookup::{Bypass, Hit, LookupOptions, LookupResult};
pub(crate) use policy::QueryPart;
pub use policy::{Policy, PolicyError, ValuePolicy, ValuePolicyBuilder};
#[cfg(feature = "postgres")]
pub(crate) use record::REPLICA_BEHIND;
pub(crate) use record::SimulatedProof;
pub(crate) use record::{DatabaseId, Needs, Requirement, Stray, WriteInProgress};
pub use record::{Record, Uncacheable};
pub(crate) use streak::UncacheableStreak;
pub(crate) use template::PolicyTag;
pub use version::VersionError;
