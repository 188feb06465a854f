//! How readers and the one writer of fences interleave, explored by loom under the memory model of
//! C11: `cargo nextest run -p tidegate-loom`.

use bytes::Bytes;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::entry::{Key, Lifetime};

const OLD: Epoch = Epoch::new(1);
const NEW: Epoch = Epoch::new(2);

fn at(position: u64) -> Position {
    Position::new(position)
}

fn tag() -> Tag {
    Tag::table("users")
}

fn entry(epoch: Epoch, as_of: u64) -> Entry {
    let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
    let basis = LogPosition::new(epoch, at(as_of));
    Entry::new(&Key::new("t").finish(), basis, [tag()].into(), life, Bytes::new(), Bytes::new())
}

/// Fences in the old epoch, one tag's raised to 100.
fn fences() -> Arc<Fences> {
    let fences = Fences::new(0);
    fences.begin(OLD, at(1), [(tag(), at(100))]);
    Arc::new(fences)
}

/// The new epoch's positions are smaller, so a reader that mixed both epochs would accept any entry.
#[test]
fn no_entry_is_accepted_by_mixing_two_epochs() {
    loom::model(|| {
        let fences = fences();
        let writer = thread::spawn({
            let fences = fences.clone();
            move || fences.begin(NEW, at(10), [(tag(), at(20))])
        });
        for (epoch, as_of) in [(OLD, 50), (NEW, 15)] {
            assert_ne!(fences.judge(&entry(epoch, as_of)), Verdict::Valid);
        }
        writer.join().unwrap();
        assert_eq!(fences.judge(&entry(NEW, 20)), Verdict::Valid);
    });
}

/// A reader that sees a drain as confirmed also sees the fences that the drain raised.
#[test]
fn a_reader_that_sees_a_drain_confirmed_sees_its_fences() {
    loom::model(|| {
        let fences = fences();
        let writer = thread::spawn({
            let fences = fences.clone();
            move || {
                fences.raise(tag(), at(200));
                fences.confirm(at(201), crate::clock::moment());
                fences.follow(at(150));
            }
        });
        let followed = fences.followed().is_some_and(|followed| followed.position >= at(150));
        if followed {
            assert_ne!(fences.judge(&entry(OLD, 120)), Verdict::Valid);
        }
        if fences.age().is_some() {
            assert_ne!(fences.judge(&entry(OLD, 120)), Verdict::Valid);
        }
        writer.join().unwrap();
    });
}

/// Two threads raise the same fence; in either order, the greater position remains. Without a bound on the preemptions, the
/// schedules take a minute.
fn raise_concurrently(preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(|| {
        let fences = fences();
        let writers = [150, 200].map(|to| {
            let fences = fences.clone();
            thread::spawn(move || fences.raise(tag(), at(to)))
        });
        let seen = fences.position(tag());
        assert!(fences.position(tag()) >= seen);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(fences.position(tag()), at(200));
    });
}

#[test]
fn concurrent_raises_leave_the_greater_fence() {
    raise_concurrently(Some(3));
}

#[test]
#[ignore = "a minute: scripts/deep"]
fn concurrent_raises_leave_the_greater_fence_in_every_schedule() {
    raise_concurrently(None);
}

/// Two concurrent changes without a log: a fill that began before the second one does not include it.
#[test]
fn concurrent_advances_take_different_positions() {
    loom::model(|| {
        let fences = fences();
        let other = thread::spawn({
            let fences = fences.clone();
            move || fences.advance()
        });
        let mine = fences.advance();
        assert_ne!(mine, other.join().unwrap());
    });
}
