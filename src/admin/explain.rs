//! Explains how the cache would handle a request.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::respond::{failure, respond};
use super::state::Admin;
use crate::middleware::{Dependency, RequestExplanation, StoredExplanation};
use crate::outcome::Outcome;

/// The parts of a request that the cache uses. They are sent in the body, not in a URL, since they may include
/// credentials.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainRequest {
    /// Path and query; with scheme and host, if they matter.
    url: String,
    /// Headers, one `Name: value` to a line.
    #[serde(default)]
    headers: String,
}

/// How the cache would handle a request, and why.
#[derive(Serialize)]
pub(crate) struct Explanation {
    url: String,
    route: Option<String>,
    result: &'static str,
    reason: &'static str,
    why: String,
    key: Option<String>,
    /// The parts of the request that distinguish responses, in addition to the path.
    differs_by: Vec<String>,
    entry: Option<EntryReport>,
    tags: Vec<TagReport>,
    /// The database servers, and whether each is far enough to compute the response.
    servers: Vec<ServerChoice>,
}

#[derive(Serialize)]
struct EntryReport {
    tier: &'static str,
    status: Option<u16>,
    epoch: String,
    as_of: String,
    age_seconds: f64,
    ttl_seconds: f64,
    bytes: usize,
}

#[derive(Serialize)]
struct TagReport {
    /// The tag's name, or its hash if the name is unknown.
    name: String,
    fence: String,
    /// Whether the stored response includes all known changes to this tag.
    holds: Option<bool>,
}

#[derive(Serialize)]
struct ServerChoice {
    name: String,
    position: Option<String>,
    /// Whether the server has all known changes to the response's tags.
    is_far_enough: bool,
}

pub(crate) async fn show(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    Json(query): Json<ExplainRequest>,
) -> Response {
    match admin.explain(&query).await {
        Ok(explanation) => respond(&headers, &explanation),
        Err(why) => failure(StatusCode::BAD_REQUEST, &why),
    }
}

impl Admin {
    async fn explain(&self, query: &ExplainRequest) -> Result<Explanation, String> {
        let mut best = None;
        for layer in &self.layers {
            for request in query.requests()? {
                let explained = layer.explain(&request).await;
                // Of HTTP/1.1 and HTTP/2, and of several layers, show the one that has an entry stored.
                let is_better = best.as_ref().is_none_or(|best: &RequestExplanation| {
                    (best.stored.is_some(), best.key.is_some())
                        < (explained.stored.is_some(), explained.key.is_some())
                });
                if is_better {
                    best = Some(explained);
                }
            }
        }
        let explained = best.ok_or("there is no layer")?;
        Ok(Explanation::new(&query.url, explained, self))
    }

    #[cfg(feature = "postgres")]
    fn fit(&self, tags: &[Dependency]) -> Vec<ServerChoice> {
        use crate::cache::protocol::is_far_enough;
        use crate::entry::LogPosition;
        let fences = self.cache.fences();
        let needs = tags.iter().map(|tag| tag.fence).max().unwrap_or(fences.floor());
        let status = self.database.iter().flat_map(crate::postgres::Database::status);
        let of = |server: crate::postgres::ServerStatus| ServerChoice {
            name: server.name.to_string(),
            position: server.reached.map(|at| at.position.to_string()),
            is_far_enough: server.reached.is_some_and(|at| {
                // The primary has all that there is.
                server.lag.is_none() && &*server.name == "primary"
                    || is_far_enough(at, LogPosition::new(fences.epoch(), needs))
            }),
        };
        status.map(of).collect()
    }

    #[cfg(not(feature = "postgres"))]
    #[expect(clippy::unused_self, reason = "as with a database")]
    fn fit(&self, _tags: &[Dependency]) -> Vec<ServerChoice> {
        Vec::new()
    }
}

impl ExplainRequest {
    /// The request as HTTP/1.1 has it, with a header for the host, and as HTTP/2 does.
    fn requests(&self) -> Result<[Request<String>; 2], String> {
        let uri: Uri = self.url.parse().map_err(|error| format!("{:?}: {error}", self.url))?;
        let path = uri.path_and_query().filter(|path| path.as_str().starts_with('/'));
        let path = path.ok_or("the URL needs a path that begins with /")?.as_str();
        let mut headers = headers(&self.headers)?;
        let build = |uri: &str, headers: &HeaderMap| {
            let mut request =
                Request::get(uri).body(String::new()).map_err(|error| error.to_string())?;
            request.headers_mut().clone_from(headers);
            Ok::<_, String>(request)
        };
        let second = build(&self.url, &headers)?;
        if let Some(authority) = uri.authority() {
            let host =
                HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
            headers.entry(HOST).or_insert(host);
        }
        Ok([build(path, &headers)?, second])
    }
}

fn headers(lines: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| format!("{line:?} is not `Name: value`"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

impl Explanation {
    fn new(url: &str, explained: RequestExplanation, admin: &Admin) -> Self {
        let servers = match explained.key {
            Some(_) => admin.fit(&explained.tags),
            None => Vec::new(),
        };
        Self {
            url: url.to_owned(),
            result: explained.outcome.result(),
            reason: explained.outcome.token(),
            why: why(explained.outcome, explained.route.as_deref()),
            route: explained.route,
            key: explained.key.map(|key| key.to_string()),
            differs_by: explained.differs_by,
            entry: explained.stored.as_ref().map(EntryReport::from_stored),
            tags: explained.tags.into_iter().map(TagReport::from_dependency).collect(),
            servers,
        }
    }
}

impl EntryReport {
    fn from_stored(stored: &StoredExplanation) -> Self {
        let entry = &stored.entry;
        Self {
            tier: Outcome::Hit(stored.tier).token(),
            status: stored.status.map(|status| status.as_u16()),
            epoch: entry.epoch().to_string(),
            as_of: entry.as_of().to_string(),
            age_seconds: stored.age.as_secs_f64(),
            ttl_seconds: entry.ttl().as_secs_f64(),
            bytes: entry.body().len(),
        }
    }
}

impl TagReport {
    fn from_dependency(tag: Dependency) -> Self {
        let name = tag.name.unwrap_or_else(|| format!("{:016x}", tag.tag.hash()));
        Self { name, fence: tag.fence.to_string(), holds: tag.holds }
    }
}

/// The outcome in words.
fn why(outcome: Outcome, route: Option<&str>) -> String {
    use crate::outcome::{BypassReason as B, MissReason as M, StaleReason as S};
    let text = match outcome {
        Outcome::Hit(_) | Outcome::Collapsed => "served from the cache, proven fresh",
        Outcome::Stale(S::Revalidating) => {
            "the TTL has passed: the stored response is served while a new one is computed"
        }
        Outcome::Stale(S::Failover) => {
            "the response was stored before a failover: it is served while a new one is computed"
        }
        Outcome::Stale(_) => "the stored response is served although its TTL has passed",
        Outcome::Miss(M::Absent) => "no response is stored for this key",
        Outcome::Miss(M::Expired) => "the TTL of the stored response has passed",
        Outcome::Miss(M::Changed) => "something that the stored response depends on has changed",
        Outcome::Miss(M::OldEpoch) => {
            "the stored response is from before a failover, or from another process"
        }
        Outcome::Miss(M::StoreFailed) => "the shared store can't be reached",
        Outcome::Miss(M::Undecodable) => "this version can't decode the stored entry",
        Outcome::Miss(M::Requested) => "the client requests a fresher response than the stored one",
        Outcome::Miss(M::OtherShape) => {
            "the stored value has another type, or was stored by another version of the type"
        }
        Outcome::Bypass(B::Off) => "the cache is switched off on this node",
        Outcome::Bypass(B::NoPolicy) if route.is_none() => {
            "this layer knows no route for this path (it learns of a route without a policy from the first request)"
        }
        Outcome::Bypass(B::NoPolicy) => "the route has no policy",
        Outcome::Bypass(B::Personal) => {
            "the request has cookies, credentials or another header that identifies the client, and neither the policy \
             nor the stored response says how responses depend on it: use Policy::public, vary, vary_cookies or vary_by"
        }
        Outcome::Bypass(B::Extensions) => {
            "a layer around the cache adds an extension that is not part of the key: use Policy::vary_by or \
             CacheLayer::extension"
        }
        Outcome::Bypass(B::Unconfirmed) => {
            "this node's last read of the change log is longer ago than Policy::max_staleness; the node's log output \
             says why"
        }
        Outcome::Bypass(B::NoParameter) => {
            "a tag uses a parameter that is missing from the path or can't be decoded"
        }
        Outcome::Bypass(B::Shadow) => "a response is stored, but the policy is in shadow mode",
        Outcome::Bypass(B::OnlyIfCached) => {
            "the client sent only-if-cached, and no usable response is stored: 504"
        }
        Outcome::Bypass(B::Recursive) => {
            "the computation of this key looks up the same key, directly or through others"
        }
        Outcome::Bypass(B::Range) => "a range request for a response that is not stored",
        Outcome::Bypass(_) => "a header of the request makes it bypass the cache",
    };
    text.into()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} ({})", self.url, self.result, self.reason)?;
        writeln!(f, "  {}", self.why)?;
        writeln!(f, "route: {}", self.route.as_deref().unwrap_or("unknown"))?;
        if let Some(key) = &self.key {
            writeln!(f, "key: {key}")?;
        }
        if !self.differs_by.is_empty() {
            writeln!(f, "responses vary by: {}", self.differs_by.join(", "))?;
        }
        match &self.entry {
            Some(entry) => writeln!(f, "stored: {entry}")?,
            None if self.key.is_some() => writeln!(f, "stored: nothing")?,
            None => {}
        }
        self.tags.iter().try_for_each(|tag| writeln!(f, "{tag}"))?;
        self.servers.iter().try_for_each(|server| writeln!(f, "{server}"))
    }
}

impl fmt::Display for EntryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or_else(|| "unreadable".into(), |status| status.to_string());
        write!(f, "{status}, {} bytes, in {}", self.bytes, self.tier)?;
        write!(f, ", {:.1} s old, TTL {:.1} s", self.age_seconds, self.ttl_seconds)?;
        write!(f, ", as of {} in epoch {}", self.as_of, self.epoch)
    }
}

impl fmt::Display for TagReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag {}: last known change at or before {}", self.name, self.fence)?;
        match self.holds {
            Some(true) => write!(f, "; the stored response includes it"),
            Some(false) => write!(f, "; the stored response may lack it"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ServerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.position.as_deref().unwrap_or("unknown");
        let fit = if self.is_far_enough { "far enough" } else { "not far enough" };
        write!(f, "server {}: position {at}, {fit} to compute the response", self.name)
    }
}
