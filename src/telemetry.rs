//! Exports the counters to a recorder of the `metrics` crate.
//!
//! The cache counts in atomics of its own, so this adds no cost to a hit. [`Metrics::record`] passes the counts on; call it
//! before each scrape. Only events that are about a thousand times rarer than hits (calls to the shared store, loads,
//! waits) are reported as they happen (`observe`).

use std::time::Duration;
#[cfg(feature = "postgres")]
use std::{
    collections::BTreeSet,
    mem::replace,
    sync::{Arc, Mutex},
};

use metrics::{Counter, Gauge, Label, counter, gauge};
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::observe::names;
pub use crate::observe::names::{Metric, MetricKind};
use crate::outcome::{Event, Outcome};
#[cfg(feature = "postgres")]
use crate::postgres::{Database, ServerStatus};
#[cfg(feature = "postgres")]
use crate::sync::MutexExt;

/// Exports the metrics of a cache and its database to whichever recorder of the `metrics` crate is installed.
/// `docs/metrics.md` lists the metrics; [`Metrics::ALL`] has the list for programs.
///
/// ```
/// use metrics_exporter_prometheus::PrometheusBuilder;
/// use tidegate::{Cache, Memory, Metrics};
///
/// let recorder = PrometheusBuilder::new().build_recorder();
/// let scraped = recorder.handle();
/// # metrics::with_local_recorder(&recorder, || {
/// let cache = Cache::new(Memory::new(64 << 20));
/// let metrics = Metrics::new(&cache);
///
/// metrics.record(); // before each scrape
/// let text = scraped.render();
/// assert!(text.contains("tidegate_memory_capacity_bytes 67108864"), "{text}");
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Metrics {
    cache: Cache,
    labels: Vec<Label>,
    #[cfg(feature = "postgres")]
    db: Option<Database>,
    /// The servers for which the recorder has series.
    #[cfg(feature = "postgres")]
    servers: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

impl Metrics {
    /// Every metric that Tidegate exports.
    pub const ALL: &[Metric] = names::ALL;

    /// Metrics of a cache. This describes all metrics to the installed recorder, so install the recorder first.
    pub fn new(cache: &Cache) -> Self {
        Self::ALL.iter().for_each(Metric::describe);
        Self {
            cache: cache.clone(),
            labels: Vec::new(),
            #[cfg(feature = "postgres")]
            db: None,
            #[cfg(feature = "postgres")]
            servers: Arc::default(),
        }
    }

    /// Adds a label to every counter and gauge. If a process has two caches or two databases, give each [`Metrics`] a label
    /// of its own; otherwise both write the same series. Histograms cover the whole process and lack this label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(Label::new(name.into(), value.into()));
        self
    }

    /// Adds the metrics of the cache's database: statements, lag and connections of each server.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn database(mut self, db: &Database) -> Self {
        self.db = Some(db.clone());
        self
    }

    /// Passes the current values of all counters and gauges to the recorder. Call it before each scrape.
    pub fn record(&self) {
        self.requests();
        self.audits();
        self.freshness();
        self.store();
        self.gauge(names::LOADS, []).set(float(self.cache.loads() as u64));
        self.gauge(names::OFF, []).set(flag(self.cache.is_off()));
        #[cfg(feature = "postgres")]
        if let Some(db) = &self.db {
            self.servers(&db.status());
        }
    }

    /// Spawns a task that calls [`record`](Self::record) at this interval, for recorders that push. It runs until you abort
    /// it through the returned handle.
    pub fn spawn(self, every: Duration) -> JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                self.record();
                tokio::time::sleep(every).await;
            }
        })
    }

    fn counter<const N: usize>(
        &self,
        name: &'static str,
        labels: [(&'static str, &str); N],
    ) -> Counter {
        counter!(name, self.labels(labels))
    }

    fn gauge<const N: usize>(
        &self,
        name: &'static str,
        labels: [(&'static str, &str); N],
    ) -> Gauge {
        gauge!(name, self.labels(labels))
    }

    fn labels<const N: usize>(&self, labels: [(&'static str, &str); N]) -> Vec<Label> {
        let own = labels.map(|(name, value)| Label::new(name, value.to_owned()));
        self.labels.iter().cloned().chain(own).collect()
    }

    fn requests(&self) {
        let counters = self.cache.counters();
        for outcome in Outcome::all() {
            let labels = [("result", outcome.result()), ("reason", outcome.token())];
            self.counter(names::REQUESTS, labels).absolute(counters.outcome(outcome));
        }
        for (result, event) in [
            ("stored", Event::Stored),
            ("uncacheable", Event::NotStored),
            ("overtaken", Event::Overtaken),
        ] {
            self.counter(names::FILLS, [("result", result)]).absolute(counters.event(event));
        }
        for (name, event) in [
            (names::STORE_ERRORS, Event::StoreError),
            (names::COLLISIONS, Event::FalseAlarm),
            (names::LEASES_HELD, Event::LeaseHeld),
            (names::NO_PERMIT, Event::NoPermit),
            (names::UNSCOPED_READS, Event::UnscopedRead),
            (names::BAD_TOKENS, Event::BadToken),
            (names::BACKGROUND_LOADS, Event::BackgroundLoad),
        ] {
            self.counter(name, []).absolute(counters.event(event));
        }
    }

    fn audits(&self) {
        for (route, audited) in self.cache.audits() {
            let same = audited.compared - audited.divergent;
            for (result, count) in [("same", same), ("divergent", audited.divergent)] {
                let labels = [("route", &*route), ("result", result)];
                self.counter(names::AUDITED, labels).absolute(count);
            }
        }
    }

    fn freshness(&self) {
        let fences = self.cache.fences();
        self.gauge(names::EPOCH_KNOWN, []).set(flag(fences.epoch().is_known()));
        if let Some(age) = fences.age() {
            self.gauge(names::LOG_AGE, []).set(age);
        }
        self.gauge(names::LONGEST_LOG_AGE, []).set(fences.take_longest_age());
    }

    fn store(&self) {
        let status = self.cache.store_status();
        if let Some(memory) = status.memory {
            self.gauge(names::MEMORY_ENTRIES, []).set(float(memory.entries));
            self.gauge(names::MEMORY_BYTES, []).set(float(memory.bytes));
            self.gauge(names::MEMORY_CAPACITY, []).set(float(memory.capacity));
        }
        if let Some(connected) = status.connected {
            self.gauge(names::STORE_CONNECTED, []).set(flag(connected));
        }
        if let Some(open) = status.breaker_open {
            self.gauge(names::BREAKER_OPEN, []).set(flag(open));
        }
        self.counter(names::DROPPED_WRITES, []).absolute(status.dropped_writes);
        self.counter(names::REFUSED, []).absolute(status.refused);
    }

    #[cfg(feature = "postgres")]
    fn servers(&self, servers: &[ServerStatus]) {
        for server in servers {
            self.server(server);
        }
        let present: BTreeSet<_> = servers.iter().map(|server| server.name.clone()).collect();
        let mut known = self.servers.lock_unpoisoned();
        for name in replace(&mut *known, present.clone()).difference(&present) {
            self.server_left(name);
        }
    }

    #[cfg(feature = "postgres")]
    fn server(&self, server: &ServerStatus) {
        let label = ("server", &*server.name);
        self.counter(names::STATEMENTS, [label]).absolute(server.statements);
        self.gauge(names::SERVER_UP, [label]).set(flag(server.reached.is_some()));
        let idle = server.idle_connections.min(server.connections);
        for (state, count) in [("idle", idle), ("used", server.connections - idle)] {
            self.gauge(names::CONNECTIONS, [label, ("state", state)]).set(count);
        }
        // Unknown lag is reported as NaN, not as the last known value.
        if server.name.starts_with("replica") {
            let (bytes, time) = match server.lag {
                Some(lag) => (float(lag.bytes), lag.time.as_secs_f64()),
                None => (f64::NAN, f64::NAN),
            };
            self.gauge(names::LAG_BYTES, [label]).set(bytes);
            self.gauge(names::LAG_SECONDS, [label]).set(time);
        }
    }

    /// Sets the series of a replica that was taken out of use to NaN or zero, since a recorder can't remove series.
    #[cfg(feature = "postgres")]
    fn server_left(&self, name: &str) {
        let label = ("server", name);
        for name in [names::SERVER_UP, names::LAG_BYTES, names::LAG_SECONDS] {
            self.gauge(name, [label]).set(f64::NAN);
        }
        for state in ["idle", "used"] {
            self.gauge(names::CONNECTIONS, [label, ("state", state)]).set(0);
        }
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn float(count: u64) -> f64 {
    count as f64
}
