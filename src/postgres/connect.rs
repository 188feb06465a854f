//! Connects to the servers that the options name.

use std::sync::{Arc, Mutex, RwLock};

use sqlx::postgres::PgPool;

use super::database::Database;
use super::database_inner::DatabaseInner;
use super::dependencies::DependencyCache;
use super::error::DatabaseError;
use super::lag::Lag;
use super::monitor::Monitor;
use super::options::{ConnectionSettings, DatabaseOptions, PoolLimits};
use super::peers;
use super::server::{Server, ServerRole};
use super::statements::Statements;
use crate::expiring::ExpiringLock;

impl DatabaseOptions {
    /// Connects to all servers and checks that each one has the declared role.
    ///
    /// # Errors
    ///
    /// If a URL can't be parsed; if a server can't be reached or does not respond within ten seconds; if the primary is a
    /// standby or a replica is not one; if a replica belongs to another cluster or database than the primary; or if the
    /// sessions of a pool given to [`from_pools`](Self::from_pools) differ from Tidegate's.
    pub async fn connect(self) -> Result<Database, DatabaseError> {
        // The future is large, and is part of the futures of its callers.
        Box::pin(Database::connect(self)).await
    }
}

impl Database {
    /// The servers that the environment names; see [`DatabaseOptions::from_env`].
    ///
    /// # Errors
    ///
    /// As [`DatabaseOptions::connect`].
    pub async fn from_env() -> Result<Self, DatabaseError> {
        DatabaseOptions::from_env()?.connect().await
    }

    /// The servers that pools of the application lead to; see [`DatabaseOptions::from_pools`].
    ///
    /// # Errors
    ///
    /// As [`DatabaseOptions::connect`].
    pub async fn from_pools<'p>(
        primary: &'p PgPool,
        replicas: impl IntoIterator<Item = &'p PgPool>,
    ) -> Result<Self, DatabaseError> {
        DatabaseOptions::from_pools(primary, replicas).connect().await
    }

    async fn connect(options: DatabaseOptions) -> Result<Self, DatabaseError> {
        let DatabaseOptions { primary: server, replicas, listen, settings, sample_every, max_lag } =
            options;
        let primary = Server::new("primary", ServerRole::Primary, &server, &settings)?;
        let listen = listen.as_ref().unwrap_or(&server);
        // Its pool is not used.
        let limits = PoolLimits { at_least: 0, ..settings.limits };
        let of_listener = ConnectionSettings { limits, ..settings.clone() };
        let listen = Server::new("listener", ServerRole::Primary, listen, &of_listener)?;
        let identity = primary.check(server.model.as_ref()).await?.database();
        let lag = Arc::new(Lag::new(max_lag));
        let watch = Monitor::for_primary(&primary, &lag);
        let inner = peers::join(identity, |own_writes| DatabaseInner {
            identity,
            lag,
            own_writes,
            watch,
            primary,
            listen,
            replicas: RwLock::default(),
            sent: Mutex::default(),
            known: DependencyCache::new(),
            statements: Statements::default(),
            learning: ExpiringLock::default(),
            settings,
            sample_every,
            own_session: tokio::sync::Mutex::default(),
        });
        inner.primary.fill().await;
        let db = Self::new(inner);
        for replica in replicas {
            db.add_replica(replica).await?;
        }
        Ok(db)
    }
}
