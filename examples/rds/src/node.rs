//! Processes of the service, and what they report.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Failure;
use super::cloud::Cloud;

/// How long a client waits for a response.
const PATIENCE: Duration = Duration::from_secs(5);

/// The nodes behind a balancer.
pub(crate) struct Fleet {
    addresses: Vec<String>,
    client: Client<HttpConnector, Body>,
    authorization: String,
    _processes: Vec<Child>,
}

/// The statements that all nodes together have sent to each server so far, and each server's largest lag.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers(pub(crate) BTreeMap<String, Server>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) statements: u64,
    pub(crate) lag: Duration,
}

impl Fleet {
    pub(crate) async fn start(cloud: &Cloud, nodes: usize) -> Result<Arc<Self>, Failure> {
        let (mut addresses, mut processes) = (Vec::new(), Vec::new());
        for number in 1..=nodes {
            let log = std::env::temp_dir().join(format!("tidegate-rds-{number}.log"));
            let mut process = Command::new(std::env::current_exe()?)
                .arg("node")
                .envs(cloud.environment())
                .stdout(Stdio::piped())
                .stderr(std::fs::File::create(&log)?)
                .kill_on_drop(true)
                .spawn()?;
            let output = process.stdout.take().ok_or("a node has no output")?;
            let line = BufReader::new(output).lines().next_line().await?;
            let failed = || format!("node {number} did not start: see {}", log.display());
            addresses.push(line.ok_or_else(failed)?);
            processes.push(process);
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let authorization = format!("Bearer {}", cloud.token);
        Ok(Arc::new(Self { addresses, client, authorization, _processes: processes }))
    }

    pub(crate) fn nodes(&self) -> usize {
        self.addresses.len()
    }

    /// Sends a request to a node, as a load balancer would. Returns the status and body, or an error.
    pub(crate) async fn send(
        &self,
        node: usize,
        method: Method,
        uri: &str,
        body: String,
    ) -> Result<(StatusCode, String), Failure> {
        let address = &self.addresses[node % self.addresses.len()];
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{uri}"))
            .header("host", "shop.example");
        if uri.starts_with("/admin/") {
            request = request.header("authorization", &self.authorization);
        }
        let request = request.body(Body::from(body))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, Failure>((status, String::from_utf8_lossy(&body).into_owned()))
        };
        timeout(PATIENCE, exchange).await?
    }

    /// Reads the servers' counts from the nodes' operator pages.
    pub(crate) async fn servers(&self) -> Result<Servers, Failure> {
        let mut all = Servers::default();
        for node in 0..self.nodes() {
            let uri = "/admin/api/status";
            let (_, body) = self.send(node, Method::GET, uri, String::new()).await?;
            let status: Value = serde_json::from_str(&body)?;
            for server in status["servers"].as_array().into_iter().flatten() {
                let name = server["name"].as_str().unwrap_or_default().to_owned();
                let known = all.0.entry(name).or_default();
                known.statements += server["statements"].as_u64().unwrap_or_default();
                let lag = server["lag_ms"].as_f64().unwrap_or_default() / 1e3;
                known.lag = known.lag.max(Duration::from_secs_f64(lag.max(0.0)));
            }
        }
        Ok(all)
    }
}

impl Servers {
    /// The statements since `before`, by server. A replaced server starts from zero.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<String, u64> {
        let since = |(name, server): (&String, &Server)| {
            let known = before.0.get(name).map_or(0, |known| known.statements);
            (name.clone(), server.statements.checked_sub(known).unwrap_or(server.statements))
        };
        self.0.iter().map(since).collect()
    }

    pub(crate) fn lag(&self) -> Duration {
        self.0.values().map(|server| server.lag).max().unwrap_or_default()
    }
}
