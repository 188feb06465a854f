//! Leases, which let one node at a time compute an entry.

use super::found::Found;

/// The result of [`Store::lease`](super::Store::lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// This node holds the lease. The token, if there is one, is for [`Store::release`](super::Store::release).
    Granted(Option<LeaseToken>),
    /// Another node holds the lease and is computing the entry.
    Held,
}

/// The result of [`Store::get_or_lease`](super::Store::get_or_lease).
#[derive(Clone, Debug)]
pub enum FoundOrLease {
    /// There is an entry.
    Found(Found),
    /// There is no entry, or only the one that the caller can't use. The [`Lease`] says whether the lease was
    /// acquired.
    Lease(Lease),
}

/// Identifies a lease, so that releasing it does not release a later one on the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken(pub u64);
