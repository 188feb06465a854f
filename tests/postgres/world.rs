//! Servers, and a small service on them.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Sessions, Triggers,
};
use tidegate_testing::{FaultProxy, Postgres};

use crate::common::{eventually, fetch, read, send};

pub(crate) const TTL: Duration = Duration::from_mins(10);

pub(crate) const SETUP: &str = "create table users (id int primary key, name text);
    insert into users values (1, 'ada'), (2, 'bob')";

/// A primary with the table `users` and its triggers.
pub(crate) async fn primary(settings: &[(&str, &str)]) -> Postgres {
    let primary = Postgres::start_with(settings).await.unwrap();
    primary.psql(SETUP).await.unwrap();
    Triggers::new().table("users").install(&mut connect(&primary).await).await.unwrap();
    primary
}

/// A proxy in front of a server.
pub(crate) async fn proxy(server: &Postgres) -> (FaultProxy, String) {
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", proxy.addr());
    (proxy, url)
}

/// Waits until a replica has replayed all that its primary has written so far.
pub(crate) async fn caught_up(primary: &Postgres, replica: &Postgres) {
    let written = primary.psql("select pg_current_wal_insert_lsn()").await.unwrap();
    let replayed = format!("select pg_last_wal_replay_lsn() >= '{written}'");
    eventually("the replica has caught up", async || replica.psql(&replayed).await.unwrap() == "t")
        .await;
}

/// A connection of the superuser's.
pub(crate) async fn connect(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url()).await.unwrap()
}

pub(crate) fn options(primary: &Postgres) -> DatabaseOptions {
    DatabaseOptions::new(primary.url())
}

/// One node of the service.
///
/// `/users` and `/users/{id}` are cached, `/plain/{id}` is not and says which port responded.
pub(crate) struct Node {
    pub(crate) db: Database,
    pub(crate) cache: Cache,
    pub(crate) app: Router,
    pub(crate) listener: Listener,
}

impl Node {
    pub(crate) async fn start(db: &Database, policy: &Policy) -> Self {
        let cache = Cache::new(Memory::new(16 << 20));
        let listener = Listener::spawn(db, &cache).await.unwrap();
        let layer = CacheLayer::new(cache.clone())
            .route("/users/{id}", policy.clone().tag("users:id={id}"))
            .route("/users", policy.clone())
            .sessions(Sessions::new("the same on every node").unwrap())
            .validate()
            .unwrap();
        let app = Router::new()
            .route("/users/{id}", get(user).put(rename))
            .route("/users", get(users))
            .route("/plain/{id}", get(plain))
            .layer(layer)
            .with_state(db.clone());
        Self { db: db.clone(), cache, app, listener }
    }

    /// A node on a database with no replicas.
    pub(crate) async fn alone(primary: &Postgres) -> Self {
        Self::start(&options(primary).connect().await.unwrap(), &Policy::ttl(TTL)).await
    }

    pub(crate) async fn get(&self, uri: &str) -> (String, String) {
        fetch(&self.app, uri).await
    }

    /// A GET that brings the token of an earlier response.
    pub(crate) async fn get_with(&self, uri: &str, token: &HeaderMap) -> (String, String) {
        let mut request = Request::get(uri).body(Body::empty()).unwrap();
        request.headers_mut().extend(token.clone());
        read(send(&self.app, request).await).await
    }

    /// Renames a user; returns the headers that a client brings from then on.
    pub(crate) async fn put(&self, id: i32, name: &str) -> HeaderMap {
        let request = Request::put(format!("/users/{id}")).body(name.to_owned().into()).unwrap();
        let response = send(&self.app, request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let token = response.headers()["tidegate-position"].clone();
        HeaderMap::from_iter([("tidegate-position".parse().unwrap(), token)])
    }

    /// Waits until these paths are served from memory.
    pub(crate) async fn warm(&self, uris: &[&str]) {
        for uri in uris {
            eventually(uri, async || self.get(uri).await.1.contains("hit")).await;
        }
    }

    /// Waits until a path has this body.
    pub(crate) async fn sees(&self, uri: &str, body: &str) {
        eventually(body, async || self.get(uri).await.0 == body).await;
    }
}

async fn user(State(db): State<Database>, Path(id): Path<i32>) -> Result<String, StatusCode> {
    let query = sqlx::query_scalar("select name from users where id = $1").bind(id);
    found(query.fetch_optional(db.reader()).await).map(Option::unwrap_or_default)
}

async fn users(State(db): State<Database>) -> Result<String, StatusCode> {
    let query = sqlx::query_scalar::<_, String>("select name from users order by id");
    found(query.fetch_all(db.reader()).await).map(|names| names.join(" "))
}

async fn plain(State(db): State<Database>, Path(id): Path<i32>) -> Result<String, StatusCode> {
    let query = "select name || ' from ' || inet_server_port() from users where id = $1";
    found(sqlx::query_scalar(query).bind(id).fetch_one(db.reader()).await)
}

async fn rename(
    State(db): State<Database>,
    Path(id): Path<i32>,
    name: String,
) -> Result<(), StatusCode> {
    let query = sqlx::query("update users set name = $1 where id = $2").bind(name).bind(id);
    found(query.execute(db.writer()).await).map(drop)
}

fn found<T>(result: Result<T, sqlx::Error>) -> Result<T, StatusCode> {
    result.map_err(|_error| StatusCode::SERVICE_UNAVAILABLE)
}
