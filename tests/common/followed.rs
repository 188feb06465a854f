//! A database that a cache follows.

use sqlx::Connection;
use tidegate::{Cache, Database, DatabaseOptions, Listener, Memory, Triggers};
use tidegate_testing::Postgres;

/// A primary with these tables, of which `products` is tracked, and a cache that follows it.
pub(crate) async fn followed(tables: &str) -> (Postgres, Database, Cache) {
    let server = Postgres::start().await.unwrap();
    server.psql(tables).await.unwrap();
    let mut conn = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    Triggers::new().table("products").install(&mut conn).await.unwrap();
    let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    (server, db, cache)
}
