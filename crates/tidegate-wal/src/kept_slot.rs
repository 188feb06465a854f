//! Slots that outlive their connection.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::error::StreamError;
use crate::watermark::position;

/// The prefix of the names of these slots.
const PREFIX: &str = "tidegate_kept_";

/// How long a connection that still uses the slot may take to end, and how often to check.
const FREE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// From where another connection can continue a stream whose slot outlives its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPoint {
    /// The slot's name.
    pub slot: String,
    /// The first position, in bytes, that the slot must still deliver.
    pub position: u64,
    /// The publication, and what was watched, when the last watermark was taken.
    pub fingerprint: String,
}

/// A name for a new slot that outlives its connection.
pub fn kept_slot_name() -> String {
    format!("{PREFIX}{:016x}", fastrand::u64(..))
}

/// Ends the connection that uses the slot, if there is one.
pub(crate) async fn free(conn: &mut PgConnection, point: &StreamPoint) -> Result<(), StreamError> {
    const END: &str = "select pg_catalog.pg_terminate_backend(active_pid)
        from pg_catalog.pg_replication_slots where slot_name = $1 and active_pid is not null";
    let began = Instant::now();
    while look(conn, point).await?.is_active {
        if began.elapsed() > FREE_WITHIN {
            return Err(lost(point, "another connection uses it"));
        }
        let end = sqlx::query(END).bind(&point.slot).execute(&mut *conn);
        end.await.map_err(StreamError::Slot)?;
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Fails if the slot does not have everything from the point on. Call this once no other connection can use it.
pub(crate) async fn check(conn: &mut PgConnection, point: &StreamPoint) -> Result<(), StreamError> {
    match look(conn, point).await?.confirmed <= point.position {
        true => Ok(()),
        false => Err(lost(point, "it no longer holds the changes from this stream's position on")),
    }
}

struct KeptSlot {
    is_active: bool,
    confirmed: u64,
}

async fn look(conn: &mut PgConnection, point: &StreamPoint) -> Result<KeptSlot, StreamError> {
    const LOOK: &str = "select coalesce(confirmed_flush_lsn::text, ''), active_pid is not null, wal_status = 'lost'
        from pg_catalog.pg_replication_slots
        where slot_name = $1 and database = pg_catalog.current_database() and plugin = 'pgoutput'";
    // The name comes from elsewhere, and a connection that uses the slot is ended.
    if !point.slot.starts_with(PREFIX) {
        return Err(lost(point, "its name is not that of a slot that outlives its stream"));
    }
    let found = sqlx::query_as::<_, (String, bool, Option<bool>)>(LOOK).bind(&point.slot);
    match found.fetch_optional(conn).await.map_err(StreamError::Slot)? {
        None => Err(lost(point, "it does not exist")),
        Some((_, _, Some(true))) => {
            Err(lost(point, "the server has removed what it needed (max_slot_wal_keep_size)"))
        }
        Some((confirmed, is_active, _)) => {
            Ok(KeptSlot { is_active, confirmed: position(&confirmed)? })
        }
    }
}

fn lost(point: &StreamPoint, why: &'static str) -> StreamError {
    StreamError::SlotLost { slot: point.slot.clone(), why }
}
