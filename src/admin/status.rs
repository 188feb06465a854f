//! The state of this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::state::Admin;
use crate::cache::{AuditReport, Policy};
use crate::outcome::{Counters, Outcome};
use crate::store::StoreStatus;
use crate::traffic::{RouteReads, Traffic};

/// The state of this node.
#[derive(Serialize)]
pub(crate) struct StatusReport {
    version: &'static str,
    process: u32,
    uptime_seconds: u64,
    off: bool,
    /// Whether it follows a database.
    follows: bool,
    epoch: Option<String>,
    /// The last known position of the primary's log.
    seen: Option<String>,
    /// How stale a response from the cache can be at this moment, in milliseconds.
    staleness_ms: Option<f64>,
    loads: usize,
    store: StoreReport,
    /// Since the process began.
    hit_ratio: f64,
    outcomes: Vec<EventCount>,
    routes: Vec<RouteReport>,
    servers: Vec<ServerHealth>,
}

#[derive(Serialize)]
struct EventCount {
    result: &'static str,
    reason: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct StoreReport {
    memory_entries: Option<u64>,
    memory_bytes: Option<u64>,
    memory_capacity: Option<u64>,
    shared_connected: Option<bool>,
    breaker_open: Option<bool>,
    dropped_writes: u64,
}

/// The traffic of one route since the `Admin` was created.
#[derive(Serialize)]
struct RouteReport {
    pattern: String,
    policy: Option<PolicyReport>,
    outcomes: Vec<EventCount>,
    /// Response times from the cache: the upper bound of each histogram bucket in microseconds, and its count.
    served: Vec<(u64, u64)>,
    /// The same for responses from the handler.
    computed: Vec<(u64, u64)>,
    /// The tracked tables that the handler reads, with the number of statements for each.
    tables: BTreeMap<String, u64>,
    /// The same for tables without triggers.
    untracked: BTreeMap<String, u64>,
    uncacheable: Vec<UncacheableCount>,
    audited: Option<AuditStatus>,
}

#[derive(Serialize)]
struct PolicyReport {
    /// `None` if the response's headers decide.
    ttl_seconds: Option<f64>,
    shadow: bool,
    audit: f64,
}

/// How many responses were not stored, for one reason.
#[derive(Serialize)]
struct UncacheableCount {
    reason: &'static str,
    why: String,
    count: u64,
}

#[derive(Serialize)]
struct AuditStatus {
    compared: u64,
    divergent: u64,
    /// The upper confidence bound on the share of divergent responses.
    bound: f64,
}

#[derive(Serialize)]
pub(crate) struct ServerHealth {
    name: String,
    up: bool,
    position: Option<String>,
    lag_bytes: Option<u64>,
    lag_ms: Option<f64>,
    statements: u64,
    connections: u32,
    idle_connections: u32,
}

pub(crate) async fn show(State(admin): State<Arc<Admin>>) -> Json<StatusReport> {
    Json(StatusReport::new(&admin))
}

impl StatusReport {
    fn new(admin: &Admin) -> Self {
        let (cache, fences) = (&admin.cache, admin.cache.fences());
        let seen = fences.seen();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            process: std::process::id(),
            uptime_seconds: admin.started.elapsed().as_secs(),
            off: cache.is_off(),
            follows: cache.log().is_some(),
            epoch: seen.map(|seen| seen.epoch.to_string()),
            seen: seen.map(|seen| seen.position.to_string()),
            staleness_ms: fences.age().map(|age| age.as_secs_f64() * 1e3),
            loads: cache.loads(),
            store: StoreReport::from_store(&cache.store_status()),
            hit_ratio: cache.counters().hit_ratio(),
            outcomes: counts(cache.counters()),
            routes: admin.routes(),
            servers: admin.servers(),
        }
    }
}

impl Admin {
    fn routes(&self) -> Vec<RouteReport> {
        let audits = self.cache.audits();
        let with = self.layers.iter().flat_map(|layer| layer.all()).map(|(pattern, route)| {
            let policy = Some(PolicyReport::from_policy(&route.policy));
            RouteReport::new(pattern, policy, &route.traffic, audits.get(pattern))
        });
        let without = self.layers.iter().flat_map(|layer| layer.recorder.others());
        let without =
            without.map(|(pattern, traffic)| RouteReport::new(&pattern, None, &traffic, None));
        let mut routes: Vec<RouteReport> = with.chain(without).collect();
        routes.sort_by(|one, other| one.pattern.cmp(&other.pattern));
        routes
    }

    #[cfg(feature = "postgres")]
    fn servers(&self) -> Vec<ServerHealth> {
        let status = self.database.iter().flat_map(crate::postgres::Database::status);
        status.map(|server| ServerHealth::from_server(&server)).collect()
    }

    #[cfg(not(feature = "postgres"))]
    #[expect(clippy::unused_self, reason = "as with a database")]
    fn servers(&self) -> Vec<ServerHealth> {
        Vec::new()
    }
}

impl RouteReport {
    fn new(
        pattern: &str,
        policy: Option<PolicyReport>,
        traffic: &Traffic,
        audited: Option<&AuditReport>,
    ) -> Self {
        let RouteReads { tables, untracked, uncacheable, compared: _ } = traffic.reads.get();
        let uncacheable = uncacheable.into_iter();
        Self {
            pattern: pattern.to_owned(),
            policy,
            outcomes: counts(&traffic.outcomes),
            served: traffic.served.counts(),
            computed: traffic.computed.counts(),
            tables,
            untracked,
            uncacheable: uncacheable
                .map(|(reason, (count, why))| UncacheableCount { reason, why, count })
                .collect(),
            audited: audited.map(AuditStatus::from_audits),
        }
    }
}

impl PolicyReport {
    fn from_policy(policy: &Policy) -> Self {
        let ttl = (!policy.is_standard).then_some(policy.ttl.as_secs_f64());
        Self { ttl_seconds: ttl, shadow: policy.shadow, audit: policy.audit }
    }
}

impl AuditStatus {
    fn from_audits(audited: &AuditReport) -> Self {
        let AuditReport { compared, divergent } = *audited;
        Self { compared, divergent, bound: audited.bound() }
    }
}

impl StoreReport {
    fn from_store(status: &StoreStatus) -> Self {
        let memory = status.memory;
        Self {
            memory_entries: memory.map(|memory| memory.entries),
            memory_bytes: memory.map(|memory| memory.bytes),
            memory_capacity: memory.map(|memory| memory.capacity),
            shared_connected: status.connected,
            breaker_open: status.breaker_open,
            dropped_writes: status.dropped_writes,
        }
    }
}

#[cfg(feature = "postgres")]
impl ServerHealth {
    fn from_server(status: &crate::postgres::ServerStatus) -> Self {
        Self {
            name: status.name.to_string(),
            up: status.reached.is_some(),
            position: status.reached.map(|at| at.position.to_string()),
            lag_bytes: status.lag.map(|lag| lag.bytes),
            lag_ms: status.lag.map(|lag| lag.time.as_secs_f64() * 1e3),
            statements: status.statements,
            connections: status.connections,
            idle_connections: status.idle_connections,
        }
    }
}

/// The outcomes that have happened at least once.
fn counts(counters: &Counters) -> Vec<EventCount> {
    let of = |outcome: Outcome| EventCount {
        result: outcome.result(),
        reason: outcome.token(),
        count: counters.outcome(outcome),
    };
    Outcome::all().map(of).filter(|counted| counted.count > 0).collect()
}
