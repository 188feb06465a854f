//! How far a server is, as last seen, and whether it still is the server that was seen.
//!
//! A position says something about a read only if both are of the same server. A name can stand for
//! several (a reader endpoint), for another one than before (a replica that was replaced), or for
//! one that has fallen back (a restart after a crash). Every new connection tells who is behind it;
//! each doubt begins a new generation, and connections of earlier ones are closed before use. Behind a proxy
//! that pools transactions, one connection can lead to another server each time: then it always asks.

use std::time::Duration;

use super::log::ServerIdentity;
use crate::cache::protocol::proven_by_primary;
use crate::clock::{self, Instant};
use crate::entry::{Epoch, Position};

/// How long after the last sign of a second server a name is taken to stand for one again.
const SEVERAL_FOR: Duration = Duration::from_mins(5);

/// What is known of the server behind a name.
#[derive(Clone, Debug)]
pub(crate) struct ServerSample {
    /// Grows with each doubt about who is behind the name.
    pub(crate) generation: u64,
    /// Connections opened before this are not of this generation.
    pub(crate) since: Instant,
    /// What the server had for certain, last we heard. `None` if it is not known to be up.
    pub(crate) at: Option<ServerPosition>,
    /// Whether each transaction may be another session's, and so another server's.
    pub(crate) is_pooled: bool,
    /// Behind such a proxy, what tells texts of statements from those of before a change of the schema: the proxy may
    /// keep a statement prepared by its text, for whoever sends it, whichever connection of ours it came by.
    pub(crate) plans: Option<u64>,
    /// Whether `reset all` gives a session the settings that it was opened with.
    pub(crate) is_resettable: bool,
    who: Option<Who>,
    /// When the server was asked for `at`.
    asked: Option<Instant>,
    several_until: Option<Instant>,
    /// Of the servers that the name leads to by turns, the cluster and timeline of the one that was promoted last.
    newest: Option<(u64, u32)>,
}

/// A position that a server has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerPosition {
    pub(crate) epoch: Epoch,
    pub(crate) position: Position,
    pub(crate) standby: bool,
    pub(crate) seen: Instant,
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
            who: None,
            asked: None,
            several_until: None,
            newest: None,
        }
    }

    /// Whether the name stands for several servers, or may, so that nothing is known of the next transaction.
    pub(crate) fn is_several(&self) -> bool {
        self.is_pooled || self.several_until.is_some()
    }

    /// Takes in what a connection said of itself. `false` if the server does not say enough to be
    /// relied on.
    pub(crate) fn observe(&mut self, identity: &ServerIdentity) -> bool {
        let (Some(at), now) = (ServerPosition::from_identity(identity), clock::now()) else {
            self.at = None;
            return false;
        };
        let who = Who::new(identity, at.epoch);
        let is_lower = self.at.is_some_and(|known| at.position < known.position);
        // Two connections' answers may come in either order: the lower one to the earlier question is no news.
        let is_late = is_lower && self.asked.is_some_and(|asked| identity.asked < asked);
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
            // A standby that crashed can come back earlier than it was.
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
        self.asked = Some(identity.asked);
        true
    }

    /// Whether a connection is to the server that the last one was to.
    pub(crate) fn knows(&self, identity: &ServerIdentity) -> bool {
        let who = ServerPosition::from_identity(identity).map(|at| Who::new(identity, at.epoch));
        who.is_some() && self.who == who
    }

    /// A promotion begins another timeline. Servers of different clusters have no order, so the last one counts.
    fn note_newest(&mut self, identity: &ServerIdentity) {
        let Some(timeline) = identity.timeline else { return };
        let this = (identity.system_identifier, timeline);
        let is_older = |newest: (u64, u32)| newest.0 == this.0 && newest.1 > timeline;
        if self.several_until.is_none() || !self.newest.is_some_and(is_older) {
            self.newest = Some(this);
        }
    }

    /// Whether none of the servers that the name leads to by turns was promoted after this one.
    pub(crate) fn is_newest(&self, identity: &ServerIdentity) -> bool {
        let this = identity.timeline.map(|timeline| (identity.system_identifier, timeline));
        self.newest == this
    }

    /// Who is behind the name is another than before. Of several, that is no news.
    fn invalidate(&mut self) {
        if !self.is_several() {
            self.renew();
        }
    }

    /// The server can't be reached: nothing is known of the one that answers next.
    pub(crate) fn lose(&mut self) {
        if self.at.take().is_some() {
            self.renew();
        }
    }

    /// What connections have prepared so far is not to be used again.
    pub(crate) fn forget_plans(&mut self) {
        self.since = clock::now();
        // Of all nodes' texts, as the proxy's statements are shared by them.
        self.plans = self.is_pooled.then(|| fastrand::u64(..));
    }

    /// Begins a new generation.
    pub(crate) fn renew(&mut self) {
        self.generation += 1;
        self.since = clock::now();
        self.at = None;
    }
}

impl ServerPosition {
    /// What a server proves by its own word.
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
            seen: clock::now(),
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
            asked: clock::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_server_that_goes_forward_stays_one_generation() {
        let mut sample = ServerSample::new();
        for position in [10, 10, 11] {
            assert!(sample.observe(&identity(1, position)));
        }
        assert_eq!(sample.generation, 0);
        assert_eq!(sample.at.unwrap().position, Position::new(11));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fell_back_or_restarted_or_was_replaced_is_another_generation() {
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
    async fn a_lower_position_in_the_answer_to_an_earlier_question_is_no_fall() {
        let (mut sample, earlier) = (ServerSample::new(), identity(1, 10));
        tokio::time::advance(Duration::from_millis(1)).await;
        sample.observe(&identity(1, 12));
        assert!(sample.observe(&earlier));
        assert_eq!((sample.generation, sample.at.unwrap().position), (0, Position::new(12)));
        sample.observe(&identity(1, 11));
        assert_eq!((sample.generation, sample.at.unwrap().position), (1, Position::new(11)));
    }

    #[tokio::test(start_paused = true)]
    async fn two_addresses_are_several_servers_until_only_one_is_seen_for_long() {
        let mut sample = ServerSample::new();
        sample.observe(&identity(1, 10));
        sample.observe(&identity(2, 11));
        assert!(sample.is_several());
        tokio::time::advance(SEVERAL_FOR).await;
        sample.observe(&identity(2, 12));
        assert!(!sample.is_several());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_primary_is_not_the_newest_of_two_that_a_name_leads_to() {
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
    async fn a_server_that_was_lost_begins_anew() {
        let mut sample = ServerSample::new();
        sample.observe(&identity(1, 10));
        sample.lose();
        sample.lose();
        assert_eq!((sample.generation, sample.at), (1, None));
    }

    #[test]
    fn a_primary_proves_less_than_it_has_written() {
        let mut primary = identity(1, 10);
        primary.standby = false;
        assert_eq!(ServerPosition::from_identity(&primary).unwrap().position, Position::new(9));
        primary.timeline = None;
        assert_eq!(ServerPosition::from_identity(&primary), None);
    }
}
