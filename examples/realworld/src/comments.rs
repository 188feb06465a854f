//! Comments on an article.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use time::OffsetDateTime;
use time::serde::rfc3339;

use crate::App;
use crate::articles::id_of;
use crate::auth::{User, Viewer};
use crate::error::{Error, Result};
use crate::profiles::{Profile, profiles};

#[derive(Deserialize)]
pub(crate) struct Body {
    comment: NewComment,
}

#[derive(Deserialize)]
struct NewComment {
    body: String,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    author: i64,
    body: String,
    created_at: OffsetDateTime,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Comment {
    id: i64,
    #[serde(with = "rfc3339")]
    created_at: OffsetDateTime,
    body: String,
    author: Profile,
}

#[derive(Serialize)]
pub(crate) struct One {
    comment: Comment,
}

#[derive(Serialize)]
pub(crate) struct Many {
    comments: Vec<Comment>,
}

async fn views(app: &App, viewer: Viewer, rows: Vec<Row>) -> Result<Vec<Comment>> {
    let authors: Vec<i64> = rows.iter().map(|row| row.author).collect();
    let authors = profiles(app, viewer, &authors).await?;
    let view = |Row { id, author, body, created_at }| {
        let author = authors.get(&author).ok_or(Error::NotFound)?.clone();
        Ok(Comment { id, created_at, body, author })
    };
    rows.into_iter().map(view).collect()
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Path(slug): Path<String>,
) -> Result<Json<Many>> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, author, body, created_at from comments where article = $1 order by id",
    )
    .bind(id_of(&app, &slug).await?)
    .fetch_all(app.db.reader())
    .await?;
    Ok(Json(Many { comments: views(&app, viewer, rows).await? }))
}

pub(crate) async fn create(
    State(app): State<App>,
    User(user): User,
    Path(slug): Path<String>,
    Json(Body { comment }): Json<Body>,
) -> Result<(StatusCode, Json<One>)> {
    let row: Row = sqlx::query_as(
        "insert into comments (article, author, body) values ($1, $2, $3)
         returning id, author, body, created_at",
    )
    .bind(id_of(&app, &slug).await?)
    .bind(user)
    .bind(comment.body)
    .fetch_one(app.db.writer())
    .await?;
    let mut views = views(&app, Viewer(Some(user)), vec![row]).await?;
    let comment = views.pop().ok_or(Error::NotFound)?;
    Ok((StatusCode::CREATED, Json(One { comment })))
}

pub(crate) async fn delete(
    State(app): State<App>,
    User(user): User,
    Path((slug, id)): Path<(String, i64)>,
) -> Result<StatusCode> {
    let deleted =
        sqlx::query("delete from comments where id = $1 and article = $2 and author = $3")
            .bind(id)
            .bind(id_of(&app, &slug).await?)
            .bind(user)
            .execute(app.db.writer())
            .await?;
    if deleted.rows_affected() == 0 { Err(Error::Forbidden) } else { Ok(StatusCode::NO_CONTENT) }
}
