//! Which figure is drawn how.

use serde_json::Value;

use super::svg::{Axis, Bar, Line, Scale, bars, lines};

/// How many commits had been followed by all nodes after so many milliseconds.
pub(super) fn staleness(found: &Value) -> Option<String> {
    let load = found["load"].as_array()?;
    let line = |of: &Value| {
        let millis: Vec<f64> = of["millis"].as_array()?.iter().filter_map(Value::as_f64).collect();
        let count = f64::from(u32::try_from(millis.len()).ok()?);
        let share = |at: usize| Some(f64::from(u32::try_from(at + 1).ok()?) / count * 100.0);
        let points = millis.iter().enumerate().filter_map(|(at, ms)| Some((*ms, share(at)?)));
        let name = format!("{:.0} other writes/s", of["writes_per_second"].as_f64()?);
        Some(Line { name, points: points.collect() })
    };
    let all: Vec<Line> = load.iter().filter_map(line).collect();
    let most = load.iter().filter_map(|of| of["max_ms"].as_f64()).fold(1.0, f64::max);
    let x = Axis::new("milliseconds after the commit", 0.1, most * 1.1, Scale::Logarithmic);
    let y = Axis::new("% of commits that no node answers without", 0.0, 100.0, Scale::Linear);
    (!all.is_empty()).then(|| lines("From a commit until every node has seen it", &x, &y, &all))
}

/// Reads that the cache answered, by the room it had.
pub(super) fn hit_rate(found: &Value) -> Option<String> {
    let rows = found["rows"].as_array()?;
    let most = rows.iter().filter_map(|row| row["writes"].as_f64()).fold(0.0, f64::max);
    let of = |writes: f64, value: &dyn Fn(&Value) -> Option<f64>| {
        let rows = rows.iter().filter(|row| row["writes"].as_f64() == Some(writes));
        let points =
            rows.filter_map(|row| Some((row["size_percent"].as_f64()?, value(row)? * 100.0)));
        points.collect::<Vec<_>>()
    };
    let by = |name: &'static str| {
        move |row: &Value| {
            let tags = row["tags"].as_array()?;
            tags.iter().find(|tags| tags["by"] == name)?["hits"].as_f64()
        }
    };
    let name = |what: &str, writes: f64| format!("{what}, {}% writes", writes * 100.0);
    let mut all = Vec::new();
    for writes in [0.0, most] {
        all.push(Line {
            name: name("best possible", writes),
            points: of(writes, &|row| row["optimal"].as_f64()),
        });
        all.push(Line { name: name("row tags", writes), points: of(writes, &by("row")) });
        all.push(Line {
            name: name("LRU", writes),
            points: of(writes, &|row| row["lru"].as_f64()),
        });
    }
    all.push(Line { name: name("table tags", most), points: of(most, &by("table")) });
    let x = Axis::new("room for so many % of the keys", 1.0, 100.0, Scale::Logarithmic);
    let y = Axis::new("% of reads answered", 0.0, 100.0, Scale::Linear);
    Some(lines("Reads taken off the database", &x, &y, &all))
}

/// What it costs to record changes, by how many write at once.
pub(super) fn writes(found: &Value) -> Option<String> {
    let clients = found["clients"].as_array()?;
    let line = |at: usize| {
        let points = clients.iter().filter_map(|of| {
            let ratio = of["tables"][at]["ratio"]["median"].as_f64()?;
            Some((of["clients"].as_f64()?, ratio))
        });
        let name = clients.first()?["tables"][at]["table"].as_str()?.to_owned();
        Some(Line { name, points: points.collect() })
    };
    let all: Vec<Line> = (0..4).filter_map(line).collect();
    let x = Axis::new("clients that write at once", 1.0, 100.0, Scale::Logarithmic);
    let y = Axis::new("throughput, of a table without triggers", 0.0, 1.2, Scale::Linear);
    (!all.is_empty()).then(|| lines("What it costs to write to a tracked table", &x, &y, &all))
}

/// What the primary is asked, by the number of nodes.
pub(super) fn nodes(found: &Value) -> Option<String> {
    let rows = found["rows"].as_array()?;
    let line = |(one_for_all, what, name): (bool, &str, &str)| {
        let rows = rows.iter().filter(|row| row["one_for_all"] == one_for_all);
        let points = rows.filter_map(|row| Some((row["nodes"].as_f64()?, row[what].as_f64()?)));
        Line { name: name.to_owned(), points: points.collect() }
    };
    let all: Vec<Line> = [
        (true, "asked_per_second_written_to", "one for all, written to"),
        (true, "asked_per_second_idle", "one for all, idle"),
        (true, "connections", "one for all, connections"),
        (false, "asked_per_second_written_to", "each for itself, written to"),
        (false, "asked_per_second_idle", "each for itself, idle"),
        (false, "connections", "each for itself, connections"),
    ]
    .map(line)
    .into();
    let x = Axis::new("nodes", 1.0, 100.0, Scale::Logarithmic);
    let y = Axis::new("asked a second, or open", 1.0, 10_000.0, Scale::Logarithmic);
    (!rows.is_empty()).then(|| lines("What more nodes cost the primary", &x, &y, &all))
}

/// Requests a second of each variant.
pub(super) fn throughput(found: &Value) -> Option<String> {
    let groups = found["groups"].as_array()?;
    let of_group = |group: &Value| {
        let variants = group["variants"].as_array()?.iter().filter_map(|of| {
            let rate = &of["per_second"];
            let name = of["variant"].as_str()?.to_owned();
            Some(Bar {
                is_ours: name.starts_with("tidegate"),
                name,
                value: rate["median"].as_f64()?,
                least: rate["min"].as_f64()?,
                most: rate["max"].as_f64()?,
            })
        });
        Some(variants.collect::<Vec<_>>())
    };
    let all: Vec<Bar> = groups.iter().filter_map(of_group).flatten().collect();
    (!all.is_empty())
        .then(|| bars("Throughput beside other caches", "requests/s on one core", &all))
}

/// What a hit takes as there is more of something.
pub(super) fn scaling(found: &Value) -> Option<String> {
    let curves = found["curves"].as_array()?;
    let line = |curve: &Value| {
        let points = curve["points"].as_array()?.iter();
        let points =
            points.filter_map(|of| Some((of["at"].as_f64()?, of["nanos"]["median"].as_f64()?)));
        Some(Line { name: curve["by"].as_str()?.to_owned(), points: points.collect() })
    };
    let all = curves.iter().filter(|curve| curve["by"] != "threads");
    let all: Vec<Line> = all.filter_map(line).collect();
    let x = Axis::new("keys, tags of an entry, bytes of a body", 1.0, 1e8, Scale::Logarithmic);
    let y = Axis::new("nanoseconds", 100.0, 100_000.0, Scale::Logarithmic);
    (!all.is_empty()).then(|| lines("A hit in memory, as there is more of something", &x, &y, &all))
}
