//! The rules of the protocol, as functions of plain numbers.
//!
//! Everything that decides whether an answer is fresh goes through these, in the cache as in the model
//! that explores them (`crates/tidegate-lab/tests/model`), so neither can drift from the other. The argument for each is in
//! `docs/design.md`, section 2.

#![cfg_attr(
    not(feature = "__internals"),
    allow(unreachable_pub, reason = "only the model of the protocol reaches it")
)]

use crate::broken::is_broken;
use crate::entry::{Epoch, Position};

/// What the fences say of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every change known to this node to anything the entry depends on is in the entry.
    Valid,
    /// Something that it depends on may have changed since.
    Fenced,
    /// Its positions are of another history: another cluster, or one before a failover or a crash.
    OldEpoch,
}

/// **An entry is valid iff its epoch is the current one and its `as_of` is at or past the fence of
/// each of its tags.** `fence` is the largest of these.
pub fn verdict(
    (entry_epoch, as_of): (Epoch, Position),
    (epoch, fence): (Epoch, Position),
) -> Verdict {
    if !epoch.is_known() || (entry_epoch != epoch && !is_broken("epoch")) {
        Verdict::OldEpoch
    } else if as_of < fence && !is_broken("fence") {
        Verdict::Fenced
    } else {
        Verdict::Valid
    }
}

/// What a read of the primary proves that begins after its log was seen to reach `seen`.
///
/// Everything that ended before. A commit that ends there exactly may be in the log and not be visible
/// yet; one that the read missed becomes visible later, and its fence is taken later still.
#[must_use]
pub fn proven_by_primary(seen: Position) -> Position {
    if is_broken("as-of") { seen } else { seen.before() }
}

/// What a read of a replica proves that begins after the same server had replayed up to `replayed`, and that was
/// planned after the primary was seen to reach `seen`.
///
/// On a standby a transaction is visible as soon as its commit is replayed. But a read past `seen` may be one by a schema
/// that the node has not heard of, and so depend on other things than it was planned for.
#[must_use]
pub fn proven_by_replica(replayed: Position, seen: Position) -> Position {
    replayed.min(proven_by_primary(seen))
}

/// Whether a request may be answered by what was computed for others while it waited, though something that this depends
/// on has changed since: `since` is the position that the node had seen on the primary when the request came. Every fence
/// that the node knew then is at or before it, so what is proven from there on has all that was known, and a response
/// must have no more.
#[must_use]
pub fn has_all_since((epoch, as_of): (Epoch, Position), since: (Epoch, Position)) -> bool {
    epoch.is_known() && epoch == since.0 && as_of >= since.1
}

/// What two reads prove together: the lesser. `None` if they are of two histories.
pub fn proven_by_both(
    one: (Epoch, Position),
    other: (Epoch, Position),
) -> Option<(Epoch, Position)> {
    (one.0 == other.0).then(|| (one.0, one.1.min(other.1)))
}

/// What an outer answer proves that uses an inner one: `outer` is what it proved so far, if it read anything. `None`
/// if nothing: they are of two histories, or the inner one was served stale, and so lacks changes that are known.
pub fn proven_with_inner(
    outer: Option<(Epoch, Position)>,
    inner: (Epoch, Position),
    is_stale: bool,
) -> Option<(Epoch, Position)> {
    if is_stale {
        return None;
    }
    outer.map_or(Some(inner), |outer| proven_by_both(outer, inner))
}

/// What a read must find, of a request whose session has written up to `session`, and that has itself written: what
/// it wrote is before `written`, which was seen on the primary after the write. A session's position of another
/// epoch is then of one that is over.
pub fn must_see(
    session: Option<(Epoch, Position)>,
    written: Option<(Epoch, Position)>,
) -> Option<(Epoch, Position)> {
    match (session, written) {
        (Some(session), Some(written)) if session.0 == written.0 => {
            Some((written.0, written.1.max(session.1)))
        }
        (session, None) => session,
        (_, written) => written,
    }
}

/// Whether what a server proves is enough for a read that needs everything up to `needs`, in `epoch`; in
/// any, if that is unknown.
pub fn is_far_enough(
    (epoch, proven): (Epoch, Position),
    (wanted, needs): (Epoch, Position),
) -> bool {
    (!wanted.is_known() || epoch == wanted) && (proven >= needs || is_broken("replica"))
}

/// Whether a node knows of all that a session has written: `followed` is a position that was seen on the
/// primary before its last look at the log began, `session` one that was seen after the write.
///
/// It must be past the session's: then the look began later than the session saw its position, and so
/// than its write was visible. An equal one may be of before that, from an idle log with the commit's
/// record at its end and the commit not visible yet. The position that a look ends with says nothing:
/// it is past what the look saw, however far.
///
/// A position of another epoch is one that a failover or a crash has made meaningless, or that the node has yet to
/// learn of.
pub fn has_followed(followed: Option<(Epoch, Position)>, session: (Epoch, Position)) -> bool {
    followed.is_some_and(|(epoch, followed)| epoch == session.0 && followed > session.1)
        || is_broken("session")
}

/// What another node's news of the log are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relayed {
    /// Something before them was missed, or they are of another history.
    Gap,
    /// They tell all that happened since what is known.
    News,
    /// They tell nothing that is not known.
    Known,
}

/// What news are worth that tell, in an epoch, all that became visible between two snapshots, to a node
/// in `epochs.0` that knows all that the first shows, or the second.
pub fn relayed(epochs: (Epoch, Epoch), (before, after): (bool, bool)) -> Relayed {
    if epochs.0 != epochs.1 || !(before || after) {
        Relayed::Gap
    } else if after {
        Relayed::Known
    } else {
        Relayed::News
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

    #[test]
    fn several_reads_prove_the_least_and_of_two_histories_nothing() {
        let at = |epoch, position| (Epoch::new(epoch), Position::new(position));
        assert_eq!(proven_by_both(at(1, 7), at(1, 5)), Some(at(1, 5)));
        assert_eq!(proven_by_both(at(1, 7), at(2, 5)), None);
    }

    #[test]
    fn an_outer_answer_proves_no_more_than_the_inner_ones_that_it_uses() {
        let at = |epoch, position| (Epoch::new(epoch), Position::new(position));
        assert_eq!(proven_with_inner(None, at(1, 5), false), Some(at(1, 5)));
        assert_eq!(proven_with_inner(Some(at(1, 7)), at(1, 5), false), Some(at(1, 5)));
        assert_eq!(proven_with_inner(Some(at(1, 7)), at(2, 9), false), None);
        assert_eq!(proven_with_inner(Some(at(1, 7)), at(1, 9), true), None);
    }

    #[test]
    fn a_request_must_see_what_its_session_and_what_it_itself_has_written() {
        let at = |epoch, position| Some((Epoch::new(epoch), Position::new(position)));
        assert_eq!(must_see(at(1, 7), None), at(1, 7));
        assert_eq!(must_see(None, at(1, 5)), at(1, 5));
        assert_eq!(must_see(at(1, 7), at(1, 5)), at(1, 7));
        assert_eq!(must_see(at(1, 7), at(2, 5)), at(2, 5));
    }

    #[test]
    fn a_session_is_followed_only_past_its_position() {
        let at = |epoch, position| (Epoch::new(epoch), Position::new(position));
        assert!(!has_followed(Some(at(1, 7)), at(1, 7)));
        assert!(has_followed(Some(at(1, 8)), at(1, 7)));
        assert!(!has_followed(Some(at(2, 8)), at(1, 7)));
        assert!(!has_followed(None, at(1, 0)));
    }

    #[test]
    fn a_server_must_be_of_the_epoch_that_is_wanted_if_one_is() {
        let far = (Epoch::new(2), Position::new(9));
        assert!(is_far_enough(far, (Epoch::new(2), Position::new(9))));
        assert!(!is_far_enough(far, (Epoch::new(2), Position::new(10))));
        assert!(!is_far_enough(far, (NOW, Position::new(1))));
        assert!(is_far_enough(far, (Epoch::UNKNOWN, Position::new(1))));
    }
}
