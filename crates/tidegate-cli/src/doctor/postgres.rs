//! Checks of the primary, its change log, the listener's connection and the replicas.

use std::time::{Duration, SystemTime};

use sqlx::PgConnection;
use tidegate::{
    ChangeSource, Changes, Database, DatabaseOptions, SchemaStatus, TableStatus, Triggers,
};
use tokio::time::Instant;

use super::Check;
use crate::arguments::Servers;
use crate::facts::Facts;
use crate::status::mend;

/// With more rows than this, probably no node trims the log.
const MANY_ROWS: i64 = 1_000_000;

/// In seconds. While a transaction with writes stays open, the log can't be trimmed past it.
const LONG: f64 = 300.0;

/// A larger clock difference distorts the ages of shared responses.
const APART: Duration = Duration::from_secs(1);

pub(super) async fn checks(url: &str, servers: &Servers) -> Vec<Check> {
    let options = DatabaseOptions::new(url).connections(2).wait(Duration::from_secs(5));
    let options = match &servers.listen {
        Some(listen) => options.listen_url(listen),
        None => options,
    };
    let db = match options.connect().await {
        Ok(db) => db,
        Err(error) => return vec![Check::bad("primary", error)],
    };
    let mut checks = match db.primary().acquire().await {
        Ok(mut conn) => primary_checks(&mut conn).await.unwrap_or_else(failed),
        Err(error) => failed(error),
    };
    checks.push(match Changes::follow(&db).await {
        Ok(_) => Check::good("listener", "notifications arrive, and the log can be read"),
        Err(error) => Check::bad("listener", error),
    });
    for url in &servers.replica {
        checks.push(replica_check(&db, url).await);
    }
    if servers.replica.is_empty() {
        checks.push(Check::good(
            "replicas",
            "no replica is configured, so each miss reads the primary",
        ));
    }
    checks
}

fn failed(error: sqlx::Error) -> Vec<Check> {
    vec![Check::bad("primary", error)]
}

async fn primary_checks(conn: &mut PgConnection) -> Result<Vec<Check>, sqlx::Error> {
    let settings =
        "select current_setting('server_version'), current_setting('server_version_num')::int,
        current_setting('wal_level')";
    let (version, number, wal): (String, i32, String) =
        sqlx::query_as(settings).fetch_one(&mut *conn).await?;
    let primary = match number {
        ..140_000 => Check::bad("primary", format!("Postgres {version}: 14 or later is required")),
        _ => Check::good("primary", format!("Postgres {version}, accepts writes")),
    };
    let wal = match wal.as_str() {
        "minimal" => Check::warning("wal_level", "minimal: no replica can follow the primary")
            .mend("set wal_level = replica, and restart Postgres"),
        _ => Check::good("wal_level", wal),
    };
    let mut checks = vec![primary, wal, clock_check(conn).await?];
    match Triggers::status(&mut *conn).await {
        Ok(status) => {
            schema_checks(&status, &mut checks);
            if status.tables.iter().any(|table| table.source == ChangeSource::LogicalReplication) {
                checks.push(retained_wal(&mut *conn).await?);
            }
            checks.push(writers_check(&Facts::read(conn).await?));
        }
        Err(error) => checks.push(Check::bad("schema tidegate", error)),
    }
    Ok(checks)
}

fn schema_checks(status: &SchemaStatus, checks: &mut Vec<Check>) {
    let version = format!("version {}", status.version);
    checks.push(match status.outdated {
        true => Check::bad(
            "schema tidegate",
            format!("{version}, which differs from what this command installs"),
        )
        .mend("tidegate install TABLE..."),
        false => Check::good("schema tidegate", version),
    });
    for table in &status.row_security {
        let found = format!(
            "{table} has row security, which hides changes and, if forced, makes writes fail"
        );
        checks.push(Check::bad("row security", found).mend("tidegate install TABLE..."));
    }
    checks.push(match &status.no_wakeups {
        None => Check::good("wake-ups", "commits wake the listener"),
        Some(why) => Check::warning(
            "wake-ups",
            format!("commits do not wake nodes ({why}), so nodes poll every 100 ms"),
        ),
    });
    checks.push(match &status.no_event_trigger {
        None => Check::good("schema changes", "event triggers record them"),
        // The service works all the same.
        Some(why) => {
            let found = format!(
                "nodes detect schema changes by comparing the catalogue once a second: {why}"
            );
            Check::good("schema changes", found)
        }
    });
    checks.push(match status.log_rows > MANY_ROWS {
        true => Check::warning(
            "log",
            format!(
                "{} rows: no node trims it, or a transaction has been open for a long time",
                status.log_rows
            ),
        )
        .mend("run a node of the service: its listener trims the log"),
        false => Check::good("log", format!("{} rows", status.log_rows)),
    });
    if status.tables.is_empty() {
        let none = Check::warning(
            "tables",
            "no table is tracked, so only routes with Policy::untracked are cached",
        );
        checks.push(none.mend("tidegate install TABLE..."));
    }
    checks.extend(status.tables.iter().flat_map(table_checks));
}

fn table_checks(table: &TableStatus) -> Vec<Check> {
    let what = format!("table {}", table.name);
    let triggers = if table.is_sound() {
        Check::good(&what, "every change is seen")
    } else {
        let found = if !table.unpublished.is_empty() {
            "the table, or a partition or child of it, is not in the publication tidegate"
        } else if !table.subscriptions.is_empty() {
            "a subscription writes to it without firing triggers"
        } else if !table.foreign_tables.is_empty() {
            "a child or partition of it is a foreign table, whose server may change it unnoticed"
        } else {
            "some triggers are missing, or do not fire on every change"
        };
        Check::bad(&what, found).mend(mend(table))
    };
    let warnings = table.warnings.iter().map(|warning| Check::warning(&what, warning));
    [triggers].into_iter().chain(warnings).collect()
}

/// What bounds the write-ahead log that the server keeps for a node that hangs and, with a limit, for one that has stopped.
async fn retained_wal(conn: &mut PgConnection) -> Result<Check, sqlx::Error> {
    let query =
        "select current_setting('max_slot_wal_keep_size'), current_setting('wal_sender_timeout')";
    let (most, timeout): (String, String) = sqlx::query_as(query).fetch_one(conn).await?;
    Ok(match (most.as_str(), timeout.as_str()) {
        ("-1", "0") => {
            Check::warning("retained WAL", "the primary keeps WAL for a node that hangs, without a limit, and its disk can fill up")
                .mend("set wal_sender_timeout or max_slot_wal_keep_size")
        }
        ("-1", _) => {
            let found = format!(
                "WAL is kept for {timeout} for a node that hangs, and not at all for stopped nodes. If your nodes share a \
                 Redis, set max_slot_wal_keep_size: WAL is then kept while all nodes are stopped, and \
                 the first node to start again continues where the last one stopped"
            );
            Check::good("retained WAL", found)
        }
        _ => Check::good(
            "retained WAL",
            format!("at most {most} of WAL is kept for nodes that hang or have stopped"),
        ),
    })
}

fn writers_check(facts: &Facts) -> Check {
    match facts.oldest_writer_seconds.zip(facts.oldest_writer_pid) {
        Some((seconds, pid)) if seconds > LONG => {
            let found = format!("process {pid} has had one transaction open for {seconds:.0} s");
            Check::warning("writers", found).mend("end it: it keeps the log from being trimmed")
        }
        _ => Check::good("writers", "no transaction with writes has been open for long"),
    }
}

async fn clock_check(conn: &mut PgConnection) -> Result<Check, sqlx::Error> {
    let (began, before) = (Instant::now(), now());
    let query = "select extract(epoch from clock_timestamp())::float8";
    let theirs: f64 = sqlx::query_scalar(query).fetch_one(conn).await?;
    let ours = before + began.elapsed().as_secs_f64() / 2.0;
    let apart = ours - theirs;
    let found = format!("{:.0} ms from the primary's clock", apart * 1000.0);
    Ok(match apart.abs() > APART.as_secs_f64() + began.elapsed().as_secs_f64() {
        true => Check::warning("clock", found)
            .mend("synchronize the clocks with NTP: TTLs depend on them"),
        false => Check::good("clock", found),
    })
}

#[expect(clippy::disallowed_methods, reason = "the clock itself is looked at")]
fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

async fn replica_check(db: &Database, url: &str) -> Check {
    match db.add_replica(url.trim()).await {
        Ok(name) => Check::good(format!("replica {name}"), "follows the primary"),
        Err(error) => Check::bad("replica", error),
    }
}
