use std::path::PathBuf;

use clap::ValueEnum;

use super::backends::Backends;
use super::load::{Load, Sample};
use super::results::{Conditions, Measured, Results};
use super::server::Server;
use super::{pin, proxies};
use crate::Failure;
use crate::variant::{Group, Variant};

/// What is measured, how long and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Groups; all if none is named
    #[arg(long = "group")]
    groups: Vec<Group>,
    /// Only these variants, beside the reference of their group
    #[arg(long = "only")]
    only: Vec<Variant>,
    /// How often each variant is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections that ask at once
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Of the order in each round
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program `tidegate`, which makes the load; beside this one if nothing is said
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// Prints JSON, for programs
    #[arg(long)]
    json: bool,
    /// Writes the results to a file too: as JSON if its name ends so, else as Markdown
    #[arg(long)]
    write: Option<PathBuf>,
}

pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let (variants, left_out) = options.variants();
    for line in &left_out {
        eprintln!("{line}");
    }
    let pinned = pin::this_process().await;
    let conditions = Conditions::new(&options, pinned, left_out);
    let load = Load::new(&options)?;
    let backends = Backends::start(&variants).await?;
    let mut all: Vec<Measured> = variants.iter().map(|variant| Measured::new(*variant)).collect();
    let mut random = fastrand::Rng::with_seed(options.seed);
    for round in 1..=options.rounds {
        random.shuffle(&mut all);
        for measured in &mut all {
            eprintln!("round {round} of {}: {}", options.rounds, measured.variant.name());
            measured.samples.push(sample(measured.variant, &backends, &load, pinned).await?);
        }
    }
    options.show(&Results::new(conditions, &all))
}

/// One measurement in one server, which ends whatever comes of it.
async fn sample(
    variant: Variant,
    backends: &Backends,
    load: &Load,
    pinned: bool,
) -> Result<Sample, Failure> {
    backends.empty().await?;
    let server = Server::start(variant, backends, pinned).await?;
    let sample = load.measure(variant, &server).await;
    server.stop().await?;
    sample.map_err(|error| format!("{}: {error}", variant.name()).into())
}

impl Options {
    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    pub(super) fn connections(&self) -> u32 {
        self.connections
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The load generator.
    pub(super) fn generator(&self) -> Result<PathBuf, Failure> {
        let beside = || -> std::io::Result<PathBuf> {
            Ok(std::env::current_exe()?.with_file_name("tidegate"))
        };
        let found = self.tidegate.clone().map_or_else(beside, Ok)?;
        match found.is_file() {
            true => Ok(found),
            false => Err(format!("{} is missing: scripts/peers builds it", found.display()).into()),
        }
    }

    /// What is asked for and can be had, and a line for what can't.
    fn variants(&self) -> (Vec<Variant>, Vec<String>) {
        let groups = match self.groups.as_slice() {
            [] => Group::value_variants(),
            some => some,
        };
        let all = groups.iter().flat_map(|group| {
            let variants = group.variants();
            let reference = variants.first().copied();
            variants.into_iter().filter(move |variant| {
                self.only.is_empty() || self.only.contains(variant) || Some(*variant) == reference
            })
        });
        let (there, missing): (Vec<_>, Vec<_>) =
            all.partition(|variant| proxies::program(*variant).is_none_or(|p| p.is_ok()));
        let missing =
            missing.iter().map(|variant| format!("{} is not installed: left out", variant.name()));
        (there, missing.collect())
    }

    fn show(&self, results: &Results) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(results)?;
        if let Some(path) = &self.write {
            let is_json = path.extension().is_some_and(|extension| extension == "json");
            std::fs::write(path, if is_json { format!("{json}\n") } else { results.to_string() })?;
        }
        match self.json {
            true => println!("{json}"),
            false => print!("{results}"),
        }
        Ok(())
    }
}
