//! Statements that were prepared before a change of the schema go on working after it.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use sqlx::Row;
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy};
use tokio::task::JoinSet;

use super::common::{eventually, fetch};
use super::world::{TTL, connect, options, primary};

const CHANGES: [&str; 6] = [
    "alter table users add column age int default 7",
    "alter table users alter column age type bigint",
    "alter table users rename column age to years",
    "alter table users drop column years",
    "alter table users rename to people; create table users (id int primary key, name varchar)",
    "drop table users; alter table people rename to users",
];

/// Runs it on all connections of a pool, so that each has prepared it.
async fn everywhere<T: Send + 'static>(
    run: impl Fn() -> std::pin::Pin<Box<dyn Future<Output = T> + Send>>,
) -> Vec<T> {
    let mut all = JoinSet::new();
    for _ in 0..20 {
        all.spawn(run());
    }
    all.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn select_star_is_prepared_again_after_each_change_of_a_table() {
    let server = primary(&[]).await;
    let standby = server.standby().await.unwrap();
    let db = options(&server).replica(standby.url()).connections(4).connect().await.unwrap();
    let read = |db: &Database| {
        let db = db.clone();
        move || -> std::pin::Pin<Box<dyn Future<Output = Result<usize, sqlx::Error>> + Send>> {
            let db = db.clone();
            Box::pin(async move {
                let rows = sqlx::query("select * from users").fetch_all(db.reader()).await?;
                Ok(rows.first().map_or(0, Row::len))
            })
        }
    };
    let write = |db: &Database| {
        let db = db.clone();
        move || -> std::pin::Pin<Box<dyn Future<Output = Result<usize, sqlx::Error>> + Send>> {
            let db = db.clone();
            Box::pin(async move {
                let write =
                    "insert into users (id) select coalesce(max(id), 0) + 1 from users returning *";
                let rows = sqlx::query(write).fetch_all(db.writer()).await;
                match rows {
                    Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(0),
                    rows => rows.map(|rows| rows.len()),
                }
            })
        }
    };
    for change in CHANGES {
        everywhere(read(&db)).await;
        everywhere(write(&db)).await;
        // In one transaction: a standby never has a moment without the table.
        server.psql(&format!("begin; {change}; commit")).await.unwrap();
        for outcome in everywhere(read(&db)).await.into_iter().chain(everywhere(write(&db)).await) {
            outcome.unwrap_or_else(|error| panic!("{change}: {error}"));
        }
    }
}

async fn all(State(db): State<Database>) -> Result<String, String> {
    let rows =
        sqlx::query("select * from users where id > $1").bind(0).fetch_all(db.reader()).await;
    let rows = rows.map_err(|error| error.to_string())?;
    Ok(rows.first().map_or(0, Row::len).to_string())
}

/// A transaction can't be tried again by us, but its connection need not be one of before.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_of_a_schema_change_uses_no_connection_from_before_it() {
    let server = primary(&[]).await;
    let db = options(&server).connections(2).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache).route("/", Policy::ttl(TTL)).validate().unwrap();
    let app = Router::new().route("/", get(all)).layer(layer).with_state(db.clone());
    let begun = async || {
        let mut transaction = db.begin().await.unwrap();
        let rows = sqlx::query("select * from users").fetch_all(&mut *transaction).await;
        transaction.commit().await.unwrap();
        rows.map(|rows| rows[0].len())
    };
    for _ in 0..4 {
        assert_eq!(begun().await.unwrap(), 2);
    }
    eventually("a hit", async || fetch(&app, "/").await.1.contains("hit")).await;
    server.psql("alter table users add column age int").await.unwrap();
    eventually("the node knows", async || fetch(&app, "/").await.0 == "3").await;
    for _ in 0..4 {
        assert_eq!(begun().await.unwrap(), 3);
    }
}

/// A proxy that keeps statements prepared by their text would run that of before, whichever connection sends it.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_text_of_a_statement_differs_after_a_schema_change() {
    let server = primary(&[("log_statement", "all")]).await;
    let db = options(&server).pooled().connections(1).connect().await.unwrap();
    let read = async || {
        let rows = sqlx::query("select * from users -- all").fetch_all(db.reader()).await.unwrap();
        rows[0].len()
    };
    assert_eq!(read().await, 2);
    server.psql("alter table users add column age int").await.unwrap();
    assert_eq!(read().await, 3);
    let log = server.log();
    assert!(log.contains("select * from users -- all\n\t/* "), "{log}");
}

/// A migration holds a table for long, and each request analyzes a statement that reads it through a view.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_analysis_ends_on_the_server_too() {
    let server = primary(&[]).await;
    server.psql("create view names as select name from users").await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache).route("/", Policy::ttl(TTL)).validate().unwrap();
    let app = Router::new().route("/", get(of_view)).layer(layer).with_state(db.clone());
    let mut migration = connect(&server).await;
    let hold = "begin; lock table users in access exclusive mode";
    sqlx::raw_sql(hold).execute(&mut migration).await.unwrap();
    let request = tokio::spawn({
        let app = app.clone();
        async move { fetch(&app, "/").await }
    });
    let analyzes = "select count(*) from pg_stat_activity
        where query like '%pg_get_viewdef%' and wait_event_type = 'Lock' and pid <> pg_backend_pid()";
    eventually("it waits", async || server.psql(analyzes).await.unwrap() == "1").await;
    eventually("it ends", async || server.psql(analyzes).await.unwrap() == "0").await;
    assert!(!request.is_finished(), "the read itself waits");
    sqlx::raw_sql("rollback").execute(&mut migration).await.unwrap();
    assert_eq!(request.await.unwrap().0, "ada bob");
    eventually("a hit", async || fetch(&app, "/").await.1.contains("hit")).await;
}

async fn of_view(State(db): State<Database>) -> Result<String, String> {
    let rows = sqlx::query_scalar::<_, String>("select name from names order by name");
    rows.fetch_all(db.reader()).await.map(|all| all.join(" ")).map_err(|error| error.to_string())
}
