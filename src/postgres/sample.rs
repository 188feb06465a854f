//! The last known position of a server, and whether the name still leads to the same server.
//!
//! A position proves something about a read only if both come from the same server. A name can lead to several servers (a
//! reader endpoint), to a different one than before (a replica that was replaced), or to one at an earlier position (a
//! restart after a crash). Every new connection queries which server is behind it. Each doubt begins a new generation, and
//! connections of earlier generations are closed before use. Behind a transaction-pooling proxy, each transaction can reach
//! a different server: then each one queries its server.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::identity::{ServerIdentity, Timeline};
use crate::cache::protocol::proven_by_primary;
use crate::clock::{self, Instant};
use crate::entry::{Epoch, LogPosition, Position};

/// A name counts as leading to one server again this long after the last sign of a second one.
const SEVERAL_FOR: Duration = Duration::from_mins(5);

/// The maximum number of servers behind a name whose replayed schema changes are remembered.
const SERVERS: usize = 64;

/// The known state of the server behind a name.
#[derive(Clone, Debug)]
pub(crate) struct ServerSample {
    /// Incremented with each doubt about which server is behind the name.
    pub(crate) generation: u64,
    /// Connections opened before this belong to earlier generations.
    pub(crate) since: Instant,
    /// The last position that the server proved. `None` if the server is not known to be up.
    pub(crate) at: Option<ServerPosition>,
    /// Whether each transaction may run in a different session, and so on a different server.
    pub(crate) is_pooled: bool,
    /// Behind such a proxy, a marker that distinguishes the texts of statements from those before a schema change. The
    /// proxy may key prepared statements by their text, for all clients and connections.
    pub(crate) plans: Option<u64>,
    /// The last schema change that each server behind the name is known to have replayed, by [`server`].
    /// Connections opened before that are closed, since they may have settings, and plans of statements, from before the
    /// change.
    replayed: Vec<(u64, u64)>,
    /// Whether `reset all` restores the settings that a session was opened with.
    pub(crate) is_resettable: bool,
    who: Option<Who>,
    /// When the servers started that were behind the name before this one, with the same address.
    before: Vec<i64>,
    /// When the server was queried for `at`.
    queried: Option<Instant>,
    several_until: Option<Instant>,
    /// If the name alternates between servers: the timeline of the one that was promoted last.
    pub(crate) newest: Option<Timeline>,
}

/// A position that a server has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerPosition {
    pub(crate) epoch: Epoch,
    pub(crate) position: Position,
    pub(crate) standby: bool,
    pub(crate) seen_at: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Who {
    address: Option<String>,
    port: Option<i32>,
    started: i64,
    epoch: Epoch,
}

impl Who {
    fn new(identity: &ServerIdentity, epoch: Epoch) -> Self {
        let (address, port) = (identity.address.clone(), identity.port);
        Self { address, port, started: identity.started, epoch }
    }

    fn server(&self) -> u64 {
        server(self.address.as_ref(), self.port, self.started)
    }
}

/// A hash that distinguishes servers. Behind a proxy, several may report the same address, or none.
fn server(address: Option<&String>, port: Option<i32>, started: i64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (address, port, started).hash(&mut hasher);
    hasher.finish()
}

impl ServerSample {
    pub(crate) fn new() -> Self {
        Self {
            generation: 0,
            since: clock::now(),
            at: None,
            is_pooled: false,
            is_resettable: false,
            plans: None,
            replayed: Vec::new(),
            who: None,
            before: Vec::new(),
            queried: None,
            several_until: None,
            newest: None,
        }
    }

    /// When the server was last queried for its identity.
    pub(crate) fn queried(&self) -> Option<Instant> {
        self.queried
    }

    /// Whether the name leads, or may lead, to several servers, so that the server of the next transaction is unknown.
    pub(crate) fn is_several(&self) -> bool {
        self.is_pooled || self.several_until.is_some()
    }

    /// Records the identity that a connection reported. `false` if it is incomplete, so that nothing can be proven by it.
    pub(crate) fn observe(&mut self, identity: &ServerIdentity) -> bool {
        let (Some(at), now) = (ServerPosition::from_identity(identity), clock::now()) else {
            self.at = None;
            return false;
        };
        let who = Who::new(identity, at.epoch);
        let is_lower = self.at.is_some_and(|known| at.position < known.position);
        // Responses on two connections may arrive in either order: a lower position from an earlier query is ignored.
        let is_late = is_lower && self.queried.is_some_and(|queried| identity.queried < queried);
        if is_late && self.who.as_ref() == Some(&who) {
            return true;
        }
        match &self.who {
            None => self.who = Some(who),
            Some(known) if (&known.address, known.port) != (&who.address, who.port) => {
                self.invalidate();
                self.who = Some(who);
                self.several_until = Some(now + SEVERAL_FOR);
            }
            Some(known) if known.started != who.started => {
                // A server that comes back has not been replaced by the other. A response to an earlier query does not
                // count as a return.
                if self.queried.is_none_or(|queried| identity.queried >= queried) {
                    if self.before.contains(&who.started) {
                        self.several_until = Some(now + SEVERAL_FOR);
                    }
                    self.before.retain(|started| *started != known.started);
                    self.before.truncate(SERVERS);
                    self.before.insert(0, known.started);
                }
                self.invalidate();
                self.who = Some(who);
            }
            // A standby can come back at an earlier position after a crash.
            Some(known) if *known != who || is_lower => {
                self.invalidate();
                self.who = Some(who);
            }
            Some(_) => {}
        }
        if self.several_until.is_some_and(|until| now >= until) {
            self.several_until = None;
            self.who = None;
            self.renew();
        }
        self.note_newest(identity);
        self.at = Some(at);
        self.queried = Some(identity.queried);
        true
    }

    /// Whether a connection leads to the same server as the last observed one.
    pub(crate) fn knows(&self, identity: &ServerIdentity) -> bool {
        let who = ServerPosition::from_identity(identity).map(|at| Who::new(identity, at.epoch));
        who.is_some() && self.who == who
    }

    /// Records the newest server. A promotion begins a higher timeline. Servers of different clusters have no order, so the
    /// last observed one counts.
    fn note_newest(&mut self, identity: &ServerIdentity) {
        let Some(this) = identity.timeline() else { return };
        let is_older = self.newest.is_some_and(|newest| this.is_before(newest));
        if self.several_until.is_none() || !is_older {
            self.newest = Some(this);
        }
    }

    /// Whether this is the newest of the servers that the name alternates between, by promotion.
    pub(crate) fn is_newest(&self, identity: &ServerIdentity) -> bool {
        self.newest == identity.timeline()
    }

    /// A different server is behind the name than before. This is expected if the name leads to several servers.
    fn invalidate(&mut self) {
        if !self.is_several() {
            self.renew();
        }
    }

    /// The server can't be reached, and the next one that responds may be a different one.
    pub(crate) fn mark_down(&mut self) {
        if self.at.take().is_some() {
            self.renew();
        }
    }

    /// Statements that were prepared before now must not be used again.
    pub(crate) fn clear_plans(&mut self) {
        self.since = clock::now();
        // Random, to differ from other nodes' markers: all nodes share the proxy's prepared statements.
        self.plans = self.is_pooled.then(|| fastrand::u64(..));
    }

    /// The last schema change that the server of this identity is known to have replayed.
    pub(crate) fn replayed_by(&self, identity: &ServerIdentity) -> u64 {
        self.replayed_at(server(identity.address.as_ref(), identity.port, identity.started))
    }

    /// The same for the last observed server.
    pub(crate) fn replayed(&self) -> u64 {
        self.who.as_ref().map_or(0, |who| self.replayed_at(who.server()))
    }

    fn replayed_at(&self, server: u64) -> u64 {
        let known = self.replayed.iter().find(|(known, _)| *known == server);
        known.map_or(0, |(_, change)| *change)
    }

    /// The server of this identity has replayed a schema change.
    pub(crate) fn note_replayed_by(&mut self, identity: &ServerIdentity, change: u64) {
        let server = server(identity.address.as_ref(), identity.port, identity.started);
        self.note_replayed_at(server, change);
    }

    /// The last observed server has replayed a schema change.
    pub(crate) fn note_replayed(&mut self, change: u64) {
        if let Some(server) = self.who.as_ref().map(Who::server) {
            self.note_replayed_at(server, change);
        }
    }

    fn note_replayed_at(&mut self, server: u64, change: u64) {
        if self.replayed_at(server) >= change {
            return;
        }
        self.replayed.retain(|(known, _)| *known != server);
        if self.replayed.len() >= SERVERS {
            self.replayed.clear();
        }
        self.replayed.push((server, change));
        self.clear_plans();
    }

    /// Begins a new generation.
    pub(crate) fn renew(&mut self) {
        self.generation += 1;
        self.since = clock::now();
        self.at = None;
        // The server may have fallen back.
        self.replayed.clear();
    }
}

impl ServerPosition {
    /// The position, in its epoch.
    pub(crate) fn reached(&self) -> LogPosition {
        LogPosition::new(self.epoch, self.position)
    }

    /// The position that a server's reported identity proves; `None` if the identity is incomplete.
    pub(crate) fn from_identity(identity: &ServerIdentity) -> Option<Self> {
        let position = identity.position?;
        Some(Self {
            epoch: Epoch::for_database(
                identity.system_identifier,
                identity.database,
                identity.timeline?,
                identity.history,
            ),
            position: match identity.standby {
                // A transaction is visible there as soon as its commit is replayed.
                true => position,
                false => proven_by_primary(position),
            },
            standby: identity.standby,
            seen_at: clock::now(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(port: i32, position: u64) -> ServerIdentity {
        ServerIdentity {
            system_identifier: 7,
            database: 5,
            timeline: Some(1),
            history: 1,
            standby: true,
            position: Some(Position::new(position)),
            started: 100,
            address: Some("10.0.0.1".into()),
            port: Some(port),
            process: 1,
            queried: clock::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_position_advances_keeps_its_generation() {
        let mut sample = ServerSample::new();
        for position in [10, 10, 11] {
            assert!(sample.observe(&identity(1, position)));
        }
        assert_eq!(sample.generation, 0);
        assert_eq!(sample.at.unwrap().position, Position::new(11));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fell_back_restarted_or_was_replaced_gets_a_new_generation() {
        let changes: [fn(&mut ServerIdentity); 5] = [
            |i| i.position = Some(Position::new(5)),
            |i| i.started = 200,
            |i| i.timeline = Some(2),
            |i| i.history = 2,
            |i| i.database = 6,
        ];
        for change in changes {
            let mut sample = ServerSample::new();
            sample.observe(&identity(1, 10));
            let mut other = identity(1, 10);
            change(&mut other);
            sample.observe(&other);
            assert_eq!(sample.generation, 1, "{other:?}");
            assert!(!sample.is_several());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_position_from_an_earlier_query_does_not_change_the_generation() {
        let (mut sample, earlier) = (ServerSample::new(), identity(1, 10));
        tokio::time::advance(Duration::from_millis(1)).await;
        sample.observe(&identity(1, 12));
        assert!(sample.observe(&earlier));
        assert_eq!((sample.generation, sample.at.unwrap().position), (0, Position::new(12)));
        sample.observe(&identity(1, 11));
        assert_eq!((sample.generation, sample.at.unwrap().position), (1, Position::new(11)));
    }

    #[tokio::test(start_paused = true)]
    async fn two_addresses_count_as_several_servers_until_one_alone_is_seen_for_long() {
        let mut sample = ServerSample::new();
        sample.observe(&identity(1, 10));
        sample.observe(&identity(2, 11));
        assert!(sample.is_several());
        tokio::time::advance(SEVERAL_FOR).await;
        sample.observe(&identity(2, 12));
        assert!(!sample.is_several());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_returns_behind_the_same_address_shows_that_there_are_several() {
        let of = |started| ServerIdentity { started, ..identity(1, 10) };
        let mut sample = ServerSample::new();
        for (started, several) in [(1, false), (2, false), (3, false), (2, true), (3, true)] {
            sample.observe(&of(started));
            assert_eq!(sample.is_several(), several, "{started}");
        }
        sample.note_replayed(7);
        assert_eq!((sample.replayed_by(&of(3)), sample.replayed_by(&of(2))), (7, 0));
        let (mut sample, late) = (ServerSample::new(), of(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        sample.observe(&of(1));
        sample.observe(&of(2));
        sample.observe(&late);
        sample.observe(&of(2));
        assert!(!sample.is_several(), "a late response of a server that was replaced");
        for started in [3, 4, 5, 3] {
            sample.observe(&of(started));
        }
        assert!(sample.is_several(), "three in turn");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_primary_is_not_the_newest_of_two_servers_behind_one_name() {
        let on = |port, timeline| ServerIdentity { timeline: Some(timeline), ..identity(port, 10) };
        let mut sample = ServerSample::new();
        for (port, timeline, newest) in [(1, 1, true), (2, 2, true), (1, 1, false), (2, 2, true)] {
            sample.observe(&on(port, timeline));
            assert_eq!(sample.is_newest(&on(port, timeline)), newest, "{port} {timeline}");
        }
        tokio::time::advance(SEVERAL_FOR).await;
        sample.observe(&on(1, 1));
        tokio::time::advance(SEVERAL_FOR).await;
        sample.observe(&on(1, 1));
        assert!(sample.is_newest(&on(1, 1)), "it alone was seen for long");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replayed_position_counts_for_one_server_and_until_it_falls_back() {
        let mut sample = ServerSample::new();
        sample.observe(&identity(1, 10));
        sample.note_replayed(7);
        let noted = sample.since;
        assert_eq!((sample.replayed(), sample.replayed_by(&identity(2, 10))), (7, 0));
        tokio::time::advance(Duration::from_millis(1)).await;
        sample.note_replayed(7);
        assert_eq!(sample.since, noted, "no connection is older than what was known");
        sample.note_replayed_by(&identity(2, 10), 7);
        assert!(sample.since > noted && sample.replayed() == 7);
        sample.observe(&identity(1, 5));
        assert_eq!(sample.replayed(), 0, "it may replay the change again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_server_begins_a_new_generation() {
        let mut sample = ServerSample::new();
        sample.observe(&identity(1, 10));
        sample.mark_down();
        sample.mark_down();
        assert_eq!((sample.generation, sample.at), (1, None));
    }

    #[test]
    fn a_primary_proves_one_position_less_than_it_has_written() {
        let mut primary = identity(1, 10);
        primary.standby = false;
        assert_eq!(ServerPosition::from_identity(&primary).unwrap().position, Position::new(9));
        primary.timeline = None;
        assert_eq!(ServerPosition::from_identity(&primary), None);
    }
}
