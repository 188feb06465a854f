//! A reverse proxy with a cache by RFC 9111: responses are stored if and as long as the origin's headers allow it.
//!
//! `cargo run -p tidegate-examples --example proxy --features proxy -- http://127.0.0.1:8000 127.0.0.1:8080`: the
//! origin, then where to listen.
//!
//! The order of layers matters. [`admit`] is outside the cache, so that the cache computes its key from the request that
//! the origin gets. [`forward`] is inside.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::uri::{Authority, Scheme};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Router, ServiceExt, middleware};
use futures_util::stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tokio::net::TcpListener;
use tower::Layer;

mod admit;
mod connection;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the origin may take to begin its response.
const PATIENCE: Duration = Duration::from_secs(30);

/// The maximum number of header fields in a response from the origin.
const FIELDS: usize = 1000;

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
    let mut client = Client::builder(TokioExecutor::new());
    let client = client.http1_max_headers(FIELDS).build_http();

    let policy = Policy::standard().stale_if_error(DAY);
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(256 << 20)), policy);
    let app = Router::new()
        .fallback(forward)
        .layer(layer.validate()?)
        .with_state(Origin { authority: authority.clone(), client });
    let app = middleware::from_fn(admit::admit).layer(app);

    let socket = TcpListener::bind(listen).await?;
    println!("http://{} in front of {origin}", socket.local_addr()?);
    axum::serve(socket, ServiceExt::<Request>::into_make_service(app)).await?;
    Ok(())
}

/// Sends a request to the origin, and returns its response without the fields of that connection.
async fn forward(State(origin): State<Origin>, mut request: Request) -> Response {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    (parts.scheme, parts.authority) = (Some(Scheme::HTTP), Some(origin.authority));
    let Ok(uri) = Uri::from_parts(parts) else { return StatusCode::BAD_REQUEST.into_response() };
    *request.uri_mut() = uri;
    let is_head = request.method() == Method::HEAD;
    let client = hyper::upgrade::on(&mut request);
    match tokio::time::timeout(PATIENCE, origin.client.request(request)).await {
        Ok(Ok(mut response)) => {
            connection::strip_response(&mut response);
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let server = hyper::upgrade::on(&mut response);
                tokio::spawn(tunnel(client, server));
            }
            match is_head && !response.headers().contains_key(CONTENT_LENGTH) {
                // Otherwise axum would declare the length of this empty body, which is not that of the resource.
                true => response
                    .map(|_| Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())),
                false => response.map(Body::new),
            }
        }
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

/// Passes bytes between two connections that have switched to another protocol, until one of them ends.
async fn tunnel(client: OnUpgrade, server: OnUpgrade) {
    if let (Ok(client), Ok(server)) = (client.await, server.await) {
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        // If one connection ends, for any reason, the other one is closed.
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    }
}
