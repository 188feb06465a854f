//! The accesses to replay: recorded, or drawn by Zipf's law.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use lzma_rust2::XzReader;

use crate::Failure;

/// The first bytes of an xz file (The .xz File Format, 2.1.1.1).
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// A sequence of accesses. Keys, rows and tables are numbered from 0, in the order of their first access.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The key of each access.
    pub(crate) accesses: Vec<u32>,
    /// The row of each key.
    pub(crate) rows: Vec<u32>,
    /// The table of each row.
    pub(crate) tables: Vec<u32>,
}

impl Trace {
    /// Reads at most `most` accesses: big-endian 32-bit numbers, compressed by xz or not. The upper 22 bits of a number are
    /// the row, and the upper 5 bits are its table.
    pub(crate) fn read(path: &Path, most: usize) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut file = BufReader::new(file);
        let mut start = Vec::new();
        file.by_ref().take(XZ.len() as u64).read_to_end(&mut start)?;
        let is_packed = start == XZ;
        let whole = start.as_slice().chain(file);
        let limit = (most as u64).saturating_mul(4);
        let mut bytes = Vec::new();
        let read = match is_packed {
            true => XzReader::new(whole, true).take(limit).read_to_end(&mut bytes),
            false => whole.take(limit).read_to_end(&mut bytes),
        };
        read.map_err(|error| format!("{} is damaged: {error}", path.display()))?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        if numbers.is_empty() || !rest.is_empty() {
            let what = "is not a trace: it must consist of numbers of four bytes each, compressed by xz or not";
            return Err(format!("{} {what}", path.display()).into());
        }
        Ok(Self::from_rows(
            numbers.iter().map(|bytes| u32::from_be_bytes(*bytes)),
            |key| key >> 10,
            |row| row >> 17,
        ))
    }

    /// Accesses in which the share of the key of rank r is proportional to 1/r^theta. Each key has its own row.
    pub(crate) fn zipf(theta: f64, keys: u32, count: usize, seed: u64) -> Self {
        let mut sum = 0.0;
        let up_to: Vec<f64> = (1..=keys)
            .map(|rank| {
                sum += f64::from(rank).powf(-theta);
                sum
            })
            .collect();
        let mut random = fastrand::Rng::with_seed(seed);
        // Shuffle, so that a key's number says nothing about its popularity.
        let mut numbers: Vec<u32> = (0..keys).collect();
        random.shuffle(&mut numbers);
        let draw = |_| {
            let drawn = random.f64() * sum;
            numbers[up_to.partition_point(|up_to| *up_to < drawn).min(numbers.len() - 1)]
        };
        Self::from_rows((0..count).map(draw), |key| key, |row| row % 16)
    }

    fn from_rows(
        keys: impl Iterator<Item = u32>,
        row_of: impl Fn(u32) -> u32,
        table_of: impl Fn(u32) -> u32,
    ) -> Self {
        let (mut known, mut known_rows, mut known_tables) =
            <(Numbers, Numbers, Numbers)>::default();
        let mut trace = Self { accesses: Vec::new(), rows: Vec::new(), tables: Vec::new() };
        for key in keys {
            let (number, is_new) = known.of(key);
            trace.accesses.push(number);
            if is_new {
                let (row, is_new) = known_rows.of(row_of(key));
                trace.rows.push(row);
                if is_new {
                    trace.tables.push(known_tables.of(table_of(row_of(key))).0);
                }
            }
        }
        trace
    }

    pub(crate) fn keys(&self) -> usize {
        self.rows.len()
    }
}

/// Numbers in the order of their first use.
#[derive(Default)]
struct Numbers(HashMap<u32, u32>);

impl Numbers {
    /// The number, and whether it is new.
    fn of(&mut self, name: u32) -> (u32, bool) {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let number = *self.0.entry(name).or_insert(next);
        (number, number == next)
    }
}

/// Writes that follow accesses.
#[derive(Debug)]
pub(crate) struct Writes(Vec<(usize, u32)>);

impl Writes {
    /// After each access, draws a write with probability `share`, to the row of a random access of the trace. So rows that
    /// are read often are written often.
    pub(crate) fn draw(trace: &Trace, share: f64, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut writes = Vec::new();
        for after in 0..trace.accesses.len() {
            if random.f64() < share {
                let key = trace.accesses[random.usize(..trace.accesses.len())];
                writes.push((after, trace.rows[key as usize]));
            }
        }
        Self(writes)
    }

    /// The writes, each with the index of the access that it follows.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, u32)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn said(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        std::fs::write(&path, bytes).unwrap();
        match Trace::read(&path, 100) {
            Ok(trace) => format!("{:?} {:?} {:?}", trace.accesses, trace.rows, trace.tables),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_invalid_trace_is_refused_and_a_valid_one_is_decoded() {
        assert!(said(b"").contains("is not a trace"));
        assert!(said(b"12345").contains("is not a trace"));
        assert!(
            said(&[&XZ[..], b"garbage that is no xz stream at all"].concat())
                .contains("is damaged")
        );
        let key =
            |table: u32, row: u32, index: u32| (table << 27 | row << 10 | index).to_be_bytes();
        let keys = [key(1, 2, 3), key(1, 2, 4), key(2, 2, 3), key(1, 2, 3)].concat();
        assert_eq!(said(&keys), "[0, 1, 2, 0] [0, 0, 1] [0, 1]");
    }

    #[test]
    fn the_bundled_trace_has_the_documented_accesses_and_keys() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../benches/data/cache2k-orm-busy.trace.xz");
        let trace = Trace::read(&path, usize::MAX).unwrap();
        assert_eq!((trace.accesses.len(), trace.keys()), (5_000_000, 76_349));
    }

    #[test]
    fn under_zipfs_law_the_first_key_is_read_twice_as_often_as_the_second() {
        let trace = Trace::zipf(1.0, 100, 100_000, 1);
        let mut counts = vec![0_u32; trace.keys()];
        trace.accesses.iter().for_each(|key| counts[*key as usize] += 1);
        counts.sort_unstable();
        let (first, second) = (f64::from(counts[99]), f64::from(counts[98]));
        assert!((first / second - 2.0).abs() < 0.1, "{first} {second}");
    }
}
