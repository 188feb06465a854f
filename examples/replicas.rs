//! Reads go to a replica that has replayed what they need, and to the primary when none has.
//!
//! `POSTGRES_PRIMARY_URL=... POSTGRES_REPLICA_URL=...
//! cargo run -p tidegate-examples --example replicas --features postgres`

use std::time::Duration;

use tidegate::{Database, LogPosition, Position};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::from_env().await?;
    println!("a read goes to: {}", server(&db).await?);

    // A replica that stops replaying falls behind with the next write.
    for replica in db.replicas() {
        if let Some(LogPosition { epoch, position }) = replica.reached {
            println!("{} has replayed up to {position} of epoch {epoch}", replica.name);
        }
    }
    for replica in db.replicas() {
        db.remove_replica(&replica.name);
    }
    println!("without replicas, a read goes to: {}", server(&db).await?);

    for url in std::env::var("POSTGRES_REPLICA_URL")?.split(',') {
        let name = db.add_replica(url.trim()).await?;
        println!("{name} is back");
    }
    while db
        .replicas()
        .iter()
        .any(|replica| replica.reached.is_none_or(|at| at.position == Position::ZERO))
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("a read goes to: {}", server(&db).await?);
    Ok(())
}

/// The kind of server that a read goes to.
async fn server(db: &Database) -> Result<&'static str, sqlx::Error> {
    let query = sqlx::query_scalar("select pg_is_in_recovery()");
    let standby: bool = query.fetch_one(db.reader()).await?;
    Ok(if standby { "a replica" } else { "the primary" })
}
