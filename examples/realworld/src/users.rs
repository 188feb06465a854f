//! Users: registration, login, the client's own account.

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use crate::App;
use crate::auth::User;
use crate::error::{Error, Result};

#[derive(Deserialize)]
pub(crate) struct Body<T> {
    user: T,
}

#[derive(Deserialize)]
pub(crate) struct NewUser {
    username: String,
    email: String,
    password: String,
}

#[derive(Deserialize)]
pub(crate) struct Login {
    email: String,
    password: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct Changes {
    email: Option<String>,
    username: Option<String>,
    password: Option<String>,
    bio: Option<String>,
    image: Option<String>,
}

#[derive(FromRow)]
struct Account {
    id: i64,
    username: String,
    email: String,
    password: String,
    bio: String,
    image: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Response {
    user: View,
}

#[derive(Serialize)]
struct View {
    username: String,
    email: String,
    bio: String,
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Account {
    fn response(self, token: Option<String>) -> Json<Response> {
        let Self { username, email, bio, image, .. } = self;
        Json(Response { user: View { username, email, bio, image, token } })
    }
}

pub(crate) async fn register(
    State(app): State<App>,
    Json(Body { user }): Json<Body<NewUser>>,
) -> Result<(StatusCode, Json<Response>)> {
    let account: Account = sqlx::query_as(
        "insert into users (username, email, password) values ($1, $2, $3)
         returning id, username, email, password, bio, image",
    )
    .bind(user.username)
    .bind(user.email)
    .bind(hash(&user.password)?)
    .fetch_one(app.db.writer())
    .await?;
    let token = app.keys.sign(account.id);
    Ok((StatusCode::CREATED, account.response(Some(token))))
}

pub(crate) async fn login(
    State(app): State<App>,
    Json(Body { user }): Json<Body<Login>>,
) -> Result<Json<Response>> {
    let account: Option<Account> = sqlx::query_as(
        "select id, username, email, password, bio, image from users where email = $1",
    )
    .bind(user.email)
    .fetch_optional(app.db.reader())
    .await?;
    let account = account.ok_or(Error::Unauthorized)?;
    let stored = PasswordHash::new(&account.password).map_err(|_| Error::Unauthorized)?;
    let verified = Argon2::default().verify_password(user.password.as_bytes(), &stored);
    verified.map_err(|_| Error::Unauthorized)?;
    let token = app.keys.sign(account.id);
    Ok(account.response(Some(token)))
}

pub(crate) async fn current(State(app): State<App>, User(id): User) -> Result<Json<Response>> {
    let account: Account =
        sqlx::query_as("select id, username, email, password, bio, image from users where id = $1")
            .bind(id)
            .fetch_one(app.db.reader())
            .await?;
    Ok(account.response(None))
}

pub(crate) async fn update(
    State(app): State<App>,
    User(id): User,
    Json(Body { user }): Json<Body<Changes>>,
) -> Result<Json<Response>> {
    let password = user.password.as_deref().map(hash).transpose()?;
    let account: Account = sqlx::query_as(
        "update users set username = coalesce($2, username), email = coalesce($3, email),
            password = coalesce($4, password), bio = coalesce($5, bio), image = coalesce($6, image)
         where id = $1
         returning id, username, email, password, bio, image",
    )
    .bind(id)
    .bind(user.username)
    .bind(user.email)
    .bind(password)
    .bind(user.bio)
    .bind(user.image)
    .fetch_one(app.db.writer())
    .await?;
    Ok(account.response(None))
}

fn hash(password: &str) -> Result<String> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    Ok(hash.map_err(|_| Error::Invalid("password", "can't be used"))?.to_string())
}
