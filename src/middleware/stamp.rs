//! The fields that a cache writes into each answer, made once a second.
//!
//! `Age` and `Cache-Status` say how old an answer is, and how long it lasts, in whole seconds: all that are given of one
//! entry within a second say the same.

use std::sync::RwLock;

use http::HeaderValue;

use super::status;
use crate::outcome::Outcome;

/// The fields of one entry's answers, as they were last given.
#[derive(Debug, Default)]
pub(crate) struct Stamps(RwLock<Option<(Moment, Stamp)>>);

/// What the fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// How old the answer is, in seconds.
    pub(crate) age: u64,
    /// For how many more it is fresh; less than none if it is stale.
    pub(crate) left: i64,
    pub(crate) outcome: Outcome,
}

/// The fields.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) age: HeaderValue,
    pub(crate) status: Option<HeaderValue>,
}

impl Stamps {
    /// Waits for nobody: while another thread has them, they are made for this answer alone.
    pub(crate) fn at(&self, moment: Moment) -> Stamp {
        if let Ok(last) = self.0.try_read()
            && let Some((_, stamp)) = last.as_ref().filter(|(of, _)| *of == moment)
        {
            return stamp.clone();
        }
        let stamp = Stamp::new(moment);
        if let Ok(mut last) = self.0.try_write() {
            *last = Some((moment, stamp.clone()));
        }
        stamp
    }
}

impl Clone for Stamps {
    /// Those of another answer are yet to be made.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Stamp {
    fn new(Moment { age, left, outcome }: Moment) -> Self {
        let status = HeaderValue::try_from(status::of_hit(outcome, left)).ok();
        Self { age: age.into(), status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tier;

    #[test]
    fn another_second_or_outcome_says_something_else() {
        let stamps = Stamps::default();
        let first = Moment { age: 1, left: 9, outcome: Outcome::Hit(Tier::Memory) };
        let said = |moment| {
            let Stamp { age, status } = stamps.at(moment);
            (age.to_str().unwrap().to_owned(), status.unwrap().to_str().unwrap().to_owned())
        };
        let memory = ("1".into(), "tidegate; hit; ttl=9; detail=\"memory\"".into());
        assert_eq!(said(first), memory);
        assert_eq!(said(first), memory, "as it was kept");
        let shared = Moment { outcome: Outcome::Hit(Tier::Shared), ..first };
        assert_eq!(said(shared).1, "tidegate; hit; ttl=9; detail=\"shared\"");
        let stale = Moment { age: 12, left: -2, ..first };
        assert_eq!(said(stale), ("12".into(), "tidegate; hit; ttl=-2; detail=\"memory\"".into()));
        assert_eq!(said(first), memory);
    }
}
