//! Following the log of changes: the task that moves the fences.
//!
//! ```text
//!  connect → LISTEN → load, or drain from where we were → wait ─┐
//!     ↑                                                ↑        │ a notification, a session that
//!     └─────── any error ──────────────────────────────┴─ drain ┘ asks, a writer at work, a heartbeat
//! ```
//!
//! A notification only triggers a drain. The log is authoritative, and a drain finds every change in it whatever
//! notifications were lost. While the task is disconnected nothing is confirmed, so the time since the last drain exceeds
//! what the policies allow, and the node bypasses its entries.
//!
//! If nodes share a store that has a `Bus`, one of them does this for all (`relay`), and the others apply the changes that
//! it broadcasts.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::connector::Connector;
use super::database::Database;
use super::deadline::{PATIENCE, within};
use super::error::DatabaseError;
use super::fingerprint::Fingerprint;
use super::link::{ListenerLink, PollCounter, PollRequests};
use super::log::{self, ChangeDetail, Snapshot};
use super::pooler::{self, SessionMode};
use super::relay::{Relay, RelayRole};
use crate::cache::{Cache, Fences};
use crate::clock::{self, Instant};
use crate::entry::Epoch;

mod housekeeping;
mod poll;
mod relay_follower;
mod sync_requests;
#[cfg(test)]
mod tests;
mod wakeups;

use housekeeping::Housekeeping;
use relay_follower::{RelayFollower, RelayStep, next_of, report_while};
use sync_requests::SyncRequests;
use wakeups::Wakeups;

/// The maximum time between two polls of the log: the δ of the guarantee on a healthy node.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The first pause between polls while a transaction is running whose notification may be suppressed because another one's
/// is being sent. It doubles up to the heartbeat.
const BUSY: Duration = Duration::from_millis(10);

/// After a poll, a notification can trigger the next one only after this many times the poll's duration, but at most after
/// [`BUSY`] or the poll's duration, whichever is longer. So polling uses at most a fifth of a core of the primary, or half
/// of one if polls are slow.
const REST: u32 = 4;

/// The minimum interval between two connections that are opened because a later timeline is known: the primary's name may
/// alternate between two servers.
const DOUBT_EVERY: Duration = Duration::from_secs(5);

/// The pause between polls if commits can't wake the listener.
const UNHEARD: Duration = Duration::from_millis(100);

/// The background task that reads a database's change log and invalidates a cache's entries. A cache that uses Postgres
/// needs exactly one.
///
/// Dropping this handle leaves the task running; call [`stop`](Self::stop) to end it.
#[derive(Debug)]
pub struct Listener {
    task: JoinHandle<()>,
    role: watch::Receiver<RelayRole>,
    turns: watch::Receiver<PollCounter>,
}

impl Listener {
    /// Connects to the primary, reads the change log, and follows it in a background task. When this returns, the cache can
    /// prove freshness and is in use.
    ///
    /// # Errors
    ///
    /// If the primary can't be reached; if the schema `tidegate` is missing or the role may not read it; if notifications
    /// do not arrive (as through a transaction-pooling proxy) or the listener's URL leads to another database; or if the
    /// cache already has a running listener.
    pub async fn spawn(db: &Database, cache: &Cache) -> Result<Self, DatabaseError> {
        let mut follower = Follower::new(db.clone(), cache.fences().clone());
        let mut conn = connect(db).await?;
        let database =
            within(log::identity(&mut conn)).await.map_err(DatabaseError::from_log)?.database();
        database.expect(db.inner.identity, &db.inner.listen)?;
        heard(db, &mut conn).await?;
        if cache.log().is_some_and(|log| log.has_ended()) {
            // A cache keeps each log that was attached to it. So after a failure, it gets another one only if that can be
            // read.
            let mut trial = Follower::new(db.clone(), Arc::new(Fences::new(0)));
            trial.catch_up(&mut conn).await.map_err(DatabaseError::from_log)?;
        }
        let link =
            ListenerLink::new(db.clone(), follower.asked.clone(), follower.turns.subscribe());
        cache.attach(Arc::new(link)).map_err(|_second| DatabaseError::Attached)?;
        follower.catch_up(&mut conn).await.map_err(DatabaseError::from_log)?;
        follower.relay = cache.bus().map(|bus| Relay::start(bus, &db.name()));
        let (role, turns) = (follower.role.subscribe(), follower.turns.subscribe());
        let closed = db.inner.primary.pool().close_event();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = closed => {}
                () = follower.run(conn) => {}
            }
        });
        Ok(Self { task, role, turns })
    }

    /// Whether this node currently reads the log for itself, relays it to other nodes, or follows a relay.
    pub fn role(&self) -> RelayRole {
        *self.role.borrow()
    }

    /// The number of times that this node has read the log on the primary.
    pub fn looks(&self) -> u64 {
        self.turns.borrow().looks
    }

    /// Stops the listener. The cache still serves entries for the `max_staleness` of each policy, and is bypassed after
    /// that.
    pub fn stop(self) {
        self.task.abort();
    }
}

/// Connects to the primary directly, and starts LISTEN. Everything that is read from the log on this connection is of one
/// history, since no connection survives a recovery, and a standby refuses LISTEN.
pub(super) async fn connect(db: &Database) -> Result<PgListener, DatabaseError> {
    let server = &db.inner.listen;
    let connect = async {
        let pool = server.connector.attempt(|options| pool(&server.connector, options)).await?;
        let mut conn = PgListener::connect_with(&pool).await?;
        conn.eager_reconnect(false);
        conn.ignore_pool_close_event(true);
        log::prepare(&mut conn).await?;
        conn.listen("tidegate").await?;
        Ok(conn)
    };
    let connected = Box::pin(within(connect)).await;
    let mut conn = connected.map_err(|error| DatabaseError::connecting(server, error))?;
    within(log::begin_history(&mut conn)).await.map_err(DatabaseError::from_log)?;
    Ok(conn)
}

/// The pool of one connection that sqlx's listener requires for reconnecting, which is never used here.
async fn pool(connector: &Arc<Connector>, options: PgConnectOptions) -> sqlx::Result<PgPool> {
    let connector = connector.clone();
    PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(PATIENCE)
        .after_connect(move |conn, _| {
            let connector = connector.clone();
            Box::pin(async move { connector.set_up(conn).await })
        })
        .connect_with(options)
        .await
}

/// Checks that a notification sent on this connection is received on it, which shows that no proxy gives its session to
/// others. While the server's queue of notifications is full, another check shows that, and heartbeats find the changes.
pub(super) async fn heard(db: &Database, conn: &mut PgListener) -> Result<(), DatabaseError> {
    if !within(log::notify(&mut *conn)).await.map_err(DatabaseError::from_log)? {
        let checked = timeout(PATIENCE, pooler::sessions(&db.inner.listen.connector, false)).await;
        if let Ok(Ok((mode, extra))) = checked {
            tokio::spawn(within(extra.close()));
            if mode != SessionMode::Own {
                return Err(DatabaseError::Pooled);
            }
        }
        tracing::warn!(
            "the server's queue of notifications is half full or more: until a session reads or ends that listens and does \
             not read, changes are noticed up to a second late"
        );
        return Ok(());
    }
    match timeout(PATIENCE, conn.try_recv()).await {
        Ok(Ok(Some(_))) => Ok(()),
        _ => Err(DatabaseError::Pooled),
    }
}

/// Why the log is no longer polled on a connection, other than an error.
enum FollowEnd {
    /// A relay responds.
    Relay,
    /// It may lead to an old primary.
    Doubt,
}

struct Follower {
    db: Database,
    fences: Arc<Fences>,
    asked: Arc<PollRequests>,
    turns: watch::Sender<PollCounter>,
    role: watch::Sender<RelayRole>,
    relay: Option<Relay>,
    duty: RelayFollower,
    questions: SyncRequests,
    /// The epoch, and the snapshot up to which the log was read.
    read: Option<(Epoch, Snapshot)>,
    /// How much detail the next drain begins with.
    detail: ChangeDetail,
    schema: Option<i64>,
    fingerprint: Fingerprint,
    /// The schema has changed since the last poll.
    reshaped: bool,
    /// The schema changed during the last poll, after its snapshot.
    unsettled: bool,
    /// The time by which every node has noticed the last schema change that only the fingerprint shows.
    settles: Option<Instant>,
    wakeups: Wakeups,
    /// The running writers found by the last poll, and the pause until the next poll because of them.
    busy: (Vec<u64>, Duration),
    /// From this time on, a notification triggers a poll at once.
    rested: Instant,
    /// NOTIFY is suppressed until the next poll.
    notify_suppressed: bool,
    /// The server process of this connection, whose own notifications are ignored.
    process: i32,
    /// The cluster and timeline of the server behind the last connection.
    timeline: Option<(u64, u32)>,
    /// When another connection was last opened because of a later timeline.
    doubted: Option<Instant>,
    housekeeping: Housekeeping,
    beat: Instant,
}

impl Follower {
    fn new(db: Database, fences: Arc<Fences>) -> Self {
        Self {
            db,
            fences,
            asked: Arc::default(),
            turns: watch::Sender::new(PollCounter::default()),
            role: watch::Sender::new(RelayRole::Alone),
            relay: None,
            duty: RelayFollower::default(),
            questions: SyncRequests::new(),
            read: None,
            detail: ChangeDetail::default(),
            schema: None,
            fingerprint: Fingerprint::default(),
            reshaped: false,
            unsettled: false,
            settles: None,
            wakeups: Wakeups::new(),
            busy: (Vec::new(), HEARTBEAT),
            rested: clock::now(),
            notify_suppressed: false,
            process: 0,
            timeline: None,
            doubted: None,
            housekeeping: Housekeeping::new(),
            beat: clock::now(),
        }
    }

    /// Follows for as long as the process lives.
    async fn run(mut self, conn: PgListener) {
        let mut present = Some(conn);
        let mut backoff = Backoff::new(BUSY, HEARTBEAT);
        loop {
            if let Some(conn) = present.take() {
                let began = clock::now();
                match self.follow(conn).await {
                    Ok(FollowEnd::Relay) => {
                        self.follow_relay().await;
                        backoff.reset();
                    }
                    Ok(FollowEnd::Doubt) => backoff.ended_after(began.elapsed()),
                    Err(error) => {
                        tracing::warn!(%error, "lost the connection to the change log; reconnecting");
                        self.set_fit(false);
                        backoff.ended_after(began.elapsed());
                    }
                }
                sleep(backoff.jittered()).await;
            }
            match self.reconnect().await {
                Ok(conn) => {
                    self.set_fit(true);
                    present = Some(conn);
                }
                Err(error) => {
                    tracing::debug!(%error, "can't connect to the change log");
                    self.set_fit(false);
                    self.follow_without_primary(&mut backoff).await;
                }
            }
        }
    }

    /// Publishes whether this node can poll the log, to its cache and for the election of a relay.
    fn set_fit(&self, fit: bool) {
        self.turns.send_modify(|turns| turns.is_lost = !fit);
        if let Some(relay) = &self.relay {
            relay.set_fit(fit);
        }
    }

    async fn reconnect(&mut self) -> Result<PgListener, DatabaseError> {
        self.turns.send_modify(|turns| turns.opening += 1);
        let mut conn = connect(&self.db).await?;
        self.catch_up(&mut conn).await.map_err(DatabaseError::from_log)?;
        self.turns.send_modify(|turns| turns.opened = turns.opening);
        tracing::info!("following the change log again");
        Ok(conn)
    }

    /// Polls the log until an error occurs, a relay responds, or the connection may lead to an old primary.
    async fn follow(&mut self, mut conn: PgListener) -> Result<FollowEnd, sqlx::Error> {
        self.take_role();
        let mut look = self.next_look();
        let end = loop {
            let next = self.wait(&mut conn, look).await?;
            match next {
                _ if self.knows_a_later_timeline() => break FollowEnd::Doubt,
                RelayStep::Poll | RelayStep::PollForSession => {
                    let report = self.polling_report();
                    let turn = self.turn(&mut conn, next == RelayStep::PollForSession);
                    report_while(report, turn).await?;
                    look = self.next_look();
                }
                RelayStep::Wait => {}
                RelayStep::FollowRelay => break FollowEnd::Relay,
                RelayStep::Reconnect => break FollowEnd::Doubt,
            }
        };
        self.resume_notify(&mut conn).await?;
        Ok(end)
    }

    /// Waits for a reason to poll, at the latest until `look`.
    async fn wait(
        &mut self,
        conn: &mut PgListener,
        look: Instant,
    ) -> Result<RelayStep, sqlx::Error> {
        let mut look = self.duty.due.map_or(look, |due| due.min(look)).min(self.beat);
        loop {
            let wake = self.try_relay_at().map_or(look, |at| at.min(look));
            tokio::select! {
                heard = conn.try_recv() => {
                    let ours = self.process.cast_unsigned();
                    let mut by_others = heard?.ok_or_else(lost)?.process_id() != ours;
                    while let Some(heard) = conn.next_buffered() {
                        by_others |= heard.process_id() != ours;
                    }
                    if !by_others {
                        continue;
                    }
                    self.wakeups.came();
                    look = look.min(self.rested);
                    if look <= clock::now() {
                        return Ok(RelayStep::Poll);
                    }
                }
                () = self.asked.poll.notified() => return Ok(RelayStep::PollForSession),
                () = self.asked.reconnect.notified() => {
                    if self.wants_connection() {
                        return Ok(RelayStep::Reconnect);
                    }
                }
                heard = next_of(&mut self.relay) => return Ok(self.hear(heard)),
                () = sleep_until(wake) => {
                    if look <= clock::now() {
                        return Ok(RelayStep::Poll);
                    }
                    self.try_relay();
                }
            }
        }
    }

    /// Whether a read or a write of this node has found a server that was promoted after the one whose log is read. This
    /// connection, or the relay's, then leads to an old primary.
    fn knows_a_later_timeline(&mut self) -> bool {
        let (Some(read), Some(newest)) = (self.timeline, self.db.inner.primary.newest()) else {
            return false;
        };
        let is_later = newest.0 == read.0 && newest.1 > read.1;
        let is_due = is_later && self.doubted.is_none_or(|at| at.elapsed() >= DOUBT_EVERY);
        if is_due {
            self.doubted = Some(clock::now());
        }
        is_due
    }

    /// Whether a session waits for the log to be read over another connection.
    fn wants_connection(&self) -> bool {
        self.asked.wants_connection(self.turns.borrow().opening)
    }

    fn next_look(&self) -> Instant {
        if self.unsettled {
            return self.rested;
        }
        let pause = match (self.busy.0.is_empty(), self.wakeups.are_reliable()) {
            (false, _) => self.busy.1,
            (true, false) => UNHEARD,
            (true, true) => HEARTBEAT,
        };
        let look = clock::now() + pause;
        if self.notify_suppressed { look.min(self.rested) } else { look }
    }

    /// Polls the log once, and on a heartbeat also checks the schema. A poll for a session first takes a position past
    /// everything that sessions have seen so far, so that their next requests need no further poll.
    async fn turn(&mut self, conn: &mut PgListener, asked: bool) -> Result<(), sqlx::Error> {
        let (turn, began) = (self.begin_turn(), clock::now());
        let (answers, is_urgent) = self.take_sync_requests();
        let asked = asked || is_urgent;
        let excused = asked || self.notify_suppressed || !self.busy.0.is_empty();
        let unexplained = self.wakeups.begin_look(excused);
        self.resume_notify(conn).await?;
        // It counts as seen only together with the result of this poll: until then, reads use the previous schema.
        let from = match asked {
            true => within(log::announce(&mut *conn)).await?,
            false => self.seen(),
        };
        let beat = clock::now() >= self.beat;
        if beat {
            self.check_schema(conn).await?;
        }
        let has_news = self.drain(conn, from, answers).await?;
        self.end_turn(turn);
        if has_news && unexplained {
            self.wakeups.distrust(conn).await;
        }
        let took = began.elapsed();
        self.rested = clock::now() + (took * REST).min(took.max(BUSY));
        if beat {
            self.housekeeping.work(conn, self.schema).await?;
            self.beat = clock::now() + HEARTBEAT;
        }
        Ok(())
    }

    /// Resumes NOTIFY, if this node suppresses it. If the server refuses, the next turn tries again.
    async fn resume_notify(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        if !self.notify_suppressed {
            return Ok(());
        }
        match within(log::resume_notify(conn)).await {
            Err(error @ sqlx::Error::Database(_)) => {
                tracing::debug!(%error, "can't resume notifications yet");
                Ok(())
            }
            resumed => {
                self.notify_suppressed = false;
                resumed
            }
        }
    }

    /// On a new connection: continues from the last snapshot, or loads the log if there is none.
    async fn catch_up(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        let turn = self.begin_turn();
        self.notify_suppressed = false;
        self.fingerprint = Fingerprint::default();
        let identity = within(log::identity(&mut *conn)).await?;
        self.process = identity.process;
        self.timeline = identity.timeline.map(|timeline| (identity.system_identifier, timeline));
        if self.read.is_some() {
            // Before the drain confirms stored entries, since the schema may have changed too.
            self.check_schema(conn).await?;
        }
        self.drain(conn, self.seen(), Vec::new()).await?;
        self.end_turn(turn);
        self.beat = clock::now();
        Ok(())
    }

    fn begin_turn(&self) -> u64 {
        self.turns.send_modify(|turns| turns.begun += 1);
        self.turns.borrow().begun
    }

    fn end_turn(&self, turn: u64) {
        self.turns.send_modify(|turns| turns.done = turns.done.max(turn));
    }
}

pub(super) fn lost() -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection was lost").into()
}
