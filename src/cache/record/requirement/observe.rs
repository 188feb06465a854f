//! Determines the position that a lookup must see, and observes it on the primary if it is unknown.

use std::fmt::Display;

use tokio::time::timeout;

use super::observations::{Next, Observation};
use super::{DatabaseId, Needs, Requirement};
use crate::cache::protocol::must_see;
use crate::entry::LogPosition;

/// The moment at which a lookup began, or a call with several lookups: any position that was observed later will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// How many writes had ended.
    ended: u64,
    /// How many observations of the primary had begun.
    begun: u64,
}

/// No position could be observed on the primary.
#[derive(Debug, thiserror::Error)]
#[error("the primary's WAL position could not be read")]
pub(crate) struct Unobserved;

impl Requirement {
    /// The current moment, for lookups in a cache that follows the database.
    pub(crate) fn arrive(&self, database: DatabaseId) -> Arrival {
        // In this order, so that an observation that begins later covers at least the writes that are counted here.
        let ended = self.ended();
        Arrival { ended, begun: self.observations(database).begun() }
    }

    /// The position that a lookup in a cache that follows the database must see. If it is unknown, it is observed on the
    /// primary: by `position`, or by another lookup's observation that began after `arrival`, the moment at which this
    /// lookup began (`None` means now).
    ///
    /// # Errors
    ///
    /// If no position could be observed.
    pub(crate) async fn observe<E: Display>(
        &self,
        database: DatabaseId,
        arrival: Option<Arrival>,
        position: impl Future<Output = Result<LogPosition, E>>,
    ) -> Result<Option<LogPosition>, Unobserved> {
        // If a write has ended since `arrival`, the lookup must see it too, so it arrives now.
        let arrival = arrival.filter(|arrival| arrival.ended == self.ended());
        let after = arrival.unwrap_or_else(|| self.arrive(database)).begun;
        let observations = self.observations(database);
        loop {
            // Registered before the check, so that an observation that ends in between is not missed.
            let ended = observations.ended();
            if let Needs::Position(known) = self.for_lookups(database) {
                return Ok(known);
            }
            match observations.next(after) {
                Next::Use(None) => return Err(Unobserved),
                Next::Use(found) => return Ok(must_see(self.observed_at(database), found)),
                Next::Observe(observation) => {
                    return self.finish(database, observation, position).await;
                }
                Next::Wait(limit) => drop(timeout(limit, ended).await),
            }
        }
    }

    /// Observes a position, for this and all other lookups that wait for it.
    ///
    /// # Errors
    ///
    /// If `position` fails.
    pub(crate) async fn finish<E: Display>(
        &self,
        database: DatabaseId,
        observation: Observation,
        position: impl Future<Output = Result<LogPosition, E>>,
    ) -> Result<Option<LogPosition>, Unobserved> {
        let writes = self.ended();
        let found = position.await.inspect_err(|error| {
            tracing::debug!(%error, "could not observe a position on the primary");
        });
        let found = found.ok().and_then(|at| {
            self.update(database, |observed| {
                observed.at = must_see(observed.at, Some(at));
                observed.writes = observed.writes.max(writes);
                observed.at
            })
        });
        observation.end(found);
        found.map(Some).ok_or(Unobserved)
    }
}
