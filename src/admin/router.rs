//! The router of the page, and who may use it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn;
use axum::response::IntoResponse;
use axum::routing::{Route, get, post};
use tower_layer::Layer;
use tower_service::Service;

use super::state::Admin;
use super::{access, changes, explain, history, limit, page, status, suggest, switch};

/// The token is too short to be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token has {0} bytes; it needs 16 or more random bytes, such as from `openssl rand -hex 32`"
)]
pub struct TokenError(usize);

impl Admin {
    /// The router, behind your own authentication layer, which must reject everyone who may not use the page.
    pub fn behind<L>(self, authentication: L) -> Router
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.router().layer(authentication)
    }

    /// The router, for requests that have a secret token: `Authorization: Bearer SECRET`, or HTTP Basic with any user name
    /// and the secret as the password, for which browsers prompt. Use it over TLS only.
    ///
    /// Wrong tokens are rate-limited (429). A client whose address the server provides
    /// (`into_make_service_with_connect_info::<SocketAddr>()`) may send ten at once, and one more every six seconds; beyond
    /// that, its tokens are not checked at all. If client addresses are unknown, a correct token is always accepted.
    ///
    /// # Errors
    ///
    /// If the secret is shorter than 16 bytes.
    pub fn with_token(self, secret: &str) -> Result<Router, TokenError> {
        if secret.len() < 16 {
            return Err(TokenError(secret.len()));
        }
        let token = access::TokenHash::new(secret);
        let wrong = limit::WrongTokens::default();
        let check = move |request, next| access::check(token.clone(), wrong.clone(), request, next);
        Ok(self.router().layer(from_fn(check)))
    }

    /// The router, without authentication. Serve it on a port of its own that only operators can reach.
    pub fn unprotected(self) -> Router {
        self.router()
    }

    fn router(self) -> Router {
        let page = page::Page::new();
        let requests = limit::RequestLimiter::new();
        let limited = move |request, next| limit::check(requests.clone(), request, next);
        let admin = Arc::new(self);
        #[cfg(feature = "postgres")]
        crate::cache::spawn({
            let admin = admin.clone();
            async move {
                admin.written().await;
            }
        });
        history::sample(&admin);
        Router::new()
            .route("/", get(async move || page.respond()))
            .route("/api/status", get(status::show))
            .route("/api/changes", get(changes::show))
            .route("/api/history", get(history::show))
            .route("/api/suggest", get(suggest::show))
            .route("/api/explain", post(explain::show))
            .route("/api/invalidate", post(switch::invalidate))
            .route("/api/switch", post(switch::switch))
            .layer(from_fn(access::same_origin))
            .layer(from_fn(limited))
            .layer(from_fn(access::harden))
            .with_state(admin)
    }
}
