//! Asking a node.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A client with connections of its own.
pub(crate) struct Client(Hyper<HttpConnector, Body>);

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self(Hyper::builder(TokioExecutor::new()).build_http())
    }

    /// Sends a request; `None` if there is no answer within ten seconds, as from a node that is frozen
    /// or gone.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: String,
        body: String,
        token: Option<&str>,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(url).header("host", "check");
        if let Some(token) = token {
            request = request.header("tidegate-position", token);
        }
        let request = request.body(Body::from(body)).ok()?;
        let answered = async {
            let (parts, body) = self.0.request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            let body = String::from_utf8(body.to_vec()).ok()?;
            Some(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(Duration::from_secs(10), answered).await.ok()?
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
