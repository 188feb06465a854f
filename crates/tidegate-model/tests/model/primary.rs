//! What the database does by itself.

use super::rules::Mutant;
use super::state::{
    At, DatabaseCopy, Mark, Primary, Replica, Schema, Server, Set, Stage, State, Transaction,
};

impl Primary {
    /// What a snapshot taken now sees, in the database to which the name leads.
    pub(crate) fn visible(&self) -> Set {
        self.snapshot() & self.made_in(self.database)
    }

    /// What a snapshot taken now counts as ended: transaction numbers are those of the cluster.
    pub(crate) fn snapshot(&self) -> Set {
        self.all(|stage| stage == Stage::Visible)
    }

    /// The transactions that may be in a database.
    pub(crate) fn made_in(&self, database: u8) -> Set {
        if database == 0 { !self.of_copy } else { Set::MAX }
    }

    pub(crate) fn lost(&self) -> Set {
        self.all(|stage| stage == Stage::Lost)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.all(|stage| matches!(stage, Stage::Open | Stage::InLog)) == 0
    }

    /// What a replica shows: all that is committed up to where it has replayed, visible on the primary or not; of a
    /// history that is over, what was lost as well, and nothing of the present one.
    pub(crate) fn shown_by(&self, replica: Replica) -> Set {
        let is_over = replica.identity < self.identity;
        let stages = self.all(|stage| match stage {
            Stage::InLog | Stage::Visible => true,
            Stage::Lost => is_over,
            Stage::Idle | Stage::Open | Stage::RolledBack => false,
        });
        let replayed =
            |t: &Transaction| t.commit <= replica.replayed && t.identity <= replica.identity;
        members(stages).filter(|&t| replayed(&self.transactions[t])).map(|t| 1 << t).sum()
    }

    fn all(&self, wanted: impl Fn(Stage) -> bool) -> Set {
        let stages = self.transactions.iter().enumerate();
        stages.filter(|(_, t)| wanted(t.stage)).map(|(index, _)| 1 << index).sum()
    }

    /// Of some transactions, those that a response shows.
    pub(crate) fn shown(&self, content: Set) -> Set {
        let Some(schema) = self.schema else { return Set::MAX };
        part(schema.shows(content)) | schema.change()
    }

    /// Whether some transactions change the schema.
    pub(crate) fn changes_schema(&self, set: Set) -> bool {
        self.schema.is_some_and(|schema| set & schema.change() != 0)
    }

    /// What is read of some rows: all, or none if they are more than the budget; and whether they are.
    pub(crate) fn within_budget(&self, rows: Set) -> (Set, bool) {
        match self.budget {
            Some(most) if rows.count_ones() > most.into() => (0, true),
            _ => (rows, false),
        }
    }

    /// Writes a record; returns where it ends.
    pub(crate) fn write(&mut self) -> At {
        self.wal += 1;
        self.wal
    }

    pub(crate) fn begin(&mut self, transaction: usize) {
        self.begun += 1;
        let (id, wrote) = (self.begun, self.wal);
        let transaction = &mut self.transactions[transaction];
        (transaction.id, transaction.wrote, transaction.stage) = (id, wrote, Stage::Open);
    }

    pub(crate) fn commit(&mut self, transaction: usize) {
        let (commit, identity) = (self.write(), self.identity);
        // See `docs/correctness.md` for why one that changes the schema is visible at once.
        let stage = match self.changes_schema(1 << transaction) {
            true => Stage::Visible,
            false => Stage::InLog,
        };
        let transaction = &mut self.transactions[transaction];
        (transaction.commit, transaction.identity, transaction.stage) = (commit, identity, stage);
    }

    pub(crate) fn mark(&mut self) {
        let at = self.early_mark.take().unwrap_or(self.wal);
        self.marked += 1;
        self.marks.push(Mark { sees: self.snapshot(), at });
    }

    /// Drops what the second mark sees, and the mark before it.
    pub(crate) fn trim(&mut self) {
        self.marks.remove(0);
        self.trimmed |= self.marks[0].sees;
    }
}

impl Primary {
    /// Whether one can be created now: nobody writes to a template.
    pub(crate) fn can_copy(&self) -> bool {
        self.database == 0 && self.copy.is_none() && self.is_idle()
    }

    pub(crate) fn copy(&mut self) {
        self.copy = Some(DatabaseCopy { has: self.visible(), mark: None });
    }

    pub(crate) fn mark_copy(&mut self) {
        let mark = Mark { sees: self.snapshot(), at: self.wal };
        self.copy = self.copy.map(|copy| DatabaseCopy { mark: Some(mark), ..copy });
    }

    /// Whether a transaction can begin: one of the copy's own once there is a copy.
    pub(crate) fn can_begin(&self, transaction: usize) -> bool {
        let is_there = self.database != 0 || self.copy.is_some();
        is_there || self.of_copy & (1 << transaction) == 0
    }

    /// The database is dropped, and its name given to the copy. What was made in it since is gone.
    fn replace_by_copy(&mut self, mutant: Option<Mutant>) {
        let Some(copy) = self.copy.take() else { return };
        let stays = copy.has | self.of_copy;
        for (index, transaction) in self.transactions.iter_mut().enumerate() {
            transaction.stage = match transaction.stage {
                stage if stays & (1 << index) != 0 => stage,
                Stage::InLog | Stage::Visible => Stage::Lost,
                Stage::Open => Stage::RolledBack,
                other => other,
            };
        }
        self.database += 1;
        if mutant != Some(Mutant::NoDatabase) {
            self.identity.database = self.database;
        }
        self.marks = copy.mark.into_iter().collect();
        self.trimmed &= copy.has;
        self.early_mark = None;
    }
}

impl Schema {
    fn change(self) -> Set {
        1 << self.changed_by
    }

    /// The part of the data that a response shows that is made of these transactions.
    pub(crate) fn shows(self, content: Set) -> u8 {
        self.first ^ u8::from(content & self.change() != 0)
    }
}

impl State {
    /// Another server goes on from where it had replayed.
    pub(crate) fn fail_over(&mut self, replica: usize) {
        let fork = self.replicas[replica].replayed;
        let primary = &mut self.primary;
        for transaction in &mut primary.transactions {
            transaction.stage = match transaction.stage {
                Stage::InLog | Stage::Visible if transaction.commit <= fork => Stage::Visible,
                Stage::InLog | Stage::Visible => Stage::Lost,
                Stage::Open => Stage::RolledBack,
                other => other,
            };
        }
        primary.identity.history += 1;
        primary.wal = fork;
        primary.marks.retain(|mark| mark.at <= fork);
        primary.trimmed &= primary.visible();
        primary.early_mark = None;
        self.replicas.remove(replica);
        // Queries on a server that is promoted end; the others' numbers have changed.
        let reads = self.fill.and_then(|fill| fill.read.map(|read| read.server));
        if matches!(reads, Some(Server::Replica(_))) {
            self.fill = None;
        }
    }
}

impl State {
    /// The name leads to the copy from now on; the connections to the database before end.
    pub(crate) fn replace_by_copy(&mut self, mutant: Option<Mutant>) {
        self.primary.replace_by_copy(mutant);
        for node in &mut self.nodes {
            node.poll = None;
        }
    }
}

/// The transactions that change a part of the data.
pub(crate) const fn part(part: u8) -> Set {
    0b0101_0101 << part
}

/// The members of a set.
pub(crate) fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |t| set & (1 << t) != 0)
}
