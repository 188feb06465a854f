//! Traffic statistics of a layer, by route, for the operators' page.
//!
//! [`TrafficRecorder`] belongs to a layer. It is off until an `Admin` is created, and while it is off a request costs one
//! load of a flag. [`Traffic`] has the statistics of one route: outcomes, response times, and the tables that were read.
//! For routes without a policy, [`Simulation`] estimates what the cache would have done.

mod histogram;
mod reads;
mod recent;
mod recorder;
mod route;
pub(crate) mod simulation;
mod tally;

pub(crate) use histogram::Histogram;
#[cfg(feature = "admin")]
pub(crate) use reads::{ComparedColumns, RouteReads};
pub(crate) use recent::Recent;
pub(crate) use recorder::TrafficRecorder;
pub(crate) use route::{RequestTimer, Traffic};
pub(crate) use simulation::Simulation;
