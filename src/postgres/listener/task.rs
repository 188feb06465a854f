//! The task that follows the log: it connects, waits for a reason to poll, and polls.

use sqlx::postgres::PgListener;
use tokio::time::{sleep, sleep_until};

use super::connection::{connect, connection_lost};
use super::follower::Follower;
use super::pace::{BUSY, HEARTBEAT, REST, UNRELIABLE};
use super::relay_state::{RelayStep, TakenRequests, next_of, report_while};
use crate::clock::{self, Instant};
use crate::postgres::backoff::Backoff;
use crate::postgres::deadline::within;
use crate::postgres::error::DatabaseError;
use crate::postgres::fingerprint::Fingerprint;
use crate::postgres::identity::identity;
use crate::postgres::log;

/// Why the log is no longer polled on a connection, other than an error.
enum FollowEnd {
    /// A relay responds.
    Relay,
    /// It may lead to an old primary.
    OldPrimary,
}

impl Follower {
    /// Follows for as long as the process lives.
    pub(super) async fn run(mut self, conn: PgListener) {
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
                    Ok(FollowEnd::OldPrimary) => backoff.ended_after(began.elapsed()),
                    Err(error) => {
                        tracing::warn!(%error, "lost the connection to the change log; reconnecting");
                        self.set_fit(false);
                        backoff.ended_after(began.elapsed());
                    }
                }
                self.published.pause();
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
                    self.published.pause();
                    self.follow_without_primary(&mut backoff).await;
                }
            }
        }
    }

    async fn reconnect(&mut self) -> Result<PgListener, DatabaseError> {
        self.counter.send_modify(|counter| counter.opening += 1);
        let mut conn = connect(&self.db).await?;
        if self.catch_up(&mut conn).await.map_err(DatabaseError::from_log)? {
            self.counter.send_modify(|counter| counter.opened = counter.opening);
        }
        tracing::info!("following the change log again");
        Ok(conn)
    }

    /// Polls the log until an error occurs, a relay responds, or the connection may lead to an old primary.
    async fn follow(&mut self, mut conn: PgListener) -> Result<FollowEnd, sqlx::Error> {
        self.take_role();
        let mut poll_at = self.next_poll();
        let end = loop {
            let next = self.wait(&mut conn, poll_at).await?;
            match next {
                _ if self.knows_a_later_timeline() => break FollowEnd::OldPrimary,
                RelayStep::Poll | RelayStep::PollForSession => {
                    let report = self.polling_report();
                    let poll = self.poll_once(&mut conn, next == RelayStep::PollForSession);
                    report_while(report, poll).await?;
                    poll_at = self.next_poll();
                }
                RelayStep::Wait => {}
                RelayStep::FollowRelay => break FollowEnd::Relay,
                RelayStep::Reconnect => break FollowEnd::OldPrimary,
            }
        };
        self.resume_notify(&mut conn).await?;
        Ok(end)
    }

    /// Waits for a reason to poll, at the latest until `poll_at`.
    async fn wait(
        &mut self,
        conn: &mut PgListener,
        poll_at: Instant,
    ) -> Result<RelayStep, sqlx::Error> {
        let mut poll_at =
            self.relaying.due.map_or(poll_at, |due| due.min(poll_at)).min(self.next_heartbeat);
        if self.published.is_due() {
            poll_at = poll_at.min(self.rested_at);
        }
        loop {
            let wake = self.try_relay_at().map_or(poll_at, |at| at.min(poll_at));
            tokio::select! {
                notification = conn.try_recv() => {
                    let ours = self.process.cast_unsigned();
                    let mut by_others = notification?.ok_or_else(connection_lost)?.process_id() != ours;
                    while let Some(buffered) = conn.next_buffered() {
                        by_others |= buffered.process_id() != ours;
                    }
                    if !by_others {
                        continue;
                    }
                    self.wakeups.notified();
                    poll_at = poll_at.min(self.rested_at);
                    if poll_at <= clock::now() {
                        return Ok(RelayStep::Poll);
                    }
                }
                () = self.poll_requests.poll.notified() => return Ok(RelayStep::PollForSession),
                () = self.poll_requests.reconnect.notified() => {
                    if self.wants_connection() {
                        return Ok(RelayStep::Reconnect);
                    }
                }
                event = next_of(&mut self.relay) => return Ok(self.receive(event)),
                () = self.published.changed() => {
                    poll_at = poll_at.min(self.rested_at);
                    if poll_at <= clock::now() {
                        return Ok(RelayStep::Poll);
                    }
                }
                () = sleep_until(wake) => {
                    if poll_at <= clock::now() {
                        return Ok(RelayStep::Poll);
                    }
                    self.try_relay();
                }
            }
        }
    }

    fn next_poll(&self) -> Instant {
        if self.unsettled {
            return self.rested_at;
        }
        let pause = match (self.running.ids.is_empty(), self.wakeups.are_reliable()) {
            (false, _) => self.running.pause,
            (true, false) => UNRELIABLE,
            (true, true) => HEARTBEAT,
        };
        let poll_at = clock::now() + pause;
        if self.notify_suppressed { poll_at.min(self.rested_at) } else { poll_at }
    }

    /// Polls the log once, and on a heartbeat also checks the schema. A poll for a session first takes a position past
    /// everything that sessions have seen so far, so that their next requests need no further poll.
    pub(super) async fn poll_once(
        &mut self,
        conn: &mut PgListener,
        for_session: bool,
    ) -> Result<(), sqlx::Error> {
        let (poll, began) = (self.begin_poll(), clock::now());
        let requests = self.take_sync_requests();
        let for_session = for_session || requests.is_urgent;
        let excused = for_session || self.notify_suppressed || !self.running.ids.is_empty();
        let unexplained = self.wakeups.begin_poll(excused);
        self.resume_notify(conn).await?;
        if self.read.is_some() && self.leaves_stream_to_relay() {
            // The relay may have taken the slot over.
            self.published.stop();
            self.rested_at = clock::now() + BUSY;
            self.next_heartbeat = clock::now() + HEARTBEAT;
            return Ok(());
        }
        // It counts as seen only together with the result of this poll: until then, reads use the previous schema.
        let from = match for_session {
            true => within(log::announce(&mut *conn)).await?,
            false => self.seen(),
        };
        let is_heartbeat = clock::now() >= self.next_heartbeat;
        if is_heartbeat {
            self.check_schema(conn).await?;
        }
        let has_changes = self.drain(conn, from, requests).await?;
        self.end_poll(poll);
        if has_changes && unexplained {
            self.wakeups.mark_unreliable(conn).await;
        }
        let took = began.elapsed();
        self.rested_at = clock::now() + (took * REST).min(took.max(BUSY));
        if is_heartbeat {
            self.housekeeping.work(conn, self.schema).await?;
            self.published.clean_up(conn).await?;
            self.next_heartbeat = clock::now() + HEARTBEAT;
        }
        Ok(())
    }

    /// On a new connection: continues from the last snapshot, or loads the log if there is none. Returns `false` if the log
    /// was not read, since the relay is to read it.
    pub(super) async fn catch_up(&mut self, conn: &mut PgListener) -> Result<bool, sqlx::Error> {
        let poll = self.begin_poll();
        self.notify_suppressed = false;
        self.fingerprint = Fingerprint::default();
        let identity = within(identity(&mut *conn)).await?;
        self.process = identity.process;
        self.timeline = identity.timeline();
        self.db.inner.lag.note_timeline(&identity);
        if self.read.is_some() {
            if self.leaves_stream_to_relay() {
                self.next_heartbeat = clock::now();
                return Ok(false);
            }
            // Before the drain confirms stored entries, since the schema may have changed too.
            self.check_schema(conn).await?;
        }
        self.drain(conn, self.seen(), TakenRequests::default()).await?;
        self.end_poll(poll);
        self.next_heartbeat = clock::now();
        Ok(true)
    }
}
