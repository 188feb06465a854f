//! Opens connections to one server, with its current credentials, and prepares their sessions.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Error, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::deadline::{PATIENCE, no_response};
use super::sql_error::sql_state;
use crate::clock::{self, Instant};
use crate::sync::MutexExt;

/// The interval between two requests for new credentials to the application. Tokens for IAM authentication are valid
/// for 15 minutes (Amazon RDS User Guide, "IAM database authentication").
const VALID: Duration = Duration::from_secs(60);

/// How long after a failure to get new credentials to try again. The pauses of a pool's refresh grow from it to [`VALID`].
const AGAIN: Duration = Duration::from_secs(5);

pub(crate) type CredentialsError = Box<dyn StdError + Send + Sync>;

type Issuing = BoxFuture<'static, Result<PgConnectOptions, CredentialsError>>;

/// Adds current credentials to a server's options.
pub(crate) type Credentials = Arc<dyn Fn(PgConnectOptions) -> Issuing + Send + Sync>;

/// Prepares the session of a new connection.
pub(crate) type SessionSetup =
    Arc<dyn for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<(), Error>> + Send + Sync>;

/// The settings that all connections of a database share.
#[derive(Clone, Default)]
pub(crate) struct ConnectionHooks {
    pub(crate) credentials: Option<Credentials>,
    pub(crate) setup: Option<SessionSetup>,
}

/// Opens connections to one server.
pub(crate) struct Connector {
    options: PgConnectOptions,
    hooks: ConnectionHooks,
    /// The last credentials.
    issued: Mutex<Option<IssuedOptions>>,
    /// Locked during a request for new credentials: the last failure since the application issued any.
    asking: tokio::sync::Mutex<Option<FailedIssue>>,
}

struct FailedIssue {
    at: Instant,
    why: String,
}

/// A server's options with credentials.
struct IssuedOptions {
    options: PgConnectOptions,
    /// When the application was requested to issue them.
    at: Instant,
}

impl Connector {
    pub(crate) fn new(options: PgConnectOptions, hooks: ConnectionHooks) -> Self {
        Self { options, hooks, issued: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// The options as configured, without credentials that the application issues.
    pub(crate) fn configured(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(crate) fn has_credentials(&self) -> bool {
        self.hooks.credentials.is_some()
    }

    pub(crate) fn has_setup(&self) -> bool {
        self.hooks.setup.is_some()
    }

    /// Opens a connection whose session is prepared.
    pub(crate) async fn connect(&self) -> Result<PgConnection, Error> {
        let mut conn = self.open().await?;
        self.set_up(&mut conn).await?;
        Ok(conn)
    }

    /// Opens a connection, and leaves its session as it is.
    pub(crate) async fn open(&self) -> Result<PgConnection, Error> {
        self.attempt(|options| async move { options.connect().await }).await
    }

    /// Prepares the session of a new connection, or of one that was reset.
    pub(crate) async fn set_up(&self, conn: &mut PgConnection) -> Result<(), Error> {
        match &self.hooks.setup {
            Some(setup) => setup(conn).await,
            None => Ok(()),
        }
    }

    /// Tries to connect. If the server rejects the credentials, tries once more with new ones: they may have been rotated
    /// since they were issued.
    pub(crate) async fn attempt<T, F>(
        &self,
        connect: impl Fn(PgConnectOptions) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (began, options) = (clock::now(), self.issued_since(None).await?);
        match connect(options).await {
            Err(error) if self.has_credentials() && is_rejected(&error) => {
                connect(self.issued_since(Some(began)).await?).await
            }
            result => result,
        }
    }

    /// The options with the last credentials, or with new ones if these were issued before `since`. Callers at the same time
    /// share new ones.
    async fn issued_since(&self, since: Option<Instant>) -> Result<PgConnectOptions, Error> {
        let Some(credentials) = &self.hooks.credentials else { return Ok(self.options.clone()) };
        if let Some(known) = self.known(since) {
            return Ok(known);
        }
        let mut failed = self.asking.lock().await;
        if let Some(known) = self.known(since) {
            return Ok(known);
        }
        // While the application can't issue any, callers must not wait for that one after the other.
        let rests = failed.as_ref().filter(|failed| failed.at.elapsed() < AGAIN);
        if let Some(failed) = rests {
            return self.known(None).ok_or_else(|| Error::Configuration(failed.why.clone().into()));
        }
        let at = clock::now();
        let error = match timeout(PATIENCE, credentials(self.options.clone())).await {
            Ok(Ok(options)) => {
                *failed = None;
                *self.issued() = Some(IssuedOptions { options: options.clone(), at });
                return Ok(options);
            }
            Ok(Err(error)) => error,
            Err(_late) => no_response(PATIENCE).into(),
        };
        tracing::warn!(host = self.options.get_host(), %error, "could not obtain new credentials for the server");
        *failed = Some(FailedIssue { at: clock::now(), why: error.to_string() });
        self.known(None).ok_or(Error::Configuration(error))
    }

    /// The options with the last credentials, if these were issued after `since`.
    fn known(&self, since: Option<Instant>) -> Option<PgConnectOptions> {
        let issued = self.issued();
        let known = issued.as_ref()?;
        since.is_none_or(|since| known.at >= since).then(|| known.options.clone())
    }

    fn issued(&self) -> MutexGuard<'_, Option<IssuedOptions>> {
        self.issued.lock_unpoisoned()
    }

    /// Gives a pool current credentials, for the connections that it opens by itself.
    pub(crate) fn refresh(self: &Arc<Self>, pool: &PgPool) -> Option<CredentialsRefresh> {
        let (connector, pool) = (self.clone(), pool.clone());
        self.has_credentials().then(|| {
            CredentialsRefresh(tokio::spawn(async move {
                let mut backoff = Backoff::new(AGAIN, VALID);
                loop {
                    let began = clock::now();
                    if let Ok(options) = connector.issued_since(Some(began)).await {
                        pool.set_connect_options(options);
                    }
                    let pause = if connector.known(Some(began)).is_some() {
                        backoff.reset();
                        VALID
                    } else {
                        backoff.pause()
                    };
                    sleep(pause).await;
                }
            }))
        })
    }
}

/// The task that gives a pool current credentials; it ends when this is dropped.
pub(crate) struct CredentialsRefresh(JoinHandle<()>);

impl CredentialsRefresh {
    pub(crate) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for CredentialsRefresh {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a server refused the role or its password: `invalid_authorization_specification` or `invalid_password`
/// (PostgreSQL manual, appendix A, class 28).
fn is_rejected(error: &Error) -> bool {
    sql_state(error).is_some_and(|code| code.starts_with("28"))
}

impl fmt::Debug for ConnectionHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHooks")
            .field("credentials", &self.credentials.is_some())
            .field("setup", &self.setup.is_some())
            .finish()
    }
}
