//! The stream of one replication slot.

use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::connection::{Delivery, ReplicationConnection};
use crate::error::StreamError;
use crate::kept_slot::{self, StreamPoint};
use crate::options::{KeyColumns, StreamOptions};
use crate::pending::Seen;
use crate::pgoutput::Message;
use crate::publication;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::watermark::{Announced, Origin, Watermark, announce};

/// The pauses before the next watermark while a transaction is delivered and not visible: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];

/// How often the position that was read is confirmed, if it has advanced, and otherwise. The server ends a silent
/// stream (`wal_sender_timeout`), and its request for a reply may be queued behind a large message.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
const REPEAT_EVERY: Duration = Duration::from_secs(10);

/// The changes of the tables of a publication, from the moment of [`start`](Self::start) on.
///
/// It has a temporary replication slot of its own, which the server drops with the connection. So a stream that has
/// ended can't be continued: after an error, start another one, whose first watermark says that anything may have
/// changed. A task reads all messages of the server and confirms them at once, so the slot retains no write-ahead log,
/// even if watermarks are rare. [`create`](Self::create) makes a slot that outlives the connection instead. The task
/// holds the changes that no watermark has seen, up to 100,000 keys and as many transactions. Past that, all rows of
/// the changed tables count as changed.
pub struct Stream {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    name: String,
    publication: String,
    watched: &'static str,
    origin: Origin,
    /// The publication and the watched value, as the last watermark saw them; `None` before the first.
    fingerprint: Option<String>,
    /// Whether the slot outlives the connection.
    is_kept: bool,
    /// From where the stream can be continued, with the last watermark's snapshot.
    point: Option<StreamPoint>,
    /// The watermark under way.
    announced: Option<Announced>,
    /// The pause before the next watermark, if a transaction waits to become visible.
    pause: Option<Duration>,
}

/// A replication slot.
#[derive(Clone, Copy)]
struct NamedSlot<'a> {
    name: &'a str,
    /// Whether it outlives the connection.
    is_kept: bool,
}

/// The state that the stream shares with the reading task.
struct Shared {
    state: Mutex<State>,
    /// The position that may be confirmed.
    confirmable: AtomicU64,
    progress: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a message, and wakes the waiters for its content. Returns a position up to which everything was read, if
    /// one is known.
    fn note(&self, message: &Message<'_>) -> Result<Option<u64>, StreamError> {
        let mut state = self.lock();
        let before = (state.has_changed, state.is_reached);
        let noted = state.note(message);
        let is_changed = before != (state.has_changed, state.is_reached);
        drop(state);
        if is_changed {
            self.progress.notify_one();
        }
        noted
    }
}

impl Stream {
    /// Connects to the primary, creates a temporary slot, and starts to read. Until [`key_by`](Self::key_by) is called,
    /// each change counts as a change of all rows. The server waits twice for the end of all transactions that are then
    /// writing, and fails if it waits for any one of them for a minute.
    ///
    /// # Errors
    ///
    /// If the server can't be reached; if `wal_level` is not `logical`; if the role lacks the attribute `REPLICATION`; if
    /// there is no free slot (`max_replication_slots`) or sender (`max_wal_senders`); if transactions go on writing for a
    /// minute, or have more savepoints than the server has connections; or if the publication is missing or hides changes.
    pub async fn start(options: &StreamOptions) -> Result<Self, StreamError> {
        let name = format!("tidegate_{:016x}", fastrand::u64(..));
        Self::begin(options, NamedSlot { name: &name, is_kept: false }).await
    }

    /// As [`start`](Self::start), with a slot of this [name](crate::kept_slot_name) that outlives the connection, so
    /// that [`resume`](Self::resume) can continue the stream. The server retains write-ahead log for it until
    /// [`confirm`](Self::confirm) is called, also without a connection; `max_slot_wal_keep_size` bounds that. When the
    /// slot is no longer needed, drop it (`pg_drop_replication_slot`). Do so even if `create` fails or is cancelled,
    /// since the server may have created the slot all the same.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn create(options: &StreamOptions, name: &str) -> Result<Self, StreamError> {
        Self::begin(options, NamedSlot { name, is_kept: true }).await
    }

    /// Continues a stream from one of its [points](Self::point). `snapshot` is the snapshot of the last watermark
    /// before that point. The first watermark then contains what has changed since, and nothing else. `conn` is a
    /// connection to the same database of the primary. If another connection still uses the slot, it is ended through
    /// `conn`; both must have the same role. `keyed` are the columns by which changes are keyed, as they were at that
    /// point.
    ///
    /// # Errors
    ///
    /// [`StreamError::SlotLost`] if the slot is gone, or has no longer all changes from the point on. Otherwise as
    /// [`start`](Self::start).
    pub async fn resume(
        options: &StreamOptions,
        conn: &mut PgConnection,
        point: &StreamPoint,
        snapshot: Snapshot,
        keyed: KeyColumns,
    ) -> Result<Self, StreamError> {
        kept_slot::free(conn, point).await?;
        let mut connection = ReplicationConnection::open(options).await?;
        let origin = identify(&mut connection).await?;
        publication::check(&mut connection, &options.publication).await?;
        connection.start(&point.slot, &options.publication).await?;
        kept_slot::check(conn, point).await?;
        let mut state = State::resumed(snapshot);
        state.key_by(keyed);
        let slot = NamedSlot { name: &point.slot, is_kept: true };
        let mut stream = Self::reading(options, connection, origin, slot, state);
        stream.fingerprint = Some(point.fingerprint.clone());
        Ok(stream)
    }

    async fn begin(options: &StreamOptions, slot: NamedSlot<'_>) -> Result<Self, StreamError> {
        let mut connection = ReplicationConnection::open(options).await?;
        let origin = identify(&mut connection).await?;
        publication::check(&mut connection, &options.publication).await?;
        let recorded = create_slot(&mut connection, slot).await?;
        connection.start(slot.name, &options.publication).await?;
        let state = State::new(recorded);
        Ok(Self::reading(options, connection, origin, slot, state))
    }

    fn reading(
        options: &StreamOptions,
        connection: ReplicationConnection,
        origin: Origin,
        slot: NamedSlot<'_>,
        state: State,
    ) -> Self {
        let confirmable = AtomicU64::new(if slot.is_kept { 0 } else { u64::MAX });
        let (state, progress) = (Mutex::new(state), Notify::new());
        let shared = Arc::new(Shared { state, confirmable, progress });
        let reader = tokio::spawn(read_to_end(connection, shared.clone()));
        Self {
            shared,
            reader,
            name: slot.name.to_owned(),
            publication: options.publication.clone(),
            watched: options.watched,
            origin,
            fingerprint: None,
            is_kept: slot.is_kept,
            point: None,
            announced: None,
            pause: None,
        }
    }

    /// From where another connection can continue the stream, with the last watermark's snapshot. `None` if the slot ends
    /// with the connection; before the first watermark of a new slot; and while a commit from before the slot is not
    /// visible, or too much is waiting to become visible.
    pub fn point(&self) -> Option<&StreamPoint> {
        self.point.as_ref()
    }

    /// Lets the server discard the write-ahead log before the position of a [`point`](Self::point), for a slot that
    /// outlives the connection: from earlier points, the stream can't be continued any more.
    pub fn confirm(&self, position: u64) {
        self.shared.confirmable.fetch_max(position, Ordering::Relaxed);
    }

    /// Sets the columns that changes are keyed by. Changes that were delivered before this call, and are part of no
    /// watermark yet, count as changes of all rows.
    pub fn key_by(&self, keyed: KeyColumns) {
        self.shared.lock().key_by(keyed);
    }

    /// Returns once a watermark may show changes: when a transaction has been delivered since the last call of
    /// [`announce`](Self::announce). If an earlier transaction has been delivered and is not visible yet, returns
    /// after a short pause in any case. This is cancel safe.
    ///
    /// # Errors
    ///
    /// If the stream has ended.
    pub async fn changed(&mut self) -> Result<(), StreamError> {
        let changed = self.wait(|state| state.has_changed);
        match self.pause {
            None => changed.await,
            Some(pause) => timeout(pause, changed).await.unwrap_or(Ok(())),
        }
    }

    /// Begins a watermark: takes a snapshot and a position on the primary, and writes a message there. It replaces a
    /// watermark that was not reached. `conn` is a connection to the same database of the primary, in no transaction.
    ///
    /// # Errors
    ///
    /// If the statement fails, or the connection leads to another server or database.
    pub async fn announce(&mut self, conn: &mut PgConnection) -> Result<(), StreamError> {
        self.announced = None;
        // No other session must be able to write this message.
        let [a, b] = [0, 1].map(|part: u8| RandomState::new().hash_one(part));
        let nonce = format!("{a:016x}{b:016x}");
        let begun = BegunAnnouncement::new(&self.shared, nonce.clone());
        let announced = announce(conn, &self.publication, self.watched, &nonce).await?;
        if announced.origin != self.origin {
            return Err(StreamError::OtherServer);
        }
        begun.succeed();
        self.announced = Some(announced);
        Ok(())
    }

    /// Waits until the watermark's message was delivered, and returns the changes that its snapshot sees. This is
    /// cancel safe.
    ///
    /// # Errors
    ///
    /// If no watermark was announced, or the stream has ended.
    pub async fn reach(&mut self) -> Result<Watermark, StreamError> {
        if self.announced.is_none() {
            return Err(StreamError::NotAnnounced);
        }
        self.wait(|state| state.is_reached).await?;
        let Some(Announced { snapshot, fence, message, fingerprint, .. }) = self.announced.take()
        else {
            return Err(StreamError::NotAnnounced);
        };
        let mut state = self.shared.lock();
        (state.awaited, state.is_reached) = (None, false);
        let Seen { changes, has_unknown } = state.pending.see(&snapshot);
        let position = state.pending.resumable_from(message).filter(|_| self.is_kept);
        state.newest = snapshot.clone();
        let longer = self.pause.map_or(PAUSES[0], |pause| (pause * 2).min(PAUSES[1]));
        self.pause = state.pending.is_waiting().then_some(longer);
        drop(state);
        let is_first = self.fingerprint.is_none();
        let is_altered = self.fingerprint.as_ref().is_some_and(|known| *known != fingerprint);
        self.point = position.map(|position| StreamPoint {
            slot: self.name.clone(),
            position,
            fingerprint: fingerprint.clone(),
        });
        self.fingerprint = Some(fingerprint);
        let all = has_unknown || is_first || is_altered;
        Ok(Watermark { fence, message, snapshot, changes, all, is_altered })
    }

    /// Waits for messages until `is_done`.
    async fn wait(&self, is_done: impl Fn(&State) -> bool) -> Result<(), StreamError> {
        loop {
            {
                let mut state = self.shared.lock();
                if is_done(&state) {
                    return Ok(());
                }
                if state.is_over {
                    return Err(state.ended.take().unwrap_or(StreamError::Ended));
                }
            }
            self.shared.progress.notified().await;
        }
    }
}

/// The server and the database behind a connection.
async fn identify(connection: &mut ReplicationConnection) -> Result<Origin, StreamError> {
    let rows = connection.query("IDENTIFY_SYSTEM").await?;
    let mut values = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
    let (system_identifier, timeline) = (values.next(), values.next());
    // The third is a position.
    let database = values.nth(1);
    let timeline = timeline.and_then(|timeline| timeline.parse().ok());
    let origin = || {
        Some(Origin {
            system_identifier: system_identifier?,
            timeline: timeline?,
            database: database?,
        })
    };
    origin().ok_or(StreamError::Decode("a server that does not identify itself"))
}

/// Creates a slot, and returns which transactions had their commit records before its first delivery.
async fn create_slot(
    connection: &mut ReplicationConnection,
    NamedSlot { name, is_kept }: NamedSlot<'_>,
) -> Result<Snapshot, StreamError> {
    connection.query("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ").await?;
    let temporary = if is_kept { "" } else { "TEMPORARY" };
    let create =
        format!("CREATE_REPLICATION_SLOT {name} {temporary} LOGICAL pgoutput USE_SNAPSHOT");
    connection.query(&create).await?;
    let rows = connection.query("SELECT pg_catalog.pg_current_snapshot()").await?;
    connection.query("COMMIT").await?;
    let recorded = rows.first().and_then(|row| row.first()?.as_deref());
    Ok(recorded.ok_or(StreamError::Decode("a slot without a snapshot"))?.parse()?)
}

/// Reads all messages of the server, until the stream ends.
async fn read_to_end(mut connection: ReplicationConnection, shared: Arc<Shared>) {
    let Err(ended) = read(&mut connection, &shared).await;
    let mut state = shared.lock();
    (state.is_over, state.ended) = (true, Some(ended));
    drop(state);
    shared.progress.notify_one();
}

async fn read(
    connection: &mut ReplicationConnection,
    shared: &Shared,
) -> Result<Infallible, StreamError> {
    let mut confirmations = interval(CONFIRM_EVERY);
    confirmations.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut read, mut confirmed) = (0, 0);
    let mut said = Instant::now();
    loop {
        let confirmable = read.min(shared.confirmable.load(Ordering::Relaxed));
        let delivery = tokio::select! {
            delivery = connection.deliver() => delivery?,
            _ = confirmations.tick() => {
                if confirmable > confirmed || said.elapsed() >= REPEAT_EVERY {
                    connection.confirm(confirmable).await?;
                    (confirmed, said) = (confirmable, Instant::now());
                }
                continue;
            }
        };
        match delivery {
            Delivery::Message(bytes) => {
                // Confirmed messages are never read again: a slot that ends with the connection needs nothing twice.
                read = shared.note(&Message::decode(&bytes)?)?.unwrap_or(read);
            }
            Delivery::KeepAlive { end, wants_reply } => {
                if shared.lock().is_between_transactions() {
                    read = read.max(end);
                }
                if wants_reply {
                    confirmed = read.min(shared.confirmable.load(Ordering::Relaxed));
                    connection.confirm(confirmed).await?;
                }
            }
        }
    }
}

/// A watermark that is being announced. If this fails or is cancelled, earlier changes still count as changed.
struct BegunAnnouncement<'a> {
    shared: &'a Shared,
    had_changed: bool,
}

impl<'a> BegunAnnouncement<'a> {
    /// From now on, the stream recognizes the message: it may be delivered before the statement's reply.
    fn new(shared: &'a Shared, nonce: String) -> Self {
        let mut state = shared.lock();
        (state.awaited, state.is_reached) = (Some(nonce), false);
        let had_changed = std::mem::replace(&mut state.has_changed, false);
        Self { shared, had_changed }
    }

    fn succeed(mut self) {
        self.had_changed = false;
    }
}

impl Drop for BegunAnnouncement<'_> {
    fn drop(&mut self) {
        if self.had_changed {
            self.shared.lock().has_changed = true;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("slot", &self.name).finish_non_exhaustive()
    }
}
