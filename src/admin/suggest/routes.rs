//! Estimates what each route would gain from a policy, or from a better one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::writes::{Writes, rate};
use crate::admin::respond::percent;
use crate::cache::Policy;
use crate::middleware::LayerSettings;
use crate::outcome::{BypassReason, Counters, MissReason, Outcome};
use crate::traffic::{ComparedColumns, RouteReads, Traffic, simulation};

/// The fewest requests for an estimate.
const ENOUGH: u64 = 20;

/// The smallest share of requests that is worth a note.
const WORTH: f64 = 0.2;

/// The suggestion for one route.
#[derive(Serialize)]
pub(super) struct RouteAdvice {
    pub(super) pattern: String,
    pub(super) requests: u64,
    per_second: f64,
    /// Requests that were served from the cache.
    pub(super) hits: u64,
    /// For a route without a policy: the share of eligible requests that the cache would have served.
    expected_hit_ratio: Option<f64>,
    /// Requests whose responses could have been stored, and (`sample`) how many of them the ratio is computed from.
    eligible: u64,
    sample: u64,
    /// The handler time that the cache would have saved.
    pub(super) saves_seconds: f64,
    tables: Vec<TableAdvice>,
    columns: Vec<ColumnAdvice>,
    /// The policy to begin with.
    policy: Option<String>,
    /// Obstacles and hints.
    notes: Vec<String>,
}

#[derive(Serialize)]
struct TableAdvice {
    name: String,
    rows_written_per_second: Option<f64>,
}

/// Columns of a table by which changes could be recorded, so that they invalidate fewer responses.
#[derive(Serialize)]
struct ColumnAdvice {
    /// The argument of `tidegate install` for the table: all columns that changes would then be recorded by.
    install: String,
    /// How many statements compare each of the new columns with values.
    statements: BTreeMap<String, u64>,
    /// The share of requests that would be hits if no change had invalidated their responses.
    hit_ratio_at_most: Option<f64>,
}

/// All routes of some layers.
pub(super) fn all(
    layers: &[Arc<LayerSettings>],
    writes: &Writes,
    watched: Duration,
) -> Vec<RouteAdvice> {
    let with = layers.iter().flat_map(|layer| layer.all());
    let with = with.map(|(pattern, route)| {
        let notes = about_policy(&route.traffic, &route.policy);
        RouteAdvice { notes, ..RouteAdvice::new(pattern, &route.traffic, writes, watched) }
            .with_columns(&route.traffic, most_hits(&route.traffic))
    });
    let without = layers.iter().flat_map(|layer| layer.recorder.others());
    let without = without.map(|(pattern, traffic)| {
        RouteAdvice::new(&pattern, &traffic, writes, watched).without_policy(&traffic)
    });
    with.chain(without).collect()
}

impl RouteAdvice {
    fn new(pattern: &str, traffic: &Traffic, writes: &Writes, watched: Duration) -> Self {
        let requests = count(&traffic.outcomes, |_| true);
        let table = |name: String| {
            let rows_written_per_second = writes.per_second(&name);
            TableAdvice { name, rows_written_per_second }
        };
        Self {
            pattern: pattern.to_owned(),
            requests,
            per_second: rate(requests, watched),
            hits: count(&traffic.outcomes, Outcome::is_hit),
            expected_hit_ratio: None,
            eligible: traffic.simulated.eligible(),
            sample: 0,
            saves_seconds: 0.0,
            tables: traffic.reads.get().tables.into_keys().map(table).collect(),
            columns: Vec::new(),
            policy: None,
            notes: Vec::new(),
        }
    }

    /// Adds the columns that statements compare and that changes are not recorded by.
    fn with_columns(mut self, traffic: &Traffic, hit_ratio_at_most: Option<f64>) -> Self {
        let advice = |(table, columns): (String, ComparedColumns)| {
            let all: Vec<&str> =
                columns.recorded.iter().chain(columns.others.keys()).map(String::as_str).collect();
            let install = format!("{table}:{}", all.join(","));
            ColumnAdvice { install, statements: columns.others, hit_ratio_at_most }
        };
        self.columns = traffic.reads.get().compared.into_iter().map(advice).collect();
        self
    }

    /// Adds the estimate of what the cache would have done, from the simulation.
    #[expect(clippy::cast_precision_loss, reason = "ratios need no more")]
    fn without_policy(mut self, traffic: &Traffic) -> Self {
        let (hit_ratio, sample) = traffic.simulated.hit_ratio();
        self.sample = sample;
        self.notes = obstacles(&traffic.reads.get());
        let most = hit_ratio + traffic.simulated.changed_ratio();
        self = self.with_columns(traffic, (sample >= ENOUGH).then_some(most));
        // A pattern in parentheses stands for several routes, so there is no policy to suggest.
        if sample < ENOUGH || self.pattern.starts_with('(') {
            return self;
        }
        let personal = traffic.simulated.personal() as f64 / self.requests.max(1) as f64;
        self.expected_hit_ratio = Some(hit_ratio);
        let share = self.eligible as f64 / self.requests.max(1) as f64;
        self.saves_seconds = traffic.computed.seconds() * share * hit_ratio;
        if hit_ratio < WORTH {
            self.notes.push("few requests repeat an earlier one".into());
            return self;
        }
        if personal > WORTH {
            self.notes.push(format!(
                "{} of requests identify the client, so the estimate assumes a response per client; if all clients may \
                 get the same response, Policy::public saves more",
                percent(personal)
            ));
        }
        self.policy = Some(self.first_policy(personal > 0.0));
        self.notes.extend(self.narrowing());
        self
    }

    /// A policy to begin with.
    fn first_policy(&self, is_personal: bool) -> String {
        let mut policy = format!("Policy::ttl(Duration::from_secs({}))", simulation::TTL.as_secs());
        if is_personal {
            policy.push_str(
                ".vary([\"authorization\"]).vary_cookies([/* those that identify the client */])",
            );
        }
        format!(".route({:?}, {policy})", self.pattern)
    }

    /// A tag that would narrow the dependency, for the operator to check: the rows that a handler reads are not known here.
    fn narrowing(&self) -> Option<String> {
        let ([table], Some(parameter)) = (&self.tables[..], parameter(&self.pattern)) else {
            return None;
        };
        let (table, tag) = (&table.name, tag(&table.name, parameter));
        Some(format!(
            "if the handler reads only the rows of {table} with {parameter} = {{{parameter}}}, add {tag}"
        ))
    }

    /// The additional requests that the cache would have served.
    #[expect(clippy::cast_precision_loss, reason = "an estimate needs no more")]
    pub(super) fn more_hits(&self) -> f64 {
        let new = self.policy.as_ref().and(self.expected_hit_ratio);
        new.unwrap_or_default() * self.eligible as f64
    }

    pub(super) fn is_new(&self) -> bool {
        self.policy.is_some()
    }

    pub(super) fn is_of_use(&self) -> bool {
        self.policy.is_some() || !self.notes.is_empty() || !self.columns.is_empty()
    }
}

/// The share of a route's requests that were hits, or would have been without changes.
fn most_hits(traffic: &Traffic) -> Option<f64> {
    let lookups = count(&traffic.outcomes, |_| true);
    let is_hit =
        |outcome| Outcome::is_hit(outcome) || outcome == Outcome::Miss(MissReason::Changed);
    (lookups >= ENOUGH).then(|| ratio(count(&traffic.outcomes, is_hit), lookups))
}

/// A policy's tag for the rows of a table that a parameter names.
fn tag(table: &str, parameter: &str) -> String {
    format!(".tag(\"{table}:{parameter}={{{parameter}}}\")")
}

/// The one parameter of a pattern, if it has one.
fn parameter(pattern: &str) -> Option<&str> {
    let (_, rest) = pattern.split_once('{')?;
    let (name, rest) = rest.split_once('}')?;
    (!rest.contains('{') && !name.starts_with('*')).then_some(name)
}

/// Why responses were not stored.
fn obstacles(reads: &RouteReads) -> Vec<String> {
    let found = reads
        .uncacheable
        .values()
        .map(|(times, why)| format!("{times} responses can't be stored: {why}"));
    found.collect()
}

/// How the route's policy could be improved.
fn about_policy(traffic: &Traffic, policy: &Policy) -> Vec<String> {
    let reads = traffic.reads.get();
    let mut notes = obstacles(&reads);
    let lookups = count(&traffic.outcomes, |_| true);
    let is_much = |outcome| lookups >= ENOUGH && share(&traffic.outcomes, outcome, lookups) > WORTH;
    if is_much(Outcome::Miss(MissReason::Changed)) {
        let tables: Vec<&str> = reads.tables.keys().map(String::as_str).collect();
        let narrowed = policy.parameters().next().is_some();
        let mend = match narrowed {
            true => "these rows change as often as they are read, so a cache can't help",
            false => {
                "narrow the policy to the rows that the handler reads, with a tag like `table:column={parameter}`"
            }
        };
        notes.push(format!("changes to {} invalidate many responses: {mend}", tables.join(", ")));
    }
    if is_much(Outcome::Miss(MissReason::Expired)) && !policy.untracked {
        notes.push(
            "many responses expire although nothing that they depend on has changed: raise the TTL"
                .into(),
        );
    }
    if is_much(Outcome::Bypass(BypassReason::Personal)) {
        notes.push(
            "many requests identify the client and bypass the cache: declare how responses depend on the client with \
             Policy::public, vary or vary_cookies"
                .into(),
        );
    }
    notes
}

fn count(outcomes: &Counters, counts: impl Fn(Outcome) -> bool) -> u64 {
    Outcome::all().filter(|outcome| counts(*outcome)).map(|outcome| outcomes.outcome(outcome)).sum()
}

fn share(outcomes: &Counters, outcome: Outcome, of: u64) -> f64 {
    ratio(outcomes.outcome(outcome), of)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
fn ratio(count: u64, all: u64) -> f64 {
    count as f64 / all.max(1) as f64
}

impl fmt::Display for RouteAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "route {}: {} requests, {:.1} per second",
            self.pattern, self.requests, self.per_second
        )?;
        if let Some(ratio) = self.expected_hit_ratio {
            let ratio = percent(ratio);
            writeln!(
                f,
                "  {ratio} of {} requests would have been served from the cache",
                self.sample
            )?;
            writeln!(
                f,
                "  and would have saved {:.2} s of handler time so far",
                self.saves_seconds
            )?;
        }
        self.tables.iter().try_for_each(|table| writeln!(f, "  {table}"))?;
        self.columns.iter().try_for_each(|columns| writeln!(f, "  {columns}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))?;
        self.policy.iter().try_for_each(|policy| writeln!(f, "  {policy}"))
    }
}

impl fmt::Display for ColumnAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (column, statements) in &self.statements {
            write!(f, "{statements} statements filter by {column}, ")?;
        }
        write!(
            f,
            "but each change of the table invalidates them: tidegate install {}",
            self.install
        )?;
        self.hit_ratio_at_most
            .iter()
            .try_for_each(|ratio| write!(f, " (hit ratio then: at most {})", percent(*ratio)))
    }
}

impl fmt::Display for TableAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reads {}", self.name)?;
        self.rows_written_per_second
            .iter()
            .try_for_each(|rate| write!(f, ", {rate:.2} rows written per second"))
    }
}
