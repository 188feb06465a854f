//! The hits of the optimal cache of a given size.

use std::collections::{BinaryHeap, HashMap};

use super::trace::{Trace, Writes};

/// Hits of a cache that knows the future: it evicts the entry whose next use is furthest away (Belady, "A study of
/// replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966), and does not store a value
/// that a write invalidates before its next use.
pub(crate) fn optimal(trace: &Trace, writes: &Writes, size: usize) -> u64 {
    let next = next_uses(trace, writes);
    // The next use of each stored key, and a heap with the furthest next use on top.
    let mut entries: HashMap<u32, usize> = HashMap::new();
    let mut last: BinaryHeap<(usize, u32)> = BinaryHeap::new();
    let mut hits = 0;
    for (at, &key) in trace.accesses.iter().enumerate() {
        hits += u64::from(entries.remove(&key) == Some(at));
        let Some(next) = next[at] else { continue };
        entries.insert(key, next);
        last.push((next, key));
        while entries.len() > size {
            let Some((next, key)) = last.pop() else { break };
            if entries.get(&key) == Some(&next) {
                entries.remove(&key);
            }
        }
    }
    hits
}

/// For each access, the next one to the same key; `None` if a write to its row comes first.
fn next_uses(trace: &Trace, writes: &Writes) -> Vec<Option<usize>> {
    let mut next = vec![None; trace.accesses.len()];
    let mut used: Vec<Option<usize>> = vec![None; trace.keys()];
    let mut written = vec![usize::MAX; trace.tables.len()];
    let mut later = writes.iter().rev().peekable();
    for (at, &key) in trace.accesses.iter().enumerate().rev() {
        while let Some((after, row)) = later.next_if(|(after, _)| *after == at) {
            written[row as usize] = after;
        }
        let (key, row) = (key as usize, trace.rows[key as usize] as usize);
        next[at] = used[key].filter(|used| *used <= written[row]);
        used[key] = Some(at);
    }
    next
}
