//! `POSTGRES_PRIMARY_URL=... JWT_SECRET=... cargo run`, after `schema.sql` has been run, and
//! `tidegate install --auto users:username articles:slug`.

use tidegate::{Cache, Database, Listener, Memory, Sessions};
use tidegate_example_realworld::{App, Keys, layer, router};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::from_env().await?;
    let secret = std::env::var("JWT_SECRET")?;
    let cache = Cache::new(Memory::new(256 << 20)).version(env!("CARGO_PKG_VERSION"))?;
    Listener::spawn(&db, &cache).await?;
    let layer = layer(cache, Sessions::new(secret.as_str())?).validate()?;
    let app = App { db, keys: Keys::new(&secret)? };
    let socket = TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(socket, router(app, layer)).await?;
    Ok(())
}
