//! What is wrong with a response, and what is forgotten.

use super::*;

fn since(since: Instant) -> Demand {
    Demand { since: Some(since), own: None, knows_failover: true }
}

fn stale(version: u64, must: u64) -> Result<(), Wrong> {
    Err(Wrong::Stale { row: 1, version, must })
}

#[test]
fn a_response_must_include_writes_committed_before_it() {
    let history = History::new("old".into());
    let (early, late) = (Instant::now(), Instant::now() + Duration::from_secs(9));
    history.begin(1, 7, 5);
    history.end(1, 7, Fate::Committed(Instant::now() + Duration::from_secs(1)));
    assert_eq!(history.judge(1, 0, 1, &since(early)), Ok(()));
    assert_eq!(history.judge(1, 0, 1, &since(late)), stale(0, 7));
    assert_eq!(history.judge(1, 7, 5, &since(late)), Ok(()));
    assert_eq!(history.judge_absent(1, 1, &since(late)), Ok(()));
    assert_eq!(history.judge_absent(1, 5, &since(late)), Err(Wrong::Missing { row: 1 }));
    let own = Demand { own: Some((1, 7)), ..since(early) };
    assert_eq!(history.judge(1, 0, 1, &own), stale(0, 7));
}

#[test]
fn a_response_must_show_no_version_that_was_rolled_back_lost_or_never_written() {
    let history = History::new("old".into());
    let now = since(Instant::now());
    let never = |version| Err(Wrong::NeverWritten { row: 1, version });
    history.begin(1, 7, 5);
    assert_eq!(history.judge(1, 7, 5, &now), Ok(()), "it may be there already");
    assert_eq!(history.judge(1, 7, 1, &now), Err(Wrong::Group { row: 1, version: 7, group: 1 }));
    history.end(1, 7, Fate::RolledBack);
    assert_eq!(history.judge(1, 7, 5, &now), never(7));
    assert_eq!(history.judge(1, 8, 5, &now), never(8));
    history.begin(1, 9, 5);
    history.end(1, 9, Fate::Committed(Instant::now()));
    history.fail_over(&[0; ROWS], "new".into()).unwrap();
    assert_eq!(history.judge(1, 9, 5, &now), Err(Wrong::Lost { row: 1, version: 9 }));
    let unaware = Demand { knows_failover: false, ..now };
    assert_eq!(history.judge(1, 9, 5, &unaware), Ok(()));
}

#[test]
fn old_writes_are_dropped_from_the_history_and_still_judged() {
    let history = History::new("old".into());
    let end = Instant::now() + Duration::from_secs(1000);
    for version in 1..=1000 {
        history.begin(1, version, 5);
        history.end(1, version, Fate::Committed(end - Duration::from_secs(1000 - version)));
    }
    let kept = history.row(1).writes.len();
    assert!(kept <= 2 * FEW, "{kept}");
    let now = since(end + Duration::from_secs(1));
    assert_eq!(history.judge(1, 1000, 5, &now), Ok(()));
    assert!(matches!(history.judge(1, 3, 5, &now), Err(Wrong::Stale { version: 3, .. })));
    let never = Err(Wrong::NeverWritten { row: 1, version: 1001 });
    assert_eq!(history.judge(1, 1001, 5, &now), never);
    assert!(history.fail_over(&[0; ROWS], "new".into()).is_err());
}

#[test]
fn a_failover_is_noted_before_or_after_a_response_is_judged() {
    let history = History::new("old".into());
    history.begin(1, 7, 5);
    history.end(1, 7, Fate::Committed(Instant::now()));
    let now = since(Instant::now());
    let (waits, began) = std::sync::mpsc::channel();
    let failed_over = std::thread::scope(|scope| {
        let epoch = history.epoch();
        let failing = scope.spawn(|| {
            waits.send(()).unwrap();
            history.fail_over(&[0; ROWS], "new".into())
        });
        began.recv().unwrap();
        for _ in 0..10_000 {
            assert_eq!(history.judge(1, 7, 5, &now), Ok(()), "it was judged in epoch {epoch}");
            std::thread::yield_now();
        }
        drop(epoch);
        failing.join().unwrap()
    });
    assert_eq!(failed_over, Ok(()));
    assert_eq!(history.epoch().as_str(), "new");
    assert_eq!(history.judge(1, 7, 5, &now), Err(Wrong::Lost { row: 1, version: 7 }));
}
