//! One server address, its connection pool, and the last known state of the server behind it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres};
use tokio::time::{sleep_until, timeout};

use super::checkout::{Checkout, SharedSample, after_release, before_acquire};
use super::connector::{Connector, CredentialsRefresh};
use super::deadline::{no_response, within};
use super::error::DatabaseError;
use super::identity::{ServerIdentity, Timeline, identity};
use super::options::{ConnectionSettings, PoolLimits, ServerOptions};
use super::pooler::{SessionMode, sessions};
use super::reset::is_resettable;
use super::sample::{ServerPosition, ServerSample};
use super::session::SessionState;
use crate::cache::PastEpochs;
use crate::clock::{self, Instant};
use crate::entry::Epoch;
use crate::sync::MutexExt;

mod probe;

use probe::Probe;

/// How long the check of a server may take, over up to six connections, before it counts as down.
const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// The role of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ServerRole {
    /// Takes writes.
    Primary,
    /// Follows the primary.
    Replica,
}

/// A server, by name.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) name: Arc<str>,
    pub(crate) role: ServerRole,
    pub(crate) connector: Arc<Connector>,
    pool: PgPool,
    refresh: Arc<Option<CredentialsRefresh>>,
    pub(crate) limits: PoolLimits,
    session: Arc<OnceLock<SessionState>>,
    sample: SharedSample,
    statements: Arc<AtomicU64>,
    past: Arc<PastEpochs>,
    probe: Arc<tokio::sync::Mutex<Probe>>,
}

impl Server {
    /// Prepares the pool; nothing is connected yet.
    pub(crate) fn new(
        name: &str,
        role: ServerRole,
        server: &ServerOptions,
        settings: &ConnectionSettings,
    ) -> Result<Self, DatabaseError> {
        let connector = Arc::new(settings.connector(server)?);
        let limits = settings.limits_for(server);
        let mut sample = ServerSample::new();
        sample.is_pooled = limits.pooled;
        let sample = Arc::new(Mutex::new(sample));
        let options = connector.configured().clone();
        let pool = pool(role, limits, &connector, &sample).connect_lazy_with(options);
        let refresh = Arc::new(connector.refresh(&pool));
        let (statements, past, probe, session) = Default::default();
        Ok(Self {
            name: name.into(),
            role,
            connector,
            pool,
            refresh,
            limits,
            session,
            sample,
            statements,
            past,
            probe,
        })
    }

    /// Connects, and checks that the server has the declared role, and that sessions are like those of the application's
    /// pool, if there is one.
    pub(crate) async fn check(
        &self,
        model: Option<&PgPool>,
    ) -> Result<ServerIdentity, DatabaseError> {
        timeout(CHECK_WITHIN, self.introduce(model)).await.unwrap_or_else(|_elapsed| {
            Err(DatabaseError::connecting(self.label(), no_response(CHECK_WITHIN)))
        })
    }

    async fn introduce(&self, model: Option<&PgPool>) -> Result<ServerIdentity, DatabaseError> {
        let failed = |error| DatabaseError::connecting(self.label(), error);
        let (mode, mut conn) =
            sessions(&self.connector, self.limits.pooled).await.map_err(failed)?;
        match mode {
            SessionMode::Own => {}
            SessionMode::Shared => self.note_shared(),
            SessionMode::Mixed => return Err(DatabaseError::MixedStatements(self.label())),
        }
        self.connector.set_up(&mut conn).await.map_err(failed)?;
        let identity = identity(&mut conn).await.map_err(failed)?;
        self.expect(&identity)?;
        if !self.observe(&identity) {
            return Err(DatabaseError::Silent(self.label()));
        }
        if self.connector.has_setup() || self.connector.has_credentials() || model.is_some() {
            let ours = SessionState::read(&mut conn).await.map_err(failed)?;
            if let Some(model) = model {
                self.compare(&ours, model).await?;
            }
            // The first state counts.
            let _ = self.session.set(ours);
        }
        Ok(identity)
    }

    async fn compare(&self, ours: &SessionState, model: &PgPool) -> Result<(), DatabaseError> {
        let theirs = async { SessionState::read(&mut *model.acquire().await?).await };
        let theirs =
            theirs.await.map_err(|error| DatabaseError::connecting(self.label(), error))?;
        let differ = ours.differences(&theirs);
        match differ.is_empty() {
            true => Ok(()),
            false => Err(DatabaseError::Session(self.label(), differ.join(", "))),
        }
    }

    /// The state of the sessions, if it does not follow from the options.
    pub(crate) fn session(&self) -> Option<&SessionState> {
        self.session.get()
    }

    /// Opens the minimum number of connections of the pool. Those that can't be opened now are opened later.
    pub(crate) async fn fill(&self) {
        let opened = (0..self.limits.at_least).map(|_| self.pooled());
        drop(futures_util::future::join_all(opened).await);
    }

    /// Closes all connections of the pool, once they have come back to it.
    pub(crate) async fn close(&self) {
        if let Some(refresh) = &*self.refresh {
            refresh.stop();
        }
        self.pool.close().await;
    }

    /// Opens a connection to see which server is behind the name now.
    pub(crate) async fn identify_anew(&self) -> Result<ServerIdentity, sqlx::Error> {
        let mut conn = within(self.connector.connect()).await?;
        let identity = within(identity(&mut conn)).await?;
        // The server closes it in any case, so this does not wait.
        tokio::spawn(within(conn.close()));
        Ok(identity)
    }

    /// The epoch of the server to which a connection leads that is opened after this call. Concurrent callers share it, or
    /// its failure. A caller may hold a connection of the pool, so the time that it waits for others is limited.
    pub(crate) async fn probe(&self) -> Result<Epoch, sqlx::Error> {
        let called = clock::now();
        let mut probe = within(async { Ok(self.probe.lock().await) }).await?;
        if let Some(shared) = probe.result_for(called) {
            return shared;
        }
        if let Some(due) = probe.due() {
            sleep_until(due).await;
        }
        probe.begin();
        let found = Box::pin(within(self.find_epoch())).await;
        probe.end(&found);
        found
    }

    async fn find_epoch(&self) -> Result<Epoch, sqlx::Error> {
        let identity = self.identify_anew().await?;
        self.expect(&identity).map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let at = ServerPosition::from_identity(&identity);
        at.map(|at| at.epoch)
            .ok_or_else(|| sqlx::Error::Protocol("no position from the server".into()))
    }

    /// Replaces the pool's connections if they lead to another server than the name does now. The log was last read in
    /// `epoch`; if the pool was opened in another one, one of the two still leads to an old primary, and a new connection
    /// shows whether it is the pool. It is not opened again soon if the name led to the same server the last time, unless
    /// `must_know`: the caller writes, or must see a write.
    pub(crate) async fn leave_old_primary(&self, epoch: Epoch, must_know: bool) {
        let sample = self.sample();
        // Behind a proxy that shares sessions, other connections of this process would reach the same server. If the name
        // alternates between servers, each read queries its own.
        let is_left_alone = sample.is_pooled || sample.is_several() && !must_know;
        let pooled = sample.at.filter(|_| !is_left_alone).map(|at| at.epoch);
        let Some(pooled) = pooled.filter(|pooled| *pooled != epoch) else { return };
        if !must_know && self.past.contains(epoch, pooled) {
            return;
        }
        // If it fails, the caller's own connection shows why.
        if let Ok(now) = within(self.probe()).await {
            self.past.note(epoch, now);
            if now != pooled {
                self.renew_since(sample.generation);
            }
        }
    }

    /// A connection, from the pool.
    pub(crate) async fn acquire(&self) -> Result<Checkout, sqlx::Error> {
        Ok(Checkout::new(self.pooled().await?, &self.sample))
    }

    /// A connection, from the pool, that goes back to it without a time limit.
    pub(super) async fn pooled(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        if !self.connector.has_credentials() {
            return self.pool.acquire().await;
        }
        let pooled = |options| {
            self.pool.set_connect_options(options);
            self.pool.acquire()
        };
        self.connector.attempt(pooled).await
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether no connection of the pool is in use. Counted twice, since some may come and go between.
    pub(crate) fn is_idle(&self) -> bool {
        let (idle, size) = (self.pool.num_idle(), self.pool.size());
        usize::try_from(size).is_ok_and(|size| size == idle) && self.pool.num_idle() == idle
    }

    /// Counts a statement that is sent.
    pub(crate) fn sends(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// Continues an existing counter of statements.
    pub(crate) fn count_by(&mut self, statements: &Arc<AtomicU64>) {
        self.statements = statements.clone();
    }

    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    pub(crate) fn sample(&self) -> ServerSample {
        self.lock().clone()
    }

    pub(crate) fn at(&self) -> Option<ServerPosition> {
        self.lock().at
    }

    pub(crate) fn observe(&self, identity: &ServerIdentity) -> bool {
        self.lock().observe(identity)
    }

    /// Records the identity that a connection reported. `false` if it is not the newest server that the name leads to at
    /// present.
    pub(crate) fn observe_newest(&self, identity: &ServerIdentity) -> bool {
        let mut sample = self.lock();
        if sample.knows(identity) {
            // Don't record its position: those of concurrent statements arrive in any order.
            return sample.is_newest(identity);
        }
        let before = sample.generation;
        sample.observe(identity);
        // A different server behind the same address can't be ordered until it is the known one.
        sample.is_newest(identity) && (sample.is_several() || sample.generation == before)
    }

    pub(crate) fn mark_down(&self) {
        self.lock().mark_down();
    }

    /// The timeline of the newest of the servers behind the name that were seen recently.
    pub(crate) fn newest(&self) -> Option<Timeline> {
        self.lock().newest
    }

    /// The same, with the time when a connection of the pool last reported its server.
    pub(crate) fn newest_seen(&self) -> Option<(Timeline, Instant)> {
        let sample = self.lock();
        sample.newest.zip(sample.queried())
    }

    /// The epochs that connections to this name have shown to be over.
    pub(crate) fn past(&self) -> &PastEpochs {
        &self.past
    }

    /// Records that a proxy shares sessions: each transaction may run on a different server.
    pub(crate) fn note_shared(&self) {
        self.lock().is_pooled = true;
    }

    /// Connections opened before now must not be used again.
    pub(crate) fn renew(&self) {
        self.lock().renew();
    }

    /// The same for connections of a generation, unless that has been done.
    pub(crate) fn renew_since(&self, generation: u64) {
        let mut sample = self.lock();
        if sample.generation == generation {
            sample.renew();
        }
    }

    /// Statements that were prepared before now may have plans for another schema, so their connections must not be used
    /// again. This casts no doubt on which server is behind the name.
    pub(crate) fn clear_plans(&self) {
        self.lock().clear_plans();
    }

    /// The last observed server behind the name has replayed this schema change. Connections opened before now must not be
    /// used again, if that was not known yet.
    pub(crate) fn note_replayed(&self, change: u64) {
        self.lock().note_replayed(change);
    }

    /// The same for the server of this identity.
    pub(crate) fn note_replayed_by(&self, identity: &ServerIdentity, change: u64) {
        self.lock().note_replayed_by(identity, change);
    }

    /// The marker that distinguishes the texts of statements from those before a schema change, if one is needed.
    pub(crate) fn plans(&self) -> Option<u64> {
        self.lock().plans
    }

    /// The address, without its secret.
    pub(crate) fn label(&self) -> String {
        let options = self.connector.configured();
        let at = format!("{}:{}", options.get_host(), options.get_port());
        format!("{} ({at})", self.name)
    }

    fn expect(&self, identity: &ServerIdentity) -> Result<(), DatabaseError> {
        match (self.role, identity.standby) {
            (ServerRole::Primary, true) => Err(DatabaseError::PrimaryIsStandby(self.label())),
            (ServerRole::Replica, false) => Err(DatabaseError::ReplicaIsPrimary(self.label())),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ServerSample> {
        self.sample.lock_unpoisoned()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at();
        f.debug_struct("Server").field("server", &self.label()).field("at", &at).finish()
    }
}

fn pool(
    role: ServerRole,
    limits: PoolLimits,
    connector: &Arc<Connector>,
    sample: &SharedSample,
) -> PgPoolOptions {
    let (on_connect, on_acquire, on_release) = (sample.clone(), sample.clone(), sample.clone());
    let (opened_by, reset_by) = (connector.clone(), connector.clone());
    PgPoolOptions::new()
        .max_connections(limits.connections)
        .min_connections(limits.at_least)
        .max_lifetime(limits.max_lifetime)
        .idle_timeout(limits.idle_timeout)
        .acquire_timeout(limits.wait)
        // A ping before each use would double the round trips; a connection that turns out to be
        // dead costs one more attempt instead.
        .test_before_acquire(false)
        .after_connect(move |conn, _| {
            let (sample, connector) = (on_connect.clone(), opened_by.clone());
            Box::pin(async move {
                greet(conn, role, &sample).await?;
                connector.set_up(conn).await
            })
        })
        .before_acquire(move |conn, known| {
            let sample = on_acquire.clone();
            Box::pin(async move { before_acquire(conn, known, &sample).await })
        })
        .after_release(move |conn, known| {
            let (sample, connector) = (on_release.clone(), reset_by.clone());
            Box::pin(async move { after_release(conn, known, &sample, &connector).await })
        })
}

/// Queries which server a new connection leads to.
async fn greet(
    conn: &mut PgConnection,
    role: ServerRole,
    sample: &SharedSample,
) -> Result<(), sqlx::Error> {
    let identity = identity(&mut *conn).await?;
    if role == ServerRole::Primary && identity.standby {
        // The name leads to a standby at present, as during a failover.
        return Err(sqlx::Error::Configuration("the primary's address leads to a standby".into()));
    }
    let is_resettable = is_resettable(conn).await?;
    let mut sample = sample.lock_unpoisoned();
    sample.observe(&identity);
    sample.is_resettable = is_resettable;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by it")]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;
    use tokio::net::TcpListener;

    use super::*;

    /// The first caller's failure is theirs: otherwise each would wait for all before it.
    #[tokio::test]
    async fn callers_of_a_probe_that_fails_share_its_failure() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://postgres@{}/postgres", socket.local_addr().unwrap());
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        tokio::spawn(async move {
            // Each connection is closed at once.
            while socket.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let settings = ConnectionSettings::default();
        let server =
            Server::new("primary", ServerRole::Primary, &url.as_str().into(), &settings).unwrap();
        let probed = join_all((0..8).map(|_| server.probe())).await;
        assert!(probed.iter().all(Result::is_err));
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }

    /// A caller may hold a connection of the pool, or a transaction.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_keeps_no_caller_longer_than_one_response_may_take() {
        let settings = ConnectionSettings::default();
        let server =
            Server::new("primary", ServerRole::Primary, &"postgres://nowhere".into(), &settings)
                .unwrap();
        let _probing = server.probe.lock().await;
        let error = server.probe().await.unwrap_err();
        assert!(super::super::deadline::is_late(&error), "{error}");
    }
}
