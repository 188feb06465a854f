//! What is counted, told to a recorder of the `metrics` crate.
//!
//! The cache counts in atomics of its own, so a hit pays nothing for this: [`Metrics`] hands the counts
//! over when it is told to, best before each scrape. Only what happens a thousand times less than a hit
//! (a call of the shared store, a load, a wait) is told as it happens (`observe`).

use std::time::Duration;

use metrics::{counter, gauge};
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::outcome::{Event, Outcome};
#[cfg(feature = "postgres")]
use crate::postgres::{Database, ServerStatus};

mod names;

pub(crate) use names::{FLIGHT_WAIT, LOAD, STORE_CALL};
pub use names::{Metric, MetricKind};

/// Tells the recorder of the `metrics` crate that is installed, whichever it is, how a cache and its
/// database do. `docs/metrics.md` lists the names; [`Metrics::ALL`] has them for programs.
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
    #[cfg(feature = "postgres")]
    db: Option<Database>,
}

impl Metrics {
    /// Of a cache. Describes all metrics to the recorder that is installed by now.
    pub fn new(cache: &Cache) -> Self {
        Self::ALL.iter().for_each(Metric::describe);
        Self {
            cache: cache.clone(),
            #[cfg(feature = "postgres")]
            db: None,
        }
    }

    /// And of its database.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn database(mut self, db: &Database) -> Self {
        self.db = Some(db.clone());
        self
    }

    /// Tells how all stands now.
    pub fn record(&self) {
        self.requests();
        self.audits();
        self.freshness();
        self.store();
        gauge!(names::LOADS).set(float(self.cache.loads() as u64));
        gauge!(names::OFF).set(flag(self.cache.is_off()));
        #[cfg(feature = "postgres")]
        self.db.iter().flat_map(Database::status).for_each(|server| of_server(&server));
    }

    /// Does so again and again, for recorders that push. Ends when the task is aborted.
    pub fn spawn(self, every: Duration) -> JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                self.record();
                tokio::time::sleep(every).await;
            }
        })
    }

    fn requests(&self) {
        let counters = self.cache.counters();
        for outcome in Outcome::all() {
            let labels = [("result", outcome.result()), ("reason", outcome.token())];
            counter!(names::REQUESTS, &labels).absolute(counters.outcome(outcome));
        }
        for (result, event) in [
            ("stored", Event::Stored),
            ("unfit", Event::NotStored),
            ("overtaken", Event::Overtaken),
        ] {
            counter!(names::FILLS, "result" => result).absolute(counters.event(event));
        }
        for (name, event) in [
            (names::STORE_ERRORS, Event::StoreError),
            (names::COLLISIONS, Event::FalseAlarm),
            (names::LEASES_HELD, Event::LeaseHeld),
            (names::NO_PERMIT, Event::NoPermit),
            (names::BAD_TOKENS, Event::BadToken),
        ] {
            counter!(name).absolute(counters.event(event));
        }
    }

    fn audits(&self) {
        for (route, audited) in self.cache.audits() {
            let same = audited.compared - audited.divergent;
            for (result, count) in [("same", same), ("divergent", audited.divergent)] {
                counter!(names::AUDITED, "route" => route.clone(), "result" => result)
                    .absolute(count);
            }
        }
    }

    fn freshness(&self) {
        let fences = self.cache.fences();
        gauge!(names::EPOCH_KNOWN).set(flag(fences.epoch().is_known()));
        if let Some(age) = fences.age() {
            gauge!(names::LOG_AGE).set(age);
        }
        gauge!(names::LONGEST_LOG_AGE).set(fences.take_longest_age());
    }

    fn store(&self) {
        let status = self.cache.store_status();
        if let Some(memory) = status.memory {
            gauge!(names::MEMORY_ENTRIES).set(float(memory.entries));
            gauge!(names::MEMORY_BYTES).set(float(memory.bytes));
            gauge!(names::MEMORY_CAPACITY).set(float(memory.capacity));
        }
        if let Some(connected) = status.connected {
            gauge!(names::STORE_CONNECTED).set(flag(connected));
        }
        if let Some(open) = status.breaker_open {
            gauge!(names::BREAKER_OPEN).set(flag(open));
        }
        counter!(names::DROPPED_WRITES).absolute(status.dropped_writes);
        counter!(names::REFUSED).absolute(status.refused);
    }
}

#[cfg(feature = "postgres")]
fn of_server(server: &ServerStatus) {
    let label = || server.name.to_string();
    counter!(names::STATEMENTS, "server" => label()).absolute(server.statements);
    gauge!(names::SERVER_UP, "server" => label()).set(flag(server.reached.is_some()));
    let idle = server.idle_connections.min(server.connections);
    for (state, count) in [("idle", idle), ("used", server.connections - idle)] {
        gauge!(names::CONNECTIONS, "server" => label(), "state" => state).set(count);
    }
    // A lag that is not known must not look like the last that was.
    if server.name.starts_with("replica") {
        let (bytes, time) = match server.lag {
            Some(lag) => (float(lag.bytes), lag.time.as_secs_f64()),
            None => (f64::NAN, f64::NAN),
        };
        gauge!(names::LAG_BYTES, "server" => label()).set(bytes);
        gauge!(names::LAG_SECONDS, "server" => label()).set(time);
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn float(count: u64) -> f64 {
    count as f64
}
