//! Epochs that are known to be over.

use std::sync::PoisonError;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::entry::Epoch;
use crate::sync::Mutex;

/// How long a drain's finding that an epoch is over counts. It holds forever, unless this node is connected to an old
/// primary that still runs beside the new one; a drain detects that, so a session of such an epoch causes one this often.
const PROVEN: Duration = Duration::from_secs(1);

/// The same for a position that looks old by this node's clock.
const PROVEN_OF_OLD: Duration = Duration::from_secs(300);

/// The most epochs to remember. There are only as many as there were recent failovers, and clients can't forge one.
const MOST: usize = 16;

/// Epochs that a drain has shown to be over: the drain began after a session had presented a position in that epoch, and
/// found the primary in another one. Sessions of such an epoch then need no drain of their own; otherwise, each of their
/// requests would cause one after a failover.
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

    /// The same for a position that looks old by this node's clock.
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
    async fn an_ended_epoch_is_remembered_for_a_while_and_only_with_its_successor() {
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
    fn neither_the_current_epoch_nor_one_with_an_unknown_successor_has_ended() {
        let past = PastEpochs::default();
        past.note(OLD, OLD);
        past.note(OLD, Epoch::UNKNOWN);
        assert!(!past.contains(OLD, OLD) && !past.contains(OLD, Epoch::UNKNOWN));
    }

    #[test]
    fn only_the_most_recent_ended_epochs_are_remembered() {
        let past = PastEpochs::default();
        (10..100).for_each(|epoch| past.note(Epoch::new(epoch), NEW));
        assert_eq!(past.0.lock().unwrap().len(), MOST);
        assert!(past.contains(Epoch::new(99), NEW) && past.contains(Epoch::new(84), NEW));
    }
}
