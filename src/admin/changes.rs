//! The most recent changes in the log.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::state::Admin;
#[cfg(feature = "postgres")]
use crate::entry::Tag;

/// The tags of the rows that one transaction changed.
#[derive(Serialize)]
pub(crate) struct TransactionChange {
    /// The transaction's number.
    xid: String,
    tags: Vec<String>,
}

/// Replaces the column value in a tag by a hash, since the value may be personal data.
#[cfg(feature = "postgres")]
fn hidden(tag: String) -> String {
    match tag.split_once('=') {
        Some((column, _)) => format!("{column}=#{:016x}", Tag::named(&tag).hash()),
        None => tag,
    }
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
                let shown = |tag: String| if admin.shows_values { tag } else { hidden(tag) };
                let written = rows.into_iter().map(|(xid, tags)| {
                    let tags = tags.into_iter().map(shown).collect();
                    TransactionChange { xid, tags }
                });
                Json(written.collect::<Vec<_>>()).into_response()
            }
            Err(error) => super::respond::failure(http::StatusCode::BAD_GATEWAY, &error),
        };
    }
    let _ = admin;
    Json(Vec::<TransactionChange>::new()).into_response()
}
