//! Pictures and tables of what was measured, from the JSON that the measurements print.

mod charts;
mod document;
mod history;
mod svg;
mod tables;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Failure;

/// Where results are, and pictures go.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder that scripts/performance fills
    folder: PathBuf,
    /// A document whose tables are written anew
    #[arg(long)]
    document: Option<PathBuf>,
    /// The version of Tidegate whose figures are added to the history
    #[arg(long, requires = "commit")]
    version: Option<String>,
    /// The commit that was measured
    #[arg(long)]
    commit: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let folder = &options.folder;
    let read = |name: &str| read(&folder.join(name));
    let pictures = [
        ("staleness.svg", charts::staleness(&read("staleness.json")?)),
        ("hitrate.svg", charts::hit_rate(&read("hitrate.json")?)),
        ("writes.svg", charts::writes(&read("writes.json")?)),
        ("throughput.svg", charts::throughput(&read("peers.json")?)),
        ("scaling.svg", charts::scaling(&read("scaling.json")?)),
        ("nodes.svg", charts::nodes(&read("nodes.json")?)),
    ];
    for (name, picture) in pictures {
        let picture = picture.ok_or_else(|| format!("there is nothing to draw for {name}"))?;
        std::fs::write(folder.join(name), picture)?;
    }
    if let (Some(version), Some(commit)) = (&options.version, &options.commit) {
        history::update(folder, version, commit)?;
    }
    match &options.document {
        Some(path) => write_tables(path, folder),
        None => Ok(()),
    }
}

fn write_tables(path: &Path, folder: &Path) -> Result<(), Failure> {
    let read = |name: &str| read(&folder.join(name).with_extension("json"));
    let written = |name: &str| std::fs::read_to_string(folder.join(name));
    let (scaling, hit_rate, zipf) = (read("scaling")?, read("hitrate")?, read("hitrate-zipf")?);
    let places = [
        ("hitrate", tables::hit_rate(&hit_rate)),
        ("eviction", tables::eviction(&[("web shop", &hit_rate), ("Zipf 0.9", &zipf)])),
        ("peers", Some(written("peers.md")?)),
        ("values", Some(written("values.md")?)),
        ("writes", tables::writes(&read("writes")?, &read("writes-without-fsync")?)),
        ("writes-at-half-rate", tables::writes_at_half_rate(&read("writes")?)),
        ("compression", tables::compression(&read("compression")?)),
        ("staleness", tables::staleness(&read("staleness")?)),
        ("staleness-published", tables::staleness(&read("staleness-published")?)),
        ("counts", tables::counts(&read("stampede")?, &read("connections")?, &scaling)),
        ("scaling", tables::scaling(&scaling)),
        ("nodes", tables::nodes(&read("nodes")?)),
    ];
    let mut document = std::fs::read_to_string(path)?;
    for (place, text) in places {
        let text = text.ok_or_else(|| format!("there is nothing to say of {place}"))?;
        document = document::fill(&document, place, &text)?;
    }
    Ok(std::fs::write(path, document)?)
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}
