//! Profiles: what others see of a user, and whether the viewer follows them.

use std::collections::{HashMap, HashSet};

use axum::Json;
use axum::extract::{Extension, Path, State};
use serde::Serialize;
use sqlx::FromRow;

use crate::App;
use crate::auth::{User, Viewer};
use crate::error::Result;

#[derive(Clone, Serialize)]
pub(crate) struct Profile {
    username: String,
    bio: String,
    image: Option<String>,
    following: bool,
}

#[derive(Serialize)]
pub(crate) struct Response {
    profile: Profile,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    username: String,
    bio: String,
    image: Option<String>,
}

/// The profiles of these users, as the viewer sees them.
pub(crate) async fn profiles(
    app: &App,
    viewer: Viewer,
    users: &[i64],
) -> Result<HashMap<i64, Profile>> {
    let rows: Vec<Row> =
        sqlx::query_as("select id, username, bio, image from users where id = any($1)")
            .bind(users)
            .fetch_all(app.db.reader())
            .await?;
    let mut followed = HashSet::new();
    if let Viewer(Some(viewer)) = viewer {
        let rows: Vec<i64> = sqlx::query_scalar(
            "select followed from follows where follower = $1 and followed = any($2)",
        )
        .bind(viewer)
        .bind(users)
        .fetch_all(app.db.reader())
        .await?;
        followed.extend(rows);
    }
    let profile = |Row { id, username, bio, image }| {
        (id, Profile { username, bio, image, following: followed.contains(&id) })
    };
    Ok(rows.into_iter().map(profile).collect())
}

/// The id of the user with this name.
pub(crate) async fn id_of(app: &App, username: &str) -> Result<i64> {
    let query = sqlx::query_scalar("select id from users where username = $1").bind(username);
    Ok(query.fetch_one(app.db.reader()).await?)
}

async fn response(app: &App, viewer: Viewer, user: i64) -> Result<Json<Response>> {
    let mut profiles = profiles(app, viewer, &[user]).await?;
    let profile = profiles.remove(&user).ok_or(sqlx::Error::RowNotFound)?;
    Ok(Json(Response { profile }))
}

pub(crate) async fn get(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Path(username): Path<String>,
) -> Result<Json<Response>> {
    let user = id_of(&app, &username).await?;
    response(&app, viewer, user).await
}

pub(crate) async fn follow(
    State(app): State<App>,
    User(viewer): User,
    Path(username): Path<String>,
) -> Result<Json<Response>> {
    let user = id_of(&app, &username).await?;
    sqlx::query("insert into follows (follower, followed) values ($1, $2) on conflict do nothing")
        .bind(viewer)
        .bind(user)
        .execute(app.db.writer())
        .await?;
    response(&app, Viewer(Some(viewer)), user).await
}

pub(crate) async fn unfollow(
    State(app): State<App>,
    User(viewer): User,
    Path(username): Path<String>,
) -> Result<Json<Response>> {
    let user = id_of(&app, &username).await?;
    sqlx::query("delete from follows where follower = $1 and followed = $2")
        .bind(viewer)
        .bind(user)
        .execute(app.db.writer())
        .await?;
    response(&app, Viewer(Some(viewer)), user).await
}
