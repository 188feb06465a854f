//! The main figures of each version that was measured.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Failure;

/// Adds a version's figures, and the commit of which they are, to the file `history.json` of a folder, in place of those that it had.
pub(super) fn update(folder: &Path, version: &str, commit: &str) -> Result<(), Failure> {
    let read = |name: &str| super::read(&folder.join(name).with_extension("json"));
    let mut figures = Map::from_iter([("commit".to_owned(), commit.into())]);
    for (name, file, figure) in FIGURES {
        let value =
            figure(&read(file)?).ok_or_else(|| format!("{file}.json does not say: {name}"))?;
        figures.insert((*name).to_owned(), value.into());
    }
    let path = folder.join("history.json");
    let mut history = if path.is_file() { super::read(&path)? } else { Map::new().into() };
    let versions = history.as_object_mut().ok_or("history.json is not an object")?;
    versions.insert(version.to_owned(), figures.into());
    Ok(std::fs::write(path, serde_json::to_string_pretty(&history)? + "\n")?)
}

/// A figure's name, the file that has it, and where in that file it is.
type Figure = (&'static str, &'static str, fn(&Value) -> Option<f64>);

const FIGURES: &[Figure] = &[
    ("hit ratio with 1 % writes and room for 10 % of the keys", "hitrate", |found| {
        let mut rows = found["rows"].as_array()?.iter();
        let row = rows.find(|row| row["writes"] == 0.01 && row["size_percent"] == 10.0)?;
        named(&row["tags"], "by", "row")?["hits"].as_f64()
    }),
    ("throughput of a hit in memory, of a bare axum handler", "peers", |found| {
        ratio(found, "memory", "tidegate-tracked")
    }),
    ("throughput of a hit in memory in front of Redis, of Redis by hand", "peers", |found| {
        ratio(found, "redis", "tidegate-tiered")
    }),
    ("throughput of a hit in Redis, of Redis by hand", "peers", |found| {
        ratio(found, "redis", "tidegate-redis")
    }),
    ("throughput of a miss, of the read", "peers", |found| ratio(found, "miss", "tidegate-miss")),
    ("time of a hit on a typed value, of moka's", "values", |found| {
        named(&found["memory"], "variant", "tidegate")?["ratio"]["median"].as_f64()
    }),
    ("time of a batch of 100 in Redis, of MGET by hand", "values", |found| {
        named(&found["batch"], "variant", "tidegate")?["ratio"]["median"].as_f64()
    }),
    ("throughput of 16 writers with triggers, of an untriggered table", "writes", |found| {
        of_writers(found, "tracked")
    }),
    ("throughput of 16 writers of a published table, of an untriggered one", "writes", |found| {
        of_writers(found, "published")
    }),
    ("99th percentile from a commit until no node serves the old value, ms", "staleness", p99),
    ("the same with a published table, ms", "staleness-published", p99),
];

fn named<'a>(list: &'a Value, key: &str, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|of| of[key] == name)
}

fn ratio(found: &Value, group: &str, variant: &str) -> Option<f64> {
    let group = named(&found["groups"], "group", group)?;
    named(&group["variants"], "variant", variant)?["ratio"]["median"].as_f64()
}

fn of_writers(found: &Value, table: &str) -> Option<f64> {
    let of_16 = found["clients"].as_array()?.iter().find(|of| of["clients"] == 16)?;
    named(&of_16["tables"], "table", table)?["ratio"]["median"].as_f64()
}

/// Without other writes.
fn p99(found: &Value) -> Option<f64> {
    found["load"].as_array()?.first()?["p99_ms"].as_f64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_found_in_the_files() {
        let found = json!({"groups": [
            {"group": "miss", "variants": [{"variant": "tidegate-miss", "ratio": {"median": 0.7}}]},
        ]});
        assert_eq!(ratio(&found, "miss", "tidegate-miss"), Some(0.7));
        assert_eq!(ratio(&found, "memory", "tidegate-miss"), None);
        let found = json!({"clients": [
            {"clients": 1, "tables": []},
            {"clients": 16, "tables": [{"table": "tracked", "ratio": {"median": 0.5}}]},
        ]});
        assert_eq!(of_writers(&found, "tracked"), Some(0.5));
        assert_eq!(p99(&json!({"load": [{"p99_ms": 4.5}, {"p99_ms": 9.0}]})), Some(4.5));
    }
}
