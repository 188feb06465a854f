//! Whether commits reliably wake the listener.

use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::clock::{self, Instant};
use crate::postgres::deadline::within;

/// How long the log is polled frequently after a poll found changes without a notification.
const UNRELIABLE_FOR: Duration = Duration::from_secs(10);

/// Finds a session that holds the lock for sending notifications, although it neither writes nor is a listener. Any role
/// may take an advisory lock.
const LOCK_HOLDER: &str = "
    select a.pid, coalesce(a.usename::text, '?'), coalesce(a.application_name, '')
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'advisory' and l.granted and l.objsubid = 1 and a.backend_xid is null
        and (l.classid::int8 << 32) + l.objid::int8 = 8388065642915395431
        and l.database = (select oid from pg_database where datname = current_database())
        and a.application_name is distinct from current_setting('application_name') limit 1";

#[derive(Debug)]
pub(super) struct Wakeups {
    /// Whether the settings of server and roles let commits notify.
    promised: bool,
    /// Whether another session's notification has arrived since the last poll.
    notified: bool,
    unreliable_until: Instant,
}

impl Wakeups {
    pub(super) fn new() -> Self {
        Self { promised: true, notified: false, unreliable_until: clock::now() }
    }

    pub(super) fn promise(&mut self, promised: bool) {
        self.promised = promised;
    }

    pub(super) fn notified(&mut self) {
        self.notified = true;
    }

    pub(super) fn are_reliable(&self) -> bool {
        self.promised && self.unreliable_until <= clock::now()
    }

    /// A poll begins. Returns whether changes that it finds should have caused a notification, but none arrived; `excused`
    /// if there is a known reason for that.
    pub(super) fn begin_poll(&mut self, excused: bool) -> bool {
        !(std::mem::take(&mut self.notified) || excused) && self.promised
    }

    /// Changes were found without a notification: the log is polled frequently for a while.
    pub(super) async fn mark_unreliable(&mut self, conn: &mut PgListener) {
        let is_new = self.are_reliable();
        self.unreliable_until = clock::now() + UNRELIABLE_FOR;
        let holder = sqlx::query_as::<_, (i32, String, String)>(LOCK_HOLDER);
        let found = within(holder.fetch_optional(&mut *conn)).await;
        if let (true, Ok(Some((process, role, application)))) = (is_new, found) {
            tracing::warn!(
                process,
                role,
                application,
                "a session holds Tidegate's advisory lock, so commits don't wake listeners: the log is polled every 100 ms \
                 until the lock is released; end the session with pg_terminate_backend"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_without_a_notification_is_a_surprise_unless_explained() {
        let mut wakeups = Wakeups::new();
        assert!(wakeups.begin_poll(false));
        assert!(!wakeups.begin_poll(true));
        wakeups.notified();
        assert!(!wakeups.begin_poll(false));
        assert!(wakeups.begin_poll(false), "one notification explains one poll");
        wakeups.promise(false);
        assert!(!wakeups.begin_poll(false) && !wakeups.are_reliable());
    }
}
