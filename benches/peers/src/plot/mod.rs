//! Pictures of what was measured, from the JSON that the measurements print.

mod charts;
mod svg;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Failure;

/// Where results are, and pictures go.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder that scripts/performance fills
    folder: PathBuf,
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
    ];
    for (name, picture) in pictures {
        let picture = picture.ok_or_else(|| format!("there is nothing to draw for {name}"))?;
        std::fs::write(folder.join(name), picture)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}
