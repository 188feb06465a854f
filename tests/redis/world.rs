//! A Postgres and a Redis, and the caches of nodes that share them.

use std::time::Duration;

use sqlx::Connection;
use tidegate::{
    Cache, Database, DatabaseOptions, Guard, Listener, Memory, Redis, Tiered, Triggers,
};
use tidegate_testing::{Postgres, RedisServer};

/// Servers that several nodes share.
pub(crate) struct World {
    pub(crate) postgres: Postgres,
    pub(crate) redis: RedisServer,
    pub(crate) db: Database,
}

impl World {
    /// Servers with what a script creates in the database, of which some tables are tracked.
    pub(crate) async fn new(setup: &str, tracked: Triggers) -> Self {
        Self::with(&[], setup, tracked).await
    }

    /// Servers of which Postgres has additional settings.
    pub(crate) async fn with(settings: &[(&str, &str)], setup: &str, tracked: Triggers) -> Self {
        let postgres = Postgres::start_with(settings).await.unwrap();
        postgres.psql(setup).await.unwrap();
        let mut conn = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
        tracked.install(&mut conn).await.unwrap();
        let db = DatabaseOptions::new(postgres.url()).connect().await.unwrap();
        Self { postgres, redis: RedisServer::start().await.unwrap(), db }
    }

    /// The cache of a new node, and its listener.
    pub(crate) async fn node(&self) -> (Cache, Listener) {
        let cache = tiered(Redis::connect(self.redis.url()).await.unwrap());
        let listener = Listener::spawn(&self.db, &cache).await.unwrap();
        (cache, listener)
    }
}

/// A cache in memory and in Redis, with a time limit for reads that a busy test machine meets.
pub(crate) fn tiered(redis: Redis) -> Cache {
    let patient = Guard::new(redis).read_within(Duration::from_secs(5));
    Cache::new(Tiered::with_guard(Memory::new(16 << 20), patient))
}
