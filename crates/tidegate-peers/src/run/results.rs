//! What was found, as a table and as JSON.

use std::fmt::{Display, Formatter};

use serde::Serialize;

use super::command::Options;
use super::load::Sample;
use crate::spread::Spread;
use crate::variant::{Group, Variant};

/// The samples of one variant, in the order of rounds.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) variant: Variant,
    pub(super) samples: Vec<Sample>,
}

/// How it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Conditions {
    rounds: u32,
    seconds: f64,
    connections: u32,
    seed: u64,
    /// Whether server and load had a core each.
    pinned: bool,
    left_out: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Results {
    #[serde(flatten)]
    conditions: Conditions,
    groups: Vec<GroupResult>,
}

#[derive(Debug, Serialize)]
struct GroupResult {
    group: Group,
    reference: Variant,
    variants: Vec<VariantResult>,
}

#[derive(Debug, Serialize)]
struct VariantResult {
    variant: Variant,
    per_second: Spread,
    /// To the reference in the same round.
    ratio: Spread,
    cpu_us: Option<Spread>,
    p50_ms: Spread,
    p99_ms: Spread,
    samples: Vec<Sample>,
}

impl Measured {
    pub(super) fn new(variant: Variant) -> Self {
        Self { variant, samples: Vec::new() }
    }

    fn result(&self, reference: &Self) -> Option<VariantResult> {
        let of = |value: fn(&Sample) -> f64| Spread::of(self.samples.iter().map(value));
        let pairs = self.samples.iter().zip(&reference.samples);
        Some(VariantResult {
            variant: self.variant,
            per_second: of(|sample| sample.per_second)?,
            ratio: Spread::of(pairs.map(|(own, other)| own.per_second / other.per_second))?,
            cpu_us: Spread::of(self.samples.iter().filter_map(|sample| sample.cpu_us)),
            p50_ms: of(|sample| sample.p50_ms)?,
            p99_ms: of(|sample| sample.p99_ms)?,
            samples: self.samples.clone(),
        })
    }
}

impl Conditions {
    pub(super) fn new(options: &Options, pinned: bool, left_out: Vec<String>) -> Self {
        Self {
            rounds: options.rounds(),
            seconds: options.seconds(),
            connections: options.connections(),
            seed: options.seed(),
            pinned,
            left_out,
        }
    }
}

impl Results {
    pub(super) fn new(conditions: Conditions, all: &[Measured]) -> Self {
        let groups = [Group::Memory, Group::Redis, Group::Miss];
        let groups = groups.into_iter().filter_map(|group| GroupResult::new(group, all));
        Self { conditions, groups: groups.collect() }
    }
}

impl GroupResult {
    fn new(group: Group, all: &[Measured]) -> Option<Self> {
        let find = |variant: Variant| all.iter().find(|measured| measured.variant == variant);
        let variants = group.variants();
        let reference = find(*variants.first()?)?;
        let results = variants.iter().filter_map(|variant| find(*variant)?.result(reference));
        Some(Self { group, reference: reference.variant, variants: results.collect() })
    }
}

impl Display for Results {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Conditions { rounds, seconds, connections, seed, pinned, left_out } = &self.conditions;
        let cores = match pinned {
            true => "the server on one core, the load and what the server connects to on another",
            false => "server and load on the same cores",
        };
        writeln!(
            f,
            "{rounds} rounds of {seconds} s with {connections} connections, seed {seed}; {cores}."
        )?;
        writeln!(f, "Medians, with the least and the most in parentheses.")?;
        for line in left_out {
            writeln!(f, "{line}.")?;
        }
        self.groups.iter().try_for_each(|group| write!(f, "\n{group}"))
    }
}

impl Display for GroupResult {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (group, reference) = (self.group.name(), self.reference.name());
        writeln!(
            f,
            "| {group} | requests a second | of {reference} | CPU, µs each | p50, ms | p99, ms |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
        self.variants.iter().try_for_each(|variant| writeln!(f, "{variant}"))
    }
}

impl Display for VariantResult {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { per_second: Spread { median, min, max }, ratio, cpu_us, p50_ms, p99_ms, .. } =
            self;
        write!(f, "| {} | {median:.0} ({min:.0}–{max:.0}) ", self.variant.name())?;
        let Spread { median, min, max } = ratio;
        write!(f, "| {median:.2} ({min:.2}–{max:.2}) ")?;
        match cpu_us {
            Some(Spread { median, min, max }) => write!(f, "| {median:.1} ({min:.1}–{max:.1}) ")?,
            None => write!(f, "| ")?,
        }
        write!(f, "| {:.2} | {:.2} |", p50_ms.median, p99_ms.median)
    }
}
