//! The primary and its replicas, as one.

use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use sqlx::postgres::PgPool;

use super::database_inner::{DatabaseInner, Replica};
use super::deadline::within;
use super::error::DatabaseError;
use super::identity::DatabaseIdentity;
use super::log;
use super::monitor::Monitor;
use super::options::ServerOptions;
use super::peers;
use super::sample::ServerPosition;
use super::server::{Server, ServerRole};
use super::server_status::ServerStatus;
use super::transaction::{OpenTransaction, Transaction};
use crate::cache::{DatabaseId, Record, Requirement, Uncacheable, UnscopedRead, spawn};
use crate::entry::LogPosition;
use crate::sync::{MutexExt, RwLockExt};

/// A primary and any number of replicas, used as one database. Pass [`reader`](Self::reader) or [`writer`](Self::writer)
/// wherever sqlx takes an executor.
///
/// Clones share all connections. A read goes to a replica that has replayed everything that the response and the
/// session require. If there is none, it goes to the primary. If the primary is down, it goes to any replica, and the
/// response is not cached.
///
/// ```no_run
/// # async fn example(db: tidegate::Database) -> Result<(), sqlx::Error> {
/// let names: Vec<String> =
///     sqlx::query_scalar("select name from users").fetch_all(db.reader()).await?;
/// sqlx::query("delete from users where name = $1").bind("x").execute(db.writer()).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<DatabaseInner>,
    /// Reads outside any scope are part of no response.
    is_background: bool,
}

impl Database {
    pub(super) fn new(inner: Arc<DatabaseInner>) -> Self {
        Self { inner, is_background: false }
    }

    /// The same database, for background work: its reads outside any scope are part of no response. Without this, each
    /// such read prevents all responses that are being computed at the same time from being stored (`unscoped-read`),
    /// since a handler may have spawned the task that reads.
    ///
    /// Don't use it in tasks that a handler spawns and whose results it uses, such as those of a data loader; use
    /// [`Record::carry`](crate::Record::carry) there. In a handler, its reads count like those of any other `Database`.
    /// Background lookups of values in a cache need [`Record::detached`](crate::Record::detached) instead, and layers
    /// around the cache need [`ScopeLayer`](crate::ScopeLayer).
    ///
    /// ```no_run
    /// # async fn example(db: tidegate::Database) -> Result<(), sqlx::Error> {
    /// let background = db.background();
    /// tokio::spawn(async move {
    ///     let overdue = "select count(*) from orders where due < now()";
    ///     sqlx::query_scalar::<_, i64>(overdue).fetch_one(background.reader()).await
    /// });
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn background(&self) -> Self {
        Self { is_background: true, ..self.clone() }
    }

    /// Closes all connections, and ends the tasks in the background, listeners included. It waits until the connections
    /// that are in use come back, so finish open transactions first. Afterwards all reads and writes fail, and a cache that
    /// followed this database is bypassed once its policies' `max_staleness` has passed.
    ///
    /// Call it if the process continues without this database. For example, a test calls it before its database is
    /// dropped, as `#[sqlx::test]` does.
    pub async fn close(&self) {
        let replicas = std::mem::take(&mut *self.write());
        self.inner.watch.stop();
        // Listeners end when the primary's pool is closed.
        let others = replicas.iter().map(|replica| replica.server.close());
        tokio::join!(self.inner.primary.close(), self.inner.listen.close(), join_all(others));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.primary.pool().is_closed()
    }

    /// Begins a transaction on the primary. The cache does not know what is read in it, so the response of the current
    /// scope is not cached, unless its policy is [`untracked`](crate::Policy::untracked). While the transaction is
    /// open, all other reads of the scope go to the primary. When it has committed, they see what it has written. A
    /// transaction that has written nothing, or that is rolled back, does not count as a write: the session gets no
    /// token for it.
    ///
    /// Begin the transaction in the scope of the response that uses it. If it is begun outside any scope, responses that
    /// are being computed while it is open are not stored.
    ///
    /// The transaction holds a connection of the pool. While it is open, a lookup in a cache or a read through
    /// [`reader`](Self::reader) takes a second one. So the pool needs more
    /// [`connections`](super::DatabaseOptions::connections) than there are handlers that do this at the same time.
    /// Otherwise they wait for each other until the pool's time limit.
    ///
    /// # Errors
    ///
    /// If the primary can't be reached.
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        self.begin_with("BEGIN", Some(self.requirement())).await
    }

    async fn begin_with(
        &self,
        sql: &'static str,
        own: Option<Arc<Requirement>>,
    ) -> Result<Transaction, sqlx::Error> {
        if let Some(record) = Record::current() {
            let why = "the cache does not see what a transaction reads: use Database::reader or \
                       Database::read_transaction";
            record.note_uncacheable(Uncacheable::new("unnoted-reads", why));
        }
        let unscoped = self.counts_unscoped_reads().then(UnscopedRead::read).flatten();
        let open = OpenTransaction::new(own, unscoped);
        Ok(Transaction::new(self.current_primary(true).await.begin(sql).await?, open))
    }

    /// The primary, for a connection of its pool: see [`Server::leave_old_primary`].
    pub(super) async fn current_primary(&self, must_know: bool) -> &Server {
        let DatabaseInner { primary, lag, .. } = &*self.inner;
        let (Some(seen), Some(pooled)) = (lag.newest(), primary.at()) else { return primary };
        // In a failover, the pool is often the first to lead to the new primary.
        let is_ahead =
            || primary.newest_seen().is_some_and(|(server, seen)| lag.is_older_than(server, seen));
        if pooled.epoch != seen.epoch && !is_ahead() {
            primary.leave_old_primary(seen.epoch, must_know).await;
        }
        primary
    }

    /// Reports that something was written to this database by other means, such as the application's own pool. Call it
    /// after the commit. The response of the current scope is then not stored, and later reads in the scope see the
    /// write. If this is called outside any scope, later reads outside any scope see it.
    pub fn wrote(&self) {
        if let Some(record) = Record::current() {
            record.note_write();
        }
        self.requirement().begin().end();
    }

    /// Begins a READ ONLY transaction on the primary. The server refuses writes in it, so it does not count as a
    /// write, and the session gets no token for it. The cache does not know what it reads, so a response that uses it
    /// is cached only if its policy is [`untracked`](crate::Policy::untracked). The cache notices this only if the
    /// transaction is begun in the response's scope (see [`begin`](Self::begin)). For responses that are to be cached,
    /// use [`read_transaction`](Self::read_transaction).
    ///
    /// # Errors
    ///
    /// If the primary can't be reached.
    pub async fn begin_read_only(&self) -> Result<Transaction, sqlx::Error> {
        self.begin_with("BEGIN READ ONLY", None).await
    }

    /// The primary's pool, for everything that the executors don't cover. The cache does not know what is done with
    /// it, so if this is called while a response is being computed, the response is not cached (unless its policy is
    /// [`untracked`](crate::Policy::untracked)), and all later reads of the scope go to the primary. Don't use a pool
    /// that was obtained in another scope: Tidegate does not notice that. If you write through such a pool, call
    /// [`wrote`](Self::wrote). If the application provides [`credentials`](super::DatabaseOptions::credentials), those
    /// of the pool are renewed once a minute.
    pub fn primary(&self) -> &PgPool {
        self.note_unknown_reads();
        self.requirement().lend();
        self.inner.primary.pool()
    }

    /// Notes reads that the cache can't know: on the current record, or as unscoped reads if there is none.
    fn note_unknown_reads(&self) {
        match Record::current() {
            Some(record) => {
                let why = "Database::primary() was used, whose reads are unknown to the cache";
                record.note_uncacheable(Uncacheable::new("unnoted-reads", why));
            }
            // When that ends is not known.
            None if self.counts_unscoped_reads() => drop(UnscopedRead::read()),
            None => {}
        }
    }

    /// Whether reads outside any scope may be part of a response.
    pub(super) fn counts_unscoped_reads(&self) -> bool {
        !self.is_background
    }

    /// The writes that reads in the current scope must see; outside any scope, those made outside any scope.
    pub(crate) fn requirement(&self) -> Arc<Requirement> {
        let of_scope = Record::current().and_then(|record| record.requirement().cloned());
        of_scope.unwrap_or_else(|| self.inner.own_writes.clone())
    }

    /// Observes a position past everything that the process has written outside any scope, so that replicas may serve its
    /// reads again. Runs in the background, at most once at a time.
    pub(crate) fn observe_own_writes(&self) {
        if self.servers().is_empty() {
            return;
        }
        let own = &self.inner.own_writes;
        own.take_back(|| peers::are_pools_idle(own));
        let Some(observation) = own.try_observe(self.id()) else { return };
        let db = self.clone();
        spawn(async move {
            // If it fails, the next read tries again.
            let _ = db.inner.own_writes.finish(db.id(), observation, db.observe()).await;
        });
    }

    /// A position that the primary's WAL has reached: at or past every commit that is visible now. Responses wait for this,
    /// so it fails if the primary does not respond within 3 s, not counting the wait for a connection. It also fails on an
    /// old primary, if the primary's name alternates between it and the new one: the write may be on the other.
    pub(crate) async fn observe(&self) -> Result<LogPosition, sqlx::Error> {
        let primary = self.current_primary(true).await;
        let mut conn = primary.acquire().await?;
        let identity = conn.identify().await?;
        if !primary.observe_newest(&identity) {
            // This connection must not be used for other reads either.
            conn.close();
            let why = "the primary's host name leads sometimes to an old primary and sometimes to the new one: fix the name, \
                       or stop the old primary";
            return Err(sqlx::Error::Protocol(why.into()));
        }
        let at = ServerPosition::from_identity(&identity).filter(|at| !at.standby);
        let at = at.ok_or_else(|| {
            sqlx::Error::Protocol("the primary did not report its WAL position".into())
        })?;
        Ok(LogPosition::new(at.epoch, identity.position.unwrap_or(at.position)))
    }

    /// Invalidates all entries that have one of these tags, on every node, by writing to the change log. This is
    /// `Cache::invalidate` for processes without a cache. Nodes see it once they have read the log.
    ///
    /// # Errors
    ///
    /// If the primary can't be reached or does not respond within 3 s, the schema `tidegate` is missing, or the role may
    /// not execute `tidegate.invalidate`.
    pub async fn invalidate<I>(&self, tags: I) -> Result<(), DatabaseError>
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        let write = async {
            let mut conn = self.current_primary(true).await.acquire().await?;
            // A background task has no client that could cancel it, so the limit is here.
            within(log::invalidate(&mut *conn, &tags)).await
        };
        write.await.map_err(DatabaseError::from_log)
    }

    /// Adds a replica at runtime, and returns the name that it gets (`replica-1` and so on), which
    /// [`remove_replica`](Self::remove_replica) takes.
    ///
    /// # Errors
    ///
    /// As [`DatabaseOptions::connect`](super::DatabaseOptions::connect).
    pub async fn add_replica(
        &self,
        replica: impl Into<ServerOptions>,
    ) -> Result<Arc<str>, DatabaseError> {
        let (name, options) = (free_name(&self.servers()), replica.into());
        let mut server = Server::new(&name, ServerRole::Replica, &options, &self.inner.settings)?;
        let database = server.check(options.model.as_ref()).await?.database();
        if database != self.inner.identity {
            // The primary's name may lead to another cluster by now, as after a restored backup has taken its place.
            let primary = self.inner.primary.identify_anew().await;
            let primary = primary.map_or(self.inner.identity, |primary| primary.database());
            database.expect(primary, server.label())?;
        }
        server.fill().await;
        let mut replicas = self.write();
        if self.is_closed() {
            return Err(DatabaseError::connecting(server.label(), sqlx::Error::PoolClosed));
        }
        // Another replica may have taken the name in the meantime.
        let taken: Vec<_> = replicas.iter().map(|replica| replica.server.clone()).collect();
        server.name = free_name(&taken).into();
        let mut sent = self.inner.sent.lock_unpoisoned();
        server.count_by(sent.entry(server.name.clone()).or_default());
        drop(sent);
        let (name, server) = (server.name.clone(), Arc::new(server));
        let monitor = Monitor::for_replica(&server, self.inner.sample_every);
        replicas.push(Replica { url: options.url(), server, _monitor: monitor });
        Ok(name)
    }

    /// Removes a replica at runtime, by its name. Reads that are in progress on it complete normally. Returns `false` if no
    /// replica has this name.
    pub fn remove_replica(&self, name: &str) -> bool {
        let mut replicas = self.write();
        let before = replicas.len();
        replicas.retain(|replica| &*replica.server.name != name);
        replicas.len() < before
    }

    /// The state of each replica in use: reachability, lag and connections.
    pub fn replicas(&self) -> Vec<ServerStatus> {
        let status = |server: Arc<Server>| ServerStatus::for_replica(&server, &self.inner.lag);
        self.servers().into_iter().map(status).collect()
    }

    /// The state of the primary, followed by that of each replica in use.
    pub fn status(&self) -> Vec<ServerStatus> {
        let primary = ServerStatus::for_primary(&self.inner.primary, &self.inner.lag);
        std::iter::once(primary).chain(self.replicas()).collect()
    }

    /// Identifies the database that its positions refer to.
    pub(crate) fn id(&self) -> DatabaseId {
        let DatabaseIdentity { system_identifier, oid } = self.inner.identity;
        DatabaseId { system_identifier, oid }
    }

    /// Distinguishes this database from all others, whatever they are called.
    pub(crate) fn name(&self) -> String {
        let DatabaseIdentity { system_identifier, oid } = self.inner.identity;
        format!("{system_identifier:x}:{oid}")
    }

    /// The names of replicas in use, and their URLs.
    pub(crate) fn replica_urls(&self) -> Vec<(Arc<str>, String)> {
        let replicas = self.inner.replicas.read_unpoisoned();
        replicas.iter().map(|replica| (replica.server.name.clone(), replica.url.clone())).collect()
    }

    pub(crate) fn servers(&self) -> Vec<Arc<Server>> {
        let replicas = self.inner.replicas.read_unpoisoned();
        replicas.iter().map(|replica| replica.server.clone()).collect()
    }

    /// Discards everything that predates this schema change: the dependencies of statements, and the connections' prepared
    /// statements.
    pub(crate) fn follow_schema(&self, change: u64) {
        if self.inner.known.clear_before(change) {
            self.inner.primary.clear_plans();
            self.servers().iter().for_each(|replica| replica.clear_plans());
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Replica>> {
        self.inner.replicas.write_unpoisoned()
    }
}

fn free_name(taken: &[Arc<Server>]) -> String {
    let names = (1..).map(|number: u32| format!("replica-{number}"));
    let mut free = names.filter(|name| taken.iter().all(|server| *server.name != **name));
    free.next().unwrap_or_default()
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("primary", &self.inner.primary)
            .field("replicas", &self.servers())
            .field("is_background", &self.is_background)
            .finish()
    }
}
