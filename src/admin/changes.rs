//! What changed lately.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Admin;

/// What one transaction changed.
#[derive(Serialize)]
pub(crate) struct Written {
    /// The transaction's number.
    xid: String,
    tags: Vec<String>,
}

/// The last rows of the log, newest first; none without a database.
pub(crate) async fn show(State(admin): State<Arc<Admin>>) -> Response {
    #[cfg(feature = "postgres")]
    if let Some(db) = &admin.database {
        let sql = "select xid::text as xid,
                array_remove(tidegate.named(relation, tags[1:20], null), null) as tags
            from tidegate.log order by log.xid desc limit 50";
        return match super::primary::rows::<(String, Vec<String>)>(db, sql).await {
            Ok(rows) => {
                let written = rows.into_iter().map(|(xid, tags)| Written { xid, tags });
                Json(written.collect::<Vec<_>>()).into_response()
            }
            Err(error) => super::answer::failure(http::StatusCode::BAD_GATEWAY, &error),
        };
    }
    let _ = admin;
    Json(Vec::<Written>::new()).into_response()
}
