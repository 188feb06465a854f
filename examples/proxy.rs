//! A reverse proxy whose cache does as RFC 9111 says: what the origin's headers allow is kept, for as
//! long as they say.
//!
//! `cargo run --example proxy --features proxy -- http://127.0.0.1:8000 127.0.0.1:8080`: the origin, then where to listen.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tokio::net::TcpListener;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the origin may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Origin {
    authority: Authority,
    client: Client<HttpConnector, Body>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let origin = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8000".into());
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let origin: Uri = origin.parse()?;
    let authority = origin.authority().ok_or("the origin must be a URL such as http://host:80")?;
    let client = Client::builder(TokioExecutor::new()).build_http();

    let policy = Policy::standard().stale_if_error(DAY);
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(256 << 20)), policy);
    let app = Router::new()
        .fallback(forward)
        .layer(layer.validate()?)
        .with_state(Origin { authority: authority.clone(), client });

    let socket = TcpListener::bind(listen).await?;
    println!("http://{} in front of {origin}", socket.local_addr()?);
    axum::serve(socket, app).await?;
    Ok(())
}

/// Passes a request on, unchanged but for what is about one connection (RFC 9110, section 7.6).
async fn forward(State(origin): State<Origin>, mut request: Request) -> Response {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    (parts.scheme, parts.authority) = (Some(Scheme::HTTP), Some(origin.authority));
    let Ok(uri) = Uri::from_parts(parts) else { return StatusCode::BAD_REQUEST.into_response() };
    *request.uri_mut() = uri;
    hop(request.headers_mut());
    match tokio::time::timeout(PATIENCE, origin.client.request(request)).await {
        Ok(Ok(mut response)) => {
            hop(response.headers_mut());
            response.map(Body::new)
        }
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

/// Drops the fields of a connection, and those that it names; says that a proxy was here.
fn hop(headers: &mut HeaderMap) {
    const HOP: [HeaderName; 6] = [
        header::CONNECTION,
        header::PROXY_AUTHORIZATION,
        header::PROXY_AUTHENTICATE,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let lines = headers.get_all(header::CONNECTION).into_iter();
    let named = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let named: Vec<_> = named.filter_map(|name| name.trim().parse::<HeaderName>().ok()).collect();
    let others = ["keep-alive", "proxy-connection"].map(HeaderName::from_static);
    for name in named.into_iter().chain(HOP).chain(others) {
        headers.remove(name);
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 tidegate"));
}
