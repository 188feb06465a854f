//! The operator page, with some traffic to show. No server is needed.
//!
//! `cargo run -p tidegate-examples --example admin --features admin`, then open the URL that it prints. Enter
//! the printed password, with any user name.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::Request;
use axum::routing::get;
use tidegate::{Admin, Cache, CacheLayer, Memory, Policy};
use tokio::net::TcpListener;
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = Cache::new(Memory::new(64 << 20));
    let policy = Policy::ttl(Duration::from_secs(20)).untracked();
    let layer = CacheLayer::new(cache).route("/prices/{item}", policy).validate()?;
    let secret = format!("{:032x}", fastrand::u128(..));
    let admin = Admin::new(&layer).with_token(&secret)?;
    let app = Router::new()
        .route("/prices/{item}", get(async |Path(item): Path<u32>| format!("price of {item}")))
        .layer(layer)
        .nest("/admin", admin);
    tokio::spawn(traffic(app.clone()));
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let address = socket.local_addr()?;
    println!("http://{address}/admin, password {secret}");
    println!(
        "tidegate explain /prices/1 --admin http://{address}/admin --admin-token {secret} -H 'Host: shop.example'"
    );
    axum::serve(socket, app).await?;
    Ok(())
}

/// Requests prices, some more often than others.
async fn traffic(app: Router) {
    loop {
        let item = fastrand::u32(1..40) * fastrand::u32(1..40) / 20;
        let request = Request::get(format!("/prices/{item}")).header("host", "shop.example");
        if let Ok(request) = request.body(axum::body::Body::empty()) {
            let _ = app.clone().oneshot(request).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
