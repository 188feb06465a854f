//! How a database's servers are reached.

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Error, PgConnection};

use super::connector::{ConnectionHooks, Connector};
use super::error::DatabaseError;
use crate::redact::redacted;

/// The address of one server, and settings that apply to it alone.
///
/// Made from a URL (`postgres://app@db/shop`) or from sqlx's [`PgConnectOptions`], wherever a function takes
/// `impl Into<ServerOptions>`.
///
/// ```no_run
/// # async fn example() -> Result<(), tidegate::DatabaseError> {
/// use sqlx::postgres::{PgConnectOptions, PgSslMode};
/// use tidegate::{DatabaseOptions, ServerOptions};
///
/// let primary = PgConnectOptions::new().host("db").username("app").ssl_mode(PgSslMode::VerifyFull);
/// let replica = ServerOptions::from("postgres://app@db-replica/shop").connections(50);
/// let db = DatabaseOptions::new(primary).replica(replica).connect().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ServerOptions {
    address: ServerAddress,
    connections: Option<u32>,
    /// A pool of the application, whose sessions those of Tidegate must equal.
    pub(super) model: Option<PgPool>,
}

#[derive(Clone)]
enum ServerAddress {
    Url(String),
    Options(Box<PgConnectOptions>),
}

impl ServerOptions {
    /// The maximum number of pooled connections to this server, at least 1; by default that of
    /// [`DatabaseOptions::connections`].
    #[must_use]
    pub fn connections(mut self, most: u32) -> Self {
        self.connections = Some(most.max(1));
        self
    }

    /// The options for sqlx.
    pub(super) fn parse(&self) -> Result<PgConnectOptions, DatabaseError> {
        let options = match &self.address {
            ServerAddress::Options(options) => (**options).clone(),
            ServerAddress::Url(url) => {
                // sqlx takes any scheme.
                let is_ours = url.starts_with("postgres://") || url.starts_with("postgresql://");
                let parsed = is_ours.then(|| PgConnectOptions::from_str(url).ok()).flatten();
                parsed.ok_or_else(|| DatabaseError::Url(redacted(url)))?
            }
        };
        let options = options.application_name("tidegate");
        Ok(options.log_slow_statements(tracing::log::LevelFilter::Off, Duration::ZERO))
    }

    /// Distinguishes this server from others: its URL, or what one would say.
    pub(super) fn url(&self) -> String {
        match &self.address {
            ServerAddress::Url(url) => url.clone(),
            ServerAddress::Options(options) => {
                let (user, host) = (options.get_username(), options.get_host());
                let name = options.get_database().unwrap_or(user);
                format!("postgres://{user}@{host}:{}/{name}", options.get_port())
            }
        }
    }
}

impl From<String> for ServerOptions {
    fn from(url: String) -> Self {
        Self { address: ServerAddress::Url(url), connections: None, model: None }
    }
}

impl From<&str> for ServerOptions {
    fn from(url: &str) -> Self {
        url.to_owned().into()
    }
}

impl From<&String> for ServerOptions {
    fn from(url: &String) -> Self {
        url.clone().into()
    }
}

impl From<PgConnectOptions> for ServerOptions {
    fn from(options: PgConnectOptions) -> Self {
        let address = ServerAddress::Options(Box::new(options));
        Self { address, connections: None, model: None }
    }
}

/// The server that a pool of the application leads to, with the pool's number of connections. Tidegate opens connections of
/// its own; see [`DatabaseOptions::from_pools`].
impl From<&PgPool> for ServerOptions {
    fn from(pool: &PgPool) -> Self {
        let options = PgConnectOptions::clone(&pool.connect_options());
        let most = pool.options().get_max_connections();
        let model = Some(pool.clone());
        Self { model, ..Self::from(options).connections(most) }
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions").field("url", &redacted(&self.url())).finish_non_exhaustive()
    }
}

/// The numbers of a pool, and how long a read waits for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    pub(crate) connections: u32,
    pub(crate) at_least: u32,
    pub(crate) wait: Duration,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    /// The application declared that proxies share sessions, which may not be detectable.
    pub(crate) pooled: bool,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connections: 10,
            at_least: 0,
            wait: Duration::from_secs(3),
            // As sqlx.
            max_lifetime: Some(Duration::from_secs(30 * 60)),
            idle_timeout: Some(Duration::from_secs(10 * 60)),
            pooled: false,
        }
    }
}

/// The settings of the connections to all servers of a database.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionSettings {
    pub(crate) limits: PoolLimits,
    pub(crate) hooks: ConnectionHooks,
    pub(crate) statement_timeout: Option<Duration>,
}

impl ConnectionSettings {
    /// The limits of the pool for one server.
    pub(super) fn limits_for(&self, server: &ServerOptions) -> PoolLimits {
        let connections = server.connections.unwrap_or(self.limits.connections);
        let at_least = self.limits.at_least.min(connections);
        PoolLimits { connections, at_least, ..self.limits }
    }

    /// What opens connections to one server.
    pub(super) fn connector(&self, server: &ServerOptions) -> Result<Connector, DatabaseError> {
        let mut options = server.parse()?;
        if let Some(limit) = self.statement_timeout {
            options =
                options.options([("statement_timeout", limit.as_millis().max(1).to_string())]);
        }
        Ok(Connector::new(options, self.hooks.clone()))
    }
}

/// Configures the connections of a [`Database`](super::Database): the servers, pool sizes, limits and credentials.
///
/// ```no_run
/// # async fn example() -> Result<(), tidegate::DatabaseError> {
/// use tidegate::DatabaseOptions;
///
/// let db = DatabaseOptions::new("postgres://app@db-primary/shop")
///     .replica("postgres://app@db-replica-1/shop")
///     .connections(20)
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DatabaseOptions {
    pub(super) primary: ServerOptions,
    pub(super) replicas: Vec<ServerOptions>,
    pub(super) listen: Option<ServerOptions>,
    pub(super) settings: ConnectionSettings,
    pub(super) sample_every: Duration,
    pub(super) max_lag: Duration,
}

impl DatabaseOptions {
    /// Options for a primary, without replicas.
    pub fn new(primary: impl Into<ServerOptions>) -> Self {
        Self {
            primary: primary.into(),
            replicas: Vec::new(),
            listen: None,
            settings: ConnectionSettings::default(),
            sample_every: Duration::from_millis(50),
            max_lag: Duration::from_secs(10),
        }
    }

    /// Reads the URLs from the environment: `POSTGRES_PRIMARY_URL`, `POSTGRES_REPLICA_URL` (one URL, or several separated
    /// by commas) and `POSTGRES_LISTEN_URL`. The last two are optional.
    ///
    /// # Errors
    ///
    /// If `POSTGRES_PRIMARY_URL` is not set.
    pub fn from_env() -> Result<Self, DatabaseError> {
        let primary = std::env::var("POSTGRES_PRIMARY_URL")
            .map_err(|_unset| DatabaseError::Unset("POSTGRES_PRIMARY_URL"))?;
        let replicas = std::env::var("POSTGRES_REPLICA_URL").unwrap_or_default();
        let replicas = replicas.split(',').map(str::trim).filter(|url| !url.is_empty());
        let options = replicas.fold(Self::new(primary), Self::replica);
        Ok(match std::env::var("POSTGRES_LISTEN_URL") {
            Ok(url) => options.listen_url(url),
            Err(_) => options,
        })
    }

    /// Takes servers, sizes and time limits from pools that the application has, such as the pool of an `#[sqlx::test]`.
    ///
    /// Tidegate does not use these pools: it opens connections of its own, since it must know to which server each one leads
    /// and in which state its session is. So the application's pools and Tidegate's share the connections that the
    /// servers allow. For the primary, limit Tidegate's with [`connections`](Self::connections), or use
    /// [`Database::primary`](super::Database::primary) instead of the application's own pool.
    ///
    /// sqlx does not disclose a pool's hooks. If `after_connect` of a pool changes settings or the role, pass the same
    /// function to [`after_connect`](Self::after_connect). [`connect`](Self::connect) compares the roles and settings of the
    /// sessions, and returns an error if they differ. It can't compare settings of your own (`app.tenant`), which Postgres
    /// does not list, nor what `before_acquire` does.
    pub fn from_pools<'p>(
        primary: &'p PgPool,
        replicas: impl IntoIterator<Item = &'p PgPool>,
    ) -> Self {
        let options = primary.options();
        let mut new = Self::new(primary);
        new.settings.limits = PoolLimits {
            connections: options.get_max_connections(),
            at_least: options.get_min_connections(),
            wait: options.get_acquire_timeout(),
            max_lifetime: options.get_max_lifetime(),
            idle_timeout: options.get_idle_timeout(),
            pooled: false,
        };
        // So that `connections` applies.
        new.primary.connections = None;
        replicas.into_iter().fold(new, Self::replica)
    }

    /// Adds a replica.
    #[must_use]
    pub fn replica(mut self, replica: impl Into<ServerOptions>) -> Self {
        self.replicas.push(replica.into());
        self
    }

    /// The address that the listener connects to; the primary's by default. Set it if the primary's address leads
    /// through a transaction-pooling proxy, since LISTEN needs a direct connection.
    #[must_use]
    pub fn listen_url(mut self, server: impl Into<ServerOptions>) -> Self {
        self.listen = Some(server.into());
        self
    }

    /// The maximum number of pooled connections to each server; 10 by default, at least 1.
    #[must_use]
    pub fn connections(mut self, most: u32) -> Self {
        self.settings.limits.connections = most.max(1);
        self
    }

    /// The number of connections that each pool opens at the start and keeps open even while they are idle; 0 by default.
    #[must_use]
    pub fn min_connections(mut self, at_least: u32) -> Self {
        self.settings.limits.at_least = at_least;
        self
    }

    /// How long a read or a write waits for a connection; 3 s by default.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.settings.limits.wait = limit;
        self
    }

    /// The age at which a pooled connection is closed; 30 minutes by default, `None` for no limit.
    #[must_use]
    pub fn max_lifetime(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.max_lifetime = limit.into();
        self
    }

    /// How long a pooled connection may be idle before it is closed; 10 minutes by default, `None` for no limit.
    #[must_use]
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.idle_timeout = limit.into();
        self
    }

    /// The time after which a server ends a statement, its `statement_timeout`. It is sent when a connection is opened, and
    /// a transaction-pooling proxy may refuse that: set it for the role instead (`alter role app set statement_timeout`).
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.settings.statement_timeout = Some(limit);
        self
    }

    /// Sets a function that provides changing credentials: tokens for IAM authentication, or passwords that a secrets
    /// manager rotates. The function receives a server's options, and returns them with a current password. It may also
    /// replace the user name with that of another role that has the same rights and settings.
    ///
    /// It is called once a minute for each server, and immediately if a server rejects the credentials. If it fails or takes
    /// longer than 3 s, the last credentials are used again, and a warning is logged. Open connections stay open.
    ///
    /// ```no_run
    /// # async fn token(host: &str, user: &str) -> std::io::Result<String> { Ok(String::new()) }
    /// # async fn example() -> Result<(), tidegate::DatabaseError> {
    /// use tidegate::DatabaseOptions;
    ///
    /// let db = DatabaseOptions::new("postgres://app@db-primary/shop?sslmode=verify-full")
    ///     .credentials(|options| async move {
    ///         let token = token(options.get_host(), options.get_username()).await?;
    ///         Ok::<_, std::io::Error>(options.password(&token))
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn credentials<F, R, E>(mut self, issue: F) -> Self
    where
        F: Fn(PgConnectOptions) -> R + Send + Sync + 'static,
        R: Future<Output = Result<PgConnectOptions, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.settings.hooks.credentials = Some(Arc::new(move |options| {
            let issued = issue(options);
            Box::pin(async move { issued.await.map_err(Into::into) })
        }));
        self
    }

    /// Prepares the session of each new connection, for instance by `set search_path` or `set role`. If a statement may have
    /// changed a session, Tidegate resets it before its next use, and calls the function again. So it must do the same each
    /// time, and use no temporary tables.
    ///
    /// Behind a transaction-pooling proxy, sessions are shared with other clients: use `alter role .. set` instead.
    ///
    /// ```no_run
    /// # use tidegate::DatabaseOptions;
    /// let options = DatabaseOptions::new("postgres://app@db/shop").after_connect(|conn| {
    ///     Box::pin(async move {
    ///         sqlx::query("set time zone 'UTC'").execute(conn).await?;
    ///         Ok(())
    ///     })
    /// });
    /// ```
    #[must_use]
    pub fn after_connect<F>(mut self, prepare: F) -> Self
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<(), Error>>
            + Send
            + Sync
            + 'static,
    {
        self.settings.hooks.setup = Some(Arc::new(prepare));
        self
    }

    /// Declares that reads and writes go through a transaction-pooling proxy. Usually this is not necessary: Tidegate
    /// detects such a proxy at start, or later, when a different server process responds on the same connection. Declare
    /// it if one host name leads to several proxies, since these may go undetected.
    #[must_use]
    pub fn pooled(mut self) -> Self {
        self.settings.limits.pooled = true;
        self
    }

    /// The interval at which each replica's WAL position is queried; 50 ms by default, at least 1 ms.
    #[must_use]
    pub fn sample_every(mut self, interval: Duration) -> Self {
        self.sample_every = interval.max(Duration::from_millis(1));
        self
    }

    /// How far a replica may lag and still serve reads; 10 s by default. A replica must have replayed everything that
    /// the primary's WAL contained `most` ago. Positions of the primary are sampled, so the actual lag can exceed
    /// `most` by up to two seconds. Reads on routes with a policy require more: every change that the node knows of.
    ///
    /// If `most` is less than 5 s, or there is no [`Listener`](crate::Listener), each node also queries the primary's
    /// WAL position itself. The interval is a tenth of `most`, but at least 50 ms and at most 1 s.
    #[must_use]
    pub fn max_lag(mut self, most: Duration) -> Self {
        self.max_lag = most;
        self
    }
}

impl fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseOptions")
            .field("replicas", &self.replicas.len())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
