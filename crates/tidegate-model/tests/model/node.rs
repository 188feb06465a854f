//! The actions of a node. Every decision is made by the protocol's own functions.

use tidegate::LogPosition;
use tidegate::internals::protocol::{
    Relayed, Verdict, has_all_since, has_followed, is_far_enough, must_see, proven_by_both,
    proven_by_primary, proven_by_replica, proven_with_inner, relayed, verdict,
};

use super::primary::{members, part};
use super::rules::Mutant;
use super::state::{
    At, Batch, Broken, Checkpoint, Entry, Fill, Identity, Known, Node, Plan, Poll, Primary, Read,
    Reader, Required, Schema, Server, Set, State, at, epoch, log_position, position,
};

/// The last of some rows, alone.
fn last_of(rows: Set) -> Set {
    members(rows).last().map_or(0, |t| 1 << t)
}

impl Fill {
    pub(crate) fn reader(&self) -> Reader {
        let own = self.required.written != 0;
        Reader { node: self.node, own, written: self.written, plan: self.plan }
    }
}

impl Node {
    /// The largest fence of the parts of the data.
    pub(crate) fn fence(&self) -> At {
        self.fence_of(0b11)
    }

    /// The largest fence of some parts of the data.
    fn fence_of(&self, tags: u8) -> At {
        let parts = (0..2).filter(|part| tags & (1 << part) != 0);
        parts.map(|part| self.fences[part]).max().unwrap_or(0).max(self.floor)
    }

    /// Whether the node knows all changes up to a position. After a drain, a position of an ended history no longer counts.
    fn has_followed(&self, wanted: (Identity, At), mutant: Option<Mutant>) -> bool {
        let followed = match mutant {
            Some(Mutant::FollowedByItsEnd) => self.seen,
            Some(Mutant::FollowedAtEqual) => self.followed + 1,
            _ => self.followed,
        };
        let followed = Some(log_position((self.identity, followed)));
        has_followed(followed, log_position(wanted)) || wanted.0 < self.identity
    }

    pub(crate) fn judge(&self, entry: Entry, mutant: Option<Mutant>) -> bool {
        if mutant == Some(Mutant::NoFenceCheck) {
            return true;
        }
        let of_entry = match mutant {
            Some(Mutant::NoEpoch) => self.identity,
            Some(Mutant::EntryOfAnyDatabase) => {
                Identity { database: self.identity.database, ..entry.identity }
            }
            _ => entry.identity,
        };
        let fence = log_position((self.identity, self.fence_of(entry.tags)));
        verdict(log_position((of_entry, entry.as_of)), fence) == Verdict::Valid
    }

    /// What a request must find that comes now, of a client who has written this.
    fn requirement(&self, written: Set) -> Required {
        let Self { identity, database, drained, .. } = *self;
        Required { identity, database, drained, written }
    }

    /// Raises the fence of the part that a transaction changes.
    pub(crate) fn raise(&mut self, transaction: usize, fence: At) {
        let part = &mut self.fences[transaction % 2];
        *part = fence.max(*part);
    }

    /// Begins a drain: its snapshot is taken.
    pub(crate) fn poll(&mut self, primary: &Primary, mutant: Option<Mutant>) {
        self.poll_from(self.seen, primary, mutant);
    }

    fn poll_from(&mut self, from: At, primary: &Primary, mutant: Option<Mutant>) {
        let early = mutant.filter(|mutant| *mutant == Mutant::FenceBeforeSnapshot);
        let early = early.map(|_| primary.wal);
        let snapshot = primary.snapshot();
        self.poll = Some(Poll { snapshot, from, early, fence: None, message: None });
    }

    /// Begins one for a session, from a position past all that sessions have seen.
    pub(crate) fn catch_up(&mut self, primary: &mut Primary, mutant: Option<Mutant>) {
        if self.identity != primary.identity {
            return self.poll(primary, mutant);
        }
        let from = primary.write();
        if mutant == Some(Mutant::SeenBeforeDrain) {
            self.seen = from;
        }
        self.poll_from(from, primary, mutant);
    }

    /// Ends a drain: its fence is read. Returns what to publish to the other nodes.
    pub(crate) fn drain(&mut self, primary: &mut Primary, mutant: Option<Mutant>) -> Option<Batch> {
        let poll = self.poll.take()?;
        if self.identity != primary.identity {
            self.load(primary, mutant);
            return None;
        }
        let (snapshot, fence) = match poll.early {
            Some(early) => (primary.snapshot(), early),
            None => (poll.snapshot, primary.wal),
        };
        let rows = snapshot & primary.made_in(primary.database) & !primary.trimmed;
        let greatest = members(self.drained).map(|t| primary.transactions[t].id).max();
        let changed: Set = members(rows & !self.drained)
            .filter(|&t| {
                mutant != Some(Mutant::DrainByGreatestId)
                    || greatest.is_none_or(|greatest| primary.transactions[t].id > greatest)
            })
            .map(|t| 1 << t)
            .sum();
        let (changed, overflowed) = primary.within_budget(changed);
        let changed = match mutant {
            Some(Mutant::DrainsPartly) if overflowed => last_of(rows & !self.drained),
            _ => changed,
        };
        let overflowed =
            overflowed && !matches!(mutant, Some(Mutant::NoFloorPastBudget | Mutant::DrainsPartly));
        let missed = primary.trimmed & !self.drained != 0;
        let first = members(changed).map(|t| primary.transactions[t].commit).min();
        for t in members(changed) {
            let fence = match mutant {
                Some(Mutant::FenceOfFirstRow) => first.unwrap(),
                Some(Mutant::FenceOfTrigger) => primary.transactions[t].wrote,
                _ => fence,
            };
            self.raise(t, fence);
        }
        let announces =
            (missed || overflowed || changed != 0) && mutant != Some(Mutant::NoAnnouncement);
        let batch = Batch {
            identity: self.identity,
            before: self.drained,
            after: snapshot,
            changed,
            all: (missed && mutant != Some(Mutant::NoFloorAfterTrim))
                || overflowed
                || primary.changes_schema(changed),
            forgets: primary.changes_schema(changed),
            fence,
            seen: if announces { primary.write() } else { fence },
            from: poll.from,
        };
        // By a snapshot that is taken once the position was read.
        let unsettled = primary.changes_schema(primary.visible() & !snapshot);
        let batch = match unsettled && mutant != Some(Mutant::SeenPastSchema) {
            true => Batch { seen: self.seen, ..batch },
            false => batch,
        };
        self.note(batch, batch.from);
        self.drained = snapshot;
        self.database = primary.database;
        Some(batch)
    }

    /// Applies the result of another node's drain.
    pub(crate) fn receive(&mut self, batch: Batch, mutant: Option<Mutant>) {
        let covers = |other: Set| other & !self.drained == 0;
        let known = match mutant {
            Some(Mutant::BatchAfterGap) => (true, covers(batch.after)),
            _ => (covers(batch.before), covers(batch.after)),
        };
        let of_batch = match mutant {
            Some(Mutant::BatchOfAnyEpoch) => self.identity,
            _ => batch.identity,
        };
        match relayed((epoch(self.identity), epoch(of_batch)), known) {
            Relayed::Gap => return,
            Relayed::New => self.drained = batch.after,
            Relayed::Known => {}
        }
        for t in members(batch.changed) {
            self.raise(t, batch.fence);
        }
        let followed = match mutant {
            Some(Mutant::BatchFollowedByItsEnd) => batch.seen,
            _ => batch.from,
        };
        self.note(batch, followed);
    }

    /// What this node knows, for another one that starts.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let Self { identity, drained, seen, floor, fences, .. } = *self;
        let point = self.stream.and_then(|stream| stream.point);
        Checkpoint { identity, drained, seen, floor, fences, point }
    }

    /// A node that has taken over what another one knew.
    pub(crate) fn joining(left: Checkpoint, primary: &Primary, mutant: Option<Mutant>) -> Self {
        let Checkpoint { identity, drained, seen, floor, fences, .. } = left;
        Self {
            identity,
            database: primary.database,
            drained: match mutant {
                Some(Mutant::JoinsWithAnOldCheckpoint) => primary.snapshot(),
                _ => drained,
            },
            seen,
            floor,
            fences: if mutant == Some(Mutant::JoinsWithoutFences) { [0; 2] } else { fences },
            ..Self::default()
        }
    }

    fn note(&mut self, batch: Batch, followed: At) {
        if batch.forgets {
            self.known = None;
        }
        if batch.all {
            self.floor = self.floor.max(batch.fence);
        }
        self.seen = self.seen.max(batch.seen);
        self.followed = self.followed.max(followed);
    }

    /// Begins an epoch with what log and marks show.
    pub(crate) fn load(&mut self, primary: &mut Primary, mutant: Option<Mutant>) {
        let (now, visible) = (primary.wal, primary.visible());
        let oldest = primary.marks.first().copied();
        self.identity = primary.identity;
        self.database = primary.database;
        self.floor = match mutant {
            Some(Mutant::NoFloorAtStart) => 0,
            _ => oldest.map_or(now, |mark| mark.at),
        };
        self.fences = [0; 2];
        let unseen = oldest.map_or(0, |mark| visible & !mark.sees & !primary.trimmed);
        let (unseen, overflowed) = primary.within_budget(unseen);
        if overflowed && mutant != Some(Mutant::NoFloorAtStartPastBudget) {
            self.floor = now;
        }
        for t in members(unseen) {
            let sees = primary.marks.iter().find(|mark| mark.sees & (1 << t) != 0);
            let fence = match mutant {
                Some(Mutant::FenceOfOldestMark) => oldest.map_or(now, |mark| mark.at),
                _ => sees.map_or(now, |mark| mark.at),
            };
            self.raise(t, fence);
        }
        self.drained = primary.snapshot();
        self.poll = None;
        self.known = None;
        self.followed = 0;
        self.seen = match mutant {
            Some(Mutant::NoAnnouncement) => now,
            _ => primary.write(),
        };
    }
}

impl State {
    /// What a request to a node must find; `None` if the node first has to follow its session.
    pub(crate) fn requirement(
        &self,
        node: usize,
        own: bool,
        mutant: Option<Mutant>,
    ) -> Option<Required> {
        let required = self.nodes[node].requirement(0);
        let node = &self.nodes[node];
        let Some(session) = self.session.filter(|_| own) else { return Some(required) };
        let followed = node.has_followed((session.identity, session.at), mutant);
        (followed || mutant == Some(Mutant::NoCatchUp))
            .then_some(Required { written: session.written, ..required })
    }

    /// What a request must find whose response is not stored. Nobody follows its session for it.
    pub(crate) fn requirement_past(&self, node: usize, own: bool) -> Required {
        let session = self.session.filter(|_| own);
        self.nodes[node].requirement(session.map_or(0, |session| session.written))
    }

    /// What the reads of a request must see.
    fn required(&self, reader: Reader, mutant: Option<Mutant>) -> Option<(Identity, At)> {
        let session = self.session.filter(|_| reader.own);
        let session = session.map(|session| (session.identity, session.at));
        let session = session.filter(|_| mutant != Some(Mutant::PassIgnoresSession));
        let both = must_see(session.map(log_position), reader.written.map(log_position))?;
        let identity = [session, reader.written].into_iter().flatten();
        let identity = identity.map(|(identity, _)| identity).find(|t| epoch(*t) == both.epoch);
        Some((identity.unwrap(), at(both.position)))
    }

    /// Whether the inner value may be used by a request; if so, whether it is served stale.
    pub(crate) fn may_use_inner(&self, fill: &Fill, stale: bool, mutant: Option<Mutant>) -> bool {
        let Some(inner) = self.inner else { return false };
        let node = &self.nodes[fill.node];
        let mut reader = fill.reader();
        reader.own &= mutant != Some(Mutant::InnerIgnoresSession);
        reader.written = reader.written.filter(|_| mutant != Some(Mutant::InnerIgnoresOwnWrite));
        let required = self.required(reader, mutant);
        if stale {
            // Never to one that has written since.
            return required.is_none() && !node.judge(inner, mutant);
        }
        let followed = required.is_none_or(|required| node.has_followed(required, mutant));
        followed && node.judge(inner, mutant)
    }

    /// Uses it for the next part.
    pub(crate) fn use_inner(&mut self, stale: bool, mutant: Option<Mutant>) {
        let (fill, inner) = (self.fill.unwrap(), self.inner.unwrap());
        let basis = (inner.identity, inner.as_of);
        let proven = match (mutant, fill.proven) {
            (Some(Mutant::OuterWithoutPosition), before) => before,
            (Some(Mutant::StaleInnerIsForgotten), before) if stale => before,
            (_, before) => proven_with_inner(before.map(log_position), log_position(basis), stale)
                .map(|both| (inner.identity, at(both.position))),
        };
        let forgets = match mutant {
            Some(Mutant::StaleInnerIsForgotten) => stale,
            Some(Mutant::OuterWithoutPosition) => true,
            _ => false,
        };
        let tags = match mutant {
            Some(Mutant::OuterWithoutTags) => 0,
            Some(Mutant::StaleInnerIsForgotten) if stale => 0,
            _ => inner.tags,
        };
        self.take_part(fill, inner.content, (proven, tags, proven.is_none() && !forgets));
        if let Some(fill) = &mut self.fill {
            fill.stale |= stale;
        }
    }

    /// The request itself has made a transaction.
    pub(crate) fn own_write(&mut self, transaction: usize, mutant: Option<Mutant>) {
        let (identity, wal) = (self.primary.identity, self.primary.wal);
        let before = self.primary.transactions[transaction].wrote;
        let fill = self.fill.as_mut().unwrap();
        fill.wrote = 1 << transaction;
        fill.spoilt = true;
        fill.written = match mutant {
            Some(Mutant::OwnWriteRaisesNothing) => fill.written,
            Some(Mutant::OwnWritePastItsPosition) => Some((identity, before)),
            _ => Some((identity, wal)),
        };
    }

    /// The next part is there. A write of the request itself must be in it.
    fn take_part(
        &mut self,
        fill: Fill,
        content: Set,
        (proven, tags, spoilt): (Option<(Identity, At)>, u8, bool),
    ) {
        let part = part(fill.parts);
        if fill.wrote & part & !self.primary.lost() & !content != 0 {
            self.broken = Some(Broken::OwnWrite);
        }
        self.fill = Some(Fill {
            parts: fill.parts + 1,
            read: None,
            proven: proven.or(fill.proven),
            content: fill.content | (content & part),
            tags: fill.tags | tags,
            spoilt: fill.spoilt || spoilt,
            ..fill
        });
    }

    /// Another request makes the inner value.
    pub(crate) fn make_inner(
        &mut self,
        (node, server): (usize, Server),
        of: u8,
        mutant: Option<Mutant>,
    ) {
        let reader = Reader { node, own: false, written: None, plan: None };
        let proves = self.sample(reader, server, mutant).unwrap();
        self.keep_inner(node, (server, proves), of, mutant);
    }

    fn keep_inner(
        &mut self,
        node: usize,
        (server, proves): (Server, (Identity, At)),
        of: u8,
        mutant: Option<Mutant>,
    ) {
        let (content, tags) = (self.data(server, mutant) & part(of), 1 << of);
        let inner = Entry { identity: proves.0, as_of: proves.1, content, tags };
        let another = server == Server::Primary && self.primary.identity != proves.0;
        if self.inner.is_none() && !another && self.nodes[node].judge(inner, mutant) {
            self.inner = Some(inner);
        }
    }

    /// The promise that a response breaks, if it breaks one.
    pub(crate) fn breaks(&self, content: u8, required: Required) -> Option<Broken> {
        let lost = self.primary.lost();
        let shown = self.primary.shown(content);
        let made = self.primary.made_in(required.database);
        let lacks = |wanted: u8| wanted & made & shown & !lost & !content != 0;
        let is_present = (required.identity, required.database)
            == (self.primary.identity, self.primary.database);
        if lacks(required.written) {
            Some(Broken::OwnWrite)
        } else if lacks(required.drained) {
            Some(Broken::Stale)
        } else if content & lost != 0 && is_present {
            Some(Broken::Lost)
        } else {
            None
        }
    }

    /// What those break who are served what is kept, here and now.
    pub(crate) fn hits_break(&self, mutant: Option<Mutant>) -> Option<Broken> {
        let kept = self.kept?;
        let pass = (0..self.nodes.len()).filter(|&node| self.nodes[node].judge(kept, mutant));
        let requests = pass.flat_map(|node| [(node, false), (node, true)]);
        let mut required = requests.filter_map(|(node, own)| self.requirement(node, own, mutant));
        required.find_map(|required| self.breaks(kept.content, required))
    }

    /// What is known of a server before it is read, if it may be read at all.
    pub(crate) fn sample(
        &self,
        reader: Reader,
        server: Server,
        mutant: Option<Mutant>,
    ) -> Option<(Identity, At)> {
        let node = &self.nodes[reader.node];
        let required = self.required(reader, mutant);
        if required.is_some_and(|(identity, _)| identity != node.identity)
            && server != Server::Primary
        {
            // Of another history than the node knows of.
            return None;
        }
        let looked_up = match mutant {
            Some(Mutant::SchemaPastReplica) => 0,
            _ => reader.plan.map_or(0, |plan| plan.known.at),
        };
        let needs = node.fence().max(required.map_or(0, |(_, at)| at)).max(looked_up);
        match server {
            Server::Primary => {
                let claims = match mutant {
                    Some(Mutant::ClaimsTheWholeLog) => position(node.seen),
                    _ => proven_by_primary(position(node.seen)),
                };
                Some((node.identity, at(claims)))
            }
            Server::Replica(index) => {
                let replica = self.replicas[index];
                let seen = reader.plan.map_or(node.seen, |plan| plan.seen);
                let proven = match mutant {
                    Some(Mutant::ReplicaPastSeen) => position(replica.replayed),
                    _ => proven_by_replica(position(replica.replayed), position(seen)),
                };
                let identity = match mutant {
                    Some(Mutant::ReplicaOfAnyTimeline) => replica.identity,
                    _ => node.identity,
                };
                let wanted = log_position((identity, needs));
                let replayed = log_position((replica.identity, replica.replayed));
                let fit = is_far_enough(replayed, wanted);
                (fit || mutant == Some(Mutant::AnyReplica)).then(|| match mutant {
                    Some(Mutant::PrimaryPositionForReplica) => {
                        (node.identity, at(proven_by_primary(position(node.seen))))
                    }
                    Some(Mutant::ReplicaOfAnyTimeline) => (node.identity, at(proven)),
                    _ => (replica.identity, at(proven)),
                })
            }
        }
    }

    /// What a read is to be planned for: known, or looked up on the primary.
    pub(crate) fn plan(&mut self, node: usize) -> Plan {
        let shows = |schema: Schema| schema.shows(self.primary.visible());
        let tags = self.primary.schema.map_or(0b11, |schema| 1 << shows(schema));
        let looked_up = Known { tags, at: self.primary.wal };
        let node = &mut self.nodes[node];
        let known = *node.known.get_or_insert(looked_up);
        Plan { known, seen: node.seen, knew: self.primary.changes_schema(node.drained) }
    }

    /// The read itself, of the next part.
    pub(crate) fn read(&mut self, (parts, inner): (u8, Option<u8>), mutant: Option<Mutant>) {
        let fill = self.fill.unwrap();
        let Read { server, proves } = fill.read.unwrap();
        let data = self.data(server, mutant);
        // The connection says which history it is of.
        let another = server == Server::Primary && self.primary.identity != proves.0;
        let together = match (fill.proven, mutant) {
            (None, _) => Some(proves),
            (Some(before), Some(Mutant::GreatestOfReads)) => {
                Some((before.0, before.1.max(proves.1)))
            }
            (Some(before), Some(Mutant::OuterWithoutEpoch)) => {
                Some((proves.0, before.1.min(proves.1)))
            }
            (Some(before), _) => {
                let both = proven_by_both(log_position(before), log_position(proves));
                both.map(|both| (proves.0, at(both.position)))
            }
        };
        if inner == Some(fill.parts) {
            // What is missing is loaded, and kept.
            self.keep_inner(fill.node, (server, proves), fill.parts, mutant);
        }
        // The schema is not the one that the read was planned for.
        let knows = self.primary.changes_schema(self.nodes[fill.node].drained);
        let changed = fill.plan.is_some_and(|plan| plan.knew != knows)
            && mutant != Some(Mutant::ReadAcrossSchemas);
        let spoilt = another || together.is_none() || changed;
        let fill = Fill { last: Some(server), ..fill };
        match parts {
            1 => {
                self.fill = Some(Fill {
                    parts: 1,
                    read: None,
                    proven: together,
                    content: data,
                    tags: fill.plan.map_or(0b11, |plan| plan.known.tags),
                    spoilt,
                    ..fill
                });
            }
            _ => self.take_part(fill, data, (together, 1 << fill.parts, spoilt)),
        }
    }

    fn data(&self, server: Server, mutant: Option<Mutant>) -> u8 {
        match server {
            Server::Primary => self.primary.visible(),
            Server::Replica(mut index) => {
                if mutant == Some(Mutant::PositionOfAnotherReplica) {
                    index = (index + 1) % self.replicas.len();
                }
                self.primary.shown_by(self.replicas[index])
            }
        }
    }

    /// Completes the response. It is served to its client and, if it meets their requirements, to requests that have joined
    /// since. It is stored if it is valid.
    pub(crate) fn finish(&mut self, mutant: Option<Mutant>) {
        let Fill { node, required, last, proven, content, spoilt, tags, stale, .. } =
            self.fill.take().unwrap();
        // Nothing is promised of what is served stale.
        self.broken = self.broken.or(self.breaks(content, required).filter(|_| !stale));
        let Some((identity, as_of)) = proven.filter(|_| !spoilt) else { return };
        let as_of = self.too_late(last, mutant).unwrap_or(as_of);
        let entry = Entry { identity, as_of, content, tags };
        let valid = self.nodes[node].judge(entry, mutant);
        if valid || mutant == Some(Mutant::NoCheckAtDelivery) {
            let mut waiting =
                [false, true].into_iter().filter_map(|own| self.requirement(node, own, mutant));
            let broken = waiting.find_map(|required| self.breaks(content, required));
            self.broken = self.broken.or(broken);
        }
        self.deliver(node, entry, mutant);
        self.kept = valid.then_some(entry);
    }

    /// Serves a waiting request. One that came before the last change of a dependency may still get the response, if this
    /// contains everything that the node knew when the request came.
    fn deliver(&mut self, node: usize, entry: Entry, mutant: Option<Mutant>) {
        let Some(waiter) = self.waiter.filter(|waiter| waiter.node == node) else { return };
        let since = match mutant {
            Some(Mutant::WaiterTakesAnything) => (waiter.since.0, 0),
            Some(Mutant::WaiterOfAnyEpoch) => (entry.identity, waiter.since.1),
            _ => waiter.since,
        };
        let as_of = log_position((entry.identity, entry.as_of));
        if has_all_since(as_of, log_position(since)) {
            self.broken = self.broken.or(self.breaks(entry.content, waiter.required));
            self.waiter = None;
        }
    }

    /// A position that is taken when the read is long over.
    fn too_late(&self, server: Option<Server>, mutant: Option<Mutant>) -> Option<At> {
        match (server?, mutant?) {
            (Server::Primary, Mutant::PrimaryPositionAfterRead) => {
                Some(at(proven_by_primary(position(self.primary.wal))))
            }
            (Server::Replica(index), Mutant::ReplicaPositionAfterRead) => {
                Some(self.replicas.get(index)?.replayed)
            }
            _ => None,
        }
    }

    /// After whatever happened, could an idle system cache its next response?
    pub(crate) fn is_stuck(&self) -> bool {
        let idle = self.primary.is_idle() && self.primary.lost() == 0;
        idle && self.nodes.iter().any(|node| {
            let followed = node.identity == self.primary.identity
                && node.drained == self.primary.snapshot()
                && node.poll.is_none();
            let proven = proven_by_primary(position(node.seen));
            let next = LogPosition::new(epoch(node.identity), proven);
            let fence = log_position((node.identity, node.fence()));
            followed && verdict(next, fence) != Verdict::Valid
        })
    }
}
