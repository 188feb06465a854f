//! JSON Web Tokens: who the client is.

use std::sync::Arc;

use axum::extract::{Extension, FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use jsonwebtoken::{
    DecodingKey, EncodingKey, Header, Validation, decode, encode, get_current_timestamp,
};
use serde::{Deserialize, Serialize};

use crate::App;
use crate::error::{Error, Result};

/// How long a token is valid, in seconds.
const LIFETIME: u64 = 3600;

/// The client, if it has said who it is: a user's id. In the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Viewer(pub(crate) Option<i64>);

/// A client that must have said who it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User(pub(crate) i64);

#[derive(Debug, Deserialize, Serialize)]
struct Claims {
    sub: String,
    exp: u64,
}

/// Signs tokens and verifies them.
#[derive(Clone)]
pub struct Keys(Arc<(EncodingKey, DecodingKey)>);

impl Keys {
    pub fn new(secret: &str) -> Result<Self, jsonwebtoken::errors::Error> {
        let secret = secret.as_bytes();
        let keys = (EncodingKey::from_secret(secret)?, DecodingKey::from_secret(secret)?);
        Ok(Self(Arc::new(keys)))
    }

    /// A token for a user, valid for an hour.
    #[must_use]
    pub fn sign(&self, user: i64) -> String {
        self.sign_until(user, get_current_timestamp() + LIFETIME)
    }

    /// A token for a user, valid until this second of Unix time.
    #[must_use]
    pub fn sign_until(&self, user: i64, exp: u64) -> String {
        let claims = Claims { sub: user.to_string(), exp };
        encode(&Header::default(), &claims, &self.0.0).unwrap_or_default()
    }

    fn verify(&self, token: &str) -> Option<i64> {
        let token = decode::<Claims>(token, &self.0.1, &Validation::default()).ok()?;
        token.claims.sub.parse().ok()
    }
}

/// The viewer, as responses are keyed by it.
pub(crate) fn viewer(parts: &Parts) -> Option<String> {
    let Viewer(user) = parts.extensions.get()?;
    Some(user.map_or("anybody".into(), |user| user.to_string()))
}

/// Finds out who the client is; a token that is not valid gets 401.
pub(crate) async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let viewer = match request.headers().get(AUTHORIZATION) {
        None => Viewer(None),
        Some(value) => {
            let token = value.to_str().ok().and_then(|value| value.strip_prefix("Token "));
            let user = token.and_then(|token| app.keys.verify(token));
            Viewer(Some(user.ok_or(Error::Unauthorized)?))
        }
    };
    request.extensions_mut().insert(viewer);
    Ok(next.run(request).await)
}

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let viewer = Extension::<Viewer>::from_request_parts(parts, state).await;
        let Ok(Extension(Viewer(Some(user)))) = viewer else { return Err(Error::Unauthorized) };
        Ok(Self(user))
    }
}
