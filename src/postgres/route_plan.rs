//! Determines what a read requires, and which servers may serve it.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::bound::{BoundArguments, mentions_clock};
use super::calls::{may_call, may_have_effects, may_write_unseen};
use super::database::Database;
use super::dependencies::{
    Dependencies, DependencySource, FoundDependencies, TrackedTable, Unanalyzable, outline,
};
use super::lookup::{dependencies, learn_later};
use super::sample::ServerPosition;
use super::server::Server;
use super::statement::RepeatableStatement;
use super::words::may_write;
use crate::cache::protocol::is_far_enough;
use crate::cache::{
    Needs, PolicyTag, ReadObserver, Record, Requirement, Uncacheable, UnscopedRead,
};
use crate::entry::{Epoch, LogPosition, Position, Tag};

/// The requirements of one statement.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub(crate) struct RoutePlan {
    /// The record for the read's proof, if a response is being computed that a database can invalidate.
    pub(crate) record: Option<Record>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) needs: Position,
    /// The epoch that a server must be in; unknown if any is acceptable.
    pub(crate) epoch: Epoch,
    /// The statement must not go to a replica: it writes, locks, or can't be analysed.
    pub(crate) primary_only: bool,
    /// The writes that the scope must see. Servers that may lack them are not read even if no other is up.
    pub(crate) own: Arc<Requirement>,
    /// A position past the writes that the read must see, if one is known.
    pub(crate) written: Option<LogPosition>,
    /// Only the primary is known to have the writes that the read must see.
    pub(crate) sees_on_primary: bool,
    /// These writes are in another epoch than the one that the node knows: a past one, or that of a new primary. A
    /// connection to the primary may still lead to the old one.
    pub(crate) elsewhere: Option<Epoch>,
    /// The statement may change data, which later reads must then see.
    pub(crate) may_write: bool,
    /// The statement may change data without this being noticed: neither do its words show it, nor would a server refuse
    /// it. It counts as a write for the later reads of the scope.
    pub(crate) may_write_unseen: bool,
    /// The statement calls a function that may write. A standby that is promoted in between would accept the write.
    pub(crate) may_call: bool,
    /// The statement is known to change nothing, so it may be sent again whatever the result of an attempt.
    pub(crate) is_read: bool,
    /// The statement must run where the server refuses writes: it is unknown whether it writes, and a write would go
    /// unnoticed.
    pub(crate) read_only: bool,
    /// It is unknown at present what a replica must have replayed, so replicas are tried only after the primary.
    pub(crate) primary_first: bool,
    /// The number of the last schema change that was known when the statement's dependencies were looked up.
    pub(crate) schema: u64,
    /// The last schema change that a server has replayed if it has replayed up to `needs`; zero if that is unknown.
    pub(crate) replayed_schema: u64,
    /// A position of the primary that the node had seen before the statement's dependencies were looked up.
    pub(crate) seen: Option<LogPosition>,
    /// Marks a statement outside any scope, until all its rows were read.
    pub(crate) _unscoped: Option<UnscopedRead>,
}

/// A server to try.
#[derive(Clone, Debug)]
pub(crate) enum Candidate {
    Replica(Arc<Server>),
    Primary,
    /// A replica that may be too far behind, but is better than an error; the response is not cached.
    LastResort(Arc<Server>),
}

/// A replica that is up, and its last known position.
struct ReplicaAt<S> {
    server: S,
    at: ServerPosition,
}

impl Candidate {
    pub(crate) fn server<'a>(&'a self, db: &'a Database) -> &'a Server {
        match self {
            Self::Primary => &db.inner.primary,
            Self::Replica(server) | Self::LastResort(server) => server,
        }
    }
}

impl RoutePlan {
    /// Plans a statement. `writer`: it goes to the primary in any case.
    pub(crate) async fn for_statement(
        db: &Database,
        statement: &RepeatableStatement,
        writer: bool,
    ) -> Self {
        let sql = statement.sql.as_str();
        let unscoped = db
            .counts_unscoped_reads()
            .then(|| UnscopedRead::read_by(sql, || outline(sql)))
            .flatten();
        let record = Record::current();
        let own = db.requirement();
        if let Some(record) = record.as_ref().filter(|record| !record.is_followed()) {
            simulate(db, statement, record);
        }
        let Some(record) = record.filter(Record::is_followed) else {
            let unnoted = Self::unnoted(db, sql, own, writer).at_most_late(db);
            return Self { _unscoped: unscoped, ..unnoted };
        };
        let mut plan = Self { primary_first: !record.knows_needs(), ..Self::new(own, writer) };
        (plan.epoch, plan.seen) = (record.epoch(), record.seen());
        // This applies if the statement's dependencies can't be found.
        plan.needs = record.needs_all();
        plan.schema = record.schema();
        db.follow_schema(plan.schema);
        match dependencies(db, sql, plan.epoch).await {
            Ok(found) => {
                if let Some(observer) = record.observer() {
                    report_tables(&found.dependencies, observer);
                }
                plan.take(db, &record, &found, statement, writer);
                if found.reads_clock || statement.arguments.as_ref().is_some_and(mentions_clock) {
                    record.note_clock();
                }
            }
            Err(error) => {
                let why = format!("the tables that it reads could not be looked up: {error}");
                plan.may_call = may_call(sql, None);
                record.note_uncacheable(Uncacheable::new("unknown-dependencies", why));
                if writer || may_write(sql) {
                    record.note_write();
                    (plan.may_write, plan.primary_only) = (true, true);
                } else {
                    plan.may_write_unseen = may_write_unseen(db, sql, &plan.own, None);
                }
            }
        }
        plan.record = Some(record);
        plan.must_see(db).at_most_late(db)
    }

    fn new(own: Arc<Requirement>, writer: bool) -> Self {
        Self {
            tags: Vec::new(),
            needs: Position::ZERO,
            epoch: Epoch::UNKNOWN,
            primary_only: writer,
            own,
            written: None,
            sees_on_primary: false,
            elsewhere: None,
            may_write: writer,
            may_write_unseen: false,
            may_call: false,
            is_read: false,
            read_only: false,
            primary_first: false,
            schema: 0,
            replayed_schema: 0,
            seen: None,
            record: None,
            _unscoped: None,
        }
    }

    /// Plans a transaction whose statements are planned one by one.
    pub(super) fn for_read_transaction(db: &Database) -> Self {
        let record = Record::current().filter(Record::is_followed);
        let epoch = record.as_ref().map_or(Epoch::UNKNOWN, Record::epoch);
        let schema = record.as_ref().map_or(0, Record::schema);
        // Before a connection is taken from the pool.
        db.follow_schema(schema);
        Self { record, epoch, schema, ..Self::new(db.requirement(), false) }.must_see(db)
    }

    /// Requires a server that has everything that the scope and its session have written.
    fn must_see(mut self, db: &Database) -> Self {
        let of_primary = || db.inner.lag.newest().map_or(Epoch::UNKNOWN, |at| at.epoch);
        let now = if self.epoch.is_known() { self.epoch } else { of_primary() };
        self.own.begin_epoch(db.id(), now);
        match self.own.for_reads(db.id()) {
            Needs::Position(None) => {}
            Needs::Position(Some(written)) if written.epoch == now || !now.is_known() => {
                (self.epoch, self.written) = (written.epoch, Some(written));
                self.needs = self.needs.max(written.position);
            }
            // The write is in another history than the node's: in a past one, or in one that the node does not know yet.
            Needs::Position(Some(written)) => {
                (self.sees_on_primary, self.elsewhere) = (true, Some(written.epoch));
            }
            Needs::Primary => {
                self.sees_on_primary = true;
                db.observe_own_writes();
            }
        }
        self
    }

    /// Excludes replicas that lag by more than the permitted maximum.
    fn at_most_late(mut self, db: &Database) -> Self {
        match db.inner.lag.needs() {
            Some(needed) if needed.epoch == self.epoch || !self.epoch.is_known() => {
                self.epoch = needed.epoch;
                self.needs = self.needs.max(needed.position);
            }
            _ => {}
        }
        self
    }

    /// Plans a read whose response is not cached. If a replica refuses the statement, it is sent to the primary.
    fn unnoted(db: &Database, sql: &str, own: Arc<Requirement>, writer: bool) -> Self {
        let may_write = writer || may_write(sql);
        if let (Some(record), true) = (Record::current(), may_write) {
            record.note_write();
        }
        let found = db.inner.known.get(sql).map(|found| found.dependencies);
        let is_read = matches!(found.as_deref(), Some(Dependencies::Tables(_)));
        let may_call = !may_write && may_call(sql, found.as_deref());
        if may_call && found.is_none() {
            // Once it is known to be a read, it needs no transaction on a replica, and its session needs no reset.
            learn_later(db, sql);
        }
        let may_write_unseen = !may_write && may_write_unseen(db, sql, &own, found.as_deref());
        Self { may_write, may_write_unseen, may_call, is_read, ..Self::new(own, may_write) }
            .must_see(db)
    }

    fn take(
        &mut self,
        db: &Database,
        record: &Record,
        found: &FoundDependencies,
        statement: &RepeatableStatement,
        writer: bool,
    ) {
        // As without a policy: a statement that writes is refused where only reads are allowed, and then counts as a
        // write. Nothing would refuse it without replicas, or in a request that may write.
        let is_refused = !self.own.stays_on_primary() && !db.servers().is_empty();
        let counts_as_write = |sql: &str| writer || !is_refused || may_write(sql);
        match &*found.dependencies {
            Dependencies::Tables(tables) => {
                self.tags = tags_of(record, tables, statement);
                self.needs = record.needs(&self.tags);
                (self.may_write, self.is_read) = (false, true);
                self.needs_schema(record, found.source);
            }
            Dependencies::Unanalyzable(Unanalyzable::NotARead) if writer => record.note_write(),
            Dependencies::Unanalyzable(unanalyzable) => {
                record.note_uncacheable(Uncacheable::new(
                    unanalyzable.token(),
                    unanalyzable.to_string(),
                ));
                let sql = statement.sql.as_str();
                self.may_call = may_call(sql, Some(&found.dependencies));
                if may_have_effects(sql, unanalyzable) && counts_as_write(sql) {
                    record.note_write();
                    (self.may_write, self.primary_only) = (true, true);
                }
            }
        }
    }

    /// The dependencies were looked up on the primary, at a position. A server that has not replayed up to it may have an
    /// older schema, and read other tables.
    fn needs_schema(&mut self, record: &Record, source: DependencySource) {
        match source {
            DependencySource::Text => {}
            DependencySource::Primary(at) if at.epoch == self.epoch => {
                self.needs = self.needs.max(at.position);
                self.replayed_schema = self.schema;
            }
            DependencySource::Primary(_) | DependencySource::Standby => {
                let why = "its dependencies were looked up on a server, and this node does not follow that server's schema";
                record.note_uncacheable(Uncacheable::new("unknown-dependencies", why));
            }
        }
    }

    /// Whether the statement writes, or must see a write of the epoch that the node is in. (`elsewhere` is checked by itself.)
    pub(super) fn must_know_primary(&self) -> bool {
        let must_see = self.sees_on_primary && self.elsewhere.is_none();
        self.may_write || self.may_write_unseen || self.written.is_some() || must_see
    }

    /// The servers to try, best first.
    pub(crate) fn candidates(&self, db: &Database) -> Vec<Candidate> {
        // The primary comes twice, since the first connection may have died in the pool.
        let primary = [Candidate::Primary, Candidate::Primary];
        if self.primary_only || self.sees_on_primary {
            return primary.into();
        }
        let up: Vec<_> = db
            .servers()
            .into_iter()
            .filter_map(|server| server.at().map(|at| ReplicaAt { server, at }))
            .collect();
        let replicas = self.fit(&up).into_iter().map(Candidate::Replica);
        let rest = self.last_resorts(up).into_iter().map(Candidate::LastResort);
        match self.primary_first {
            // The primary is down: a read would wait in vain for a connection to it.
            _ if db.inner.lag.is_down() => replicas.chain(rest).chain(primary).collect(),
            true => primary.into_iter().chain(replicas).chain(rest).collect(),
            false => replicas.chain(primary).chain(rest).collect(),
        }
    }

    /// All replicas that are up, best first. Those in another epoch come last, since they may show data that never existed
    /// in the present one.
    fn last_resorts<S>(&self, mut up: Vec<ReplicaAt<S>>) -> Vec<S> {
        let is_of_epoch = |at: &ServerPosition| {
            is_far_enough(at.reached(), LogPosition::new(self.epoch, Position::ZERO))
        };
        up.sort_by_key(|up| Reverse((is_of_epoch(&up.at), up.at.position)));
        up.into_iter().map(|up| up.server).collect()
    }

    /// Why the primary serves what a replica could, if there are replicas.
    pub(crate) fn why_primary(&self, db: &Database) -> Option<&'static str> {
        if self.primary_only || self.sees_on_primary || self.primary_first {
            return None;
        }
        let replicas = db.servers();
        let all_down = replicas.iter().all(|server| server.at().is_none());
        let why = if all_down { "replicas-down" } else { "replicas-behind" };
        (!replicas.is_empty()).then_some(why)
    }

    /// The replicas in the right epoch that have replayed far enough, in rotation; then the closest other one, since it may
    /// have caught up since its position was queried.
    fn fit(&self, up: &[ReplicaAt<Arc<Server>>]) -> Vec<Arc<Server>> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let fits = |at: &ServerPosition, needs| {
            is_far_enough(at.reached(), LogPosition::new(self.epoch, needs))
        };
        let right = up.iter().filter(|up| fits(&up.at, Position::ZERO));
        let (mut ready, behind): (Vec<_>, Vec<_>) = right.partition(|up| fits(&up.at, self.needs));
        if !ready.is_empty() {
            let turn = TURN.fetch_add(1, Ordering::Relaxed) % ready.len();
            ready.rotate_left(turn);
        }
        let nearest = behind.into_iter().max_by_key(|up| up.at.position);
        ready.into_iter().chain(nearest).map(|up| up.server.clone()).collect()
    }
}

/// The tags of the rows and tables that a statement reads.
fn tags_of(record: &Record, tables: &[TrackedTable], statement: &RepeatableStatement) -> Vec<Tag> {
    let is_narrowed = tables.iter().any(|table| !table.by.is_empty());
    let arguments = statement.arguments.as_ref().filter(|_| is_narrowed);
    let bound = arguments.and_then(BoundArguments::from_arguments);
    let tags = |table: &TrackedTable| {
        let tags_by =
            |rows: Option<&[PolicyTag]>| record.tags_of(&table.name, &table.columns, rows);
        let rows =
            table.by.iter().filter_map(|by| BoundArguments::rows(bound.as_ref(), &table.name, by));
        let mut found = rows.map(|rows| tags_by(Some(&rows)));
        let Some(first) = found.next() else { return tags_by(None) };
        // Any of the conditions is enough, so take one that adds nothing to what the response depends on anyway. A handler
        // often counts the rows of some ids, and then looks up those of one user among them.
        let is_known = |tags: &Vec<Tag>| record.depends_on_all(tags);
        if table.by.len() == 1 || is_known(&first) {
            return first;
        }
        found.find(is_known).unwrap_or(first)
    };
    tables.iter().flat_map(tags).collect()
}

/// If traffic is recorded, notes what a response would depend on although it is not cached.
fn simulate(db: &Database, statement: &RepeatableStatement, record: &Record) {
    let (Some(observer), sql) = (record.observer(), statement.sql.as_str()) else { return };
    let Some(found) = db.inner.known.get(sql) else {
        let why = "the dependencies of its statements are being looked up";
        record.note_uncacheable(Uncacheable::new("unknown-dependencies", why));
        return learn_later(db, sql);
    };
    report_tables(&found.dependencies, observer);
    match &*found.dependencies {
        Dependencies::Tables(tables) => {
            record.would_depend_on(&tags_of(record, tables, statement));
        }
        Dependencies::Unanalyzable(unanalyzable) => {
            record
                .note_uncacheable(Uncacheable::new(unanalyzable.token(), unanalyzable.to_string()));
        }
    }
}

/// Reports the tables that a statement reads.
fn report_tables(found: &Dependencies, observer: &dyn ReadObserver) {
    match found {
        Dependencies::Tables(tables) => {
            for table in tables {
                observer.note_table(&table.name);
                if table.by.is_empty() {
                    observer.note_compared(&table.name, &table.columns, &table.compared);
                }
            }
        }
        Dependencies::Unanalyzable(Unanalyzable::UntrackedTable(table, _)) => {
            observer.note_untracked(table);
        }
        Dependencies::Unanalyzable(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_replica_of_an_ended_history_is_tried_last_of_all() {
        let replica = |server, epoch, position| {
            let (epoch, position) = (Epoch::new(epoch), Position::new(position));
            let at = ServerPosition { epoch, position, standby: true, seen_at: clock::now() };
            ReplicaAt { server, at }
        };
        let up = || vec![replica("over", 1, 9), replica("behind", 2, 5), replica("nearest", 2, 7)];
        let plan = RoutePlan { epoch: Epoch::new(2), ..RoutePlan::new(Arc::default(), false) };
        assert_eq!(plan.last_resorts(up()), ["nearest", "behind", "over"]);
        let plan = RoutePlan { epoch: Epoch::UNKNOWN, ..plan };
        assert_eq!(plan.last_resorts(up()), ["over", "nearest", "behind"]);
    }
}
