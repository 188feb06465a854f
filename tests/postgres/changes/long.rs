//! Values that are too long to be noted, and statements that change too many.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use sqlx::{Connection, PgConnection};
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Triggers};

use super::Bed;
use crate::common::{eventually, fetch};
use crate::world::TTL;

const PAGES: &str = "create table pages (id int primary key, body text)";

fn pages() -> Triggers {
    Triggers::new().columns("pages", &["body"])
}

#[tokio::test]
async fn all_long_values_of_a_column_are_logged_under_one_tag() {
    let bed = Bed::new(PAGES, pages()).await;
    let short = "x".repeat(1990);
    for (sql, tags) in [
        (
            "insert into pages values (1, repeat('x', 1990))",
            format!("pages pages:body={short} pages:id=1"),
        ),
        (
            "update pages set body = repeat('x', 2500)",
            format!("pages pages:body={short} pages:body> pages:id=1"),
        ),
        ("update pages set body = repeat('y', 1000000)", "pages pages:body> pages:id=1".to_owned()),
        // Stored, this one is compressed to some dozen bytes.
        ("update pages set body = repeat('z', 3000)", "pages pages:body> pages:id=1".to_owned()),
        ("update pages set id = 2", "pages pages:body> pages:id=1 pages:id=2".to_owned()),
        (
            "update pages set body = 'a>b='",
            "pages pages:body=a>b= pages:body> pages:id=2".to_owned(),
        ),
        ("delete from pages", "pages pages:body=a>b= pages:id=2".to_owned()),
    ] {
        assert_eq!(bed.log(sql).await, tags, "{sql}");
    }
}

/// The most memory that a session's server process has taken, in KiB; `None` where the system does not report it.
async fn peak(conn: &mut PgConnection) -> Option<u64> {
    let process: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(conn).await.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[tokio::test]
async fn statements_that_change_long_values_take_little_more_memory() {
    change_long_values(25).await;
}

/// What is noted of so many would exceed what an array may hold, and a value of the server's.
#[tokio::test]
#[ignore = "a minute: scripts/deep"]
async fn statements_that_change_a_gigabyte_of_long_values_do_not_fail() {
    change_long_values(100).await;
}

/// Changes so many rows with 11 MB each. The tables keep them compressed, so only the rows that a trigger is given take
/// that much.
async fn change_long_values(rows: usize) {
    /// How many times as much as on a table without triggers. It is 1.5, since a trigger reads values one at a time.
    const FACTOR: u64 = 2;
    /// The KiB of a value, which a DELETE reads only for a trigger.
    const VALUE: u64 = 12 << 10;
    let plain = "create table plain (like pages including all)";
    let bed = Bed::new(&format!("{PAGES}; {plain}"), pages()).await;
    let fill = "insert into TABLE select g, repeat((100 + g)::text, 4 << 20) from generate_series(1, ROWS) g";
    let merge = "merge into TABLE p using generate_series(101, 100 + ROWS) g on p.id = g
        when matched then update set body = repeat((400 + g)::text, 4 << 20)";
    let version = bed.server.psql("show server_version_num").await.unwrap();
    for (sql, tags) in [
        (fill, rows + 2),
        ("update TABLE set body = repeat((200 + id)::text, 4 << 20)", rows + 2),
        ("update TABLE set id = id + 100", 2 * rows + 2),
        (merge, rows + 2),
        ("delete from TABLE", rows + 2),
    ] {
        if sql == merge && version.as_str() < "150000" {
            continue; // MERGE came with Postgres 15.
        }
        let mut peaks = Vec::new();
        // Without triggers, a statement has one row at a time in memory.
        for (table, rows) in [("plain", 10), ("pages", rows)] {
            bed.server.psql("truncate tidegate.log").await.unwrap();
            let mut conn = PgConnection::connect(&bed.server.url()).await.unwrap();
            let sql =
                sqlx::AssertSqlSafe(sql.replace("TABLE", table).replace("ROWS", &rows.to_string()));
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
            peaks.extend(peak(&mut conn).await);
        }
        let logged = "select string_agg(cardinality(tags)::text, ' ') from tidegate.log";
        assert_eq!(bed.server.psql(logged).await.unwrap(), tags.to_string(), "{sql}");
        if let [without, with] = peaks[..] {
            assert!(
                with <= FACTOR * without + VALUE,
                "{sql}: {with} KiB, without triggers {without}"
            );
        }
    }
}

#[tokio::test]
async fn past_a_number_of_values_or_bytes_a_statement_is_logged_as_a_bulk_change() {
    let bed = Bed::new(PAGES, pages().row_limit(1_000_000)).await;
    let few = bed.log("insert into pages select g, 'x' from generate_series(1, 9000) g").await;
    assert!(few.contains("pages:id=9000") && !few.contains('!'));
    let many = "update pages set body = 'y'; insert into pages select -g, 'x' from generate_series(1, 20000) g";
    assert_eq!(bed.log(many).await.lines().last().unwrap(), "pages pages!");
    let wide = "update pages set body = repeat('x', 1900) || id where id > 0";
    assert_eq!(bed.log(wide).await, "pages pages!");
}

async fn count(State(db): State<Database>, Path(body): Path<String>) -> String {
    let query = sqlx::query_scalar::<_, i64>("select count(*) from pages where body = $1");
    query.bind(body).fetch_one(db.reader()).await.unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_depends_on_a_long_value_is_not_invalidated_by_short_ones() {
    let bed = Bed::new(PAGES, pages()).await;
    let db = DatabaseOptions::new(bed.server.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache.clone())
        .route("/{body}", Policy::ttl(TTL).tag("pages:body={body}"))
        .validate()
        .unwrap();
    let app = Router::new().route("/{body}", get(count)).layer(layer).with_state(db);
    let uri = format!("/{}", "x".repeat(3000));
    let hit =
        async || eventually("a hit", async || fetch(&app, &uri).await.1.contains("hit")).await;
    hit().await;
    bed.server.psql("insert into pages values (1, repeat('x', 3000))").await.unwrap();
    eventually("it is seen", async || fetch(&app, &uri).await.0 == "1").await;
    hit().await;
    bed.server.psql("insert into pages values (2, 'short')").await.unwrap();
    cache.invalidate(["past the change"]).await.unwrap();
    assert!(fetch(&app, &uri).await.1.contains("hit"), "another value");
    // What is stored now is compressed.
    bed.server.psql("update pages set body = '' where id = 1").await.unwrap();
    eventually("it is gone", async || fetch(&app, &uri).await.0 == "0").await;
}
