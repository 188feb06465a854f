//! A client of a node.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::batch::{Ask, PATH, read_answers, write_asks};

/// The time limit of a request. A node that is stopped or gone does not respond.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The time limit of a batch, whose requests do not all begin at once.
const BATCH_PATIENCE: Duration = PATIENCE.saturating_mul(4);

/// A client with connections of its own.
pub(crate) struct Client(Hyper<HttpConnector, Body>);

/// A response.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self(Hyper::builder(TokioExecutor::new()).build_http())
    }

    /// Sends a request; `None` if there is no response within [`PATIENCE`].
    pub(crate) async fn send(
        &self,
        method: Method,
        url: String,
        body: String,
        token: Option<&str>,
    ) -> Option<Answer> {
        let exchanged = self.exchange(method, url, body.into(), token);
        let (status, headers, body) = timeout(PATIENCE, exchanged).await.ok()??;
        let body = String::from_utf8(body.to_vec()).ok()?;
        Some(Answer { status, headers, body })
    }

    /// Sends many requests as one; `None` if there is no response within [`BATCH_PATIENCE`].
    pub(crate) async fn send_batch(
        &self,
        node: &str,
        asks: impl ExactSizeIterator<Item = &Ask>,
    ) -> Option<Result<Vec<Answer>, &'static str>> {
        let count = asks.len();
        let (url, body) = (format!("http://{node}{PATH}"), write_asks(asks).into());
        let exchanged = self.exchange(Method::POST, url, body, None);
        let (status, _, body) = timeout(BATCH_PATIENCE, exchanged).await.ok()??;
        let answers = if status == StatusCode::OK { read_answers(body, count) } else { None };
        Some(answers.ok_or("the response to a batch is malformed"))
    }

    async fn exchange(
        &self,
        method: Method,
        url: String,
        body: Body,
        token: Option<&str>,
    ) -> Option<(StatusCode, HeaderMap, Bytes)> {
        let mut request = Request::builder().method(method).uri(url).header("host", "check");
        if let Some(token) = token {
            request = request.header("tidegate-position", token);
        }
        let request = request.body(body).ok()?;
        let (parts, body) = self.0.request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some((parts.status, parts.headers, body))
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
