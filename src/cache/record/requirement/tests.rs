//! What reads must see after writes.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::observations::OVERTAKE;
use super::reads::GRACE;
use super::*;
use crate::clock;
use crate::entry::Position;

const A: DatabaseId = DatabaseId { system_identifier: 7, oid: 5 };
const B: DatabaseId = DatabaseId { system_identifier: 7, oid: 6 };
const PRIMARY: (Needs, Needs) = (Needs::Primary, Needs::Primary);

fn at(epoch: u64, position: u64) -> LogPosition {
    LogPosition::new(Epoch::new(epoch), Position::new(position))
}

async fn observe(requirement: &Requirement, to: LogPosition) {
    requirement.observe(A, None, ready(Ok::<_, Infallible>(to))).await.unwrap();
}

#[tokio::test]
async fn reads_after_a_write_need_a_position_observed_after_it_ended() {
    let requirement = Requirement::new(A, Some(at(1, 5)), false);
    assert_eq!(requirement.for_reads(A), Needs::Position(Some(at(1, 5))));
    let write = requirement.begin();
    assert_eq!((requirement.for_reads(A), requirement.for_lookups(A)), PRIMARY);
    observe(&requirement, at(1, 6)).await;
    write.end();
    assert_eq!(requirement.for_reads(A), Needs::Primary, "it was observed too early");
    observe(&requirement, at(1, 7)).await;
    assert_eq!(requirement.for_reads(A), Needs::Position(Some(at(1, 7))));
}

#[tokio::test]
async fn a_write_dropped_without_an_end_keeps_reads_on_the_primary() {
    let requirement = Requirement::new(A, None, false);
    drop(requirement.begin());
    observe(&requirement, at(1, 6)).await;
    assert_eq!((requirement.for_reads(A), requirement.for_lookups(A)), PRIMARY);
}

#[tokio::test]
async fn a_write_that_ends_during_an_observation_is_not_covered_by_it() {
    let requirement = Requirement::new(A, None, false);
    requirement.begin().end();
    let meanwhile = async {
        requirement.begin().end();
        Ok::<_, Infallible>(at(1, 6))
    };
    requirement.observe(A, None, meanwhile).await.unwrap();
    assert_eq!(requirement.for_reads(A), Needs::Primary);
}

#[tokio::test(start_paused = true)]
async fn a_connection_used_outside_any_scope_counts_as_a_write_until_it_is_returned() {
    let requirement = Requirement::for_process();
    requirement.lend();
    requirement.take_back(|| true);
    assert_eq!(requirement.for_reads(A), Needs::Primary, "it has hardly begun");
    tokio::time::advance(GRACE * 2).await;
    requirement.take_back(|| false);
    assert!(requirement.try_observe(A).is_none(), "it is in use");
    requirement.take_back(|| true);
    assert!(requirement.try_observe(A).is_some());
    observe(&requirement, at(1, 7)).await;
    assert_eq!(requirement.for_reads(A), Needs::Position(Some(at(1, 7))));
}

#[tokio::test]
async fn writes_outside_any_scope_need_a_new_position_after_a_failover() {
    let requirement = Requirement::for_process();
    requirement.begin().end();
    observe(&requirement, at(1, 7)).await;
    requirement.begin_epoch(A, Epoch::UNKNOWN);
    requirement.begin_epoch(A, Epoch::new(1));
    assert_eq!(requirement.for_reads(A), Needs::Position(Some(at(1, 7))));
    requirement.begin_epoch(A, Epoch::new(2));
    assert_eq!((requirement.for_reads(A), requirement.for_lookups(A)), PRIMARY);
    observe(&requirement, at(2, 3)).await;
    requirement.begin_epoch(A, Epoch::new(2));
    assert_eq!(requirement.for_reads(A), Needs::Position(Some(at(2, 3))));
}

#[test]
fn an_unsafe_method_sends_reads_to_the_primary_and_does_not_restrict_lookups() {
    let requirement = Requirement::new(A, None, true);
    assert_eq!(requirement.for_reads(A), Needs::Primary);
    assert_eq!(requirement.for_lookups(A), Needs::Position(None));
}

#[test]
fn sessions_of_two_epochs_need_a_newly_observed_position() {
    let requirement = Requirement::new(A, Some(at(1, 5)), false);
    requirement.join(A, at(1, 7));
    assert_eq!(requirement.for_lookups(A), Needs::Position(Some(at(1, 7))));
    requirement.join(A, at(2, 3));
    assert_eq!((requirement.for_reads(A), requirement.for_lookups(A)), PRIMARY);
}

#[tokio::test]
async fn a_position_of_one_database_covers_no_write_to_another() {
    let requirement = Requirement::new(A, Some(at(1, 5)), false);
    requirement.begin().end();
    observe(&requirement, at(1, 7)).await;
    assert_eq!(requirement.for_reads(A), Needs::Position(Some(at(1, 7))));
    assert_eq!((requirement.for_reads(B), requirement.for_lookups(B)), PRIMARY);
    requirement.observe(B, None, ready(Ok::<_, Infallible>(at(2, 3)))).await.unwrap();
    assert_eq!(requirement.for_lookups(B), Needs::Position(Some(at(2, 3))));
    assert_eq!(requirement.for_lookups(A), Needs::Position(Some(at(1, 7))));
}

/// A scope that has written: all of it has ended, or some may be committed at any time.
fn written(is_open: bool) -> Requirement {
    let requirement = Requirement::new(A, None, false);
    requirement.begin().end();
    if is_open {
        requirement.lend();
    }
    requirement
}

/// A primary that counts how often its position is observed, and returns a larger one each time.
#[derive(Default)]
struct Primary {
    queries: Cell<u64>,
    is_down: Cell<bool>,
}

impl Primary {
    async fn position(&self) -> Result<LogPosition, &'static str> {
        self.queries.set(self.queries.get() + 1);
        let position = self.queries.get();
        yield_now().await;
        if self.is_down.get() { Err("it is down") } else { Ok(at(1, position)) }
    }

    /// The position that a lookup must find, or `None` if none could be observed.
    async fn observed(&self, of: &Requirement, arrival: Option<Arrival>) -> Option<u64> {
        let observed = of.observe(A, arrival, self.position()).await.ok()?;
        observed.map(|at| at.position.get())
    }
}

#[tokio::test]
async fn concurrent_lookups_share_one_observed_position() {
    for is_open in [false, true] {
        let (requirement, primary) = (written(is_open), Primary::default());
        let arrival = requirement.arrive(A);
        let one = || primary.observed(&requirement, Some(arrival));
        let all = join_all((0..100).map(|_| one())).await;
        assert!(all.iter().all(|observed| *observed == Some(1)), "{all:?}");
        // Later ones of the same call as well.
        assert_eq!((one().await, primary.queries.get()), (Some(1), 1));
    }
}

/// The transaction may commit after the primary has returned its position to the first lookup and before the second begins.
#[tokio::test]
async fn an_observation_begun_before_a_lookup_is_not_used_while_a_write_is_open() {
    let (requirement, primary) = (written(true), Primary::default());
    let (sender, receiver) = oneshot::channel();
    let mut first = pin!(requirement.observe(A, None, receiver));
    assert!(poll!(&mut first).is_pending());
    let others = join_all((0..100).map(|_| primary.observed(&requirement, None)));
    let mut others = pin!(others);
    assert!(poll!(&mut others).is_pending());
    assert_eq!(primary.queries.get(), 0, "one at a time");
    sender.send(at(1, 0)).unwrap();
    assert_eq!(first.await.unwrap(), Some(at(1, 0)));
    assert!(others.await.iter().all(|observed| *observed == Some(1)));
    assert_eq!(primary.queries.get(), 1);
}

#[tokio::test]
async fn a_write_during_a_call_makes_its_later_lookups_observe_a_new_position() {
    let (requirement, primary) = (written(true), Primary::default());
    let arrival = Some(requirement.arrive(A));
    assert_eq!(primary.observed(&requirement, arrival).await, Some(1));
    requirement.begin().end();
    assert_eq!(primary.observed(&requirement, arrival).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_lookup_hands_its_observation_to_another_at_once() {
    let (requirement, primary) = (written(true), Primary::default());
    let began = clock::now();
    let mut second = pin!(primary.observed(&requirement, None));
    {
        let mut first = pin!(requirement.observe(A, None, pending::<Result<_, Infallible>>()));
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_pending());
    }
    assert_eq!(second.await, Some(1));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_whose_task_is_stalled_is_overtaken() {
    let (requirement, primary) = (written(true), Primary::default());
    let (sender, receiver) = oneshot::channel();
    let mut first = pin!(requirement.observe(A, None, receiver));
    assert!(poll!(&mut first).is_pending());
    let both = join_all((0..2).map(|_| primary.observed(&requirement, None)));
    assert_eq!(both.await, [Some(1), Some(1)]);
    // Its own result comes too late for others.
    sender.send(at(1, 0)).unwrap();
    assert_eq!(first.await.unwrap(), Some(at(1, 1)));
    assert_eq!((primary.observed(&requirement, None).await, primary.queries.get()), (Some(2), 2));
}

#[tokio::test]
async fn lookups_that_wait_for_an_unreachable_primary_share_one_attempt() {
    let (requirement, primary) = (written(false), Primary::default());
    primary.is_down.set(true);
    let arrival = Some(requirement.arrive(A));
    let all = join_all((0..100).map(|_| primary.observed(&requirement, arrival))).await;
    assert!(all.iter().all(Option::is_none), "{all:?}");
    assert_eq!(primary.queries.get(), 1);
    primary.is_down.set(false);
    assert_eq!(primary.observed(&requirement, None).await, Some(2), "it is asked again");
}

#[tokio::test(start_paused = true)]
async fn one_task_at_a_time_observes_for_replicas_unless_it_stalls() {
    let (requirement, primary) = (written(false), Primary::default());
    let observation = requirement.try_observe(A).unwrap();
    assert!(requirement.try_observe(A).is_none());
    // It was begun on a runtime that does not run it.
    tokio::time::advance(OVERTAKE).await;
    let next = requirement.try_observe(A).unwrap();
    drop(observation);
    assert!(requirement.try_observe(A).is_none());
    requirement.finish(A, next, primary.position()).await.unwrap();
    assert_eq!(requirement.for_reads(A), Needs::Position(Some(at(1, 1))));
    assert!(requirement.try_observe(A).is_none(), "nothing was written since");
}

/// The session's token has a position of one database, and may stand for writes to any database.
#[tokio::test]
async fn a_sessions_writes_to_another_database_need_a_position_of_that_database() {
    let requirement = Requirement::new(A, Some(at(1, 5)), false);
    let of = |database| (requirement.for_reads(database), requirement.for_lookups(database));
    assert_eq!(requirement.for_lookups(A), Needs::Position(Some(at(1, 5))));
    assert_eq!(of(B), PRIMARY);
    requirement.observe(B, None, ready(Ok::<_, Infallible>(at(2, 3)))).await.unwrap();
    assert_eq!(requirement.for_lookups(B), Needs::Position(Some(at(2, 3))));
    requirement.join(A, at(1, 7));
    assert_eq!(requirement.for_lookups(A), Needs::Position(Some(at(1, 7))));
    assert_eq!(of(B), PRIMARY, "the session may have written to it since");
}

/// What the scope itself wrote is not behind the position that a session brings.
#[tokio::test]
async fn a_sessions_position_covers_no_write_of_the_scope_that_it_joins() {
    let requirement = Requirement::new(A, None, false);
    requirement.begin().end();
    requirement.join(A, at(1, 7));
    assert_eq!((requirement.for_reads(A), requirement.for_lookups(A)), PRIMARY);
}
