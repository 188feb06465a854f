//! Finds a statement's dependencies: in the cache, or in the catalogue of a server.

use std::time::Duration;

use tokio::time::sleep;

use super::checkout::CloseOnCancel;
use super::database::Database;
use super::deadline::{is_late, late, within};
use super::dependencies::{
    Dependencies, DependencyLookup, FoundDependencies, Unanalyzable, UnknownStatement,
};
use super::sql_error::is_ended_by_limit;
use crate::cache::spawn;
use crate::clock;
use crate::entry::Epoch;

/// How often a lookup is repeated while the schema changes. After that, the statement is run without storing its result.
const LOOKUPS: usize = 3;

/// A dependency lookup that takes longer counts as stuck: its task is not being polled.
const LEARNS_WITHIN: Duration = Duration::from_secs(10);

/// The dependencies of a statement: from the cache, or looked up on the primary, or else on a replica.
pub(super) async fn dependencies(
    db: &Database,
    sql: &str,
    now: Epoch,
) -> Result<FoundDependencies, sqlx::Error> {
    let is_down = db.inner.lag.is_down();
    if let Some(found) = db.inner.known.get(sql)
        && found.source.is_good(is_down, now)
    {
        return Ok(found);
    }
    look_up(db, sql, now, report).await
}

/// Looks up a statement's dependencies in the background, one statement at a time, and for at most a tenth of the time,
/// since the number of texts is unlimited. Nothing waits for it.
pub(super) fn learn_later(db: &Database, sql: &str) {
    let Ok(lock) = db.inner.learning.try_lock(LEARNS_WITHIN) else { return };
    let (db, sql) = (db.clone(), sql.to_owned());
    spawn(async move {
        let began = clock::now();
        // If it fails, the next lookup reports the error.
        let _ = learn(&db, &sql).await;
        let rest = began.elapsed() * 9;
        lock.extend(rest);
        sleep(rest).await;
        drop(lock);
    });
}

/// Looks up a statement's dependencies, for later reads.
async fn learn(db: &Database, sql: &str) -> Result<(), sqlx::Error> {
    look_up(db, sql, Epoch::UNKNOWN, |_| {}).await.map(drop)
}

async fn look_up(
    db: &Database,
    sql: &str,
    now: Epoch,
    report: impl Fn(&Unanalyzable),
) -> Result<FoundDependencies, sqlx::Error> {
    let known = &db.inner.known;
    for _ in 0..LOOKUPS {
        let found = match known.lookup(sql, db.inner.lag.is_down(), now).await {
            DependencyLookup::Known(found) => return Ok(found),
            DependencyLookup::Unknown(unknown) => match unknown.by_text(sql) {
                Ok(found) => Some(found),
                Err(_) if known.is_resting() => {
                    let why = "the previous lookup in the catalogue did not succeed";
                    return Err(late(why.to_owned()));
                }
                Err(unknown) => find(db, sql, unknown).await?,
            },
        };
        if let Some(found) = found {
            if let Dependencies::Unanalyzable(unanalyzable) = &*found.dependencies {
                report(unanalyzable);
            }
            return Ok(found);
        }
    }
    // For a while, no other unknown statement waits for the catalogue either.
    known.rest();
    Err(late("the schema changed during each lookup".to_owned()))
}

/// Looks a statement up in the catalogue, within the time limit of the listener's statements, since other requests wait for
/// the same lookup. The server ends its part of an abandoned lookup. If the primary does not respond or provide a
/// connection in time, it is not queried for a while: otherwise the waiting requests would each wait as long, one after the
/// other.
async fn find(
    db: &Database,
    sql: &str,
    unknown: UnknownStatement<'_>,
) -> Result<Option<FoundDependencies>, sqlx::Error> {
    let replica = || db.servers().into_iter().find(|server| server.at().is_some());
    let instead = if db.inner.lag.is_down() { replica() } else { None };
    let found = within(async {
        let mut acquired = match instead.as_deref().unwrap_or(&db.inner.primary).acquire().await {
            Ok(acquired) => acquired,
            Err(error) => {
                db.inner.known.rest();
                replica().ok_or(error)?.acquire().await?
            }
        };
        let mut conn = CloseOnCancel::new(&mut acquired);
        let found = unknown.find(conn.get(), sql).await;
        conn.done();
        found
    })
    .await;
    if found.as_ref().is_err_and(|error| is_late(error) || is_ended_by_limit(error)) {
        db.inner.known.rest();
    }
    found
}

/// Logs why responses that use a statement are not cached, once for each text. The text itself is not logged, since it may
/// contain personal data.
fn report(unanalyzable: &Unanalyzable) {
    match unanalyzable {
        Unanalyzable::NotARead => {}
        Unanalyzable::UntrackedTable(..) => {
            tracing::warn!("responses are not cached: {unanalyzable}");
        }
        _ => tracing::info!("responses are not cached: {unanalyzable}"),
    }
}
