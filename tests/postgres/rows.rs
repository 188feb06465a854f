//! Which rows a response depends on: what its statements say, without a tag.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use sqlx::Connection;
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Triggers};
use tidegate_testing::Postgres;

use super::common::{eventually, fetch};
use super::world::TTL;

const SETUP: &str = "create table users (id int primary key, name text);
    create table articles (id bigint primary key, slug text, author int, title text);
    create table favorites (reader int, article bigint, primary key (reader, article));
    create view authors as select distinct u.* from users u join articles a on a.author = u.id;
    create table marks (n int primary key); insert into marks values (0);
    insert into users values (1, 'ann'), (2, 'bob'), (3, 'cid');
    insert into articles values (10, 'one', 1, 'One'), (20, 'two', 2, 'Two');
    insert into favorites values (1, 10), (2, 20)";

struct World {
    server: Postgres,
    app: Router,
}

/// What these return for the reader in the path; each with a parameter but the last.
const QUERIES: [(&str, &str); 9] = [
    ("one", "select name from users where id = $1"),
    ("cast", "select name from users where id = $1::int8::int4"),
    ("among", "select string_agg(name, ' ' order by id) from users where id in ($1, 3)"),
    ("any", "select string_agg(name, ' ' order by id) from users where id = any (array[$1])"),
    (
        "join",
        "select string_agg(a.title || coalesce(' by ' || f.reader, ''), ', ' order by a.id) from articles a
            left join favorites f on f.article = a.id and f.reader = $1",
    ),
    (
        "exists",
        "select string_agg(a.title, ', ' order by a.id) from articles a where exists
            (select from favorites f where f.article = a.id and f.reader = $1)",
    ),
    ("view", "select name from authors where id = $1"),
    ("twice", "select u.name from users u join users v on v.id = u.id where u.id = $1"),
    ("mark", "select n::text from marks where $1 = $1"),
];

impl World {
    async fn new() -> Self {
        let server = Postgres::start().await.unwrap();
        server.psql(SETUP).await.unwrap();
        let tracked = Triggers::new().table("users").columns("articles", &["slug"]).table("marks");
        let mut conn = sqlx::PgConnection::connect(&server.url()).await.unwrap();
        tracked.table("favorites").install(&mut conn).await.unwrap();
        let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
        let cache = Cache::new(Memory::new(1 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        let policy = Policy::ttl(TTL).early_refresh(0.0);
        let layer = CacheLayer::new(cache)
            .route("/{query}/{reader}", policy.clone())
            .route("/titles/{slugs}/of", policy.clone())
            .route("/readers/{article}/and/{reader}", policy);
        let app = Router::new()
            .route("/{query}/{reader}", get(respond))
            .route("/titles/{slugs}/of", get(titles))
            .route("/readers/{article}/and/{reader}", get(readers))
            .layer(layer)
            .with_state(db);
        Self { server, app }
    }

    async fn body(&self, uri: &str) -> String {
        fetch(&self.app, uri).await.0
    }

    async fn is_hit(&self, uri: &str) -> bool {
        fetch(&self.app, uri).await.1.contains("hit")
    }

    async fn warm(&self, uri: &str) {
        eventually(uri, async || self.is_hit(uri).await).await;
    }

    /// Changes something, and waits until the node knows of it.
    async fn change(&self, sql: &str) {
        self.server.psql(sql).await.unwrap();
        self.server.psql("update marks set n = n + 1").await.unwrap();
        let now = self.server.psql("select n from marks").await.unwrap();
        eventually(sql, async || self.body("/mark/0").await == now).await;
    }

    /// A response falls with a change of its rows, and not with one of others.
    async fn follows(&self, uri: &str, own: &str, others: &[&str]) {
        self.warm(uri).await;
        for other in others {
            self.change(other).await;
            assert!(self.is_hit(uri).await, "{uri} does not depend on: {other}");
        }
        let before = self.body(uri).await;
        self.change(own).await;
        assert_ne!(self.body(uri).await, before, "{uri} depends on: {own}");
    }
}

async fn respond(State(db): State<Database>, Path((query, reader)): Path<(String, i32)>) -> String {
    let (_, sql) = QUERIES.iter().find(|(name, _)| *name == query).unwrap();
    let found = sqlx::query_scalar::<_, Option<String>>(*sql).bind(reader);
    found.fetch_optional(db.reader()).await.unwrap().flatten().unwrap_or_default()
}

async fn titles(State(db): State<Database>, Path(slugs): Path<String>) -> String {
    let slugs: Vec<String> = slugs.split('+').map(str::to_owned).collect();
    let sql = "select title from articles where slug = any ($1) order by id";
    let titles = sqlx::query_scalar::<_, String>(sql).bind(slugs).fetch_all(db.reader());
    titles.await.unwrap().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_narrowed_to_the_rows_of_its_conditions() {
    let world = World::new().await;
    let (ann, bob, cid) = (
        "update users set name = name || '!' where id = 1",
        "update users set name = name || '!' where id = 2",
        "update users set name = name || '!' where id = 3",
    );
    world.follows("/one/1", ann, &[bob, cid, "update articles set title = title"]).await;
    world.follows("/cast/1", ann, &[bob, cid]).await;
    world.follows("/among/1", ann, &[bob]).await;
    world.follows("/among/2", cid, &[ann]).await;
    let (one, two) = (
        "update articles set title = title || '!' where slug = 'one'",
        "update articles set title = title || '!' where slug = 'two'",
    );
    world.follows("/titles/one/of", one, &[two]).await;
    world
        .follows("/titles/one+three/of", "update articles set slug = 'three' where id = 20", &[two])
        .await;
    let (mine, theirs) =
        ("insert into favorites values (1, 20)", "insert into favorites values (2, 10)");
    world.follows("/join/1", mine, &[theirs]).await;
    world.follows("/join/1", one, &["delete from favorites where reader = 2"]).await;
    world.follows("/exists/2", theirs, &["delete from favorites where reader = 1"]).await;
}

/// How many have an article among their favorites, and whether one reader has.
async fn readers(State(db): State<Database>, Path((article, reader)): Path<(i64, i32)>) -> String {
    let count = "select count(*) from favorites where article = any ($1)";
    let count = sqlx::query_scalar::<_, i64>(count).bind([article]).fetch_one(db.reader());
    let count = count.await.unwrap();
    let own = "select article from favorites where reader = $1 and article = any ($2)";
    let own = sqlx::query_scalar::<_, i64>(own).bind(reader).bind([article]);
    let own = own.fetch_optional(db.reader()).await.unwrap();
    format!("{count} {}", own.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_narrowed_by_the_condition_that_adds_no_dependency() {
    let world = World::new().await;
    let (own, other) = (
        "insert into favorites values (1, 20)",
        ["insert into favorites values (2, 10)", "delete from favorites where article = 10"],
    );
    world.follows("/readers/20/and/1", own, &other).await;
    // The first column of the key, where nothing else is read of the table.
    world
        .follows(
            "/join/1",
            "delete from favorites where reader = 1",
            &["insert into favorites values (3, 20)"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_read_twice_or_through_a_view_is_not_narrowed() {
    let world = World::new().await;
    for uri in ["/view/1", "/twice/1"] {
        world.warm(uri).await;
        world.change("update users set name = name || '!' where id = 3").await;
        assert!(!world.is_hit(uri).await, "{uri} depends on all users");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidating_a_table_from_sql_invalidates_its_rows_too() {
    let world = World::new().await;
    for uri in ["/one/1", "/among/2"] {
        world.warm(uri).await;
        world.change("select tidegate.invalidate('{users:id=7,articles}')").await;
        assert!(world.is_hit(uri).await, "{uri}");
        world.change("select tidegate.invalidate('{users}')").await;
        assert!(!world.is_hit(uri).await, "{uri}");
    }
}
