//! A small shop: one node of a service as it would run in production. `examples/demo` starts two.
//!
//! `POSTGRES_PRIMARY_URL=... POSTGRES_REPLICA_URL=... REDIS_URL=...
//! cargo run -p tidegate-examples --example app --features postgres,redis`

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy, Redis, Sessions, Tiered};
use tokio::net::TcpListener;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Serialize)]
struct Product {
    id: i32,
    name: String,
    cents: i32,
}

/// What `#[derive(sqlx::FromRow)]` would write. For its macro, sqlx is compiled twice.
impl FromRow<'_, PgRow> for Product {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let (id, name, cents) = (row.try_get("id")?, row.try_get("name")?, row.try_get("cents")?);
        Ok(Self { id, name, cents })
    }
}

/// Any database error becomes a 503, since the client may retry.
struct Unavailable(sqlx::Error);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .with(Targets::new().with_target("tidegate", LevelFilter::INFO))
        .init();
    let db = Database::from_env().await?;
    let cache = Cache::new(Tiered::new(Memory::new(256 << 20), Redis::from_env().await?));
    Listener::spawn(&db, &cache).await?;

    let minute = Policy::ttl(Duration::from_secs(60)).public();
    let layer = CacheLayer::new(cache)
        .route("/products/{id}", minute.clone().tag("products:id={id}"))
        .route("/products", minute)
        .sessions(Sessions::new("for the demo: the same on every node")?)
        .validate()?;
    let app = Router::new()
        .route("/products", get(products))
        .route("/products/{id}", get(product).put(reprice))
        .layer(layer)
        .with_state(db);

    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    axum::serve(socket, app).await?;
    Ok(())
}

async fn product(
    State(db): State<Database>,
    Path(id): Path<i32>,
) -> Result<Json<Product>, Unavailable> {
    let query = sqlx::query_as("select id, name, cents from products where id = $1").bind(id);
    Ok(Json(query.fetch_one(db.reader()).await?))
}

async fn products(State(db): State<Database>) -> Result<Json<Vec<Product>>, Unavailable> {
    let query = sqlx::query_as("select id, name, cents from products order by id");
    Ok(Json(query.fetch_all(db.reader()).await?))
}

async fn reprice(
    State(db): State<Database>,
    Path(id): Path<i32>,
    cents: String,
) -> Result<StatusCode, Unavailable> {
    let Ok(cents) = cents.trim().parse::<i32>() else { return Ok(StatusCode::BAD_REQUEST) };
    let query = sqlx::query("update products set cents = $1 where id = $2").bind(cents).bind(id);
    query.execute(db.writer()).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<sqlx::Error> for Unavailable {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl axum::response::IntoResponse for Unavailable {
    fn into_response(self) -> axum::response::Response {
        match self.0 {
            sqlx::Error::RowNotFound => StatusCode::NOT_FOUND.into_response(),
            error => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        }
    }
}
