//! The cache of statements' dependencies, keyed by SQL text.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, Weighter};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use super::catalog::resolve_with_clock;
use super::clock::mentions_clock;
use super::narrow::narrow;
use super::parse::{Analysis, SQL_MAX, analyze};
use super::tracked_table::Dependencies;
use crate::cache::schema_changes;
use crate::clock::{self, Instant};
use crate::entry::{Epoch, LogPosition};
use crate::postgres::READ_ONLY;
use crate::postgres::deadline::PATIENCE;
use crate::postgres::identity::identity;
use crate::postgres::sample::ServerPosition;
use crate::sync::MutexExt;

/// How many texts are expected, and how many bytes of text are held at most.
const TEXTS: usize = 10_000;
const BYTES: u64 = 16 << 20;

/// Caches the dependencies of SQL texts, for connections that share a database, a role and a search path. A known text
/// costs one lookup.
#[derive(Debug)]
pub(crate) struct DependencyCache {
    texts: Cache<String, RememberedText, TextBytes>,
    /// The number of the last change of the schema that is known here; earlier lookups are not used.
    schema: AtomicU64,
    /// The catalogue is not queried until then, since it did not respond in time.
    rests: Mutex<Option<Instant>>,
}

/// How long a catalogue that did not respond in time is not queried, so that only one read waits for it, not each in turn.
const REST: Duration = Duration::from_secs(1);

/// After this time, a waiter starts its own lookup: the server has only [`PATIENCE`] to respond, so the first lookup is
/// not being polled, as on a runtime that is not driven.
const OVERTAKE: Duration = PATIENCE.saturating_add(Duration::from_secs(1));

/// A text, in [`DependencyCache`].
pub(crate) enum DependencyLookup<'a> {
    Known(FoundDependencies),
    /// The holder of this looks the statement up, for all waiters.
    Unknown(UnknownStatement<'a>),
}

pub(crate) struct UnknownStatement<'a> {
    known: &'a DependencyCache,
    turn: Turn<'a>,
    /// How many changes of the schema had been noticed before the lookup began.
    schema: u64,
}

enum Turn<'a> {
    /// The first lookup, for which others wait.
    First(LookupGuard<'a>),
    /// A further lookup, since the first one is not being polled.
    Overtaking,
    /// The text is too long to be cached.
    Uncached,
}

type LookupGuard<'a> = PlaceholderGuard<
    'a,
    String,
    RememberedText,
    TextBytes,
    DefaultHashBuilder,
    DefaultLifecycle<String, RememberedText>,
>;

/// The dependencies found for a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundDependencies {
    pub(crate) dependencies: Arc<Dependencies>,
    /// Whether the result may depend on the time of day.
    pub(crate) reads_clock: bool,
    pub(crate) source: DependencySource,
}

/// The source of the dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DependencySource {
    /// The text itself: they hold under every schema.
    Text,
    /// The primary, with a position past all that was committed then.
    Primary(LogPosition),
    /// A standby, which may have an older schema than the node knows of.
    Standby,
}

impl DependencySource {
    /// Whether dependencies from this source may be used in epoch `now`; those from a standby, only if no primary can be
    /// queried.
    pub(crate) fn is_good(self, is_standby: bool, now: Epoch) -> bool {
        match self {
            Self::Text => true,
            Self::Primary(at) => !now.is_known() || at.epoch == now,
            Self::Standby => is_standby,
        }
    }
}

#[derive(Debug, Clone)]
struct RememberedText {
    /// How many changes of the schema had been noticed before the lookup began.
    schema: u64,
    found: FoundDependencies,
}

impl DependencyCache {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            texts: Cache::with_weighter(TEXTS, BYTES, TextBytes),
            schema: AtomicU64::new(0),
            rests: Mutex::new(None),
        }
    }

    /// The dependencies of a text, if they are known already.
    pub(crate) fn get(&self, sql: &str) -> Option<FoundDependencies> {
        self.texts.get(sql).and_then(|remembered| self.current(remembered))
    }

    /// The dependencies of a text, or the task to look them up, which only one of several concurrent callers gets. Results
    /// from a standby are looked up again, unless a standby is to be queried; so are those from a primary of another epoch
    /// than `now`.
    pub(crate) async fn lookup(
        &self,
        sql: &str,
        is_standby: bool,
        now: Epoch,
    ) -> DependencyLookup<'_> {
        if sql.len() > SQL_MAX {
            let schema = schema_changes();
            return DependencyLookup::Unknown(UnknownStatement {
                known: self,
                turn: Turn::Uncached,
                schema,
            });
        }
        loop {
            let old = |remembered: &RememberedText| {
                remembered.schema < self.schema()
                    || !remembered.found.source.is_good(is_standby, now)
            };
            self.texts.remove_if(sql, old);
            // Read before the catalogue is queried: a schema change during the query invalidates its result.
            let schema = schema_changes();
            let turn = match timeout(OVERTAKE, self.texts.get_value_or_guard_async(sql)).await {
                Ok(Ok(remembered)) => match self.current(remembered) {
                    Some(found) => return DependencyLookup::Known(found),
                    None => continue,
                },
                Ok(Err(guard)) => Turn::First(guard),
                Err(_late) => Turn::Overtaking,
            };
            return DependencyLookup::Unknown(UnknownStatement { known: self, turn, schema });
        }
    }

    /// The dependencies of a text, looked up on a connection to the primary if necessary.
    ///
    /// # Errors
    ///
    /// If the query of the catalogue fails; the error is not remembered.
    #[cfg(test)]
    pub(crate) async fn learn(
        &self,
        conn: &mut PgConnection,
        sql: &str,
    ) -> Result<FoundDependencies, sqlx::Error> {
        loop {
            match self.lookup(sql, false, Epoch::UNKNOWN).await {
                DependencyLookup::Known(found) => return Ok(found),
                DependencyLookup::Unknown(unknown) => {
                    if let Some(found) = unknown.find(conn, sql).await? {
                        return Ok(found);
                    }
                }
            }
        }
    }

    /// The catalogue did not respond in time, or the schema changed during each lookup: no lookup begins for a while.
    pub(crate) fn rest(&self) {
        *self.rests() = Some(clock::now() + REST);
    }

    /// Whether no lookup may begin at present.
    pub(crate) fn is_resting(&self) -> bool {
        self.rests().is_some_and(|until| clock::now() < until)
    }

    fn rests(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests.lock_unpoisoned()
    }

    /// Removes everything that was looked up before this schema change; returns whether the change was unknown here.
    pub(crate) fn clear_before(&self, change: u64) -> bool {
        let is_new = self.schema.fetch_max(change, Ordering::SeqCst) < change;
        if is_new {
            self.texts.clear();
        }
        is_new
    }

    fn current(&self, remembered: RememberedText) -> Option<FoundDependencies> {
        (remembered.schema >= self.schema()).then_some(remembered.found)
    }

    fn schema(&self) -> u64 {
        self.schema.load(Ordering::SeqCst)
    }
}

impl UnknownStatement<'_> {
    /// The result if the text alone decides it, under every schema: the statement is not a read that can be analysed.
    pub(crate) fn by_text(self, sql: &str) -> Result<FoundDependencies, Self> {
        match analyze(sql) {
            Analysis::Read(_) => Err(self),
            Analysis::Other(unanalyzable) => {
                let dependencies = Arc::new(Dependencies::Unanalyzable(unanalyzable));
                let found = FoundDependencies {
                    dependencies,
                    reads_clock: false,
                    source: DependencySource::Text,
                };
                self.remember(sql, &found);
                Ok(found)
            }
        }
    }

    fn remember(self, sql: &str, found: &FoundDependencies) -> Option<FoundDependencies> {
        let remembered = RememberedText { schema: self.schema, found: found.clone() };
        let found = self.known.current(remembered.clone());
        match self.turn {
            // This fails if the cache was cleared or another lookup overtook this one; both are fine.
            Turn::First(guard) => drop(guard.insert(remembered)),
            Turn::Overtaking => self.known.texts.insert(sql.to_owned(), remembered),
            Turn::Uncached => {}
        }
        found
    }

    /// Looks up the text's dependencies; `None` if the schema has changed in the meantime, so the lookup must be repeated.
    pub(crate) async fn find(
        self,
        conn: &mut PgConnection,
        sql: &str,
    ) -> Result<Option<FoundDependencies>, sqlx::Error> {
        let found = find(conn, sql).await?;
        Ok(self.remember(sql, &found))
    }
}

async fn find(conn: &mut PgConnection, sql: &str) -> Result<FoundDependencies, sqlx::Error> {
    let references = match analyze(sql) {
        Analysis::Read(references) => references,
        Analysis::Other(unanalyzable) => {
            let dependencies = Arc::new(Dependencies::Unanalyzable(unanalyzable));
            return Ok(FoundDependencies {
                dependencies,
                reads_clock: false,
                source: DependencySource::Text,
            });
        }
    };
    // All queries go to one server, though the name may lead to several.
    let mut transaction = conn.begin_with(READ_ONLY).await?;
    let (mut found, reads_clock) = resolve_with_clock(&mut transaction, &references).await?;
    if let Dependencies::Tables(tables) = &mut found {
        narrow(&mut transaction, sql, tables).await?;
    }
    let identity = identity(&mut *transaction).await?;
    transaction.commit().await?;
    let source = match (ServerPosition::from_identity(&identity), identity.position) {
        (Some(at), Some(position)) if !at.standby => {
            DependencySource::Primary(LogPosition::new(at.epoch, position))
        }
        _ => DependencySource::Standby,
    };
    let reads_clock = reads_clock || mentions_clock(sql);
    Ok(FoundDependencies { dependencies: Arc::new(found), reads_clock, source })
}

#[derive(Debug, Clone)]
struct TextBytes;

impl Weighter<String, RememberedText> for TextBytes {
    fn weight(&self, sql: &String, _remembered: &RememberedText) -> u64 {
        sql.len() as u64 + 128
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use sqlx::Connection;

    use super::*;
    use crate::entry::Position;
    use crate::postgres::dependencies::Unanalyzable;
    use tidegate_testing::Postgres;

    #[tokio::test]
    async fn an_analysis_from_before_a_schema_change_is_not_used_if_stored_after_it() {
        let postgres = Postgres::start().await.expect("Postgres");
        let mut conn = PgConnection::connect(&postgres.url()).await.expect("connection");
        let known = DependencyCache::new();
        let dependencies = Arc::new(Dependencies::Unanalyzable(Unanalyzable::Locking));
        known.clear_before(crate::cache::Fences::new(0).change_schema());
        let found =
            FoundDependencies { dependencies, reads_clock: false, source: DependencySource::Text };
        known.texts.insert("select 1".to_owned(), RememberedText { schema: 0, found });
        assert_eq!(known.get("select 1"), None);
        let learnt = known.learn(&mut conn, "select 1").await.expect("dependencies");
        assert_eq!(*learnt.dependencies, Dependencies::Tables(Vec::new()));
        assert_eq!(known.get("select 1"), Some(learnt));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_whose_task_is_stalled_is_overtaken() {
        let (known, sql) = (DependencyCache::new(), "select v from t");
        let unknown = async || match known.lookup(sql, false, Epoch::UNKNOWN).await {
            DependencyLookup::Unknown(unknown) => unknown,
            DependencyLookup::Known(found) => panic!("nobody found {found:?}"),
        };
        let found = |unanalyzable| {
            let dependencies = Arc::new(Dependencies::Unanalyzable(unanalyzable));
            FoundDependencies { dependencies, reads_clock: false, source: DependencySource::Text }
        };
        let (late, next) = (unknown().await, unknown().await);
        next.remember(sql, &found(Unanalyzable::Locking));
        assert_eq!(known.get(sql), Some(found(Unanalyzable::Locking)));
        late.remember(sql, &found(Unanalyzable::TooLarge));
        assert_eq!(known.get(sql), Some(found(Unanalyzable::Locking)), "its result is older");
    }

    #[tokio::test]
    async fn an_analysis_by_a_former_primary_is_not_used() {
        let known = DependencyCache::new();
        let at = LogPosition::new(Epoch::new(1), Position::new(5));
        let of_old = DependencySource::Primary(at);
        let dependencies = Arc::new(Dependencies::Tables(Vec::new()));
        let found = FoundDependencies { dependencies, reads_clock: false, source: of_old };
        known.texts.insert("select 1".to_owned(), RememberedText { schema: 0, found });
        let is_known = async |now| {
            matches!(known.lookup("select 1", false, now).await, DependencyLookup::Known(_))
        };
        assert!(is_known(Epoch::UNKNOWN).await);
        assert!(is_known(Epoch::new(1)).await);
        assert!(!is_known(Epoch::new(2)).await);
    }
}
