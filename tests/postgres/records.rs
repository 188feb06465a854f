//! The dependencies of a response are derived from its reads; where they can't be, the response is not stored.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy, Record, Triggers};
use tidegate_testing::Postgres;

use super::common::{eventually, fetch};
use super::world::{TTL, connect, options, primary};

const MORE: &str = "create table posts (id int primary key, author int, title text);
    insert into posts values (1, 1, 'tides'), (2, 2, 'gates');
    create view titles as select name, title from users join posts on users.id = author;
    create table loose (n int); insert into loose values (7);
    create function count_all() returns bigint language sql stable as 'select count(*) from users'";

/// A service with one route for each way to read.
struct Bed {
    primary: Postgres,
    app: Router,
}

impl Bed {
    async fn new() -> Self {
        let primary = primary(&[]).await;
        primary.psql(MORE).await.unwrap();
        let mut conn = connect(&primary).await;
        Triggers::new().columns("posts", &["author"]).install(&mut conn).await.unwrap();
        let db = options(&primary).connect().await.unwrap();
        let cache = Cache::new(Memory::new(16 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        let policy = Policy::ttl(TTL);
        let layer = CacheLayer::new(cache)
            .route("/untracked", policy.clone().untracked().tag("posts"))
            .route("/by/{author}", policy.clone().tag("posts:author={author}"))
            .default_policy(policy);
        let app = routes().layer(layer).with_state(db);
        Self { primary, app }
    }

    async fn status(&self, uri: &str) -> String {
        fetch(&self.app, uri).await.1
    }

    /// The response is stored, and each of these changes invalidates it.
    async fn falls_with(&self, uri: &str, changes: &[&str]) {
        for change in changes {
            eventually(uri, async || self.status(uri).await.contains("hit")).await;
            self.primary.psql(change).await.unwrap();
            eventually(change, async || self.status(uri).await.contains("changed")).await;
        }
    }

    async fn is_not_kept(&self, uri: &str, why: &str) {
        for _ in 0..3 {
            let status = self.status(uri).await;
            assert!(status.contains(why) && !status.contains("stored"), "{uri}: {status}");
        }
    }
}

async fn text(db: &Database, sql: &'static str) -> String {
    let sql = format!("select coalesce(string_agg(t::text, ' '), '') from ({sql}) t");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(db.reader()).await.unwrap()
}

fn routes() -> Router<Database> {
    Router::new()
        .route("/join", get(join))
        .route("/view", get(|db| read(db, "select * from titles")))
        .route("/by/{author}", get(|db| read(db, "select title from posts where author = 1")))
        .route("/spawn", get(spawn))
        .route("/carry", get(carry))
        .route("/loose", get(|db| read(db, "select n from loose")))
        .route("/stable", get(|db| read(db, "select count_all()")))
        .route("/random", get(|db| read(db, "select random()")))
        .route("/pool", get(pool))
        .route("/transaction", get(transaction))
        .route("/writes", get(writes))
        .route("/nothing", get(async || "nothing"))
        .route("/untracked", get(async || "from elsewhere"))
}

async fn read(State(db): State<Database>, sql: &'static str) -> String {
    text(&db, sql).await
}

async fn join(State(db): State<Database>) -> String {
    let (users, posts) =
        tokio::join!(text(&db, "select name from users"), text(&db, "select title from posts"));
    users + &posts
}

async fn spawn(State(db): State<Database>) -> String {
    let here = text(&db, "select name from users").await;
    let there = async move { text(&db, "select title from posts").await };
    here + &tokio::spawn(there).await.unwrap()
}

async fn carry(State(db): State<Database>) -> String {
    let work = async move { text(&db, "select title from posts").await };
    tokio::spawn(Record::carry(work)).await.unwrap()
}

async fn pool(State(db): State<Database>) -> String {
    let here = text(&db, "select name from users").await;
    let query = sqlx::query_scalar::<_, String>("select title from posts where id = 1");
    here + &query.fetch_one(db.primary()).await.unwrap()
}

async fn transaction(State(db): State<Database>) -> String {
    let here = text(&db, "select name from users").await;
    let mut transaction = db.begin().await.unwrap();
    let query = sqlx::query_scalar::<_, i64>("select count(*) from posts");
    here + &query.fetch_one(&mut *transaction).await.unwrap().to_string()
}

async fn writes(State(db): State<Database>) -> String {
    sqlx::query("update loose set n = n + 1").execute(db.writer()).await.unwrap();
    text(&db, "select name from users").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_invalidated_by_changes_to_everything_it_read_and_nothing_else() {
    let bed = Bed::new().await;
    let user = "update users set name = name || 'x' where id = 1";
    let post = "update posts set title = title || 'x' where id = 1";
    bed.falls_with("/join", &[user, post]).await;
    bed.falls_with("/view", &[user, post]).await;
    bed.falls_with("/carry", &[post]).await;
    bed.falls_with("/untracked", &[post]).await;
    let moved = "update posts set author = 3 where id = 1";
    let back = "update posts set author = 1 where id = 1";
    bed.falls_with("/by/1", &[post, moved, back, "truncate posts"]).await;
    bed.falls_with("/by/1", &["insert into posts values (8, 1, 'x'), (9, 2, 'y')"]).await;
    eventually("it is kept", async || bed.status("/by/1").await.contains("hit")).await;
    eventually("it is kept", async || bed.status("/join").await.contains("hit")).await;
    bed.primary.psql("update posts set title = 'z' where author = 2").await.unwrap();
    eventually("the change is seen", async || bed.status("/join").await.contains("changed")).await;
    assert!(bed.status("/by/1").await.contains("hit"), "another author's post");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_with_reads_that_cannot_be_tracked_is_not_stored_and_says_why() {
    let bed = Bed::new().await;
    for (uri, why) in [
        ("/spawn", "unscoped-read"),
        ("/loose", "untracked-table"),
        ("/stable", "stable-function"),
        ("/random", "volatile-function"),
        ("/pool", "unnoted-reads"),
        ("/transaction", "unnoted-reads"),
        ("/writes", "wrote"),
        ("/nothing", "no-reads"),
    ] {
        bed.is_not_kept(uri, why).await;
    }
}
