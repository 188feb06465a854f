//! Settings that a role or a database begins its connections with.

use sqlx::{Connection, PgConnection};
use tidegate::Triggers;
use tidegate_testing::Postgres;

use super::{USERS, users};
use crate::world::Node;

/// What may be another way in a database without making it uncacheable for use.
const ODD: [&str; 14] = [
    "standard_conforming_strings = off",
    "escape_string_warning = off",
    "search_path = pg_catalog, public",
    "default_transaction_isolation = serializable",
    "default_transaction_read_only = on",
    "row_security = off",
    "datestyle = 'German'",
    "intervalstyle = sql_standard",
    "extra_float_digits = -15",
    "bytea_output = escape",
    "array_nulls = off",
    "quote_all_identifiers = on",
    "plpgsql.variable_conflict = use_column",
    "plpgsql.extra_errors = 'all'",
];

async fn odd() -> Postgres {
    let server = Postgres::start().await.unwrap();
    server.psql(USERS).await.unwrap();
    for setting in ODD {
        server
            .psql(&format!("begin read write; alter database postgres set {setting}; commit"))
            .await
            .unwrap();
    }
    server
}

/// Runs a script that may write.
async fn write(server: &Postgres, sql: &str) {
    server.psql(&format!("set default_transaction_read_only = off; {sql}")).await.unwrap();
}

#[tokio::test]
async fn install_and_upgrade_work_in_a_database_with_unusual_settings() {
    let server = odd().await;
    let mut conn = PgConnection::connect(&server.url()).await.unwrap();
    for outdated in [false, true] {
        if outdated {
            write(&server, "update tidegate.meta set version = 5").await;
        }
        users().install(&mut conn).await.unwrap();
        let status = Triggers::status(&mut conn).await.unwrap();
        assert!(
            !status.outdated && status.table("users").unwrap().warnings.is_empty(),
            "{status:?}"
        );
        assert_eq!(status.table("users").unwrap().columns, ["id", "org"]);
        assert_eq!(status.no_event_trigger, None);
    }
    users().uninstall(&mut conn).await.unwrap();
    write(&server, "drop schema tidegate cascade").await;
    write(&server, &users().migration()).await;
    assert!(!Triggers::status(&mut conn).await.unwrap().outdated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_unusual_settings_is_followed() {
    let server = odd().await;
    let mut conn = PgConnection::connect(&server.url()).await.unwrap();
    users().install(&mut conn).await.unwrap();
    // With it, no statement is cached: the analysis reads strings by the standard.
    write(&server, "alter database postgres reset standard_conforming_strings").await;
    write(&server, "insert into users values (31, 7, 'ada'), (32, 7, 'bob')").await;
    let node = Node::alone(&server).await;
    node.get("/users/31").await;
    let status = node.get("/users/31").await.1;
    assert!(status.contains("hit"), "{status}");
    node.warm(&["/users/32"]).await;
    write(&server, "update users set name = 'eve' where id = 31").await;
    node.sees("/users/31", "eve").await;
    assert!(node.get("/users/32").await.1.contains("hit"), "a row is identified by its key");
}
