//! The wait-for graph: which keys are computed by fills that wait for other keys. A cycle is found before it closes.
//!
//! Only a lookup within a fill adds an edge. All caches share the graph, since a cycle may lead through several.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use super::fence::Fences;
use crate::sync::MutexExt;

/// A key of one cache: the address of the cache's fences, and the key's hash.
pub(crate) type WaitKey = (usize, [u8; 32]);

/// The node in the graph of the key with this hash in the cache with these fences.
pub(super) fn wait_key(fences: &Arc<Fences>, key: &[u8; 32]) -> WaitKey {
    (Arc::as_ptr(fences).addr(), *key)
}

/// Edges from each key that is being computed to the keys that its fills wait for, one per wait.
type WaitGraph = HashMap<WaitKey, Vec<WaitKey>>;

static WAITS: LazyLock<Mutex<WaitGraph>> = LazyLock::new(Mutex::default);

/// A fill waits for a key, until this is dropped.
#[derive(Debug)]
pub(crate) struct WaitGuard {
    computing: Vec<WaitKey>,
    key: WaitKey,
}

impl WaitGuard {
    /// Adds edges from the keys that are being computed to `key`; `None` if that would close a cycle.
    pub(crate) fn new(computing: Vec<WaitKey>, key: WaitKey) -> Option<Self> {
        if !computing.is_empty() {
            let mut graph = graph();
            if leads_back(&graph, key, &computing) {
                return None;
            }
            for computed in &computing {
                graph.entry(*computed).or_default().push(key);
            }
        }
        Some(Self { computing, key })
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        if self.computing.is_empty() {
            return;
        }
        let mut graph = graph();
        for computed in &self.computing {
            let Some(awaited) = graph.get_mut(computed) else { continue };
            if let Some(at) = awaited.iter().position(|key| *key == self.key) {
                awaited.swap_remove(at);
            }
            if awaited.is_empty() {
                graph.remove(computed);
            }
        }
    }
}

/// Whether the computation of `key` waits for one of `computing`, directly or through other keys.
fn leads_back(graph: &WaitGraph, key: WaitKey, computing: &[WaitKey]) -> bool {
    let (mut seen, mut next) = (HashSet::new(), vec![key]);
    while let Some(key) = next.pop() {
        if computing.contains(&key) {
            return true;
        }
        if seen.insert(key) {
            next.extend(graph.get(&key).into_iter().flatten());
        }
    }
    false
}

fn graph() -> MutexGuard<'static, WaitGraph> {
    WAITS.lock_unpoisoned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_would_close_a_cycle_is_refused_until_another_wait_ends() {
        // Of no cache: addresses are even.
        let wait_key = |n: u8| (1, [n; 32]);
        let wait =
            |computing: u8, key: u8| WaitGuard::new(vec![wait_key(computing)], wait_key(key));
        let (one, two) = (wait(1, 2).unwrap(), wait(2, 3).unwrap());
        assert!(wait(3, 1).is_none());
        let again = wait(2, 3).unwrap();
        drop(two);
        assert!(wait(3, 1).is_none(), "another still waits");
        drop(again);
        drop(wait(3, 1).unwrap());
        drop(one);
        assert!(graph().keys().all(|(cache, _)| *cache != 1));
        assert!(
            WaitGuard::new(Vec::new(), wait_key(1)).is_some(),
            "a request that computes nothing yet"
        );
    }
}
