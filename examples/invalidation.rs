//! A change of a row invalidates the cached values that depend on it, and no others, whichever program makes the change.
//!
//! `POSTGRES_PRIMARY_URL=... cargo run -p tidegate-examples --example invalidation --features postgres`

use std::time::{Duration, SystemTime};

use sqlx::Connection;
use tidegate::{Cache, Database, Key, Listener, Memory, Triggers, ValuePolicy};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::from_env().await?;
    sqlx::raw_sql(
        "drop table if exists example_users;
         create table example_users (id int primary key, name text);
         insert into example_users values (1, 'ada'), (2, 'bob')",
    )
    .execute(db.writer())
    .await?;
    let mut conn = db.primary().acquire().await?;
    Triggers::new().table("example_users").install(&mut conn).await?;
    let cache = Cache::new(Memory::new(64 << 20));
    Listener::spawn(&db, &cache).await?;

    for id in [1, 2] {
        println!("user {id} is {}", name(&cache, &db, id).await?);
    }
    // A connection outside the cache, like that of psql or a batch job.
    let url = std::env::var("POSTGRES_PRIMARY_URL")?;
    let mut other = sqlx::PgConnection::connect(&url).await?;
    sqlx::query("update example_users set name = 'eve' where id = 1").execute(&mut other).await?;
    let written = now();
    while name(&cache, &db, 1).await? != "eve" {
        tokio::task::yield_now().await;
    }
    println!("user 1 is eve, {:?} after the commit", now().duration_since(written)?);
    println!("user 2 is {}, from the cache", name(&cache, &db, 2).await?);
    Ok(())
}

async fn name(cache: &Cache, db: &Database, id: i32) -> Result<String, Box<dyn std::error::Error>> {
    let key = Key::new("example-user").part(id.to_le_bytes()).finish();
    let policy = ValuePolicy::ttl(Duration::from_secs(60)).build()?;
    let policy = policy.with_tags([format!("example_users:id={id}")]);
    let query = "select name from example_users where id = $1";
    let load = async || sqlx::query_scalar(query).bind(id).fetch_one(db.reader()).await;
    Ok(cache.get_or_load(&key, &policy, load).await?)
}

#[expect(clippy::disallowed_methods, reason = "an example measures")]
fn now() -> SystemTime {
    SystemTime::now()
}
