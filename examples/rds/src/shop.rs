//! The service: one router, as a process that listens or as a Lambda function.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tidegate::{
    Admin, Cache, CacheLayer, Database, Discovery, Listener, Memory, Policy, Redis, Tiered,
};
use tokio::net::TcpListener;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;

#[derive(Serialize, sqlx::FromRow)]
struct Product {
    id: i32,
    name: String,
    cents: i32,
}

/// Listens on a free port, and prints its address.
pub(crate) async fn serve() -> Result<(), Failure> {
    let (router, _discovery) = router().await?;
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    axum::serve(socket, router).await?;
    Ok(())
}

/// Takes events from Lambda's runtime.
pub(crate) async fn run_as_function() -> Result<(), Failure> {
    let (router, _discovery) = router().await?;
    lambda_http::run(router).await
}

async fn router() -> Result<(Router, Discovery), Failure> {
    let targets = ["tidegate", "rds"].map(|target| (target, LevelFilter::INFO));
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .with(Targets::new().with_targets(targets))
        .init();
    let db = Database::from_env().await?;
    let cache = Cache::new(Tiered::new(Memory::new(64 << 20), Redis::from_env().await?));
    Listener::spawn(&db, &cache).await?;
    // In a cloud, this would query the provider for the list of replicas.
    let registry = std::env::var("REPLICAS_FILE")?;
    let discovery = db.discover_replicas(Duration::from_millis(200), move || {
        let registry = registry.clone();
        async move {
            let text = tokio::fs::read_to_string(registry).await?;
            Ok::<_, std::io::Error>(text.lines().map(str::to_owned).collect())
        }
    });
    let policy =
        Policy::ttl(Duration::from_secs(60)).public().stale_if_error(Duration::from_secs(60));
    let layer = CacheLayer::new(cache)
        .route("/products/{id}", policy.tag("products:id={id}"))
        .validate()?;
    let admin = Admin::new(&layer).database(&db).with_token(&std::env::var("ADMIN_TOKEN")?)?;
    let router = Router::new()
        .route("/products/{id}", get(product).put(reprice))
        .route("/search/{word}", get(search))
        .layer(layer)
        .with_state(db)
        .nest("/admin", admin);
    Ok((router, discovery))
}

async fn product(
    State(db): State<Database>,
    Path(id): Path<i32>,
) -> Result<Json<Product>, StatusCode> {
    let query = sqlx::query_as("select id, name, cents from products where id = $1").bind(id);
    query.fetch_one(db.reader()).await.map(Json).map_err(status)
}

async fn search(
    State(db): State<Database>,
    Path(word): Path<String>,
) -> Result<String, StatusCode> {
    let query = sqlx::query_scalar::<_, i64>("select count(*) from products where name like $1");
    let count = query.bind(format!("%{word}%")).fetch_one(db.reader()).await;
    count.map(|count| count.to_string()).map_err(status)
}

async fn reprice(
    State(db): State<Database>,
    Path(id): Path<i32>,
    cents: String,
) -> Result<StatusCode, StatusCode> {
    let cents: i32 = cents.trim().parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    let query = sqlx::query("update products set cents = $1 where id = $2").bind(cents).bind(id);
    query.execute(db.writer()).await.map(|_| StatusCode::NO_CONTENT).map_err(status)
}

/// Any database error becomes a 503, since the client may retry.
fn status(error: sqlx::Error) -> StatusCode {
    match error {
        sqlx::Error::RowNotFound => StatusCode::NOT_FOUND,
        error => {
            tracing::warn!(%error, "the database failed");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}
