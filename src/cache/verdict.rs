//! Whether an entry may be served: the whole rule, as a function of plain numbers.

use crate::entry::{Epoch, Position};

/// What the fences say of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every change known to this node to anything the entry depends on is in the entry.
    Valid,
    /// Something that it depends on may have changed since.
    Fenced,
    /// Its positions are of another history: another cluster, or one before a failover.
    OldEpoch,
}

/// **An entry is valid iff its epoch is the current one and its `as_of` is at or past the fence of
/// each of its tags.** `fence` is the largest of these.
pub const fn verdict(
    (entry_epoch, as_of): (Epoch, Position),
    (epoch, fence): (Epoch, Position),
) -> Verdict {
    if !epoch.is_known() || entry_epoch.get() != epoch.get() {
        Verdict::OldEpoch
    } else if as_of.get() < fence.get() {
        Verdict::Fenced
    } else {
        Verdict::Valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Epoch = Epoch::new(1);

    fn judge(as_of: u64, fence: u64) -> Verdict {
        verdict((NOW, Position::new(as_of)), (NOW, Position::new(fence)))
    }

    #[test]
    fn as_of_must_reach_the_fence() {
        assert_eq!(judge(9, 10), Verdict::Fenced);
        assert_eq!(judge(10, 10), Verdict::Valid);
        assert_eq!(judge(11, 10), Verdict::Valid);
    }

    #[test]
    fn positions_of_another_epoch_prove_nothing() {
        let far = (Epoch::new(2), Position::MAX);
        assert_eq!(verdict(far, (NOW, Position::ZERO)), Verdict::OldEpoch);
    }

    #[test]
    fn nothing_is_valid_while_the_epoch_is_unknown() {
        let entry = (Epoch::UNKNOWN, Position::MAX);
        assert_eq!(verdict(entry, (Epoch::UNKNOWN, Position::ZERO)), Verdict::OldEpoch);
    }
}
