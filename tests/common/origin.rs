//! An origin with a script of responses, behind the layer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response};
use tidegate::{Cache, CacheLayer, Memory, Policy};

use super::{read, send};

/// The requests that the origin has received, and its responses: those of the script, in order, then 200s that number
/// themselves.
#[derive(Clone, Default)]
pub(crate) struct Origin {
    script: Arc<Mutex<VecDeque<Response<Body>>>>,
    requests: Arc<Mutex<Vec<Request<()>>>>,
}

impl Origin {
    pub(crate) fn then(self, status: u16, headers: &[(&str, &str)], body: &'static str) -> Self {
        let response = Response::builder().status(status);
        let response =
            headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
        self.then_sends(response.body(Body::from(body)).unwrap())
    }

    pub(crate) fn then_sends(self, response: Response<Body>) -> Self {
        self.script.lock().unwrap().push_back(response);
        self
    }

    pub(crate) fn router(&self, policy: Policy) -> Router {
        self.behind(CacheLayer::with_policy(Cache::new(Memory::new(16 << 20)), policy))
    }

    pub(crate) fn behind(&self, layer: CacheLayer) -> Router {
        let origin = self.clone();
        let handler = move |request: Request<Body>| {
            let run = format!("run {}", origin.receives(request));
            let next = origin.script.lock().unwrap().pop_front();
            std::future::ready(next.unwrap_or_else(|| Response::new(run.into())))
        };
        Router::new().fallback(handler).layer(layer)
    }

    /// Records a request, and returns its number.
    pub(crate) fn receives<B>(&self, request: Request<B>) -> usize {
        let mut requests = self.requests.lock().unwrap();
        requests.push(request.map(drop));
        requests.len()
    }

    /// The headers of all requests.
    pub(crate) fn all(&self) -> Vec<HeaderMap> {
        self.requests.lock().unwrap().iter().map(|request| request.headers().clone()).collect()
    }

    pub(crate) fn runs(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> HeaderMap {
        self.requests.lock().unwrap().last().unwrap().headers().clone()
    }
}

pub(crate) fn get(headers: &[(&str, &str)]) -> Request<Body> {
    by(Method::GET, "/", headers)
}

pub(crate) fn by(method: Method, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

pub(crate) async fn body(app: &Router, request: Request<Body>) -> String {
    read(send(app, request).await).await.0
}

pub(crate) const FRESH: (&str, &str) = ("cache-control", "max-age=60");
pub(crate) const TAGGED: (&str, &str) = ("etag", "\"v1\"");
