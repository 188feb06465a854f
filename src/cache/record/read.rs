//! What a read through `Database` needs, and what it records in the current scope.

use std::sync::Arc;

use super::proof::proven_by_primary;
use super::{Record, UnscopedRead};
use crate::cache::template::PolicyTag;
use crate::entry::{Epoch, LogPosition, Position, Tag};

impl Record {
    /// The tags of a read of `table`. If the statement names its `rows`, these count; otherwise the policy's tags for
    /// columns among `tagged`. If there are none, or if Postgres may write one of the values differently, the table's tag
    /// counts.
    pub(crate) fn tags_of(
        &self,
        table: &str,
        tagged: &[String],
        rows: Option<&[PolicyTag]>,
    ) -> Vec<Tag> {
        let said = self.0.scope.tags.iter().filter(|tag| tag.is_column_of(table, tagged));
        let rows: Vec<&PolicyTag> = match rows {
            Some(rows) => rows.iter().collect(),
            None => said.collect(),
        };
        let is_narrowed = !rows.is_empty() && rows.iter().all(|tag| tag.is_exact());
        let of_table = if is_narrowed { Tag::bulk(table) } else { Tag::table(table) };
        let exact = rows.into_iter().filter(|tag| tag.is_exact());
        exact.flat_map(PolicyTag::with_bulk).chain([of_table]).collect()
    }

    /// Whether the response depends on all of these tags already.
    pub(crate) fn depends_on_all(&self, tags: &[Tag]) -> bool {
        let notes = self.notes();
        tags.iter().all(|tag| notes.tags.contains(tag))
    }

    /// The position that a server must have reached for a read: the fences of its tags, and the session's last write.
    pub(crate) fn needs(&self, tags: &[Tag]) -> Position {
        self.0.fences.newest_of(tags).max(self.session())
    }

    /// The same for a read that may depend on anything.
    pub(crate) fn needs_all(&self) -> Position {
        self.0.fences.highest().max(self.session())
    }

    /// Whether the last drain is recent enough to know which changes a replica must have.
    pub(crate) fn knows_needs(&self) -> bool {
        self.0.fences.age().is_some_and(|age| age <= self.0.scope.max_staleness)
    }

    /// The current epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.0.fences.epoch()
    }

    /// The last schema change that the fences of this record, or of one around it, know of.
    pub(crate) fn schema(&self) -> u64 {
        self.outward().map(|record| record.0.fences.schema()).max().unwrap_or_default()
    }

    /// A position that the primary has reached, as far as the node knows.
    pub(crate) fn seen(&self) -> Option<LogPosition> {
        self.0.fences.seen()
    }

    /// What a read of the primary proves if it begins now.
    pub(crate) fn primary_basis(&self) -> Option<LogPosition> {
        proven_by_primary(&self.0.fences)
    }

    /// The position that the session's reads must see, in the current epoch.
    pub(crate) fn session(&self) -> Position {
        let known = self
            .requirement()
            .and_then(|requirement| requirement.observed_at(self.0.scope.database));
        match known {
            Some(at) if at.epoch == self.0.fences.epoch() => at.position,
            _ => Position::ZERO,
        }
    }

    /// Records a read: its basis, its tags and its server.
    pub(crate) fn read(&self, basis: LogPosition, tags: &[Tag], server: &Arc<str>) {
        self.outward().for_each(|record| record.note(basis, tags, Some(server)));
    }

    /// Records why a read that a replica could have served went to the primary.
    pub(crate) fn passed_over(&self, why: &'static str) {
        for record in self.outward() {
            record.notes().passed_over.get_or_insert(why);
        }
    }

    /// Notes that a read depends on the time of day.
    pub(crate) fn note_clock(&self) {
        for record in self.outward() {
            record.notes().reads_clock = true;
            if record.0.scope.is_kept {
                // When that scope ends, it passes on a TTL.
                break;
            }
        }
    }

    /// Records a read for a simulated response, which is not stored.
    pub(crate) fn would_depend_on(&self, tags: &[Tag]) {
        let mut notes = self.notes();
        notes.reads += 1;
        notes.add(tags);
    }

    /// Notes that a declared read begins. Until it ends, the response can't be stored.
    pub(crate) fn open_read(&self) {
        self.outward().for_each(|record| record.notes().open_reads += 1);
    }

    /// Notes that a declared read has ended.
    pub(crate) fn close_read(&self) {
        self.outward().for_each(|record| record.notes().open_reads -= 1);
    }
}

impl UnscopedRead {
    /// Begins a read, if it is outside any scope.
    pub(crate) fn read() -> Option<Self> {
        Record::is_in_none().then(Self::begin_read)
    }

    /// Begins a read by a statement, if it is outside any scope. `outline` is the text without its constants, for a warning.
    pub(crate) fn read_by(text: &str, outline: impl FnOnce() -> String) -> Option<Self> {
        Record::is_in_none().then(|| Self::begin_read_by(text, outline))
    }
}
