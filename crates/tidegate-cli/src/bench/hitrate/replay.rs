//! Replays accesses and writes through the cache itself.

use std::time::Duration;

use serde::Serialize;
use tidegate::{Cache, Key, Memory, PolicyError, ValuePolicy};

use super::trace::{Trace, Writes};
use crate::Failure;

/// How writes invalidate entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// Writes invalidate nothing: an entry expires after this many accesses.
    Ttl(usize),
    /// A write invalidates all entries of its table.
    Table,
    /// A write invalidates the entries of its row.
    Row,
}

/// The result of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: u64,
    pub(crate) loads: u64,
    /// Hits with a value that a write had replaced.
    pub(crate) stale: u64,
    /// The entries at the end.
    pub(crate) entries: u64,
}

/// A replay in progress: the true state of the rows, and the cache.
struct Replay<'a> {
    trace: &'a Trace,
    by: By,
    cache: Cache,
    policies: Vec<Option<ValuePolicy>>,
    /// How often each row was written.
    versions: Vec<u32>,
    /// The access at which each key's entry was computed.
    made: Vec<usize>,
    counts: Counts,
}

/// Replays the whole trace with room for `size` entries.
pub(crate) async fn replay(
    (trace, writes): (&Trace, &Writes),
    by: By,
    size: usize,
) -> Result<Counts, Failure> {
    let mut replay = Replay {
        trace,
        by,
        cache: Cache::new(Memory::new(size as u64 * weight(by).await?)),
        policies: vec![None; trace.keys()],
        versions: vec![0; trace.tables.len()],
        made: vec![0; trace.keys()],
        counts: Counts::default(),
    };
    let mut written = writes.iter().peekable();
    for (at, &key) in trace.accesses.iter().enumerate() {
        replay.access(at, key).await?;
        while let Some((_, row)) = written.next_if(|(after, _)| *after == at) {
            replay.write(row).await?;
        }
    }
    replay.counts.entries = replay.cache.store_status().memory.map_or(0, |kept| kept.entries);
    Ok(replay.counts)
}

impl Replay<'_> {
    async fn access(&mut self, at: usize, key: u32) -> Result<(), Failure> {
        let (number, row) = (key as usize, self.trace.rows[key as usize]);
        let by = self.by;
        if let By::Ttl(accesses) = by
            && at - self.made[number] >= accesses
        {
            // Expire the entry explicitly: the trace has no clock.
            self.cache.invalidate([format!("k:id={key:010}")]).await?;
        }
        let table = self.trace.tables[row as usize];
        let policy = match &mut self.policies[number] {
            Some(policy) => policy,
            none => none.insert(policy(by, key, row, table)?),
        };
        let (now, mut is_hit) = (self.versions[row as usize], true);
        let load = async || {
            is_hit = false;
            Ok::<_, ()>(now.to_be_bytes())
        };
        let found = self.cache.get_or_load(&name(key), policy, load).await;
        let found = found.map_err(|()| "no value")?;
        if is_hit {
            self.counts.hits += 1;
            self.counts.stale += u64::from(found != now.to_be_bytes());
        } else {
            self.counts.loads += 1;
            self.made[number] = at;
        }
        Ok(())
    }

    async fn write(&mut self, row: u32) -> Result<(), Failure> {
        self.versions[row as usize] += 1;
        let table = self.trace.tables[row as usize];
        match self.by {
            By::Ttl(_) => {}
            By::Table => self.cache.invalidate([table_tag(table)]).await?,
            By::Row => self.cache.invalidate([row_tag(table, row)]).await?,
        }
        Ok(())
    }
}

fn name(key: u32) -> Key {
    Key::new("trace").part(key.to_be_bytes()).finish()
}

fn policy(by: By, key: u32, row: u32, table: u32) -> Result<ValuePolicy, PolicyError> {
    let policy = ValuePolicy::ttl(Duration::from_secs(1 << 30)).untracked();
    let tag = match by {
        By::Ttl(_) => format!("k:id={key:010}"),
        By::Table => table_tag(table),
        By::Row => row_tag(table, row),
    };
    policy.tag(&tag).build()
}

fn table_tag(table: u32) -> String {
    format!("t{table:02}")
}

fn row_tag(table: u32, row: u32) -> String {
    format!("t{table:02}:id={row:010}")
}

/// The size of an entry as the cache counts it. All entries have the same size.
async fn weight(by: By) -> Result<u64, Failure> {
    let cache = Cache::new(Memory::new(1 << 30));
    let load = async || Ok::<_, ()>([0_u8; 4]);
    cache.get_or_load(&name(0), &policy(by, 0, 0, 0)?, load).await.map_err(|()| "no value")?;
    let kept = cache.store_status().memory.ok_or("there is no memory")?;
    Ok(kept.bytes / kept.entries.max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::optimal::optimal;
    use super::*;

    #[tokio::test]
    async fn row_and_table_tags_never_serve_stale_and_a_ttl_does() {
        let trace = Trace::zipf(0.9, 500, 20_000, 1);
        let writes = Writes::draw(&trace, 0.05, 2);
        let counts = async |by, size| replay((&trace, &writes), by, size).await.unwrap();
        for size in [50, 500] {
            let (row, table) = (counts(By::Row, size).await, counts(By::Table, size).await);
            assert_eq!((row.stale, table.stale), (0, 0));
            assert!(row.hits > table.hits && table.hits > 0);
            assert!(row.hits <= optimal(&trace, &writes, size));
            assert_eq!(row.hits + row.loads, 20_000);
        }
        assert!(counts(By::Ttl(1000), 500).await.stale > 100);
        // With room for all, the cache finds whatever can be found.
        assert_eq!(counts(By::Row, 5000).await.hits, optimal(&trace, &writes, 500));
    }
}
