//! The layer behind hyper's own server, without axum's: around a plain service, and around tonic's.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Told;
use tonic_health::pb::health_client::HealthClient;
use tower::{Layer, Service, service_fn};

const TTL: Duration = Duration::from_mins(1);

/// Serves connections of HTTP/1.1 and HTTP/2 on a port of its own.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
    address
}

/// The body and the `Cache-Status` of a response to a GET.
async fn fetch(address: SocketAddr, path: &str) -> (Bytes, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.get(format!("http://{address}{path}").parse().unwrap()).await.unwrap();
    let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
    (response.into_body().collect().await.unwrap().to_bytes(), status)
}

#[tokio::test]
async fn a_plain_hyper_service_is_cached() {
    let runs = Arc::new(AtomicUsize::new(0));
    let service = {
        let runs = runs.clone();
        service_fn(move |request: Request<Incoming>| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            let body = format!("{} {run}", request.uri().path());
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::from(body))))
        })
    };
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache, Policy::ttl(TTL));
    let address = serve(layer.layer(service)).await;
    let (body, status) = fetch(address, "/a").await;
    assert!(body == "/a 1" && status.contains("stored"), "{body:?} {status}");
    let (body, status) = fetch(address, "/a").await;
    assert!(body == "/a 1" && status.contains("hit"), "{body:?} {status}");
    assert_eq!(fetch(address, "/b").await.0, "/b 2");
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn tonic_services_bypass_the_cache_and_routes_beside_them_do_not() {
    for policy in [Policy::ttl(TTL), Policy::standard()] {
        let (reporter, health) = tonic_health::server::health_reporter();
        let page = || std::future::ready(([("cache-control", "max-age=60")], "page"));
        let grpc = tonic::service::Routes::new(health).into_axum_router();
        let app: Router = grpc.route("/page", get(page));
        let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy);
        let address = serve(app.layer(layer)).await;

        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        let request = HealthCheckRequest { service: "db".into() };
        reporter.set_service_status("db", ServingStatus::Serving).await;
        let mut watched = client.watch(request.clone()).await.unwrap().into_inner();
        assert_eq!(watched.message().await.unwrap().unwrap().status(), Told::Serving);
        let states = [
            (ServingStatus::NotServing, Told::NotServing),
            (ServingStatus::Serving, Told::Serving),
        ];
        for (status, expected) in states {
            reporter.set_service_status("db", status).await;
            let response = client.check(request.clone()).await.unwrap().into_inner();
            assert_eq!(response.status(), expected);
            let seen = watched.message().await.unwrap().unwrap();
            assert_eq!(seen.status(), expected, "a stream that is still open");
        }
        let unknown = HealthCheckRequest { service: "none".into() };
        let refused = client.check(unknown).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::NotFound);

        for expected in ["stored", "hit"] {
            let (body, status) = fetch(address, "/page").await;
            assert!(body == "page" && status.contains(expected), "{status}");
        }
    }
}
