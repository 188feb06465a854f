//! Names, kinds and units, after Prometheus' conventions ("Metric and label naming").

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use super::Metrics;

/// A metric that is told.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it can do.
    pub kind: MetricKind,
    /// What it says, in words.
    pub help: &'static str,
}

/// What a metric can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Says how values are spread.
    Histogram,
}

impl Metric {
    pub(super) fn describe(&self) {
        match self.kind {
            MetricKind::Counter => describe_counter!(self.name, self.unit(), self.help),
            MetricKind::Gauge => describe_gauge!(self.name, self.unit(), self.help),
            MetricKind::Histogram => describe_histogram!(self.name, self.unit(), self.help),
        }
    }

    /// A name ends with its unit.
    fn unit(&self) -> Unit {
        match self.name {
            name if name.ends_with("_seconds") => Unit::Seconds,
            name if name.ends_with("_bytes") => Unit::Bytes,
            _ => Unit::Count,
        }
    }
}

macro_rules! metrics {
    ($($constant:ident $name:literal $kind:ident $help:literal;)*) => {
        $(pub(crate) const $constant: &str = $name;)*

        impl Metrics {
            /// All that is told.
            pub const ALL: &[Metric] = &[
                $(Metric { name: $name, kind: MetricKind::$kind, help: $help },)*
            ];
        }
    };
}

metrics! {
    REQUESTS "tidegate_requests_total" Counter
        "Requests, by what became of them (result: hit, collapsed, stale, miss, bypass) and where or why (reason).";
    FILLS "tidegate_fills_total" Counter
        "Answers that were made, by what became of them: stored, unfit (not to be cached), overtaken (by a change).";
    AUDITED "tidegate_audited_total" Counter
        "Answers that were compared with fresh ones, by route and result: same, divergent.";
    LOAD "tidegate_load_seconds" Histogram
        "How long it took to make an answer.";
    LOADS "tidegate_loads" Gauge
        "Answers that are being made.";
    FLIGHT_WAIT "tidegate_flight_wait_seconds" Histogram
        "How long requests waited for an answer that another one was making.";
    LEASES_HELD "tidegate_leases_held_total" Counter
        "Times that another node was found making an answer.";
    NO_PERMIT "tidegate_fills_without_permit_total" Counter
        "Fills that waited for their turn in vain, and went on: handlers hang, or the bound is too low.";
    BACKGROUND_LOADS "tidegate_background_loads_total" Counter
        "Calls of handlers that no client waited for: stored responses that were renewed or audited.";
    OFF "tidegate_off" Gauge
        "1 while the cache is switched off.";
    EPOCH_KNOWN "tidegate_epoch_known" Gauge
        "1 while the node knows the primary's history; without it, nothing is proven fresh.";
    LOG_AGE "tidegate_log_age_seconds" Gauge
        "Time since the node's last look at the log of changes began: how stale an answer can be.";
    LONGEST_LOG_AGE "tidegate_longest_log_age_seconds" Gauge
        "The longest that tidegate_log_age_seconds has been since the last scrape.";
    COLLISIONS "tidegate_fence_collisions_total" Counter
        "Entries that a change to another tag made invalid, as far as a sample of tags can tell.";
    MEMORY_ENTRIES "tidegate_memory_entries" Gauge
        "Entries in memory.";
    MEMORY_BYTES "tidegate_memory_bytes" Gauge
        "Bytes that entries in memory take.";
    MEMORY_CAPACITY "tidegate_memory_capacity_bytes" Gauge
        "Bytes that entries in memory may take.";
    STORE_CALL "tidegate_store_call_seconds" Histogram
        "How long calls of the shared store took, by operation: get, put, remove, lease, release.";
    STORE_ERRORS "tidegate_store_errors_total" Counter
        "Calls of the shared store that failed.";
    STORE_CONNECTED "tidegate_store_connected" Gauge
        "1 while there is a connection to the shared store.";
    BREAKER_OPEN "tidegate_store_breaker_open" Gauge
        "1 while the shared store is not asked, after a row of failures.";
    DROPPED_WRITES "tidegate_store_writes_dropped_total" Counter
        "Writes to the shared store that were dropped, since too many were under way.";
    REFUSED "tidegate_store_refused_total" Counter
        "Entries and messages in the shared store that are not signed with a secret of this service.";
    BAD_TOKENS "tidegate_bad_tokens_total" Counter
        "Session tokens that were forged, cut, or of another secret.";
    STATEMENTS "tidegate_statements_total" Counter
        "Statements that the executors sent, by server.";
    SERVER_UP "tidegate_server_up" Gauge
        "1 while the node knows how far a server is; NaN once a replica has been taken out of use.";
    LAG_BYTES "tidegate_replica_lag_bytes" Gauge
        "Bytes of the primary's log that a replica has yet to replay; NaN if that is not known.";
    LAG_SECONDS "tidegate_replica_lag_seconds" Gauge
        "How long ago the primary had more than the replica has, up to the policy's limit; NaN if that is not known.";
    CONNECTIONS "tidegate_connections" Gauge
        "Connections in the pool, by server and state: idle, used.";
}
