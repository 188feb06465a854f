//! Suggests which routes and queries are worth caching.

mod routes;
mod statements;
mod writes;

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Serialize;

use super::respond::{percent, respond};
use super::state::Admin;
use routes::RouteAdvice;
use statements::UncachedStatement;
use writes::Writes;

/// Suggestions, based on the traffic so far.
#[derive(Serialize)]
pub(crate) struct Suggestions {
    /// How long traffic has been recorded.
    seconds: f64,
    /// Requests to all routes.
    requests: u64,
    /// The share of requests that the cache serves now.
    offload: f64,
    /// The share that it would serve if all routes below had a policy.
    expected_offload: f64,
    /// Sorted by the time that the cache would save, largest first.
    routes: Vec<RouteAdvice>,
    statements: Vec<UncachedStatement>,
}

pub(crate) async fn show(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    respond(&headers, &Suggestions::new(&admin).await)
}

impl Suggestions {
    #[expect(clippy::cast_precision_loss, reason = "ratios need no more")]
    async fn new(admin: &Admin) -> Self {
        let watched = admin.started.elapsed();
        let writes = admin.writes().await;
        let mut routes = routes::all(&admin.layers, &writes, watched);
        let share = |of: f64, all: u64| if all == 0 { 0.0 } else { of / all as f64 };
        let requests = routes.iter().map(|route| route.requests).sum();
        let hits: u64 = routes.iter().map(|route| route.hits).sum();
        let more: f64 = routes.iter().map(RouteAdvice::more_hits).sum();
        routes.retain(RouteAdvice::is_of_use);
        routes.sort_by(|one, other| other.saves_seconds.total_cmp(&one.saves_seconds));
        Self {
            seconds: watched.as_secs_f64(),
            requests,
            offload: share(hits as f64, requests),
            expected_offload: share(hits as f64 + more, requests),
            routes,
            statements: admin.statements(),
        }
    }
}

impl Admin {
    /// The rows written to each table since the page first read their numbers; empty if they can't be read.
    #[cfg(feature = "postgres")]
    async fn writes(&self) -> Writes {
        let Some(db) = &self.database else { return Writes::default() };
        let Some((since, before)) = self.written().await else { return Writes::default() };
        match super::primary::writes(db).await {
            Ok(after) => Writes::between(before, after, since.elapsed()),
            Err(_) => Writes::default(),
        }
    }

    #[cfg(not(feature = "postgres"))]
    #[allow(clippy::unused_async, clippy::unused_self, reason = "as with a database")]
    async fn writes(&self) -> Writes {
        Writes::default()
    }

    #[cfg(feature = "postgres")]
    fn statements(&self) -> Vec<UncachedStatement> {
        self.database.as_ref().map(statements::all).unwrap_or_default()
    }

    #[cfg(not(feature = "postgres"))]
    #[expect(clippy::unused_self, reason = "as with a database")]
    fn statements(&self) -> Vec<UncachedStatement> {
        Vec::new()
    }
}

impl fmt::Display for Suggestions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, then) = (percent(self.offload), percent(self.expected_offload));
        writeln!(
            f,
            "{} requests in {:.0} s; {now} served from the cache",
            self.requests, self.seconds
        )?;
        if self.routes.iter().any(RouteAdvice::is_new) {
            writeln!(f, "with the policies below: {then}")?;
        }
        if self.routes.is_empty() && self.statements.is_empty() {
            writeln!(f, "nothing to suggest yet")?;
        }
        self.routes.iter().try_for_each(|route| write!(f, "\n{route}"))?;
        self.statements.iter().try_for_each(|statement| write!(f, "\n{statement}"))
    }
}
