//! The node whose memory is measured.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Sessions, Triggers,
};
use tidegate_testing::Postgres;
use tower::ServiceExt;

use crate::Failure;

/// The number of rows. `/items/7`, `/items/10007` and so on read the same row.
const ROWS: u64 = 10_000;

/// One in this many keys is computed with a statement of its own.
const STATEMENTS: u64 = 100;

const TOKEN: &str = "tidegate-position";

/// A node in this process, and its database.
pub(super) struct Node {
    pub(super) cache: Cache,
    app: Router,
    postgres: Postgres,
    _listener: Listener,
}

impl Node {
    pub(super) async fn start(capacity: u64) -> Result<Self, Failure> {
        let postgres = Postgres::start().await?;
        let table =
            "create table items (id bigint primary key, n bigint not null, body text not null);
            insert into items select id, 0, repeat('x', 1000) from generate_series(0, 9999) id";
        postgres.psql(table).await?;
        let mut conn = PgConnection::connect(&postgres.url()).await?;
        Triggers::new().table("items").install(&mut conn).await?;
        let db = DatabaseOptions::new(postgres.url()).connect().await?;
        let cache = Cache::new(Memory::new(capacity));
        let listener = Listener::spawn(&db, &cache).await?;
        let policy = Policy::ttl(std::time::Duration::from_secs(3600));
        let layer = CacheLayer::new(cache.clone())
            .route("/items/{key}", policy)
            .sessions(Sessions::new("the secret of this measurement")?)
            .validate()?;
        let app = Router::new().route("/items/{key}", get(read).post(write)).layer(layer);
        Ok(Self { cache, app: app.with_state(db), postgres, _listener: listener })
    }

    /// Requests a key twice; returns whether the second response was a hit.
    pub(super) async fn ask_twice(&self, key: u64) -> Result<bool, Failure> {
        let request = || Request::get(format!("/items/{key}")).body(Body::empty());
        self.ask(request()?).await?;
        let (response, _) = self.ask(request()?).await?;
        Ok(response
            .headers()
            .get("cache-status")
            .is_some_and(|status| status.as_bytes().starts_with(b"tidegate; hit")))
    }

    /// Writes to a row in a new session, and reads it back.
    pub(super) async fn write_and_read(&self, session: u64) -> Result<(), Failure> {
        let uri = format!("/items/{}", session % ROWS);
        let (response, written) = self.ask(Request::post(&uri).body(Body::empty())?).await?;
        let token = response.headers().get(TOKEN).ok_or("a write has no token")?;
        let request = Request::get(&uri).header(TOKEN, token).body(Body::empty())?;
        let (_, read) = self.ask(request).await?;
        let [written, read] = [&written, &read].map(|body| body.split(' ').next()?.parse().ok());
        let is_seen = written.zip(read).is_some_and(|(written, read): (u64, u64)| written <= read);
        if is_seen { Ok(()) } else { Err("a session did not see its write".into()) }
    }

    pub(super) async fn change_schema(&self, number: u64) -> Result<(), Failure> {
        let change =
            if number.is_multiple_of(2) { "add column more int" } else { "drop column more" };
        self.postgres.psql(&format!("alter table items {change}")).await?;
        Ok(())
    }

    async fn ask(&self, request: Request<Body>) -> Result<(Response<()>, String), Failure> {
        let Ok(response) = self.app.clone().oneshot(request).await;
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if head.status != StatusCode::OK {
            return Err(format!("{}: {body}", head.status).into());
        }
        Ok((Response::from_parts(head, ()), body))
    }
}

type Answer = Result<String, (StatusCode, String)>;

async fn read(State(db): State<Database>, Path(key): Path<u64>) -> Answer {
    let id = key % ROWS;
    let query = "select n || ' ' || body from items where id = ";
    let read = if key.is_multiple_of(STATEMENTS) {
        let query = AssertSqlSafe(format!("{query}{id} and {key} = {key}"));
        sqlx::query_scalar(query).fetch_one(db.reader()).await
    } else {
        let query = sqlx::query_scalar(AssertSqlSafe(format!("{query}$1")));
        query.bind(id.cast_signed()).fetch_one(db.reader()).await
    };
    read.map_err(failed)
}

async fn write(State(db): State<Database>, Path(key): Path<u64>) -> Answer {
    let update = "update items set n = n + 1 where id = $1 returning n || ' written'";
    let update = sqlx::query_scalar(update).bind((key % ROWS).cast_signed());
    update.fetch_one(db.writer()).await.map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn failed(error: sqlx::Error) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
