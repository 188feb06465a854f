//! Values that are too long to be noted, and statements that change too many.

use super::Bed;
use tidegate::Triggers;

const PAGES: &str = "create table pages (id int primary key, body text)";

fn pages() -> Triggers {
    Triggers::new().columns("pages", &["body"])
}

#[tokio::test]
async fn a_long_value_is_noted_as_one_whatever_it_is() {
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
async fn a_statement_that_writes_long_values_does_not_fail() {
    let bed = Bed::new(PAGES, pages()).await;
    // Not to be compressed, or it would be short.
    bed.server.psql("alter table pages alter body set storage external").await.unwrap();
    let many = "insert into pages select g, repeat('x', 11 << 20) from generate_series(1, 100) g";
    assert_eq!(bed.log(many).await.lines().count(), 1);
    let tags = "select cardinality(tags) from tidegate.log";
    assert_eq!(bed.server.psql(tags).await.unwrap(), "102");
}

#[tokio::test]
async fn past_a_number_of_values_and_bytes_a_statement_changes_every_row() {
    let bed = Bed::new(PAGES, pages().row_limit(1_000_000)).await;
    let few = bed.log("insert into pages select g, 'x' from generate_series(1, 9000) g").await;
    assert!(few.contains("pages:id=9000") && !few.contains('!'));
    let many = "update pages set body = 'y'; insert into pages select -g, 'x' from generate_series(1, 20000) g";
    assert_eq!(bed.log(many).await.lines().last().unwrap(), "pages pages!");
    let wide = "update pages set body = repeat('x', 1900) || id where id > 0";
    assert_eq!(bed.log(wide).await, "pages pages!");
}
