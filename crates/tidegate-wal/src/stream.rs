//! The stream of one replication slot.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgwire_replication::ReplicationClient;
use sqlx::PgConnection;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::StreamError;
use crate::options::{KeyColumns, StreamOptions};
use crate::pending::Seen;
use crate::publication;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::watermark::{Announced, Origin, Watermark, announce};

/// The pauses before the next watermark while a transaction is delivered and not visible: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];

/// The changes of the tables of a publication, from the moment of [`start`](Self::start) on.
///
/// It has a temporary replication slot of its own, which the server drops with the connection. So a stream that has ended
/// can't be continued: after an error, start another one, whose first watermark says that anything may have changed. A task
/// reads whatever the server sends and confirms it at once, so the slot retains no write-ahead log, however seldom watermarks
/// are taken. It holds what no watermark has seen, up to 100,000 keys and as many transactions; past that, it forgets which
/// rows changed.
pub struct Stream {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    name: String,
    publication: String,
    watched: &'static str,
    origin: Origin,
    /// The publication, and what is watched, as the last watermark saw them; `None` before the first.
    fingerprint: Option<String>,
    /// The watermark under way.
    announced: Option<Announced>,
    /// The pause before the next watermark, if a transaction waits to become visible.
    pause: Option<Duration>,
}

/// What the stream shares with the task that reads.
struct Shared {
    state: Mutex<State>,
    news: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the connection if it is dropped: a client waits for the server's reply first, which may take as long as the longest
/// transaction.
struct Aborted(ReplicationClient);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
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
        let mut config = options.config.clone();
        config.slot.clone_from(&name);
        let publication = config.publication.to_string();
        let mut client = Aborted(ReplicationClient::connect_gated(config).await?);
        let identity = client.0.identify_system().await?;
        let origin = Origin {
            system_identifier: identity.system_id,
            timeline: identity.timeline,
            database: identity.dbname.unwrap_or_default(),
        };
        publication::check(&mut client.0, &publication).await?;
        let recorded = create_slot(&mut client.0, &name).await?;
        client.0.start().await?;
        client.0.wait_started().await?;
        let state = Mutex::new(State::new(recorded));
        let shared = Arc::new(Shared { state, news: Notify::new() });
        let reader = tokio::spawn(read(client, shared.clone()));
        let (fingerprint, announced, pause) = (None, None, None);
        let watched = options.watched;
        Ok(Self {
            shared,
            reader,
            name,
            publication,
            watched,
            origin,
            fingerprint,
            announced,
            pause,
        })
    }

    /// Sets the columns that changes are keyed by. Changes that were delivered before this call, and are part of no
    /// watermark yet, count as changes of all rows.
    pub fn key_by(&self, keyed: KeyColumns) {
        self.shared.lock().key_by(keyed);
    }

    /// Waits until a watermark may show changes: until a transaction was delivered since the last call of
    /// [`announce`](Self::announce), or for a while if one is delivered and not visible. This is cancel safe.
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
        let nonce = format!("{:032x}", fastrand::u128(..));
        let begun = BegunAnnouncement::new(&self.shared, nonce.clone());
        let announced = announce(conn, &self.publication, self.watched, &nonce).await?;
        if announced.origin != self.origin {
            return Err(StreamError::OtherServer);
        }
        begun.succeed();
        self.announced = Some(announced);
        Ok(())
    }

    /// Waits until the watermark's message was delivered, and returns what its snapshot sees. This is cancel safe.
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
        state.newest = snapshot.clone();
        let longer = self.pause.map_or(PAUSES[0], |pause| (pause * 2).min(PAUSES[1]));
        self.pause = state.pending.is_waiting().then_some(longer);
        drop(state);
        let is_known = self.fingerprint.as_ref() == Some(&fingerprint);
        self.fingerprint = Some(fingerprint);
        let all = has_unknown || !is_known;
        Ok(Watermark { fence, message, snapshot, changes, all, is_altered: !is_known })
    }

    /// Waits for news until `is_done`.
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
            self.shared.news.notified().await;
        }
    }
}

/// Creates a temporary slot, and returns which transactions had their commit records before its first delivery.
async fn create_slot(client: &mut ReplicationClient, name: &str) -> Result<Snapshot, StreamError> {
    client.simple_query("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ").await?;
    let create = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT");
    client.simple_query(&create).await?;
    let rows = client.simple_query("SELECT pg_catalog.pg_current_snapshot()").await?;
    client.simple_query("COMMIT").await?;
    let recorded = rows.first().and_then(|row| row.first()?.as_deref());
    let recorded = recorded.and_then(|text| std::str::from_utf8(text).ok());
    Ok(recorded.ok_or(StreamError::Decode("a slot without a snapshot"))?.parse()?)
}

/// Reads whatever the server sends.
async fn read(mut client: Aborted, shared: Arc<Shared>) {
    let ended = loop {
        let event = match client.0.recv().await {
            Ok(Some(event)) => event,
            Ok(None) => break StreamError::Ended,
            Err(error) => break error.into(),
        };
        let mut state = shared.lock();
        let before = (state.has_changed, state.is_reached);
        let noted = state.note(event);
        let is_news = before != (state.has_changed, state.is_reached);
        drop(state);
        match noted {
            // The slot ends with the connection, so nothing is ever read again.
            Ok(read) => read.into_iter().for_each(|read| client.0.update_applied_lsn(read)),
            Err(error) => break error,
        }
        if is_news {
            shared.news.notify_one();
        }
    };
    let mut state = shared.lock();
    (state.is_over, state.ended) = (true, Some(ended));
    drop(state);
    shared.news.notify_one();
}

/// A watermark that is being announced. If this fails or is cancelled, what had changed before still counts as changed.
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
