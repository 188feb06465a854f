//! Responses as JSON for programs and as text for terminals.

use std::fmt::Display;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

/// Responds with JSON, or with text if the request accepts only that.
pub(crate) fn respond<T: Serialize + Display>(headers: &HeaderMap, found: &T) -> Response {
    let wants = headers.get(ACCEPT).map(HeaderValue::as_bytes);
    match wants.is_some_and(|wants| wants.starts_with(b"text/plain")) {
        true => found.to_string().into_response(),
        false => Json(found).into_response(),
    }
}

/// An error response: the request is malformed, or a server that it needs can't be reached.
pub(crate) fn failure(status: StatusCode, why: &impl Display) -> Response {
    let body = Json(serde_json::json!({ "error": why.to_string() }));
    (status, body).into_response()
}

/// A share of 1 in per cent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
