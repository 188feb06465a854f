//! `POSTGRES_PRIMARY_URL=... JWT_SECRET=... cargo run`, after `schema.sql` has been run.

use sqlx::PgPool;
use tidegate_example_realworld::{App, Keys, router};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = PgPool::connect(&std::env::var("POSTGRES_PRIMARY_URL")?).await?;
    let keys = Keys::new(&std::env::var("JWT_SECRET")?)?;
    let socket = TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(socket, router(App { pool, keys })).await?;
    Ok(())
}
