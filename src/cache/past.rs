//! Epochs that are known to be over.

use std::time::Duration;

use crate::clock::{self, Instant};
use crate::entry::Epoch;
use crate::sync::{Mutex, MutexExt};

/// How long the first finding that an epoch is over counts. It holds forever, unless the primary's name still led to an old
/// primary that runs beside the new one. So a session of such an epoch makes the node look again; each finding counts for
/// twice as long as the one before, up to `LONGEST`.
const PROVEN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// The same for a position that looks old by this node's clock.
const PROVEN_OF_OLD: Duration = Duration::from_secs(300);

/// The most epochs to remember: those of recent failovers, and one for each pair of tokens of different epochs that a client
/// sends. Clients can't forge an epoch.
const MOST: usize = 64;

/// Epochs that are known to be over: a connection that was opened after a session had presented a position in that epoch led
/// to a primary in another one. Otherwise, each request of such a session would open a connection after a failover.
#[derive(Debug, Default)]
pub(crate) struct PastEpochs(Mutex<Vec<PastEpoch>>);

#[derive(Clone, Copy, Debug)]
struct PastEpoch {
    epoch: Epoch,
    /// The epoch that the drain found.
    current: Epoch,
    found: Instant,
    /// How long it counts.
    counts_for: Duration,
}

impl PastEpochs {
    /// A connection that was opened after a position in `epoch` had been seen has led to a primary in `current`.
    pub(crate) fn note(&self, epoch: Epoch, current: Epoch) {
        if epoch == current || !current.is_known() {
            return;
        }
        let mut past = self.0.lock_unpoisoned();
        let known = past.iter().find(|known| known.epoch == epoch && known.current == current);
        let counts_for = match known {
            // Found by several at a time.
            Some(known) if known.found.elapsed() < known.counts_for => return,
            Some(known) => (known.counts_for * 2).min(LONGEST),
            None => PROVEN,
        };
        past.retain(|known| known.epoch != epoch && known.found.elapsed() < PROVEN_OF_OLD);
        if past.len() == MOST {
            past.remove(0);
        }
        past.push(PastEpoch { epoch, current, found: clock::now(), counts_for });
    }

    /// Whether `epoch` was recently found to be over, by a node that is still in `current`.
    pub(crate) fn contains(&self, epoch: Epoch, current: Epoch) -> bool {
        self.find(epoch, current).is_some_and(|past| past.found.elapsed() < past.counts_for)
    }

    /// The same for a position that looks old by this node's clock.
    pub(super) fn contains_old(&self, epoch: Epoch, current: Epoch) -> bool {
        self.find(epoch, current).is_some_and(|past| past.found.elapsed() < PROVEN_OF_OLD)
    }

    fn find(&self, epoch: Epoch, current: Epoch) -> Option<PastEpoch> {
        let past = self.0.lock_unpoisoned();
        past.iter().find(|known| known.epoch == epoch && known.current == current).copied()
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

    #[tokio::test(start_paused = true)]
    async fn an_ended_epoch_that_is_found_again_counts_for_twice_as_long() {
        let past = PastEpochs::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            past.note(OLD, NEW);
            advance(Duration::from_millis(seconds * 1000 - 1)).await;
            past.note(OLD, NEW);
            assert!(past.contains(OLD, NEW), "{seconds} s");
            advance(Duration::from_millis(1)).await;
            assert!(!past.contains(OLD, NEW), "{seconds} s");
        }
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
