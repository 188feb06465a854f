//! What can happen next.

use stateright::{Model, Property};

use super::rules::Mutant;
use super::state::{
    Batch, Broken, DatabaseCopy, Fill, Identity, Node, Primary, Read, Reader, Replica, Required,
    Schema, Server, Session, Stage, State, Transaction, Waiter,
};
use super::worlds::World;

/// Where the log is so long that there are no more watermarks that can find nothing. Each writes a message, so otherwise the
/// log had no end.
const IDLE_UNTIL: u8 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Begin {
        transaction: usize,
    },
    RollBack {
        transaction: usize,
    },
    /// The commit record is written.
    Commit {
        transaction: usize,
    },
    /// The commit becomes visible.
    Show {
        transaction: usize,
    },
    Replay {
        replica: usize,
        to: u8,
    },
    FailOver {
        to: usize,
    },
    Mark,
    Trim,
    /// Another database is created with this one as its template.
    Copy,
    /// One who uses the copy already marks its log.
    MarkCopy,
    /// The database is dropped, and its name leads to the copy.
    ReplaceByCopy,
    /// The writer of a transaction gets a token.
    Token {
        transaction: usize,
    },
    /// A drain begins.
    Poll {
        node: usize,
    },
    /// A whole drain.
    LookAtOnce {
        node: usize,
    },
    /// A drain begins that a session waits for.
    CatchUp {
        node: usize,
    },
    /// A drain ends, and its batch is published, or is lost.
    Drain {
        node: usize,
        publishes: bool,
    },
    /// A node receives what another's drain found.
    Receive {
        node: usize,
        batch: Batch,
    },
    Restart {
        node: usize,
    },
    /// A node that starts takes over what another one has left.
    Join {
        node: usize,
    },
    /// The stream of changes delivers its next transaction or message.
    Deliver {
        node: usize,
    },
    /// A node's slot is dropped, and it creates another one.
    LoseSlot {
        node: usize,
    },
    /// The slot forgets what comes before a point.
    Confirm {
        point: u8,
    },
    /// A node leaves what it knows for one that starts.
    Leave {
        node: usize,
    },
    /// A node continues the slot's stream on another connection.
    Resume {
        node: usize,
    },
    /// A request begins to compute the response, with a read of this server.
    Miss {
        node: usize,
        own: bool,
        server: Server,
    },
    /// A request begins to compute the response, and it is found out what it reads.
    Plan {
        node: usize,
    },
    /// The next read is about to be sent, and what is known of its server is noted.
    Choose {
        server: Server,
    },
    Read,
    Finish,
    /// A request comes and waits.
    Wait {
        node: usize,
        own: bool,
    },
    /// As a miss, on a route whose responses are not stored.
    Pass {
        node: usize,
        own: bool,
        server: Server,
    },
    /// The next part is the inner value.
    UseInner {
        stale: bool,
    },
    /// A request on another route, without a part that is read: the first part is the inner value.
    BeginWithInner {
        node: usize,
        own: bool,
        passes: bool,
    },
    MakeInner {
        node: usize,
        server: Server,
    },
    /// The request itself has made this transaction.
    OwnWrite {
        transaction: usize,
    },
    /// A position is read too early, by a mutant.
    EarlyMark,
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let primary = Primary {
            identity: Identity::FIRST,
            of_copy: self.copy.unwrap_or_default(),
            wal: 1,
            transactions: vec![Transaction::default(); self.transactions],
            budget: self.budget,
            schema: self.schema.map(|first| Schema { changed_by: self.transactions - 1, first }),
            ..Primary::default()
        };
        let mut state = State {
            primary,
            replicas: vec![Replica { identity: Identity::FIRST, replayed: 1 }; self.replicas],
            nodes: vec![Node::default(); self.nodes],
            ..State::default()
        };
        state.primary.mark();
        for node in &mut state.nodes {
            self.follow(node, &mut state.primary, None);
        }
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if self.broken(state).is_some() {
            return;
        }
        self.database_steps(state, steps);
        if let Some(fill) = &state.fill {
            self.fill_steps(state, fill, steps);
        }
        for node in 0..self.nodes {
            self.node_steps(state, node, steps);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, step);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = Property::always;
        vec![
            always("a response has all that the node has drained", |world: &Self, state| {
                world.broken(state) != Some(Broken::Stale)
            }),
            always("a session reads its own writes", |world: &Self, state| {
                world.broken(state) != Some(Broken::OwnWrite)
            }),
            always("what a failover lost is gone", |world: &Self, state| {
                world.broken(state) != Some(Broken::Lost)
            }),
            always("an idle system can cache", |_, state| !state.is_stuck()),
        ]
    }
}

impl World {
    fn broken(&self, state: &State) -> Option<Broken> {
        state.broken.or_else(|| state.hits_break(self.mutant))
    }

    fn database_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for (transaction, known) in state.primary.transactions.iter().enumerate() {
            match known.stage {
                Stage::Idle if !state.primary.can_begin(transaction) => {}
                Stage::Idle => steps.push(Step::Begin { transaction }),
                Stage::Open if self.schema.is_some() => steps.push(Step::Commit { transaction }),
                Stage::Open => {
                    steps.extend([Step::Commit { transaction }, Step::RollBack { transaction }]);
                }
                Stage::InLog => steps.push(Step::Show { transaction }),
                Stage::Visible if self.session && state.session.is_none() => {
                    steps.push(Step::Token { transaction });
                }
                Stage::Visible | Stage::RolledBack | Stage::Lost => {}
            }
        }
        for (replica, known) in state.replicas.iter().enumerate() {
            if known.identity == state.primary.identity {
                let further = known.replayed + 1..=state.primary.wal;
                steps.extend(further.map(|to| Step::Replay { replica, to }));
            }
            if self.fails_over && state.primary.identity == Identity::FIRST {
                steps.push(Step::FailOver { to: replica });
            }
        }
        if state.primary.marked < self.marks {
            let early = self.mutant == Some(Mutant::MarkBeforeSnapshot);
            let waits = early && state.primary.early_mark.is_none();
            steps.push(if waits { Step::EarlyMark } else { Step::Mark });
        }
        if state.primary.marks.len() > 1 {
            steps.push(Step::Trim);
        }
        match state.primary.copy {
            None if self.copy.is_some() && state.primary.can_copy() => steps.push(Step::Copy),
            None => {}
            Some(DatabaseCopy { mark: None, .. }) => {
                steps.extend([Step::MarkCopy, Step::ReplaceByCopy]);
            }
            Some(_) => steps.push(Step::ReplaceByCopy),
        }
    }

    fn node_steps(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let known = &state.nodes[node];
        if self.waits && state.waiter.is_none() && state.kept.is_none() {
            let sessions = [false, true].into_iter().take(1 + usize::from(state.session.is_some()));
            let required =
                sessions.filter(|&own| state.requirement(node, own, self.mutant).is_some());
            steps.extend(required.map(|own| Step::Wait { node, own }));
        }
        if self.batches > 0 && node > 0 {
            // Its own polls are explored in other worlds.
            if self.receivers_poll {
                steps.push(Step::LookAtOnce { node });
            }
            steps.extend(state.batches.iter().map(|&batch| Step::Receive { node, batch }));
        } else if self.streams {
            self.stream_steps(state, node, steps);
        } else if known.poll.is_some() {
            steps.push(Step::Drain { node, publishes: false });
            if state.batches.len() < self.batches {
                steps.push(Step::Drain { node, publishes: true });
            }
        } else {
            steps.push(Step::Poll { node });
            if state.requirement(node, true, None).is_none() {
                steps.push(Step::CatchUp { node });
            }
        }
        if state.restarts < self.restarts {
            steps.push(Step::Restart { node });
            let left = state.checkpoint.filter(|left| left.identity == state.primary.identity);
            if left.is_some() {
                steps.push(Step::Join { node });
            }
        }
        if self.schema.is_some() && state.fill.is_none() && state.kept.is_none() {
            steps.push(Step::Plan { node });
        } else if state.fill.is_none() && state.kept.is_none() {
            for own in [false, true].into_iter().take(1 + usize::from(state.session.is_some())) {
                let reader = Reader { node, own, written: None, plan: None };
                if state.requirement(node, own, self.mutant).is_some() {
                    let servers = self.servers(state, reader);
                    steps.extend(servers.map(|server| Step::Miss { node, own, server }));
                    if self.inner == Some(0) {
                        steps.push(Step::BeginWithInner { node, own, passes: false });
                    }
                }
                if self.passes {
                    let servers = self.servers(state, reader);
                    steps.extend(servers.map(|server| Step::Pass { node, own, server }));
                    steps.push(Step::BeginWithInner { node, own, passes: true });
                }
            }
        }
        if self.inner.is_some() && state.inner.is_none() {
            let servers =
                self.servers(state, Reader { node, own: false, written: None, plan: None });
            steps.extend(servers.map(|server| Step::MakeInner { node, server }));
        }
    }

    /// A node begins to follow the changes.
    fn follow(&self, node: &mut Node, primary: &mut Primary, mutant: Option<Mutant>) {
        match self.streams {
            true => node.subscribe(primary),
            false => node.load(primary, mutant),
        }
    }

    fn stream_steps(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let known = &state.nodes[node];
        match known.poll {
            None => {
                if known.has_news(&state.primary) || state.primary.wal < IDLE_UNTIL {
                    steps.push(Step::Poll { node });
                }
                if state.requirement(node, true, None).is_none() {
                    steps.push(Step::CatchUp { node });
                }
            }
            Some(poll) if poll.message.is_none() || known.has_lost_stream(&state.primary) => {
                steps.push(Step::Drain { node, publishes: false });
            }
            Some(_) => {}
        }
        if known.has_delivery(&state.primary) {
            steps.push(Step::Deliver { node });
        }
        if self.resumes {
            let point = known.stream.and_then(|stream| stream.point);
            let point = point.filter(|point| *point > state.confirmed);
            steps.extend(point.map(|point| Step::Confirm { point }));
            if point.is_some() && state.checkpoint.is_none() {
                steps.push(Step::Leave { node });
            }
            if state.restarts < self.restarts {
                steps.push(Step::Resume { node });
            }
        } else if state.restarts < self.restarts {
            steps.push(Step::LoseSlot { node });
        }
    }

    fn fill_steps(&self, state: &State, fill: &Fill, steps: &mut Vec<Step>) {
        if fill.read.is_some() {
            steps.push(Step::Read);
        } else if fill.parts == self.parts {
            steps.push(Step::Finish);
        } else {
            let servers = self.servers(state, fill.reader());
            steps.extend(servers.map(|server| Step::Choose { server }));
            if self.inner == Some(fill.parts) {
                let ways = [false, true].into_iter().take(1 + usize::from(self.serves_stale));
                let ways = ways.filter(|stale| state.may_use_inner(fill, *stale, self.mutant));
                steps.extend(ways.map(|stale| Step::UseInner { stale }));
            }
            if self.writes && fill.wrote == 0 {
                let all = state.primary.transactions.iter().enumerate();
                let visible = all.filter(|(_, known)| known.stage == Stage::Visible);
                steps.extend(visible.map(|(transaction, _)| Step::OwnWrite { transaction }));
            }
        }
    }

    /// A request to a node begins to compute its response, with a read under way or none.
    fn begin(node: usize, (required, passes): (Required, bool), read: Option<Read>) -> Fill {
        Fill {
            node,
            required,
            plan: None,
            parts: 0,
            read,
            last: None,
            proven: None,
            content: 0,
            tags: 0,
            wrote: 0,
            written: None,
            stale: false,
            passes,
            spoilt: passes,
        }
    }

    /// Those that may be read.
    fn servers<'a>(
        &'a self,
        state: &'a State,
        reader: Reader,
    ) -> impl Iterator<Item = Server> + 'a {
        let replicas = (0..state.replicas.len()).map(Server::Replica);
        let servers = [Server::Primary].into_iter().chain(replicas);
        servers.filter(move |server| state.sample(reader, *server, self.mutant).is_some())
    }

    #[expect(clippy::too_many_lines, reason = "an arm for each step")]
    fn apply(&self, state: &mut State, step: Step) {
        let mutant = self.mutant;
        match step {
            Step::Begin { transaction } => state.primary.begin(transaction),
            Step::RollBack { transaction } => {
                state.primary.transactions[transaction].stage = Stage::RolledBack;
            }
            Step::Commit { transaction } => state.primary.commit(transaction),
            Step::Show { transaction } => {
                state.primary.transactions[transaction].stage = Stage::Visible;
            }
            Step::Replay { replica, to } => state.replicas[replica].replayed = to,
            Step::FailOver { to } => state.fail_over(to),
            Step::Mark => state.primary.mark(),
            Step::EarlyMark => state.primary.early_mark = Some(state.primary.wal),
            Step::Trim => state.primary.trim(),
            Step::Copy => state.primary.copy(),
            Step::MarkCopy => state.primary.mark_copy(),
            Step::ReplaceByCopy => state.replace_by_copy(mutant),
            Step::Token { transaction } => {
                state.session = Some(Session {
                    identity: state.primary.identity,
                    at: state.primary.wal,
                    written: 1 << transaction,
                });
            }
            Step::Drain { node, .. } if self.streams => {
                state.nodes[node].announce(&mut state.primary, mutant);
            }
            Step::Deliver { node } => state.nodes[node].deliver(&state.primary, mutant),
            Step::LoseSlot { node } => {
                state.restarts += 1;
                state.nodes[node].lose_slot(&state.primary, mutant);
            }
            Step::Drain { node, publishes } => {
                let batch = state.nodes[node].drain(&mut state.primary, mutant);
                if self.joins && publishes && batch.is_some() {
                    state.checkpoint = Some(state.nodes[node].checkpoint());
                }
                state.batches.extend(batch.filter(|_| publishes));
            }
            Step::Receive { node, batch } => state.nodes[node].receive(batch, mutant),
            Step::LookAtOnce { node } => {
                state.nodes[node].poll(&state.primary, mutant);
                state.nodes[node].drain(&mut state.primary, mutant);
            }
            Step::Poll { node } => state.nodes[node].poll(&state.primary, mutant),
            Step::CatchUp { node } => state.nodes[node].catch_up(&mut state.primary, mutant),
            Step::Restart { node } => {
                state.restarts += 1;
                state.waiter = state.waiter.filter(|waiter| waiter.node != node);
                state.nodes[node] = Node::default();
                self.follow(&mut state.nodes[node], &mut state.primary, mutant);
            }
            Step::Join { node } => {
                state.restarts += 1;
                state.waiter = state.waiter.filter(|waiter| waiter.node != node);
                let left = state.checkpoint.unwrap();
                state.nodes[node] = Node::joining(left, &state.primary, mutant);
                if self.resumes {
                    state.resume(node, left.point, mutant);
                }
            }
            Step::Confirm { point } => state.confirmed = point,
            Step::Leave { node } => state.checkpoint = Some(state.nodes[node].checkpoint()),
            Step::Resume { node } => {
                state.restarts += 1;
                let point = state.nodes[node].stream.and_then(|stream| stream.point);
                state.resume(node, point, mutant);
            }
            Step::Plan { node } => {
                let required = state.requirement(node, false, mutant).unwrap();
                let plan = Some(state.plan(node));
                state.fill = Some(Fill { plan, ..Self::begin(node, (required, false), None) });
            }
            Step::Miss { node, own, server } => {
                let required = state.requirement(node, own, mutant).unwrap();
                let reader = Reader { node, own, written: None, plan: None };
                let proves = state.sample(reader, server, mutant).unwrap();
                state.fill =
                    Some(Self::begin(node, (required, false), Some(Read { server, proves })));
            }
            Step::Pass { node, own, server } => {
                let reader = Reader { node, own, written: None, plan: None };
                let proves = state.sample(reader, server, mutant).unwrap();
                let required = (state.requirement_past(node, own), true);
                state.fill = Some(Self::begin(node, required, Some(Read { server, proves })));
            }
            Step::BeginWithInner { node, own, passes } => {
                let required = match passes {
                    true => state.requirement_past(node, own),
                    false => state.requirement(node, own, mutant).unwrap(),
                };
                state.fill = Some(Self::begin(node, (required, passes), None));
            }
            Step::UseInner { stale } => state.use_inner(stale, mutant),
            Step::MakeInner { node, server } => {
                state.make_inner((node, server), self.inner.unwrap(), mutant);
            }
            Step::OwnWrite { transaction } => state.own_write(transaction, mutant),
            Step::Choose { server } => {
                let fill = state.fill.unwrap();
                let proves = state.sample(fill.reader(), server, mutant).unwrap();
                state.fill = Some(Fill { read: Some(Read { server, proves }), ..fill });
            }
            Step::Read => state.read((self.parts, self.inner), mutant),
            Step::Finish => state.finish(mutant),
            Step::Wait { node, own } => {
                let required = state.requirement(node, own, mutant).unwrap();
                let known = &state.nodes[node];
                let since = (known.identity, known.seen.max(known.fence()));
                state.waiter = Some(Waiter { node, required, since });
            }
        }
    }
}
