//! What the database does by itself.

use super::state::{At, Mark, Primary, Server, Set, Stage, State};

impl Primary {
    /// What a snapshot taken now sees.
    pub(crate) fn visible(&self) -> Set {
        self.all(|stage| stage == Stage::Visible)
    }

    pub(crate) fn lost(&self) -> Set {
        self.all(|stage| stage == Stage::Lost)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.all(|stage| matches!(stage, Stage::Open | Stage::InLog)) == 0
    }

    /// Committed up to a place in the log, visible or not: what a replica shows that has replayed it.
    pub(crate) fn committed_by(&self, at: At) -> Set {
        let stages = self.all(|stage| matches!(stage, Stage::InLog | Stage::Visible));
        members(stages).filter(|&t| self.transactions[t].commit <= at).map(|t| 1 << t).sum()
    }

    fn all(&self, wanted: impl Fn(Stage) -> bool) -> Set {
        let stages = self.transactions.iter().enumerate();
        stages.filter(|(_, t)| wanted(t.stage)).map(|(index, _)| 1 << index).sum()
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
        let commit = self.write();
        let transaction = &mut self.transactions[transaction];
        (transaction.commit, transaction.stage) = (commit, Stage::InLog);
    }

    pub(crate) fn mark(&mut self) {
        let at = self.early_mark.take().unwrap_or(self.wal);
        self.marked += 1;
        self.marks.push(Mark { sees: self.visible(), at });
    }

    /// Drops what the second mark sees, and the mark before it.
    pub(crate) fn trim(&mut self) {
        self.marks.remove(0);
        self.trimmed |= self.marks[0].sees;
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
        primary.timeline += 1;
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

/// The members of a set.
pub(crate) fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |t| set & (1 << t) != 0)
}
