//! Histories of the database that are over.

use std::sync::PoisonError;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::entry::Epoch;
use crate::sync::Mutex;

/// How long a drain proves that an epoch is over. It is over for good, unless this node is connected to an old primary
/// beside the present one; then a drain finds out, and each session still causes one this often.
const PROVEN: Duration = Duration::from_secs(1);

/// How long it proves that for a position that seems old, by the clocks of two nodes.
const PROVEN_OF_OLD: Duration = Duration::from_secs(300);

/// Epochs that are remembered at a time. Only as many are over as there were failovers of late, and nobody can make one
/// up.
const MOST: usize = 16;

/// Epochs that a drain has shown to be over: it began after a session's position in that epoch had been seen, and found
/// the primary in another one. Sessions of such an epoch need no drain of their own, which after a failover would be one
/// for each of their requests.
#[derive(Debug, Default)]
pub(super) struct PastEpochs(Mutex<Vec<PastEpoch>>);

#[derive(Clone, Copy, Debug)]
struct PastEpoch {
    epoch: Epoch,
    /// The epoch that the drain found.
    current: Epoch,
    found: Instant,
}

impl PastEpochs {
    /// A drain that began after a position in `epoch` had been seen has found the primary in `current`.
    pub(super) fn note(&self, epoch: Epoch, current: Epoch) {
        if epoch == current || !current.is_known() {
            return;
        }
        let mut past = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        past.retain(|known| known.epoch != epoch && known.found.elapsed() < PROVEN_OF_OLD);
        if past.len() == MOST {
            past.remove(0);
        }
        past.push(PastEpoch { epoch, current, found: clock::now() });
    }

    /// Whether `epoch` was found to be over within the last second, by a node that still follows `current`.
    pub(super) fn contains(&self, epoch: Epoch, current: Epoch) -> bool {
        self.found(epoch, current).is_some_and(|found| found.elapsed() < PROVEN)
    }

    /// The same, for a position in it that seems old.
    pub(super) fn contains_old(&self, epoch: Epoch, current: Epoch) -> bool {
        self.found(epoch, current).is_some_and(|found| found.elapsed() < PROVEN_OF_OLD)
    }

    fn found(&self, epoch: Epoch, current: Epoch) -> Option<Instant> {
        let past = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = past.iter().find(|known| known.epoch == epoch && known.current == current);
        known.map(|known| known.found)
    }
}

#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use tokio::time::advance;

    use super::*;

    const OLD: Epoch = Epoch::new(1);
    const NEW: Epoch = Epoch::new(2);

    #[tokio::test(start_paused = true)]
    async fn an_epoch_is_over_for_a_while_and_for_whoever_follows_the_one_that_was_found() {
        let past = PastEpochs::default();
        past.note(OLD, NEW);
        assert!(past.contains(OLD, NEW));
        assert!(!past.contains(OLD, Epoch::new(3)) && !past.contains(NEW, NEW));
        advance(PROVEN).await;
        assert!(!past.contains(OLD, NEW) && past.contains_old(OLD, NEW));
        advance(PROVEN_OF_OLD).await;
        assert!(!past.contains_old(OLD, NEW));
    }

    #[test]
    fn neither_the_present_epoch_nor_one_that_an_unknown_one_follows_is_over() {
        let past = PastEpochs::default();
        past.note(OLD, OLD);
        past.note(OLD, Epoch::UNKNOWN);
        assert!(!past.contains(OLD, OLD) && !past.contains(OLD, Epoch::UNKNOWN));
    }

    #[test]
    fn few_are_remembered() {
        let past = PastEpochs::default();
        (10..100).for_each(|epoch| past.note(Epoch::new(epoch), NEW));
        assert_eq!(past.0.lock().unwrap().len(), MOST);
        assert!(past.contains(Epoch::new(99), NEW) && past.contains(Epoch::new(84), NEW));
    }
}
