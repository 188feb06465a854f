//! Users and permissions of axum-login.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum_login::{
    AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend, AuthzBackend, permission_required,
};
use tidegate::{Cache, CacheLayer, Policy, PolicyError, ScopeLayer};
use tower_sessions::{MemoryStore, SessionManagerLayer};

/// A user who has logged in.
#[derive(Clone, Debug)]
pub struct User {
    id: i64,
    /// Changes with the password, which ends the user's sessions.
    hash: [u8; 8],
}

impl AuthUser for User {
    type Id = i64;

    fn id(&self) -> i64 {
        self.id
    }

    fn session_auth_hash(&self) -> &[u8] {
        &self.hash
    }
}

/// What is known of a user.
#[derive(Clone, Copy, Default)]
struct Account {
    passwords: u64,
    may_read_reports: bool,
}

/// Stands in for tables of users and of their rights.
#[derive(Clone, Default)]
pub struct Accounts(Arc<Mutex<HashMap<i64, Account>>>);

impl Accounts {
    fn all(&self) -> MutexGuard<'_, HashMap<i64, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self, id: i64) -> Option<User> {
        let hash = self.all().get(&id)?.passwords.to_le_bytes();
        Some(User { id, hash })
    }

    /// Grants the right to read reports, or withdraws it.
    pub fn permit(&self, user: i64, may_read_reports: bool) {
        self.all().entry(user).or_default().may_read_reports = may_read_reports;
    }

    pub fn change_password(&self, user: i64) {
        self.all().entry(user).or_default().passwords += 1;
    }
}

impl AuthnBackend for Accounts {
    type User = User;
    type Credentials = i64;
    type Error = Infallible;

    /// Stands in for a check of a password.
    async fn authenticate(&self, user: i64) -> Result<Option<User>, Infallible> {
        Ok(self.user(user))
    }

    async fn get_user(&self, user: &i64) -> Result<Option<User>, Infallible> {
        Ok(self.user(*user))
    }
}

impl AuthzBackend for Accounts {
    type Permission = &'static str;

    async fn get_user_permissions(&self, user: &User) -> Result<HashSet<&'static str>, Infallible> {
        let may_read = self.all().get(&user.id).is_some_and(|account| account.may_read_reports);
        Ok(may_read.then_some("reports").into_iter().collect())
    }
}

/// `/report` is cached for each user, and only for those who may read reports.
pub fn app(cache: Cache, accounts: Accounts) -> Result<Router, PolicyError> {
    let report_of_user = Policy::ttl(Duration::from_secs(60)).strict().vary_by_extension(
        |session: &AuthSession<Accounts>| Some(session.user.as_ref()?.id.to_string()),
    );
    let cached = CacheLayer::new(cache).route("/report", report_of_user).validate()?;
    let sessions = SessionManagerLayer::new(MemoryStore::default());
    Ok(Router::new()
        .route("/report", get(report))
        .layer(cached)
        .layer(permission_required!(Accounts, "reports"))
        .route("/login/{id}", post(login))
        .route("/logout", post(logout))
        .layer(AuthManagerLayerBuilder::new(accounts.clone(), sessions).build())
        .layer(ScopeLayer)
        .with_state(accounts))
}

/// It takes nothing but the id from the session: what else it shows of the user it would have to read from the database,
/// so that a change of it invalidates the response.
async fn report(session: AuthSession<Accounts>) -> Result<String, StatusCode> {
    let user = session.user.ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(format!("{}'s", user.id))
}

async fn login(
    mut session: AuthSession<Accounts>,
    State(accounts): State<Accounts>,
    Path(user): Path<i64>,
) -> Result<(), StatusCode> {
    let Ok(found) = accounts.authenticate(user).await;
    let user = found.ok_or(StatusCode::UNAUTHORIZED)?;
    session.login(&user).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn logout(mut session: AuthSession<Accounts>) -> Result<(), StatusCode> {
    session.logout().await.map(drop).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
