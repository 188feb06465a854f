//! Sessions of tower-sessions, with the user's id in them.

use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Path, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use tidegate::{Cache, CacheLayer, Policy, PolicyError, ScopeLayer};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, session};

const USER: &str = "user";

/// The user that the session names.
#[derive(Clone, Copy)]
struct UserId(i64);

/// `/` is cached for each user, and once for all who have not logged in.
pub fn app(cache: Cache) -> Result<Router, PolicyError> {
    let home_of_user = Policy::ttl(Duration::from_secs(60))
        .strict()
        .vary_by_extension(|user: &UserId| Some(user.0.to_string()));
    let cached = CacheLayer::new(cache).route("/", home_of_user).validate()?;
    Ok(Router::new()
        .route("/", get(home))
        .route("/login/{id}", post(login))
        .route("/logout", post(logout))
        .layer(cached)
        .layer(from_fn(identify))
        .layer(SessionManagerLayer::new(MemoryStore::default()))
        .layer(ScopeLayer))
}

/// Reading a session requires `await`, so it can't be left to the policy's function.
async fn identify(
    session: Session,
    mut request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    if let Some(user) = session.get(USER).await.map_err(no_session)? {
        request.extensions_mut().insert(UserId(user));
    }
    Ok(next.run(request).await)
}

async fn home(user: Option<Extension<UserId>>) -> String {
    user.map_or_else(|| "nobody's".to_owned(), |Extension(UserId(id))| format!("{id}'s"))
}

/// Stands in for a check of a password.
async fn login(session: Session, Path(user): Path<i64>) -> Result<(), StatusCode> {
    session.cycle_id().await.map_err(no_session)?;
    session.insert(USER, user).await.map_err(no_session)
}

async fn logout(session: Session) -> Result<(), StatusCode> {
    session.flush().await.map_err(no_session)
}

fn no_session(_: session::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
