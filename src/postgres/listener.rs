//! Following the log of changes: the task that moves the fences.
//!
//! ```text
//!  connect → LISTEN → load, or drain from where we were → wait ─┐
//!     ↑                                                ↑        │ a notification, a session that
//!     └─────── any error ──────────────────────────────┴─ drain ┘ asks, a writer at work, a heartbeat
//! ```
//!
//! A notification is only a reason to look. What is true is in the log, and what a drain says of it
//! holds whatever was lost in between. While the task is disconnected nothing is confirmed, so the
//! node's entries age past what their policies allow, and are left alone.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::database::Database;
use super::error::DatabaseError;
use super::link::{Link, Turns};
use super::log::{self, Drained, Snapshot};
use crate::cache::{Cache, Fences};
use crate::clock::{self, Instant};
use crate::entry::{Epoch, Position, Tag};

/// The longest time between two looks at the log: what δ of the guarantee is on a healthy node.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The first pause before another look while a writer is at work, whose notification may have been
/// left out because another's was under way. It doubles until the heartbeat.
const BUSY: Duration = Duration::from_millis(10);

/// The pause between looks where commits can't wake us.
const UNHEARD: Duration = Duration::from_millis(100);

/// A statement that takes longer means that the primary is lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the log is marked, how long changes are kept for nodes that were away, and how often
/// old ones are dropped.
const MARK_EVERY: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_hours(1);
const TRIM_EVERY: Duration = Duration::from_mins(1);

/// How many rows are dropped at a time. As long as there are more, the next go with the next
/// heartbeat, so that the log does not outgrow what is dropped.
const TRIM_AT_ONCE: i32 = 10_000;

/// How many rows a node that starts reads: about a second's work. What was stored before the first
/// of them is made anew.
const LOAD_AT_MOST: i64 = 100_000;

/// Follows a database's log of changes for a cache, until it is stopped.
///
/// Dropping it leaves the task running.
#[derive(Debug)]
pub struct Listener {
    task: JoinHandle<()>,
}

impl Listener {
    /// Connects to the primary, reads what the log knows, and goes on from there: when this returns,
    /// the cache is in use.
    ///
    /// # Errors
    ///
    /// If the primary can't be reached, the schema is missing or the role may not read it, LISTEN
    /// does not get through, or the cache has a listener already.
    pub async fn spawn(db: &Database, cache: &Cache) -> Result<Self, DatabaseError> {
        let mut follower = Follower::new(db.clone(), cache.fences().clone());
        let mut conn = follower.connect().await?;
        heard(&mut conn).await?;
        let link = Link::new(db.clone(), follower.asked.clone(), follower.turns.subscribe());
        cache.attach(Arc::new(link)).map_err(|_second| DatabaseError::Attached)?;
        follower.catch_up(&mut conn).await.map_err(DatabaseError::of_log)?;
        Ok(Self { task: tokio::spawn(follower.run(conn)) })
    }

    /// Stops following. The cache's entries stay valid until their policies' `max_staleness` is over.
    pub fn stop(self) {
        self.task.abort();
    }
}

/// Checks that a notification that we send comes back to us.
async fn heard(conn: &mut PgListener) -> Result<(), DatabaseError> {
    let notify = sqlx::query("select pg_notify('tidegate', '')").execute(&mut *conn).await;
    notify.map_err(DatabaseError::of_log)?;
    match timeout(PATIENCE, conn.try_recv()).await {
        Ok(Ok(Some(_))) => Ok(()),
        _ => Err(DatabaseError::Pooled),
    }
}

struct Follower {
    db: Database,
    fences: Arc<Fences>,
    asked: Arc<Notify>,
    turns: tokio::sync::watch::Sender<Turns>,
    /// Up to where the log was read, in which epoch.
    read: Option<(Epoch, Snapshot)>,
    schema: Option<i64>,
    wakeups: bool,
    /// Writers at work when last seen, and how long to wait for them.
    busy: (Vec<u64>, Duration),
    trim: Instant,
    beat: Instant,
}

impl Follower {
    fn new(db: Database, fences: Arc<Fences>) -> Self {
        Self {
            db,
            fences,
            asked: Arc::new(Notify::new()),
            turns: tokio::sync::watch::Sender::new(Turns::default()),
            read: None,
            schema: None,
            wakeups: true,
            busy: (Vec::new(), HEARTBEAT),
            trim: clock::now() + TRIM_EVERY,
            beat: clock::now(),
        }
    }

    /// Follows for as long as the process lives.
    async fn run(mut self, conn: PgListener) {
        let mut present = Some(conn);
        let mut pause = BUSY;
        loop {
            if let Some(conn) = present.take() {
                let error = self.follow(conn).await;
                tracing::warn!(%error, "the log of changes was lost; connecting again");
                pause = BUSY;
            }
            sleep(pause).await;
            pause = (pause * 2).min(HEARTBEAT);
            match self.reconnect().await {
                Ok(conn) => present = Some(conn),
                Err(error) => tracing::debug!(%error, "the log of changes can't be reached"),
            }
        }
    }

    async fn reconnect(&mut self) -> Result<PgListener, DatabaseError> {
        let mut conn = self.connect().await?;
        self.catch_up(&mut conn).await.map_err(DatabaseError::of_log)?;
        tracing::info!("the log of changes is followed again");
        Ok(conn)
    }

    async fn connect(&self) -> Result<PgListener, DatabaseError> {
        let server = &self.db.inner.listen;
        // sqlx's listener wants a pool to reconnect from; we never let it.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(PATIENCE)
            .connect_with(server.options.clone());
        let connect = async {
            let mut conn = PgListener::connect_with(&pool.await?).await?;
            conn.eager_reconnect(false);
            conn.ignore_pool_close_event(true);
            log::prepare(&mut conn).await?;
            conn.listen("tidegate").await?;
            Ok(conn)
        };
        Box::pin(within(connect)).await.map_err(|error| DatabaseError::connecting(server, error))
    }

    /// Follows until something goes wrong.
    async fn follow(&mut self, mut conn: PgListener) -> sqlx::Error {
        loop {
            let turned = match self.wait(&mut conn).await {
                Ok(asked) => self.turn(&mut conn, asked).await,
                Err(error) => Err(error),
            };
            if let Err(error) = turned {
                return error;
            }
        }
    }

    /// Waits for a reason to look; returns whether a session asks for it.
    async fn wait(&self, conn: &mut PgListener) -> Result<bool, sqlx::Error> {
        let next = clock::now() + self.pause();
        tokio::select! {
            heard = conn.try_recv() => {
                heard?.ok_or_else(lost)?;
                while conn.next_buffered().is_some() {}
            }
            () = self.asked.notified() => return Ok(true),
            () = sleep_until(next.min(self.beat)) => {}
        }
        Ok(false)
    }

    fn pause(&self) -> Duration {
        match (self.busy.0.is_empty(), self.wakeups) {
            (false, _) => self.busy.1,
            (true, false) => UNHEARD,
            (true, true) => HEARTBEAT,
        }
    }

    /// Looks once; on a heartbeat, at the schema as well. For a session, from a position that is past
    /// all that sessions have seen so far, so that their next requests need no look of their own.
    async fn turn(&mut self, conn: &mut PgListener, asked: bool) -> Result<(), sqlx::Error> {
        let turn = self.begin_turn();
        if asked {
            self.fences.see(within(log::announce(&mut *conn)).await?);
        }
        let beat = clock::now() >= self.beat;
        if beat {
            self.look_at_schema(conn).await?;
        }
        self.drain(conn).await?;
        self.turns.send_modify(|turns| turns.done = turn);
        if beat {
            self.keep_house(conn).await?;
            self.beat = clock::now() + HEARTBEAT;
        }
        Ok(())
    }

    /// On a new connection: goes on from where we were, or begins anew.
    async fn catch_up(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        let turn = self.begin_turn();
        match self.read {
            None => self.load(conn).await?,
            Some(_) => self.drain(conn).await?,
        }
        self.turns.send_modify(|turns| turns.done = turn);
        self.beat = clock::now();
        Ok(())
    }

    fn begin_turn(&self) -> u64 {
        self.turns.send_modify(|turns| turns.begun += 1);
        self.turns.borrow().begun
    }

    async fn drain(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        let Some((epoch, snapshot)) = self.read.clone() else { return self.load(conn).await };
        let began = clock::now();
        let from = self.fences.seen();
        let drained = within(log::drain(&mut *conn, &snapshot)).await?;
        if drained.epoch != epoch {
            tracing::warn!(%epoch, now = %drained.epoch, "another server is the primary now");
            return self.load(conn).await;
        }
        self.raise(&drained);
        self.fences.confirm(drained.fence, began);
        self.fences.follow(from.map_or(Position::ZERO, |(_, seen)| seen));
        let moved = !drained.tags.is_empty() || drained.trimmed;
        self.take(drained);
        if moved {
            self.announce(conn, began).await?;
        }
        Ok(())
    }

    fn raise(&self, drained: &Drained) {
        if drained.trimmed {
            tracing::warn!("changes were dropped from the log unseen: all entries are made anew");
            self.fences.raise_floor(drained.fence);
        }
        for tag in &drained.tags {
            self.fences.raise(Tag::named(tag), drained.fence);
        }
    }

    fn take(&mut self, drained: Drained) {
        self.wakeups = drained.wakeups;
        self.busy = match drained.in_progress.iter().all(|writer| self.busy.0.contains(writer)) {
            true => (drained.in_progress, (self.busy.1 * 2).min(HEARTBEAT)),
            false => (drained.in_progress, BUSY),
        };
        self.read = Some((drained.epoch, drained.snapshot));
    }

    /// Takes a position past every fence, so that what is read from now on is valid at once.
    async fn announce(&self, conn: &mut PgListener, began: Instant) -> Result<(), sqlx::Error> {
        let seen = within(log::announce(&mut *conn)).await?;
        self.fences.confirm(seen, began);
        Ok(())
    }

    /// Begins an epoch with what the log and its marks tell.
    async fn load(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        // The primary's connections of before may lead to the server of before.
        self.db.inner.primary.renew();
        self.db.inner.known.forget();
        // Before the log: what is learnt of the schema after this is noticed as a change of it.
        let schema = within(log::fingerprint(&mut *conn)).await?;
        self.schema = Some(schema);
        let began = clock::now();
        let loaded = within(log::load(&mut *conn, schema, LOAD_AT_MOST)).await?;
        let fences = loaded.fences.iter().map(|(name, fence)| (Tag::named(name), *fence));
        self.fences.begin(loaded.epoch, loaded.floor, fences);
        self.fences.confirm(loaded.seen, began);
        self.wakeups = loaded.wakeups;
        self.read = Some((loaded.epoch, loaded.snapshot));
        let floor = loaded.floor;
        tracing::info!(epoch = %loaded.epoch, %floor, fences = loaded.fences.len(), "following");
        self.announce(conn, began).await
    }

    /// A change of the schema writes no row into the log: it makes everything invalid.
    async fn look_at_schema(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        let schema = within(log::fingerprint(&mut *conn)).await?;
        if self.schema.replace(schema).is_some_and(|known| known != schema) {
            self.db.inner.known.forget();
            // Later than what the fingerprint saw, so past the commit that changed it.
            let began = clock::now();
            let past = within(log::announce(&mut *conn)).await?;
            self.fences.raise_floor(past);
            self.announce(conn, began).await?;
            tracing::info!("the schema has changed: all entries are made anew");
        }
        Ok(())
    }

    async fn keep_house(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        within(log::mark(&mut *conn, MARK_EVERY, self.schema)).await?;
        if clock::now() >= self.trim
            && !within(log::trim(&mut *conn, RETENTION, TRIM_AT_ONCE)).await?
        {
            self.trim = clock::now() + TRIM_EVERY;
        }
        Ok(())
    }
}

/// A statement that takes too long has failed.
async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_late| {
        let why = format!("no answer within {PATIENCE:?}");
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why).into())
    })
}

fn lost() -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection was lost").into()
}
