//! The history of the schema, as far as responses show it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::history::{Demand, Fate, REMEMBERED, Wrong};

/// Tables whose names, labels and columns change.
pub(crate) const TABLES: &str = "create type state as enum ('home');
    create table labels (state state not null); insert into labels values ('home');
    create table wide (id int not null); insert into wide values (1);
    create table east (name text not null); insert into east values ('east');
    create table west (name text not null); insert into west values ('west')";

/// The number of states from which old ones are removed.
const FEW: usize = 64;

/// A property of the schema that responses show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    /// Which of two tables is called `east`: `ALTER TABLE … RENAME TO`
    Side,
    /// A label of an enum: `ALTER TYPE … RENAME VALUE`
    Label,
    /// The columns of a table: `ALTER TABLE … ADD COLUMN`, `… DROP COLUMN`
    Columns,
}

pub(crate) const PROPERTIES: [Property; 3] = [Property::Side, Property::Label, Property::Columns];

impl Property {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Side => "side",
            Self::Label => "label",
            Self::Columns => "columns",
        }
    }

    /// Its value if nothing was changed.
    pub(crate) const fn home(self) -> &'static str {
        match self {
            Self::Side => "east",
            Self::Label => "home",
            Self::Columns => "id",
        }
    }

    /// A numbered change: the value that it leads to, and the SQL that makes and undoes it.
    pub(crate) fn change(self, number: u64) -> (String, String, String) {
        match self {
            Self::Side => {
                let swap =
                    "begin; alter table east rename to aside; alter table west rename to east;
                    alter table aside rename to west; commit";
                ("west".into(), swap.into(), swap.into())
            }
            Self::Label => {
                let there = format!("alter type state rename value 'home' to 'away{number}'");
                let back = format!("alter type state rename value 'away{number}' to 'home'");
                (format!("away{number}"), there, back)
            }
            Self::Columns => {
                let there = format!("alter table wide add column extra{number} int");
                let back = format!("alter table wide drop column extra{number}");
                (format!("extra{number},id"), there, back)
            }
        }
    }
}

/// The states of each property, in order.
pub(crate) struct Schema([Mutex<Vec<State>>; 3]);

struct State {
    shows: String,
    fate: Fate,
}

impl Schema {
    pub(crate) fn new() -> Self {
        let home = |property: Property| State {
            shows: property.home().into(),
            fate: Fate::Committed(Instant::now()),
        };
        Self(PROPERTIES.map(|property| Mutex::new(vec![home(property)])))
    }

    /// Notes a change that is about to be sent.
    pub(crate) fn begin(&self, property: Property, shows: &str) {
        self.states(property).push(State { shows: shows.into(), fate: Fate::Open });
    }

    /// Notes the fate of the change.
    pub(crate) fn end(&self, property: Property, fate: Fate) {
        let mut states = self.states(property);
        if let Some(state) = states.last_mut() {
            state.fate = fate;
        }
        drop_old(&mut states, Instant::now());
    }

    /// Judges the value in a response by the states that it may show.
    pub(crate) fn judge(
        &self,
        property: Property,
        shows: &str,
        demand: &Demand,
    ) -> Result<(), Wrong> {
        let states = self.states(property);
        let first = demand.since.and_then(|since| last_before(&states, since)).unwrap_or(0);
        let mut may = states.iter().skip(first).filter(|state| state.fate != Fate::RolledBack);
        if may.any(|state| state.shows == shows) {
            return Ok(());
        }
        let must = states.get(first).map(|state| state.shows.clone()).unwrap_or_default();
        Err(Wrong::Schema { shows: shows.into(), must })
    }

    fn states(&self, property: Property) -> MutexGuard<'_, Vec<State>> {
        let place = PROPERTIES.iter().position(|one| *one == property).unwrap_or_default();
        self.0[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last state that was committed by this time.
fn last_before(states: &[State], then: Instant) -> Option<usize> {
    states.iter().rposition(|state| matches!(state.fate, Fate::Committed(at) if at < then))
}

fn drop_old(states: &mut Vec<State>, now: Instant) {
    if states.len() > FEW
        && let Some(old) = now.checked_sub(REMEMBERED)
        && let Some(last) = last_before(states, old)
    {
        states.drain(..last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_must_show_a_schema_that_was_in_effect() {
        let schema = Schema::new();
        let judge = |shows: &str, since| {
            let demand = Demand { since: Some(since), own: None, knows_failover: true };
            schema.judge(Property::Label, shows, &demand).is_ok()
        };
        let before = Instant::now();
        schema.begin(Property::Label, "away1");
        assert!(judge("home", before) && judge("away1", before), "it is under way");
        schema.end(Property::Label, Fate::Committed(Instant::now()));
        let between = Instant::now();
        assert!(judge("home", before) && !judge("home", between) && judge("away1", between));
        schema.begin(Property::Label, "home");
        schema.end(Property::Label, Fate::Committed(Instant::now()));
        let after = Instant::now();
        assert!(judge("away1", between) && !judge("away1", after) && judge("home", after));
        assert!(!judge("away2", before), "it never held");
    }
}
