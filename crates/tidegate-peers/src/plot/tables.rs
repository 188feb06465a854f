//! Which figure is shown in which table of the document.

use serde_json::Value;

type Rows = Vec<Vec<String>>;

/// The share of reads that the database does not see.
pub(super) fn hit_rate(found: &Value) -> Option<String> {
    let row = |of: &Value| {
        let tags = of["tags"].as_array()?;
        let by = |name: &str| tags.iter().find(|tags| tags["by"] == name);
        let (row, table, ttl) = (by("row")?, by("table")?, by("ttl")?);
        let mut cells = room(of)?.to_vec();
        cells.extend([
            format!("**{}**", percent(&row["hits"])?),
            percent(&table["hits"])?,
            format!("{} ({})", percent(&ttl["hits"])?, percent(&ttl["stale"])?),
            percent(&of["optimal"])?,
        ]);
        Some(cells)
    };
    let heads =
        ["writes", "room", "rows' tags", "tables' tags", "TTL alone (stale, as a share of all reads)", "best"];
    Some(table(&heads, "---:", found["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?))
}

/// The share of reads that caches with other policies of eviction would have, for each trace.
pub(super) fn eviction(traces: &[(&str, &Value)]) -> Option<String> {
    let rows = traces.iter().map(|(name, found)| {
        let row = |of: &Value| {
            let tags = of["tags"].as_array()?;
            let own = tags.iter().find(|tags| tags["by"] == "row")?;
            let mut cells = vec![(*name).to_owned()];
            cells.extend(room(of)?);
            cells.push(format!("**{}**", percent(&own["hits"])?));
            for model in ["lru", "s3_fifo", "sieve", "tiny_lfu", "optimal"] {
                cells.push(percent(&of[model])?);
            }
            Some(cells)
        };
        found["rows"].as_array()?.iter().map(row).collect::<Option<Rows>>()
    });
    let heads =
        ["requests", "writes", "room", "`Memory`", "LRU", "S3-FIFO", "SIEVE", "W-TinyLFU", "best"];
    Some(table(&heads, "---:", rows.collect::<Option<Vec<_>>>()?.concat()))
}

fn percent(share: &Value) -> Option<String> {
    Some(format!("{:.1} %", share.as_f64()? * 100.0))
}

/// The share of writes, and the size of the cache.
fn room(of: &Value) -> Option<[String; 2]> {
    let writes = format!("{:.0} %", of["writes"].as_f64()? * 100.0);
    Some([writes, format!("{:.0} %", of["size_percent"].as_f64()?)])
}

/// What it costs to record changes, with the wait for the disk and without, as fast as the clients can write.
pub(super) fn writes(found: &Value, unsynced: &Value) -> Option<String> {
    let rows = [("on", found), ("off", unsynced)].into_iter().map(|(fsync, found)| {
        let row = |of: &Value| {
            let tables = of["tables"].as_array()?;
            let rate = round(tables.first()?["rate"]["median"].as_f64()?, 0);
            let ratios = tables.iter().skip(1).map(|table| spread(&table["ratio"], 2));
            let processor = tables.iter().map(|table| median(&table["processor_us"], 0));
            let processor = processor.collect::<Option<Vec<_>>>()?.join(" · ");
            let first = [Some(fsync.to_owned()), Some(of["clients"].to_string()), Some(rate)];
            first.into_iter().chain(ratios).chain([Some(processor)]).collect::<Option<Vec<_>>>()
        };
        found["clients"].as_array()?.iter().map(row).collect::<Option<Rows>>()
    });
    let heads = [
        "fsync",
        "clients",
        "untriggered, a second",
        "tracked",
        "notifying",
        "published",
        "CPU, µs each",
    ];
    Some(table(&heads, "---:", rows.collect::<Option<Vec<_>>>()?.concat()))
}

/// What it costs to record changes at half the rate that is possible without.
pub(super) fn writes_at_half_rate(found: &Value) -> Option<String> {
    let row = |of: &Value| {
        let half = &of["at_half_rate"];
        let cell = |table: &Value| {
            let [p50, p99] = ["p50_ms", "p99_ms"].map(|name| median(&table[name], 2));
            let ratio = table["ratio"]["median"].as_f64()?;
            let rate = round(ratio, 2);
            // Otherwise, transactions wait for those before, the longer the longer the measurement takes.
            let is_reached = ratio >= 0.98;
            Some(if is_reached { format!("{rate}; {} and {} ms", p50?, p99?) } else { rate })
        };
        let cells = half["tables"].as_array()?.iter().map(cell);
        let first = [Some(of["clients"].to_string()), Some(round(half["due"].as_f64()?, 0))];
        first.into_iter().chain(cells).collect::<Option<Vec<_>>>()
    };
    let heads = ["clients", "due, a second", "untriggered", "tracked", "notifying", "published"];
    Some(table(
        &heads,
        "---:",
        found["clients"].as_array()?.iter().map(row).collect::<Option<_>>()?,
    ))
}

/// What compressed entries in Redis take and save.
pub(super) fn compression(found: &Value) -> Option<String> {
    let row = |of: &Value| {
        let median = |kind: &str, what: &str| of[kind][what]["median"].as_f64();
        let stored = |kind: &str| of[kind]["stored"].as_f64();
        let all = |what: &str| {
            let times = ["by_hand", "plain", "compressed"].map(|kind| median(kind, what));
            let times = times.into_iter().map(|time| Some(round(time?, 0)));
            Some(times.collect::<Option<Vec<_>>>()?.join(" · "))
        };
        let (plain, packed) = (stored("plain")?, stored("compressed")?);
        let longer = median("compressed", "get")? - median("plain", "get")?;
        // Bytes per microsecond are megabytes per second.
        let gains = match longer > 0.0 {
            true => format!("{} MB/s", round((plain - packed) / longer, 0)),
            false => "any".to_owned(),
        };
        Some(vec![
            round(of["bytes"].as_f64()?, 0),
            format!("{:.0} %", 100.0 * packed / plain),
            all("put")?,
            all("get")?,
            gains,
        ])
    };
    let heads = ["body, bytes", "bytes in Redis", "write, µs", "read, µs", "reads gain below"];
    Some(table(&heads, "---:", found["sizes"].as_array()?.iter().map(row).collect::<Option<_>>()?))
}

/// From a commit until every node has seen it.
pub(super) fn staleness(found: &Value) -> Option<String> {
    let row = |of: &Value| {
        let millis = |of: &Value| Some(format!("{:.1} ms", of.as_f64()?));
        Some(vec![
            round(of["writes_per_second"].as_f64()?, 0),
            of["commits"].to_string(),
            millis(&of["p50_ms"])?,
            millis(&of["p99_ms"])?,
            millis(&of["max_ms"])?,
        ])
    };
    let heads = ["other writes a second", "commits followed", "p50", "p99", "longest"];
    Some(table(&heads, "---:", found["load"].as_array()?.iter().map(row).collect::<Option<_>>()?))
}

/// What a hit takes as there is more of something.
pub(super) fn scaling(found: &Value) -> Option<String> {
    let rows = found["curves"].as_array()?.iter().map(|curve| {
        let points = curve["points"].as_array()?.iter().map(|point| {
            let at = round(point["at"].as_f64()?, 0);
            Some(format!("{at}: {}", round(point["nanos"]["median"].as_f64()?, 0)))
        });
        Some(vec![
            curve["by"].as_str()?.to_owned(),
            points.collect::<Option<Vec<_>>>()?.join(" · "),
        ])
    });
    Some(table(&["by", "nanoseconds of a hit"], "---", rows.collect::<Option<_>>()?))
}

/// What the number of nodes costs the primary.
pub(super) fn nodes(found: &Value) -> Option<String> {
    let row = |of: &Value| {
        let number = |name: &str, digits| Some(round(of[name].as_f64()?, digits));
        Some(vec![
            number("nodes", 0)?,
            if of["one_for_all"].as_bool()? { "one for all" } else { "each for itself" }.to_owned(),
            number("asked_per_second_idle", 1)?,
            number("asked_per_second_written_to", 1)?,
            number("connections", 0)?,
            number("refills_per_write", 2)?,
        ])
    };
    let heads = [
        "nodes",
        "who drains",
        "transactions a second, idle",
        "transactions a second, with writes",
        "connections",
        "refills per write",
    ];
    Some(table(&heads, "---:", found["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?))
}

/// Counts that are said in a sentence each.
pub(super) fn counts(stampede: &Value, connections: &Value, scaling: &Value) -> Option<String> {
    let number = |of: &Value| Some(round(of.as_f64()?, 0));
    let ran = |of: &Value| {
        let all = of.as_array()?.iter().map(number).collect::<Option<Vec<_>>>()?;
        Some(all.join(", "))
    };
    let bound = &scaling["bound"];
    Some(format!(
        "- {} concurrent requests for one response that is not stored, over {} nodes with one Redis. Handler \
         runs, round by round: {}. Without the cache: {}.\n\
         - {} connections held open at once, of {} requested; {} of {} requests over them were hits, and each \
         connection took {} bytes of the node's memory.\n\
         - Memory filled with ten times its capacity: {} bytes of the {} allowed, in {} entries; the process grew by {} \
         bytes.\n",
        number(&stampede["requests"])?,
        number(&stampede["nodes"])?,
        ran(&stampede["with_cache"])?,
        ran(&stampede["without_cache"])?,
        number(&connections["held"])?,
        number(&connections["asked_for"])?,
        number(&connections["hits"])?,
        number(&connections["requests"])?,
        number(&connections["bytes_each"])?,
        number(&bound["counted"])?,
        number(&bound["capacity"])?,
        number(&bound["entries"])?,
        number(&bound["resident"]).unwrap_or_else(|| "an unknown number".into()),
    ))
}

/// Columns are all of words, or all of numbers, as the rule under their heads says.
fn table(heads: &[&str], rule: &str, rows: Rows) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
    let rules = vec![rule.to_owned(); heads.len()];
    let all = [heads, rules].into_iter().chain(rows);
    all.map(|cells| line(&cells)).collect()
}

fn median(of: &Value, digits: usize) -> Option<String> {
    Some(round(of["median"].as_f64()?, digits))
}

/// A median, with the least and the most.
fn spread(of: &Value, digits: usize) -> Option<String> {
    let one = |name: &str| Some(round(of[name].as_f64()?, digits));
    Some(format!("{} ({}–{})", one("median")?, one("min")?, one("max")?))
}

/// With commas between thousands.
fn round(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut shown = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas_and_fractions_have_none() {
        assert_eq!(round(1_234_567.0, 0), "1,234,567");
        assert_eq!(round(123.0, 0), "123");
        assert_eq!(round(1_234.567_8, 2), "1,234.57");
        assert_eq!(round(0.5, 2), "0.50");
    }
}
