//! The operators' actions: invalidate tags, and switch the cache off or on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;

use super::respond::failure;
use super::state::Admin;

/// The most tags at a time.
const MOST: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tags {
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    off: bool,
}

/// Makes tags invalid, on every node.
pub(crate) async fn invalidate(
    State(admin): State<Arc<Admin>>,
    Json(Tags { tags }): Json<Tags>,
) -> Response {
    let tags: Vec<String> = tags.iter().map(|tag| tag.trim().to_owned()).collect();
    if tags.is_empty() || tags.len() > MOST || tags.iter().any(String::is_empty) {
        let why = format!("give 1 to {MOST} tags: TABLE, TABLE:COLUMN=VALUE, or a custom tag");
        return failure(StatusCode::BAD_REQUEST, &why);
    }
    tracing::warn!(?tags, "an operator invalidates tags");
    match admin.cache.invalidate(tags).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failure(StatusCode::BAD_GATEWAY, &error),
    }
}

/// Switches this node's cache off or on.
pub(crate) async fn switch(
    State(admin): State<Arc<Admin>>,
    Json(Switch { off }): Json<Switch>,
) -> StatusCode {
    tracing::warn!(off, "an operator switches the cache off or on");
    admin.cache.set_off(off);
    StatusCode::NO_CONTENT
}
