//! The servers. All have the same two routes: what is measured, and how often its handler ran.

mod by_hand;
mod hitbox;
mod layers;
mod origin;
mod postgres;
mod tidegate;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use origin::Runs;
pub(crate) use origin::body;

use crate::Failure;
use crate::variant::Variant;

/// The route that is measured.
const ITEM: &str = "/items/{id}";

/// Longer than any measurement.
const TTL: Duration = Duration::from_secs(3600);

/// Entries that there is room for, where that is how a cache is bounded.
const ENTRIES: u64 = 100_000;

/// Bytes that there is room for, where that is how.
const BYTES: u64 = 256 << 20;

/// Which server, and what it connects to.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    variant: Variant,
    /// A Redis server of its own
    #[arg(long)]
    redis: Option<String>,
    /// A Postgres database of its own, with the table that `run` makes
    #[arg(long)]
    postgres: Option<String>,
}

pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let runs = Runs::default();
    let asked = runs.clone();
    let app = app(&options, &runs).await?;
    let app = app.route("/runs", get(async move || asked.count().to_string()));
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    Ok(axum::serve(socket, app).await?)
}

async fn app(options: &Options, runs: &Runs) -> Result<Router, Failure> {
    let redis = options.redis.as_deref().ok_or("--redis is needed");
    let postgres = options.postgres.as_deref().ok_or("--postgres is needed");
    Ok(match options.variant {
        // What is in front of a proxy is the same as what is compared with it.
        Variant::Axum | Variant::Nginx | Variant::Varnish => origin::app(runs),
        Variant::TidegateMemory => tidegate::memory(runs),
        Variant::TidegateRedis => tidegate::redis(runs, redis?).await?,
        Variant::TidegateTiered => tidegate::tiered(runs, redis?).await?,
        Variant::Moka => by_hand::moka(runs),
        Variant::RedisByHand => by_hand::redis(runs, redis?).await?,
        Variant::RedisPooled => by_hand::pooled(runs, redis?)?,
        Variant::HitboxMemory => hitbox::memory(runs),
        Variant::HitboxRedis => hitbox::redis(runs, redis?)?,
        Variant::TowerHttpCache => layers::tower_http_cache(runs),
        Variant::AxumResponseCache => layers::axum_response_cache(runs),
        Variant::Read => postgres::read(runs, postgres?).await?,
        Variant::ReadRouted => postgres::routed(runs, postgres?).await?,
        Variant::TidegateMiss | Variant::TidegateTracked => {
            postgres::cached(runs, postgres?).await?
        }
    })
}
