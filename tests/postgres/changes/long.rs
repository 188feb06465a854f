//! Values that are too long to be noted, and statements that change too many.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Triggers};

use super::Bed;
use crate::common::{ask, eventually};
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

/// What is noted of them would exceed what an array may hold, and a value of the server's.
#[tokio::test]
async fn a_statement_that_writes_many_long_values_does_not_fail() {
    let bed = Bed::new(PAGES, pages()).await;
    // The table keeps them compressed, so only the rows that the trigger is given take a gigabyte.
    let many = "insert into pages select g, repeat((100 + g)::text, 4 << 20) from generate_series(1, 100) g";
    assert_eq!(bed.log(many).await.lines().count(), 1);
    let tags = "select cardinality(tags) from tidegate.log";
    assert_eq!(bed.server.psql(tags).await.unwrap(), "102");
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
    let hit = async || eventually("a hit", async || ask(&app, &uri).await.1.contains("hit")).await;
    hit().await;
    bed.server.psql("insert into pages values (1, repeat('x', 3000))").await.unwrap();
    eventually("it is seen", async || ask(&app, &uri).await.0 == "1").await;
    hit().await;
    bed.server.psql("insert into pages values (2, 'short')").await.unwrap();
    cache.invalidate(["past the change"]).await.unwrap();
    assert!(ask(&app, &uri).await.1.contains("hit"), "another value");
    // What is stored now is compressed.
    bed.server.psql("update pages set body = '' where id = 1").await.unwrap();
    eventually("it is gone", async || ask(&app, &uri).await.0 == "0").await;
}
