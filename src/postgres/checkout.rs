//! Connections that are checked out of a pool, and how they come back.
//!
//! sqlx pings each connection that is returned, without a time limit, and holds its permit meanwhile (`return_to_pool` in
//! sqlx-core 0.9.0, pool/connection.rs). If a server's host vanishes without closing the connection, the ping ends only
//! when the operating system gives up, a quarter of an hour later. Until then, no connection to the name's new server can
//! take its place. So returns have a time limit here, and connections that were opened to the previous server are closed.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::{Connection, Error, PgConnection, Postgres};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::connector::Connector;
use super::deadline::{no_response, within, within_limit};
use super::identity::{ServerIdentity, identity};
use super::reset::reset;
use super::sample::ServerSample;
use crate::clock::{self, Instant};
use crate::sync::MutexExt;

/// How long the return of a connection may take, in which the server finishes a cancelled request's statement. After that,
/// the connection is closed, though the server may continue with the statement.
pub(crate) const RETURN_WITHIN: Duration = Duration::from_secs(10);

/// How often a slow return checks whether another server is behind the name now.
const RECHECK: Duration = Duration::from_millis(500);

/// How long a server may take to respond on a connection that has been idle, before another one is opened.
const PING_WITHIN: Duration = Duration::from_secs(1);

/// Connections that were idle for this long are pinged before use.
const TRY_AFTER: Duration = Duration::from_secs(10);

tokio::task_local! {
    /// A connection comes back by [`Checkout`], which limits the time: whether its session may have changed.
    static MAY_HAVE_CHANGED: bool;
}

/// The known state of the server behind a pool.
pub(crate) type SharedSample = Arc<Mutex<ServerSample>>;

/// A connection that goes back to its pool when this is dropped, within a limit.
pub(crate) struct Checkout {
    conn: PoolConnection<Postgres>,
    sample: SharedSample,
    since: Instant,
    is_closing: bool,
    may_have_changed: bool,
}

impl Checkout {
    pub(crate) fn new(conn: PoolConnection<Postgres>, sample: &SharedSample) -> Self {
        let (sample, since) = (sample.clone(), clock::now());
        Self { conn, sample, since, is_closing: false, may_have_changed: false }
    }

    /// Called before a statement is sent that may change the session: it writes, or calls a function that may.
    pub(crate) fn may_change(&mut self) {
        self.may_have_changed = true;
    }

    /// Closes the connection once this is dropped.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Queries which server the connection leads to. If the response does not come in time, the connection is closed: back
    /// in its pool, it would wait for that response and occupy a slot.
    pub(crate) async fn identify(&mut self) -> Result<ServerIdentity, Error> {
        let mut lent = CloseOnCancel::new(self);
        let identity = within(identity(lent.get())).await?;
        lent.done();
        Ok(identity)
    }
}

impl Deref for Checkout {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.conn
    }
}

impl DerefMut for Checkout {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.conn
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if self.is_closing {
            // sqlx limits the time that this takes.
            return self.conn.close_on_drop();
        }
        let returned = MAY_HAVE_CHANGED.scope(self.may_have_changed, self.conn.return_to_pool());
        let (sample, since) = (self.sample.clone(), self.since);
        // Without a runtime, which is ending then, the connection is closed.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { in_time(&sample, since, returned).await });
        }
    }
}

/// Guards a connection that is in use. If the work is cancelled before [`done`](Self::done), the connection is closed.
pub(super) struct CloseOnCancel<'a> {
    conn: &'a mut Checkout,
    is_done: bool,
}

impl<'a> CloseOnCancel<'a> {
    pub(super) fn new(conn: &'a mut Checkout) -> Self {
        Self { conn, is_done: false }
    }

    pub(super) fn get(&mut self) -> &mut PgConnection {
        self.conn
    }

    /// The work has ended, successfully or not.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for CloseOnCancel<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.conn.close();
        }
    }
}

/// Waits for a server's response on a connection, until the time limit has passed or another server is behind the name. On
/// either, the future is dropped, which closes the connection and releases its permit.
async fn in_time<T>(
    sample: &SharedSample,
    since: Instant,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let until = clock::now() + RETURN_WITHIN;
    loop {
        if let Ok(done) = timeout(RECHECK, &mut work).await {
            return Some(done);
        }
        if clock::now() >= until || renewed_at(sample) > since {
            return None;
        }
    }
}

/// Whether a connection is young enough to lead to the server that is behind the name now.
fn is_present(sample: &SharedSample, age: Duration) -> bool {
    age <= clock::now().saturating_duration_since(renewed_at(sample))
}

fn renewed_at(sample: &SharedSample) -> Instant {
    sample.lock_unpoisoned().since
}

/// Whether a connection may be handed out: not if it was opened to the previous server.
pub(super) async fn before_acquire(
    conn: &mut PgConnection,
    known: PoolConnectionMetadata,
    sample: &SharedSample,
) -> Result<bool, Error> {
    let is_present = is_present(sample, known.age);
    if is_present && known.idle_for > TRY_AFTER {
        within_limit(PING_WITHIN, conn.ping()).await?;
    }
    Ok(is_present)
}

/// Whether a connection may go back to the pool: not if it was opened to the previous server, nor if its session can't be
/// reset. A connection that the application used directly, in a transaction or from the pool, is pinged here with a time
/// limit, since sqlx later pings it without one.
pub(super) async fn after_release(
    conn: &mut PgConnection,
    known: PoolConnectionMetadata,
    sample: &SharedSample,
    connector: &Connector,
) -> Result<bool, Error> {
    if !is_present(sample, known.age) {
        return Ok(false);
    }
    match MAY_HAVE_CHANGED.try_with(|may_have_changed| *may_have_changed) {
        Ok(false) => Ok(true),
        Ok(true) => is_reset(conn, sample, connector).await,
        Err(_) => {
            let checked = in_time(sample, clock::now(), is_reset(conn, sample, connector)).await;
            checked.unwrap_or_else(|| Err(no_response(RETURN_WITHIN)))
        }
    }
}

/// Resets what statements have changed in a session, and prepares it anew; `false` if the connection must be closed instead.
/// Behind a transaction-pooling proxy it only pings, since the session may be another client's.
async fn is_reset(
    conn: &mut PgConnection,
    sample: &SharedSample,
    connector: &Connector,
) -> Result<bool, Error> {
    let (is_pooled, is_resettable) = {
        let sample = sample.lock_unpoisoned();
        (sample.is_pooled, sample.is_resettable)
    };
    if is_pooled {
        return conn.ping().await.map(|()| true);
    }
    let left = reset(conn, is_resettable).await?;
    if let Some(left) = left {
        tracing::debug!(
            left,
            "closing a connection: a statement left something in its session that can't be reset"
        );
        return Ok(false);
    }
    connector.set_up(conn).await?;
    Ok(true)
}
