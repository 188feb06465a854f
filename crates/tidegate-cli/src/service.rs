//! A client of a running service's operator page.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::{Value, json};

use super::Failure;
use super::output::{Output, text};

/// The limits of a response from the operator page: time, and size in bytes.
const LIMIT: Duration = Duration::from_secs(10);
const BYTES: usize = 16 << 20;

/// How to reach a node's operator page.
#[derive(Args, Clone, Debug)]
pub(crate) struct Page {
    /// URL of a node's operator page, as `https://host/path`
    #[arg(long, value_name = "URL", env = "TIDEGATE_ADMIN_URL")]
    admin: Option<String>,
    /// Token for the operator page
    #[arg(long, value_name = "TOKEN", env = "TIDEGATE_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// Send the token and headers over plain http even if the URL's host is not this machine; anyone on the network path can read them
    #[arg(long)]
    plain_http: bool,
}

/// A node of a running service.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    url: String,
    /// Whether its cache is switched off.
    off: bool,
    /// The position up to which it has read the change log.
    seen: Option<String>,
    /// The maximum staleness of a response from its cache at the moment.
    staleness_ms: Option<f64>,
    /// Tables that routes read, but that are not tracked.
    pub(crate) untracked: BTreeSet<String>,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}: ", self.url)?;
        match (&self.seen, self.staleness_ms) {
            (Some(seen), Some(staleness)) => {
                write!(f, "has read the log up to {seen}, {staleness:.0} ms ago")?;
            }
            _ => write!(f, "does not follow the change log; its own log output says why")?,
        }
        if self.off { write!(f, "; its cache is switched off") } else { Ok(()) }
    }
}

impl Page {
    /// Whether the page's URL was given.
    pub(crate) fn is_known(&self) -> bool {
        self.admin.is_some()
    }

    /// Prints how the cache would handle a request.
    pub(crate) async fn explain(
        &self,
        url: &str,
        headers: &[String],
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let asked = json!({ "url": url, "headers": headers.join("\n") });
        self.show("explain", Some(&asked), output).await
    }

    /// Prints which routes and queries are worth caching.
    pub(crate) async fn suggest(&self, output: Output) -> Result<ExitCode, Failure> {
        self.show("suggest", None, output).await
    }

    /// Fetches the node's status.
    pub(crate) async fn node(&self) -> Result<Node, Failure> {
        let status: Value = serde_json::from_str(&self.ask("status", None, true).await?)?;
        let routes = status["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let tables = routes.iter().filter_map(|route| route["untracked"].as_object());
        let untracked: BTreeSet<String> =
            tables.flat_map(|tables| tables.keys().cloned()).collect();
        Ok(Node {
            url: self.admin.clone().unwrap_or_default(),
            off: status["off"].as_bool().unwrap_or_default(),
            seen: status["seen"].as_str().map(str::to_owned),
            staleness_ms: status["staleness_ms"].as_f64(),
            untracked,
        })
    }

    async fn show(
        &self,
        path: &str,
        asked: Option<&Value>,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        let mut found = self.ask(path, asked, output.is_json()).await?;
        if !found.ends_with('\n') {
            found.push('\n');
        }
        text(&found)
    }

    /// Requests the page: by POST if there is a body to send, or else by GET.
    async fn ask(&self, path: &str, asked: Option<&Value>, json: bool) -> Result<String, Failure> {
        let base = self
            .admin
            .as_deref()
            .ok_or("name a node's operator page with --admin or TIDEGATE_ADMIN_URL")?;
        let url = format!("{}/api/{path}", base.trim_end_matches('/')).parse().ok();
        let is_ours = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https"));
        let url = url.filter(is_ours).ok_or_else(|| {
            format!("{base} is not the URL of an operator page: write https://host/path")
        })?;
        let has_headers = asked.and_then(|asked| asked["headers"].as_str());
        let has_secret =
            self.admin_token.is_some() || has_headers.is_some_and(|all| !all.is_empty());
        self.may_send(&url, has_secret)?;
        let accept = if json { "application/json" } else { "text/plain" };
        let method = if asked.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(url).header(ACCEPT, accept);
        request = request.header(CONTENT_TYPE, "application/json").header("tidegate-admin", "1");
        if let Some(token) = &self.admin_token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::from(asked.map(Value::to_string).unwrap_or_default()))?;
        let fetched = tokio::time::timeout(LIMIT, fetch(request)).await;
        let (status, body) = fetched
            .map_err(|_| format!("{base} did not respond within {LIMIT:?}"))?
            .map_err(|error| format!("the request to {base} failed: {}", causes(&*error)))?;
        match status {
            200 => Ok(body),
            401 => {
                Err(format!("{base} requires a valid token: --admin-token or TIDEGATE_ADMIN_TOKEN")
                    .into())
            }
            404 => Err(format!("there is no operator page at {base}").into()),
            _ => Err(format!("{base} responded with status {status}: {}", reason(&body)).into()),
        }
    }
}

impl Page {
    /// Refuses to send the token, or headers of a request, over a connection that others can read.
    fn may_send(&self, url: &Uri, has_secret: bool) -> Result<(), Failure> {
        let is_hidden = url.scheme_str() == Some("https") || is_loopback(url);
        if is_hidden || self.plain_http || !has_secret {
            return Ok(());
        }
        let host = url.host().unwrap_or_default();
        let why = format!(
            "the token or the headers would go to {host} over plain http, and anyone on the network path could read it: use https, or \
             add --plain-http if the network is safe"
        );
        Err(why.into())
    }
}

/// Whether a request to this address stays on this machine.
fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

async fn fetch(request: Request<Full<Bytes>>) -> Result<(u16, String), Failure> {
    let https = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    let response = Client::builder(TokioExecutor::new()).build(https).request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BYTES).collect().await;
    let body = body.map_err(|error| error as Failure)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The error message in a response.
fn reason(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let told = parsed.as_ref().and_then(|value| value["error"].as_str());
    told.unwrap_or(body.trim()).to_owned()
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
