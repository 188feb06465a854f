//! The result, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};

use serde::Serialize;

use super::cache_status::Reason;
use super::generator::Load;
use super::tally::{Failed, Tally};
use crate::Failure;

/// What latency means without a rate.
const CLOSED: &str =
    "each connection waits for a response before its next request: a stall also delays the requests after it, so the
measured latency is lower than users would see; measure with --rate to include the delay";

#[derive(Debug, Serialize)]
pub(super) struct Found {
    bench: &'static str,
    url: String,
    urls: usize,
    connections: u32,
    threads: u64,
    /// The requested rate per second; `None` if each connection sent its next request as soon as it had a response.
    rate: Option<f64>,
    requests: u64,
    responses: u64,
    seconds: f64,
    responses_per_second: f64,
    bytes: u64,
    latency_ms: Latency,
    statuses: BTreeMap<usize, u64>,
    cache: Cache,
    failures: BTreeMap<&'static str, u64>,
    /// Requests that were due by the rate but not sent.
    missed: u64,
    /// Connections that the server closed between responses.
    reopened: u64,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// By `Cache-Status`.
#[derive(Debug, Serialize)]
struct Cache {
    hits: u64,
    /// The number of misses by reason.
    misses: BTreeMap<String, u64>,
    /// Responses without `Cache-Status`.
    none: u64,
    /// The share of hits among responses with `Cache-Status`, from 0 to 1.
    hit_rate: Option<f64>,
}

impl Found {
    pub(super) fn new(load: &Load, connections: u32, tally: &Tally) -> Result<Self, Failure> {
        let failures = Failed::ALL.into_iter().zip(tally.failures);
        let failures: BTreeMap<_, _> =
            failures.filter(|(_, n)| *n > 0).map(|(failed, n)| (failed.name(), n)).collect();
        if tally.responses() == 0 {
            return Err(no_response(&load.target.first, &failures).into());
        }
        let seconds = tally.took.as_secs_f64();
        Ok(Self {
            bench: "http",
            url: load.target.first.clone(),
            urls: load.target.requests.len(),
            connections,
            threads: load.threads,
            rate: load.bounds.rate,
            requests: tally.sent,
            responses: tally.responses(),
            seconds,
            responses_per_second: decimal(tally.responses()) / seconds,
            bytes: tally.bytes,
            latency_ms: Latency::new(tally),
            statuses: tally.statuses.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect(),
            cache: Cache::new(tally),
            failures,
            missed: tally.missed,
            reopened: tally.reopened,
        })
    }

    /// Whether every request was sent when due and got a response.
    pub(super) fn is_whole(&self) -> bool {
        self.failures.is_empty() && self.missed == 0
    }
}

fn no_response(url: &str, failures: &BTreeMap<&str, u64>) -> String {
    let why: Vec<String> = failures.iter().map(|(why, n)| format!("{why} ({n})")).collect();
    let why = if why.is_empty() { "no request was due".to_owned() } else { why.join(", ") };
    format!("no response from {url}: {why}")
}

impl Latency {
    fn new(tally: &Tally) -> Self {
        let millis = |nanos: u64| decimal(nanos) / 1e6;
        let at = |quantile: f64| millis(tally.latency.value_at_quantile(quantile));
        let max = millis(tally.latency.max());
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max }
    }
}

impl Cache {
    fn new(tally: &Tally) -> Self {
        let misses = tally.forwarded.iter().copied().enumerate().filter(|(_, n)| *n > 0);
        let said = tally.hits + tally.forwarded.iter().sum::<u64>();
        Self {
            hits: tally.hits,
            misses: misses.map(|(index, n)| (Reason::name(index), n)).collect(),
            none: tally.unsaid,
            hit_rate: (said > 0).then(|| decimal(tally.hits) / decimal(said)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "what is shown has fewer digits")]
fn decimal(number: u64) -> f64 {
    number as f64
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { responses, seconds, .. } = self;
        self.fmt_load(f)?;
        let per_second = self.responses_per_second;
        let mib = decimal(self.bytes) / seconds / f64::from(1 << 20);
        writeln!(
            f,
            "{responses} responses in {seconds:.2} s: {per_second:.0} per second, {mib:.1} MiB/s"
        )?;
        let Latency { p50, p90, p99, p99_9, max } = self.latency_ms;
        writeln!(
            f,
            "latency   p50 {p50:.3} ms, p90 {p90:.3}, p99 {p99:.3}, p99.9 {p99_9:.3}, max {max:.3}"
        )?;
        writeln!(f, "statuses  {}", listed(&self.statuses))?;
        writeln!(f, "cache     {}", self.cache)?;
        write!(f, "failures  {}", listed(&self.failures))?;
        self.fmt_rest(f)
    }
}

impl Found {
    fn fmt_load(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { url, urls, connections, threads, .. } = self;
        write!(f, "{url}")?;
        if *urls > 1 {
            write!(f, " and {} more", urls - 1)?;
        }
        writeln!(f, ", over {connections} connections on {}", plural(*threads, "thread"))?;
        match self.rate {
            Some(rate) => {
                writeln!(
                    f,
                    "{rate} requests per second; latency is measured from the time at which each was due"
                )
            }
            None => writeln!(f, "{CLOSED}"),
        }
    }

    fn fmt_rest(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.missed > 0 {
            let missed = self.missed;
            write!(
                f,
                "\nmissed    {missed} requests were due but not sent, because all connections were busy"
            )?;
        }
        match self.reopened {
            0 => Ok(()),
            reopened => write!(f, "\nreopened  {}", plural(reopened, "connection")),
        }
    }
}

impl Display for Cache {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.hit_rate {
            None => write!(f, "no response has a Cache-Status"),
            Some(rate) => {
                let Self { hits, misses, none, .. } = self;
                write!(
                    f,
                    "hits {hits} ({:.2} %); misses {}; without Cache-Status {none}",
                    100.0 * rate,
                    listed(misses)
                )
            }
        }
    }
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn listed<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    let listed: Vec<String> = counts.iter().map(|(what, n)| format!("{what}: {n}")).collect();
    if listed.is_empty() { "none".to_owned() } else { listed.join(", ") }
}
