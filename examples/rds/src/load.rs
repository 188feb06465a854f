//! Clients that read products by Zipf's law, write some, and record the acknowledged prices.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Failure;
use super::node::Fleet;

/// A response is stale if it lacks a write that was acknowledged this long before the request. This is the maximum that the
/// policy allows.
const BOUND: Duration = Duration::from_secs(5);

/// What clients do.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    pub(crate) clients: usize,
    pub(crate) writes_in_a_second: u32,
    /// The share of requests that are searches.
    pub(crate) searches: f64,
    /// How long a client pauses between two requests.
    pub(crate) pause: Duration,
}

/// The clients.
#[derive(Clone)]
pub(crate) struct Load {
    fleet: Arc<Fleet>,
    book: Arc<Book>,
}

/// The recorded prices.
struct Book {
    /// For each product, the recently acknowledged prices with their times, and the newest price before those.
    prices: Vec<Mutex<VecDeque<(Instant, i64)>>>,
    /// The cumulative probabilities of products.
    zipf: Vec<f64>,
    /// Grows with each write.
    price: AtomicI64,
}

/// The measurements of one period.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub(crate) reads: u64,
    pub(crate) failed_reads: u64,
    pub(crate) stale: u64,
    pub(crate) lag: Duration,
    searches: u64,
    writes: u64,
    failed_writes: u64,
    /// The longest time without a successful write.
    writeless: Duration,
    statements: BTreeMap<String, u64>,
    took: Duration,
    /// The durations of reads, sorted.
    times: Vec<Duration>,
}

impl Load {
    pub(crate) fn new(fleet: &Arc<Fleet>, products: u32) -> Self {
        let mut sum = 0.0;
        let zipf = (1..=products).map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        });
        let book = Book {
            zipf: zipf.collect(),
            prices: (0..products).map(|_| Mutex::default()).collect(),
            price: AtomicI64::new(100_000),
        };
        Self { fleet: fleet.clone(), book: Arc::new(book) }
    }

    /// Runs the clients for some time.
    pub(crate) async fn run(&self, mix: Mix, time: Duration) -> Result<Window, Failure> {
        let (before, began) = (self.fleet.servers().await?, Instant::now());
        let end = began + time;
        let mut clients = JoinSet::new();
        for client in 0..mix.clients {
            clients.spawn(self.clone().read(client, mix, end));
        }
        clients.spawn(self.clone().write(mix, end));
        clients.spawn(self.clone().watch(end));
        let windows = clients.join_all().await;
        let mut all = windows.into_iter().fold(Window::default(), Window::and);
        all.times.sort();
        all.took = began.elapsed();
        all.statements = self.fleet.servers().await?.since(&before);
        Ok(all)
    }

    async fn read(self, client: usize, mix: Mix, end: Instant) -> Window {
        let mut seen = Window::default();
        for turn in client.. {
            if Instant::now() >= end {
                break;
            }
            if fastrand::f64() < mix.searches {
                let uri = format!("/search/{}", fastrand::u32(0..10_000));
                let found = self.fleet.send(turn, Method::GET, &uri, String::new()).await;
                seen.searches += 1;
                seen.failed_reads += u64::from(!is_ok(&found));
            } else {
                self.read_product(turn, &mut seen).await;
            }
            sleep(mix.pause.mul_f64(0.5 + fastrand::f64())).await;
        }
        seen
    }

    async fn read_product(&self, turn: usize, seen: &mut Window) {
        let product = self.book.pick();
        let (due, began) = (self.book.due(product), Instant::now());
        let uri = format!("/products/{}", product + 1);
        let found = self.fleet.send(turn, Method::GET, &uri, String::new()).await;
        seen.reads += 1;
        seen.times.push(began.elapsed());
        match found {
            Ok((StatusCode::OK, body)) => {
                let price =
                    serde_json::from_str(&body).ok().and_then(|body: Value| body["cents"].as_i64());
                seen.stale += u64::from(price.is_none_or(|price| price < due));
            }
            _ => seen.failed_reads += 1,
        }
    }

    async fn write(self, mix: Mix, end: Instant) -> Window {
        let mut seen = Window::default();
        let mut turns = interval(Duration::from_secs(1) / mix.writes_in_a_second);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut last = Instant::now();
        for turn in 0.. {
            turns.tick().await;
            if Instant::now() >= end {
                break;
            }
            let (product, price) =
                (self.book.pick(), self.book.price.fetch_add(1, Ordering::Relaxed));
            let uri = format!("/products/{}", product + 1);
            let done = self.fleet.send(turn, Method::PUT, &uri, price.to_string()).await;
            seen.writes += 1;
            if matches!(done, Ok((StatusCode::NO_CONTENT, _))) {
                self.book.acknowledge(product, price);
                seen.writeless = seen.writeless.max(last.elapsed());
                last = Instant::now();
            } else {
                seen.failed_writes += 1;
            }
        }
        seen
    }

    /// Measures the replicas' lag until `end`.
    async fn watch(self, end: Instant) -> Window {
        let mut seen = Window::default();
        while Instant::now() < end {
            if let Ok(servers) = self.fleet.servers().await {
                seen.lag = seen.lag.max(servers.lag());
            }
            sleep(Duration::from_millis(200)).await;
        }
        seen
    }
}

impl Book {
    /// A product, popular ones more often.
    fn pick(&self) -> usize {
        let at = fastrand::f64() * self.zipf.last().copied().unwrap_or_default();
        self.zipf.partition_point(|sum| *sum < at).min(self.zipf.len() - 1)
    }

    fn acknowledge(&self, product: usize, price: i64) {
        self.known(product).push_back((Instant::now(), price));
    }

    /// The lowest price that a response to a request now may contain.
    fn due(&self, product: usize) -> i64 {
        let mut known = self.known(product);
        let is_old = |(at, _): &(Instant, i64)| at.elapsed() > BOUND;
        while known.get(1).is_some_and(is_old) {
            known.pop_front();
        }
        known.front().filter(|known| is_old(known)).map_or(0, |(_, price)| *price)
    }

    fn known(&self, product: usize) -> MutexGuard<'_, VecDeque<(Instant, i64)>> {
        self.prices[product].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// The share of reads of products that no server of Postgres saw.
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
    pub(crate) fn offload(&self) -> f64 {
        let asked: u64 = self.statements.values().sum();
        let reads = asked.saturating_sub(self.searches + self.writes);
        1.0 - reads as f64 / self.reads.max(1) as f64
    }

    fn and(mut self, other: Self) -> Self {
        self.reads += other.reads;
        self.failed_reads += other.failed_reads;
        self.stale += other.stale;
        self.searches += other.searches;
        self.writes += other.writes;
        self.failed_writes += other.failed_writes;
        self.writeless = self.writeless.max(other.writeless);
        self.lag = self.lag.max(other.lag);
        self.times.extend(other.times);
        self
    }

    fn quantile(&self, share: usize) -> f64 {
        let at = (self.times.len() * share / 100).min(self.times.len().saturating_sub(1));
        self.times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |times: u64| {
            f64::from(u32::try_from(times).unwrap_or(u32::MAX)) / self.took.as_secs_f64()
        };
        writeln!(
            f,
            "  clients  {} reads of products ({:.0} in a second), {} searches, {} failed; {} stale",
            self.reads,
            rate(self.reads),
            self.searches,
            self.failed_reads,
            self.stale
        )?;
        writeln!(
            f,
            "           median {:.1} ms, 99 % below {:.1} ms",
            self.quantile(50),
            self.quantile(99)
        )?;
        writeln!(
            f,
            "  writes   {}, {} failed; the longest time without one was {:.0} ms",
            self.writes,
            self.failed_writes,
            self.writeless.as_secs_f64() * 1e3
        )?;
        let servers = self.statements.iter().map(|(name, times)| format!("{name} {times}"));
        writeln!(f, "  Postgres {}", servers.collect::<Vec<_>>().join(", "))?;
        writeln!(
            f,
            "  offload  {:.1} % of reads; lag at most {:.0} ms",
            self.offload() * 100.0,
            self.lag.as_secs_f64() * 1e3
        )
    }
}

fn is_ok(found: &Result<(StatusCode, String), Failure>) -> bool {
    matches!(found, Ok((StatusCode::OK, _)))
}
