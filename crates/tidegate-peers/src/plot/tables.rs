//! Which figure is shown in which table of the document.

use serde_json::Value;

type Rows = Vec<Vec<String>>;

/// The share of reads that the database does not see.
pub(super) fn hit_rate(found: &Value) -> Option<String> {
    let percent = |share: &Value| Some(format!("{:.1} %", share.as_f64()? * 100.0));
    let row = |of: &Value| {
        let tags = of["tags"].as_array()?;
        let by = |name: &str| tags.iter().find(|tags| tags["by"] == name);
        let (row, table, ttl) = (by("row")?, by("table")?, by("ttl")?);
        Some(vec![
            format!("{:.0} %", of["writes"].as_f64()? * 100.0),
            format!("{:.0} %", of["size_percent"].as_f64()?),
            format!("**{}**", percent(&row["hits"])?),
            percent(&table["hits"])?,
            format!("{} ({})", percent(&ttl["hits"])?, percent(&ttl["stale"])?),
            percent(&of["lru"])?,
            percent(&of["optimal"])?,
        ])
    };
    let heads = [
        "writes",
        "room",
        "rows' tags",
        "tables' tags",
        "TTL alone (of all, stale)",
        "LRU",
        "best",
    ];
    Some(table(&heads, "---:", found["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?))
}

/// What triggers cost, with the wait for the disk and without.
pub(super) fn writes(found: &Value, unsynced: &Value) -> Option<String> {
    let rows = found["clients"].as_array()?.iter().zip(unsynced["clients"].as_array()?);
    let row = |(synced, unsynced): (&Value, &Value)| {
        let ratio = |of: &Value, at: usize| spread(&of["tables"][at]["ratio"], 2);
        let rate = |of: &Value| Some(round(of["tables"][0]["rate"]["median"].as_f64()?, 0));
        Some(vec![
            synced["clients"].to_string(),
            rate(synced)?,
            ratio(synced, 1)?,
            ratio(synced, 2)?,
            rate(unsynced)?,
            ratio(unsynced, 1)?,
            ratio(unsynced, 2)?,
        ])
    };
    let heads = [
        "clients",
        "untriggered, a second",
        "tracked",
        "notifying",
        "untriggered, without fsync",
        "tracked, without fsync",
        "notifying, without fsync",
    ];
    Some(table(&heads, "---:", rows.map(row).collect::<Option<_>>()?))
}

/// What compressed entries in Redis take and save.
pub(super) fn compression(found: &Value) -> Option<String> {
    let row = |of: &Value| {
        let median = |kind: &str, what: &str| of[kind][what]["median"].as_f64();
        let stored = |kind: &str| of[kind]["stored"].as_f64();
        let both = |what: &str| {
            let (plain, packed) = (median("plain", what)?, median("compressed", what)?);
            Some(format!("{} → {} µs", round(plain, 0), round(packed, 0)))
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
            both("put")?,
            both("get")?,
            gains,
        ])
    };
    let heads = ["body, bytes", "bytes in Redis", "write", "read", "reads gain below"];
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
        "- {} concurrent requests for one response that is not stored, over {} nodes with one Redis: handler runs in \
         each round: {}. Without the cache: {}.\n\
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
