//! The Tower layer.
//!
//! [`CacheLayer`] finds the [`Policy`](crate::Policy) of a request's route and puts the cache in
//! front of the handler. `keying` says which requests are the same, `storable` which answers may be
//! kept, `capture` keeps a body while it streams to the client, `stored` turns an entry back into
//! an answer, `session` lets a client see its own writes, and `service` is the order of these steps.
//!
//! A hit in memory is answered without a boxed future, a lock held, or a copy of the body.

mod body;
mod future;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod keying;
mod layer;
mod route;
mod service;
mod session;
mod status;
mod storable;
mod stored;

pub use body::Body;
pub use future::ResponseFuture;
pub use layer::{CacheLayer, PolicyError};
pub use service::CacheService;
pub use session::{SecretError, Sessions};
