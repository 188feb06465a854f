//! A blog in the shape of the [RealWorld specification](https://docs.realworld.show): users, profiles, articles, tags,
//! favorites, comments and a feed, with JSON Web Tokens.

mod articles;
mod auth;
mod comments;
mod error;
mod profiles;
mod users;

use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use tidegate::{Cache, CacheLayer, Database, Policy, Sessions};

pub use auth::Keys;

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    pub db: Database,
    pub keys: Keys,
}

/// The cache in front of the handlers: by user, and one entry for all who have not said who they are.
pub fn layer(cache: Cache, sessions: Sessions) -> CacheLayer {
    let policy = Policy::ttl(Duration::from_secs(3600)).vary_by(auth::viewer);
    CacheLayer::with_policy(cache, policy).sessions(sessions)
}

/// The service.
pub fn router(app: App, layer: CacheLayer) -> Router {
    Router::new()
        .route("/api/users", post(users::register))
        .route("/api/users/login", post(users::login))
        .route("/api/user", get(users::current).put(users::update))
        .route("/api/profiles/{username}", get(profiles::get))
        .route("/api/profiles/{username}/follow", post(profiles::follow).delete(profiles::unfollow))
        .route("/api/articles", get(articles::list).post(articles::create))
        .route("/api/articles/feed", get(articles::feed))
        .route(
            "/api/articles/{slug}",
            get(articles::get).put(articles::update).delete(articles::delete),
        )
        .route(
            "/api/articles/{slug}/favorite",
            post(articles::favorite).delete(articles::unfavorite),
        )
        .route("/api/articles/{slug}/comments", get(comments::list).post(comments::create))
        .route("/api/articles/{slug}/comments/{id}", delete(comments::delete))
        .route("/api/tags", get(articles::tags))
        .layer(layer)
        .layer(from_fn_with_state(app.clone(), auth::authenticate))
        .with_state(app)
}
