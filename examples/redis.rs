//! Two nodes of one service share computed values through Redis. Each node proves for itself that a value is fresh.
//!
//! `POSTGRES_PRIMARY_URL=... REDIS_URL=... cargo run -p tidegate-examples --example redis --features postgres,redis`

use std::time::Duration;

use tidegate::{Cache, Database, Key, Listener, Memory, Redis, Tiered, Triggers, ValuePolicy};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::from_env().await?;
    sqlx::raw_sql(
        "drop table if exists example_stock;
         create table example_stock (item text primary key, left_over int);
         insert into example_stock values ('tea', 7)",
    )
    .execute(db.writer())
    .await?;
    let mut conn = db.primary().acquire().await?;
    Triggers::new().table("example_stock").install(&mut conn).await?;

    let (first, second) = (node(&db).await?, node(&db).await?);
    println!("the first node reads: {}", stock(&first, &db).await?);
    // Wait, since writes to Redis happen in the background.
    tokio::time::sleep(Duration::from_millis(100)).await;
    println!("the second node reads: {}", stock(&second, &db).await?);
    println!("the second node's value came from: {}", answered_by(&second));
    Ok(())
}

/// A node: it has its own memory and its own view of changes, and shares Redis.
async fn node(db: &Database) -> Result<Cache, Box<dyn std::error::Error>> {
    let cache = Cache::new(Tiered::new(Memory::new(64 << 20), Redis::from_env().await?));
    Listener::spawn(db, &cache).await?;
    Ok(cache)
}

async fn stock(cache: &Cache, db: &Database) -> Result<i32, Box<dyn std::error::Error>> {
    let key = Key::new("example-stock").part("tea").finish();
    let policy = ValuePolicy::ttl(Duration::from_secs(60)).tag("example_stock:item=tea").build()?;
    let query = "select left_over from example_stock where item = $1";
    let load = async || sqlx::query_scalar(query).bind("tea").fetch_one(db.reader()).await;
    Ok(cache.get_or_load(&key, &policy, load).await?)
}

fn answered_by(cache: &Cache) -> &'static str {
    let mut outcomes = tidegate::Outcome::all();
    outcomes.find(|outcome| cache.counters().outcome(*outcome) > 0).map_or("-", |o| o.token())
}
