//! Names, kinds and units, after Prometheus' conventions ("Metric and label naming").

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// A metric that Tidegate exports.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Its meaning, in English, as in the exporter's HELP line.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A count that only increases.
    Counter,
    /// A value that can increase and decrease.
    Gauge,
    /// A distribution of values.
    Histogram,
}

impl Metric {
    pub(crate) fn describe(&self) {
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

        /// Every metric that Tidegate exports.
        pub(crate) const ALL: &[Metric] = &[
            $(Metric { name: $constant, kind: MetricKind::$kind, help: $help },)*
        ];
    };
}

metrics! {
    REQUESTS "tidegate_requests_total" Counter
        "Requests by outcome (result: hit, collapsed, stale, miss, bypass) and by tier or cause (reason).";
    FILLS "tidegate_fills_total" Counter
        "Computed responses by outcome: stored, uncacheable, overtaken (made stale by a change before storing).";
    AUDITED "tidegate_audited_total" Counter
        "Cached responses that were compared with fresh ones, by route and result: same, divergent.";
    LOAD "tidegate_load_seconds" Histogram
        "How long it took to compute a response.";
    LOADS "tidegate_loads" Gauge
        "Responses that are being computed.";
    FLIGHT_WAIT "tidegate_flight_wait_seconds" Histogram
        "How long requests waited for a response that another request was computing.";
    LEASES_HELD "tidegate_leases_held_total" Counter
        "How often another node held the lease to compute a response.";
    NO_PERMIT "tidegate_fills_without_permit_total" Counter
        "Fills (computations) that started without a permit, or held one for so long that they lost it: handlers \
         hang, or the limit is too low.";
    UNSCOPED_READS "tidegate_fills_with_unscoped_reads_total" Counter
        "Responses that were not stored because a read outside any scope may be part of them; the log names the \
         statement.";
    BACKGROUND_LOADS "tidegate_background_loads_total" Counter
        "Handler calls that no client waited for: stored responses that were renewed or audited.";
    OFF "tidegate_off" Gauge
        "1 while the cache is switched off.";
    EPOCH_KNOWN "tidegate_epoch_known" Gauge
        "1 while the node knows the primary's epoch; without it, nothing is proven fresh.";
    LOG_AGE "tidegate_log_age_seconds" Gauge
        "Time since the start of the node's last read of the change log: how stale a response can be.";
    LONGEST_LOG_AGE "tidegate_longest_log_age_seconds" Gauge
        "Maximum of tidegate_log_age_seconds since the last scrape.";
    COLLISIONS "tidegate_fence_collisions_total" Counter
        "Entries invalidated by changes to unrelated tags, counted for a sample of tags.";
    MEMORY_ENTRIES "tidegate_memory_entries" Gauge
        "Entries in memory.";
    MEMORY_BYTES "tidegate_memory_bytes" Gauge
        "Bytes that entries in memory take.";
    MEMORY_CAPACITY "tidegate_memory_capacity_bytes" Gauge
        "Bytes that entries in memory may take.";
    STORE_CALL "tidegate_store_call_seconds" Histogram
        "How long calls of the shared store took, by operation: get, put, remove, lease, get_or_lease, release.";
    STORE_ERRORS "tidegate_store_errors_total" Counter
        "Calls of the shared store that failed.";
    STORE_CONNECTED "tidegate_store_connected" Gauge
        "1 while there is a connection to the shared store.";
    BREAKER_OPEN "tidegate_store_breaker_open" Gauge
        "1 while the circuit breaker keeps requests from calling the shared store, after repeated failures.";
    DROPPED_WRITES "tidegate_store_writes_dropped_total" Counter
        "Writes to the shared store that were dropped because too many were in progress.";
    REFUSED "tidegate_store_refused_total" Counter
        "Entries and messages that were refused because no secret of this service signed them.";
    BAD_TOKENS "tidegate_bad_tokens_total" Counter
        "Requests whose session tokens are all invalid: forged, truncated, or made with another secret.";
    STATEMENTS "tidegate_statements_total" Counter
        "Statements that the executors sent, by server.";
    SERVER_UP "tidegate_server_up" Gauge
        "1 while the server's WAL position is known; NaN once a replica has been taken out of use.";
    LAG_BYTES "tidegate_replica_lag_bytes" Gauge
        "Bytes of the primary's WAL that the replica has not replayed yet; NaN if unknown.";
    LAG_SECONDS "tidegate_replica_lag_seconds" Gauge
        "Time since the primary's WAL passed the replica's position, capped at about max_lag; NaN if unknown.";
    CONNECTIONS "tidegate_connections" Gauge
        "Connections in the pool, by server and state: idle, used.";
}
