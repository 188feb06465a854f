//! What was found out, per text.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sqlx::PgConnection;

use super::catalog::{Dependencies, resolve_with_clock};
use super::clock::mentions_clock;
use super::equality::narrow;
use super::parse::{Analysis, SQL_MAX, analyze};

/// How many texts are expected, and how many bytes of text are held at most.
const TEXTS: usize = 10_000;
const BYTES: u64 = 16 << 20;

/// Remembers the dependencies of SQL texts, for connections that share a database, a role and a
/// search path. A text that is known costs one look-up.
#[derive(Debug)]
pub(crate) struct Known {
    texts: Cache<String, Remembered, Bytes>,
    /// Counts changes of the schema; what was found under an earlier one is not used.
    generation: AtomicU64,
}

#[derive(Debug, Clone)]
struct Remembered {
    generation: u64,
    dependencies: Arc<Dependencies>,
    reads_clock: bool,
}

impl Known {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        Self { texts: Cache::with_weighter(TEXTS, BYTES, Bytes), generation: AtomicU64::new(0) }
    }

    /// What a text depends on, if that is known already.
    pub(crate) fn get(&self, sql: &str) -> Option<Arc<Dependencies>> {
        self.texts.get(sql).and_then(|remembered| self.current(remembered))
    }

    /// Whether what a text gives may depend on the time of day. So it may as long as the text is not known.
    pub(crate) fn reads_clock(&self, sql: &str) -> bool {
        self.texts.get(sql).is_none_or(|remembered| remembered.reads_clock)
    }

    /// What a text depends on, found out if need be, once for all who ask at the same time.
    ///
    /// # Errors
    ///
    /// If the database can't be asked; that is not remembered.
    pub(crate) async fn learn(
        &self,
        conn: &mut PgConnection,
        sql: &str,
    ) -> Result<Arc<Dependencies>, sqlx::Error> {
        if sql.len() > SQL_MAX {
            return Ok(find(conn, sql).await?.0);
        }
        loop {
            let old = |remembered: &Remembered| remembered.generation != self.generation();
            self.texts.remove_if(sql, old);
            // Before the catalogue is asked: a change during the asking makes the answer old.
            let generation = self.generation();
            match self.texts.get_value_or_guard_async(sql).await {
                Ok(remembered) => {
                    if let Some(dependencies) = self.current(remembered) {
                        return Ok(dependencies);
                    }
                }
                Err(guard) => {
                    let (dependencies, reads_clock) = find(conn, sql).await?;
                    let remembered = Remembered { generation, dependencies, reads_clock };
                    // Refused when everything was forgotten meanwhile, which is as well.
                    let _ = guard.insert(remembered.clone());
                    if let Some(dependencies) = self.current(remembered) {
                        return Ok(dependencies);
                    }
                }
            }
        }
    }

    /// Forgets everything, since the schema has changed.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.texts.clear();
    }

    fn current(&self, remembered: Remembered) -> Option<Arc<Dependencies>> {
        (remembered.generation == self.generation()).then_some(remembered.dependencies)
    }

    /// Counts the changes of the schema that were noticed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

/// What a text depends on, and whether on the time of day.
async fn find(
    conn: &mut PgConnection,
    sql: &str,
) -> Result<(Arc<Dependencies>, bool), sqlx::Error> {
    match analyze(sql) {
        Analysis::Read(references) => {
            let (mut found, reads_clock) = resolve_with_clock(conn, &references).await?;
            if let Dependencies::Tables(tables) = &mut found {
                narrow(conn, sql, tables).await?;
            }
            Ok((Arc::new(found), reads_clock || mentions_clock(sql)))
        }
        Analysis::Other(unfit) => Ok((Arc::new(Dependencies::Unfit(unfit)), false)),
    }
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<String, Remembered> for Bytes {
    fn weight(&self, sql: &String, _remembered: &Remembered) -> u64 {
        sql.len() as u64 + 128
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use sqlx::Connection;

    use super::*;
    use crate::postgres::dependencies::Unfit;
    use tidegate_testing::Postgres;

    #[tokio::test]
    async fn what_was_found_before_a_change_is_not_used_though_it_was_kept_after() {
        let postgres = Postgres::start().await.expect("Postgres");
        let mut conn = PgConnection::connect(&postgres.url()).await.expect("connection");
        let known = Known::new();
        let dependencies = Arc::new(Dependencies::Unfit(Unfit::Locking));
        known.forget();
        known.texts.insert(
            "select 1".to_owned(),
            Remembered { generation: 0, dependencies, reads_clock: false },
        );
        assert_eq!(known.get("select 1"), None);
        let learnt = known.learn(&mut conn, "select 1").await.expect("answer");
        assert_eq!(*learnt, Dependencies::Tables(Vec::new()));
        assert_eq!(known.get("select 1"), Some(learnt));
    }
}
