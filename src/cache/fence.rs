//! The fences of all tags, in a table of fixed size that is read without waiting.
//!
//! A count-min sketch (Cormode and Muthukrishnan, 2005) with maxima for counts: each tag has a slot
//! in each of [`ROWS`] rows; raising a fence raises each of its slots, and a tag's fence is the
//! smallest of its slots. Tags that share slots can make a fence look higher than it is, never
//! lower: that costs a miss, and never causes a stale hit. The table neither grows nor evicts.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::protocol::{Verdict, verdict};
use crate::clock::{self, Instant, Moment};
use crate::entry::{Entry, Epoch, LogPosition, Position, Tag};
use crate::sync::{AtomicU64, Mutex, MutexExt, Ordering, RwLockExt};

mod ended;
#[cfg(all(test, tidegate_loom))]
mod interleaved;
#[cfg(feature = "postgres")]
mod schema;
mod slots;

use ended::EndedFences;
#[cfg(feature = "postgres")]
pub(crate) use schema::schema_changes;
use slots::{ROWS, Slots};

/// Slots in a row, at least. loom explores each one.
const LEAST: usize = if cfg!(all(test, tidegate_loom)) { 2 } else { 64 };

/// The value of `confirmed` before the first drain of an epoch.
const NEVER: u64 = u64::MAX;

/// What this node knows of the changes in the database: a fence for each tag, the floor under all fences, how far the
/// node has followed the change log, and when it last read it.
///
/// The fence of a tag is a position at or past the last known change to it. An entry is valid if it is of the current
/// [`epoch`](Self::epoch) and its [`as_of`](crate::Entry::as_of) has reached the fence of each of its tags.
// One task writes, and any number of tasks read. The writer clears the epoch first and sets it last, and readers load
// it before and after everything else, so no reader can mix two epochs.
#[derive(Debug)]
pub struct Fences {
    epoch: AtomicU64,
    floor: AtomicU64,
    /// The largest of all fences.
    highest: AtomicU64,
    /// A position seen on the primary: the `W` of the protocol.
    seen: AtomicU64,
    /// A position that was seen on the primary before the last drain began.
    followed: AtomicU64,
    /// When the last drain began, in microseconds since `started`.
    confirmed: AtomicU64,
    /// The same on the wall clock, in milliseconds since 1970.
    confirmed_at: AtomicU64,
    started: Instant,
    slots: Box<[AtomicU64]>,
    layout: Slots,
    sample: ExactSample,
    /// The longest interval between drains, in microseconds, since it was last read. It is only a statistic, so it needs
    /// no memory ordering.
    gap: std::sync::atomic::AtomicU64,
    /// The fences of the previous epoch. Entries of the current one do not use them.
    ended: RwLock<Option<Arc<EndedFences>>>,
    #[cfg(feature = "postgres")]
    schema: schema::LastChange,
}

impl Fences {
    /// A table of about `bytes`; at least 1 KiB. Nothing is valid until an epoch begins.
    pub(crate) fn new(bytes: usize) -> Self {
        let per_row = (bytes / size_of::<u64>() / ROWS).max(LEAST).next_power_of_two();
        Self {
            epoch: AtomicU64::new(Epoch::UNKNOWN.get()),
            floor: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            followed: AtomicU64::new(0),
            confirmed: AtomicU64::new(NEVER),
            confirmed_at: AtomicU64::new(0),
            started: clock::now(),
            slots: (0..per_row * ROWS).map(|_| AtomicU64::new(0)).collect(),
            layout: Slots::new(per_row),
            sample: ExactSample::default(),
            gap: std::sync::atomic::AtomicU64::new(0),
            ended: RwLock::default(),
            #[cfg(feature = "postgres")]
            schema: schema::LastChange::default(),
        }
    }

    /// The current epoch, or [`Epoch::UNKNOWN`].
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch.load(Ordering::SeqCst))
    }

    /// The floor, the lowest value of any fence. The node does not know which changes happened before it, so older
    /// entries are invalid.
    pub fn floor(&self) -> Position {
        Position::new(self.floor.load(Ordering::Acquire))
    }

    /// The fence of one tag, the floor included.
    pub(crate) fn position(&self, tag: Tag) -> Position {
        let fence =
            self.layout.indexes(tag).map(|slot| self.slots[slot].load(Ordering::Acquire)).min();
        Position::new(fence.unwrap_or(u64::MAX)).max(self.floor())
    }

    /// The largest fence of several tags, the floor included.
    pub(crate) fn newest_of(&self, tags: &[Tag]) -> Position {
        tags.iter().map(|tag| self.position(*tag)).max().unwrap_or(Position::ZERO).max(self.floor())
    }

    /// The largest fence of all tags, the floor included.
    pub(crate) fn highest(&self) -> Position {
        Position::new(self.highest.load(Ordering::Acquire))
    }

    /// Judges an entry by the fences as they are now.
    pub(crate) fn judge(&self, entry: &Entry) -> Verdict {
        let epoch = self.epoch();
        let fence = self.newest_of(&entry.tags);
        // Read again: if an epoch has begun in between, the fence may mix both epochs.
        if self.epoch() != epoch {
            return Verdict::OldEpoch;
        }
        verdict(entry.basis, LogPosition::new(epoch, fence))
    }

    /// Whether an entry of the previous epoch was valid at its end, as far as this node knew, and nothing that the entry
    /// depends on has changed since.
    pub(crate) fn was_valid(&self, entry: &Entry) -> bool {
        let ended = self.ended.read_unpoisoned().clone();
        let Some(ended) = ended else { return false };
        // The epoch is checked last: if another one has begun in between, the fences may mix both.
        ended.was_valid(entry, &self.layout)
            && self.newest_of(&entry.tags) <= ended.next().position
            && self.epoch() == ended.next().epoch
    }

    /// A position that the log of the current epoch's primary has reached.
    pub fn seen(&self) -> Option<LogPosition> {
        self.in_epoch(&self.seen)
    }

    /// A position that the log of the current epoch's primary had reached before this node's last read of the log began:
    /// this node knows every change that was visible when that position was seen.
    pub fn followed(&self) -> Option<LogPosition> {
        self.in_epoch(&self.followed)
    }

    fn in_epoch(&self, position: &AtomicU64) -> Option<LogPosition> {
        let epoch = self.epoch();
        let position = Position::new(position.load(Ordering::Acquire));
        (epoch.is_known() && self.epoch() == epoch).then_some(LogPosition::new(epoch, position))
    }

    /// The time since this node's last read of the log began. An entry that counts as valid can lag behind the
    /// database by at most this much. `None` before the first read in this epoch.
    ///
    /// It is measured by the monotonic clock and by the wall clock, and the longer time counts, since the monotonic clock
    /// may stop while a virtual machine is suspended.
    pub fn age(&self) -> Option<Duration> {
        match self.confirmed.load(Ordering::Acquire) {
            NEVER => None,
            confirmed => {
                let age = self.elapsed().saturating_sub(Duration::from_micros(confirmed));
                let at = self.confirmed_at.load(Ordering::Acquire);
                Some(age.max(Duration::from_millis(clock::unix_millis().saturating_sub(at))))
            }
        }
    }

    /// The largest value of [`age`](Self::age) since the last call of this function: the most by which a valid entry was
    /// stale in that time.
    #[cfg(feature = "metrics")]
    pub(crate) fn take_longest_age(&self) -> Duration {
        let gap = self.gap.swap(0, std::sync::atomic::Ordering::Relaxed);
        Duration::from_micros(gap).max(self.age().unwrap_or_default())
    }

    /// Whether an entry is fenced only because tags share slots, judged by the sample of exact fences. `None` if the sample
    /// can't decide.
    pub(crate) fn is_false_alarm(&self, entry: &Entry) -> Option<bool> {
        if entry.as_of() < self.floor() {
            return Some(false);
        }
        let mut blamed =
            entry.tags.iter().filter(|tag| self.position(**tag) > entry.as_of()).peekable();
        blamed.peek()?;
        blamed
            .map(|tag| self.sample.fence(*tag).map(|exact| exact <= entry.as_of().get()))
            .try_fold(true, |all, one| one.map(|one| all && one))
    }

    /// Begins an epoch. The old fences now count only for entries of the old epoch. Changes before `floor` are unknown, and
    /// `fences` are the ones that are known already.
    pub(crate) fn begin<I>(&self, epoch: Epoch, floor: Position, fences: I)
    where
        I: IntoIterator<Item = (Tag, Position)>,
    {
        let before = self.epoch();
        if before.is_known() && before != epoch {
            let slots = self.slots.iter().map(|slot| slot.load(Ordering::Acquire)).collect();
            let last = LogPosition::new(before, self.floor());
            let ended = Arc::new(EndedFences::new(slots, last, LogPosition::new(epoch, floor)));
            *self.ended.write_unpoisoned() = Some(ended);
        }
        self.end_epoch();
        for slot in &self.slots {
            slot.store(0, Ordering::Release);
        }
        self.sample.clear();
        self.floor.store(floor.get(), Ordering::Release);
        self.highest.store(floor.get(), Ordering::Release);
        self.seen.store(floor.get(), Ordering::Release);
        self.followed.store(0, Ordering::Release);
        for (tag, fence) in fences {
            self.raise(tag, fence);
        }
        // Last: this publishes everything above.
        self.epoch.store(epoch.get(), Ordering::SeqCst);
    }

    /// Clears the epoch: nothing is valid until another one begins.
    pub(crate) fn end_epoch(&self) {
        self.epoch.store(Epoch::UNKNOWN.get(), Ordering::SeqCst);
        self.confirmed.store(NEVER, Ordering::Release);
    }

    /// Raises the fence of a tag to `fence`; a fence never falls.
    pub(crate) fn raise(&self, tag: Tag, fence: Position) {
        for slot in self.layout.indexes(tag) {
            self.slots[slot].fetch_max(fence.get(), Ordering::AcqRel);
        }
        self.highest.fetch_max(fence.get(), Ordering::AcqRel);
        self.sample.raise(tag, fence.get());
    }

    /// Records that a drain that began at `began` has read the log, which had reached `seen`. Call it after raising the
    /// fences that the drain found.
    pub(crate) fn confirm(&self, seen: Position, began: Moment) {
        self.see(seen);
        if let Some(age) = self.age() {
            let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
            self.gap.fetch_max(age, std::sync::atomic::Ordering::Relaxed);
        }
        self.confirmed_at.store(began.wall, Ordering::Release);
        let micros = began.at.saturating_duration_since(self.started).as_micros();
        self.confirmed.store(u64::try_from(micros).unwrap_or(NEVER - 1), Ordering::Release);
    }

    /// Without a log: draws a position from a local counter and returns it as the fence of a change that has just been
    /// made. Fills that began before have a smaller `as_of`; fills that begin later have at least this one.
    pub(crate) fn advance(&self) -> Position {
        let fence = self.seen.fetch_add(1, Ordering::AcqRel);
        self.confirm(Position::ZERO, clock::moment());
        Position::new(fence)
    }

    /// Records that the primary's log has reached a position.
    pub(crate) fn see(&self, seen: Position) {
        self.seen.fetch_max(seen.get(), Ordering::AcqRel);
    }

    /// Records that this node knows every change that was visible when the log was seen to reach `from`.
    #[cfg(any(feature = "postgres", all(test, tidegate_loom)))]
    pub(crate) fn follow(&self, from: Position) {
        self.followed.fetch_max(from.get(), Ordering::AcqRel);
    }

    fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.started)
    }
}

#[cfg(feature = "postgres")]
impl Fences {
    /// Raises the fence of everything.
    pub(crate) fn raise_floor(&self, floor: Position) {
        self.floor.fetch_max(floor.get(), Ordering::AcqRel);
        self.highest.fetch_max(floor.get(), Ordering::AcqRel);
    }

    /// The number of the last schema change that was noticed. Results from the catalogue that are older are obsolete.
    pub(crate) fn schema(&self) -> u64 {
        self.schema.get()
    }

    /// Records that the schema has changed, and returns the number of the change. Call this before confirming the drain
    /// that noticed the change.
    pub(crate) fn change_schema(&self) -> u64 {
        self.schema.notice()
    }
}

/// Exact fences of one tag in 64, to measure how often the table errs.
#[derive(Debug, Default)]
struct ExactSample(Mutex<HashMap<Tag, u64>>);

impl ExactSample {
    const LIMIT: usize = 1 << 16;

    fn takes(tag: Tag) -> bool {
        tag.hash().rotate_left(17).is_multiple_of(64)
    }

    fn raise(&self, tag: Tag, fence: u64) {
        if Self::takes(tag) {
            let mut exact = self.0.lock_unpoisoned();
            if exact.len() < Self::LIMIT || exact.contains_key(&tag) {
                let known = exact.entry(tag).or_default();
                *known = fence.max(*known);
            }
        }
    }

    /// The exact fence; `None` if the sample does not have this tag.
    fn fence(&self, tag: Tag) -> Option<u64> {
        let exact = self.0.lock_unpoisoned();
        (Self::takes(tag) && exact.len() < Self::LIMIT)
            .then(|| exact.get(&tag).copied().unwrap_or_default())
    }

    fn clear(&self) {
        self.0.lock_unpoisoned().clear();
    }
}

#[cfg(all(test, not(tidegate_loom)))]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::Key;
    use crate::entry::Lifetime;

    const EPOCH: Epoch = Epoch::new(1);

    fn fences() -> Fences {
        let fences = Fences::new(1 << 16);
        fences.begin(EPOCH, Position::ZERO, []);
        fences
    }

    fn entry(as_of: u64, tags: &[Tag]) -> Entry {
        let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let basis = LogPosition::new(EPOCH, Position::new(as_of));
        Entry::new(&Key::new("t").finish(), basis, tags.into(), life, Bytes::new(), Bytes::new())
    }

    proptest! {
        #[test]
        fn a_fence_is_never_below_a_position_it_was_raised_to(
            raised in proptest::collection::vec((0u64..5000, 1u64..1000), 1..200)
        ) {
            let fences = Fences::new(1024);
            fences.begin(EPOCH, Position::ZERO, []);
            for (tag, to) in &raised {
                fences.raise(Tag::named(&tag.to_string()), Position::new(*to));
            }
            for (tag, to) in &raised {
                prop_assert!(fences.position(Tag::named(&tag.to_string())) >= Position::new(*to));
            }
        }
    }

    #[test]
    fn a_change_invalidates_entries_with_its_tag_and_no_others() {
        let (fences, users, posts) = (fences(), Tag::table("users"), Tag::table("posts"));
        let (about_users, about_both) = (entry(10, &[users]), entry(10, &[users, posts]));
        assert_eq!(fences.judge(&about_users), Verdict::Valid);
        fences.raise(posts, Position::new(11));
        assert_eq!(fences.judge(&about_users), Verdict::Valid);
        assert_eq!(fences.judge(&about_both), Verdict::Fenced);
    }

    #[test]
    fn a_late_or_repeated_raise_never_lowers_a_fence() {
        let (fences, tag) = (fences(), Tag::table("users"));
        for position in [5, 20, 10, 20] {
            fences.raise(tag, Position::new(position));
        }
        assert_eq!(fences.position(tag), Position::new(20));
    }

    /// Two ids that cover the slots of a tag in one process do not cover them in another.
    #[test]
    fn security_ids_that_cover_a_tag_in_one_process_do_not_in_another() {
        let (here, there, hot) = (fences(), fences(), Tag::table("hot"));
        let slots: Vec<usize> = here.layout.indexes(hot).collect();
        let covers = |row: usize| {
            let ids = (0..).map(|id: u64| Tag::column("users", "id", &id.to_string()));
            ids.into_iter()
                .find(|tag| here.layout.indexes(*tag).nth(row) == Some(slots[row]))
                .unwrap()
        };
        for tag in [covers(0), covers(1)] {
            here.raise(tag, Position::new(9));
            there.raise(tag, Position::new(9));
        }
        assert_eq!((here.position(hot), there.position(hot)), (Position::new(9), Position::ZERO));
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn the_floor_fences_entries_with_any_tag_and_with_none() {
        let fences = fences();
        fences.raise_floor(Position::new(7));
        assert_eq!(fences.position(Tag::table("users")), Position::new(7));
        assert_eq!(fences.judge(&entry(6, &[])), Verdict::Fenced);
        assert_eq!(fences.judge(&entry(7, &[])), Verdict::Valid);
    }

    #[test]
    fn a_new_epoch_drops_the_fences_and_entries_of_the_old_one() {
        let (fences, tag) = (fences(), Tag::table("users"));
        fences.raise(tag, Position::new(1_000_000));
        fences.begin(Epoch::new(2), Position::new(500), []);
        assert_eq!(fences.position(tag), Position::new(500));
        assert_eq!(fences.judge(&entry(2_000_000, &[tag])), Verdict::OldEpoch);
        assert_eq!(fences.age(), None);
    }

    #[test]
    fn nothing_is_valid_once_the_epoch_is_lost() {
        let fences = fences();
        fences.end_epoch();
        assert_eq!(fences.judge(&entry(u64::MAX, &[])), Verdict::OldEpoch);
        assert_eq!(fences.seen(), None);
    }

    /// If `advance` only read the position and raised it at the end, two concurrent changes would get the same fence, and
    /// a fill that began between them would seem to include both changes.
    #[test]
    fn a_fill_that_began_between_two_changes_lacks_the_second() {
        let (fences, tag) = (fences(), Tag::table("users"));
        let began = |fences: &Fences| fences.seen().unwrap().position.before();
        fences.confirm(Position::new(5), clock::moment());
        let before = began(&fences);
        let first = fences.advance();
        let between = began(&fences);
        let second = fences.advance();
        fences.raise(tag, first);
        assert!(before < fences.position(tag) && between >= fences.position(tag));
        fences.raise(tag, second);
        assert!(between < fences.position(tag) && began(&fences) >= fences.position(tag));
    }

    #[test]
    fn false_alarms_are_distinguished_from_real_changes() {
        let fences = Fences::new(1024);
        fences.begin(EPOCH, Position::ZERO, []);
        let sampled: Vec<Tag> = (0..)
            .map(|n: u32| Tag::named(&n.to_string()))
            .filter(|t| ExactSample::takes(*t))
            .take(9)
            .collect();
        for n in 0..5000 {
            fences.raise(Tag::named(&format!("other{n}")), Position::new(50));
        }
        fences.raise(sampled[0], Position::new(60));
        assert_eq!(fences.is_false_alarm(&entry(10, &sampled[..1])), Some(false));
        assert_eq!(fences.is_false_alarm(&entry(10, &sampled[1..2])), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_counts_from_the_start_of_the_last_drain() {
        let fences = fences();
        assert_eq!(fences.age(), None);
        let began = clock::moment();
        tokio::time::advance(Duration::from_secs(30)).await;
        fences.confirm(Position::new(9), began);
        assert_eq!(fences.age(), Some(Duration::from_secs(30)));
        assert_eq!(fences.seen(), Some(LogPosition::new(EPOCH, Position::new(9))));
    }
    #[tokio::test(start_paused = true)]
    async fn time_that_the_machine_slept_during_a_drain_counts_toward_the_age() {
        let fences = fences();
        let mut began = clock::moment();
        began.wall -= 3_600_000;
        fences.confirm(Position::new(9), began);
        assert!(fences.age() >= Some(Duration::from_secs(3600)));
    }
}
