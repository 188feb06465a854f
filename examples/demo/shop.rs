//! Processes of the app, and a client for them.

use std::path::PathBuf;
use std::process::Stdio;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Failure;
use super::servers::Servers;

/// One process of the app.
pub(crate) struct Node {
    pub name: &'static str,
    address: String,
    client: Client<HttpConnector, Body>,
    _process: Child,
}

/// A response, as a client sees it.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: String,
    pub cache_status: String,
    /// The position that the session must see from now on.
    pub token: String,
}

impl Node {
    pub(crate) async fn start(name: &'static str, servers: &Servers) -> Result<Self, Failure> {
        let mut process = Command::new(app()?)
            .env("POSTGRES_PRIMARY_URL", &servers.primary)
            .env("POSTGRES_REPLICA_URL", &servers.replica)
            .env("REDIS_URL", &servers.redis)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(
                std::env::temp_dir().join(format!("tidegate-demo-{name}.log")),
            )?)
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().ok_or("the app has no output")?;
        let line = BufReader::new(output).lines().next_line().await?;
        let address = line.ok_or_else(|| format!("node {name} did not start: see its log"))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { name, address, client, _process: process })
    }

    pub(crate) async fn get(&self, uri: &str) -> Result<Answer, Failure> {
        self.get_with(uri, "").await
    }

    /// Sends a GET request with a session token.
    pub(crate) async fn get_with(&self, uri: &str, token: &str) -> Result<Answer, Failure> {
        let mut request = self.request(Method::GET, uri, String::new())?;
        if !token.is_empty() {
            request.headers_mut().insert("tidegate-position", token.parse()?);
        }
        self.send(request).await
    }

    pub(crate) async fn put(&self, uri: &str, body: &str) -> Result<Answer, Failure> {
        self.send(self.request(Method::PUT, uri, body.to_owned())?).await
    }

    fn request(&self, method: Method, uri: &str, body: String) -> Result<Request<Body>, Failure> {
        let uri = format!("http://{}{uri}", self.address);
        // All nodes are one host to their clients, as behind a balancer.
        let request = Request::builder().method(method).uri(uri).header("host", "shop.example");
        Ok(request.body(Body::from(body))?)
    }

    async fn send(&self, request: Request<Body>) -> Result<Answer, Failure> {
        let response = self.client.request(request).await?;
        let header = |name| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (cache_status, token) = (header("cache-status"), header("tidegate-position"));
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, body, cache_status, token })
    }
}

/// Requests products 1 to `requests`; returns the number of failed requests and the last response.
pub(crate) async fn load(node: &Node, requests: u32) -> Result<(u32, Answer), Failure> {
    let mut failed = 0;
    let mut last = node.get("/products/1").await?;
    for product in 1..=requests {
        last = node.get(&format!("/products/{product}")).await?;
        failed += u32::from(last.status != StatusCode::OK);
    }
    Ok((failed, last))
}

/// The app lies beside this program.
fn app() -> Result<PathBuf, Failure> {
    let app = std::env::current_exe()?.with_file_name("app");
    if app.is_file() { Ok(app) } else { Err("build the app first, as scripts/demo does".into()) }
}
