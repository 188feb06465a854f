//! One node's claim to make an entry.
//!
//! SET NX with an expiry, and a token to give back only what is ours. No more is needed than one
//! server's word: two nodes that both hold a lease make the entry twice, and no worse.

use std::time::Duration;

use deadpool_redis::redis::{Value, cmd};

use super::Redis;
use super::store::unexpected;
use crate::clock::millis;
use crate::entry::Key;
use crate::store::{Lease, LeaseToken, StoreError};

/// Compares and deletes in one step, or a lease that ran out and is another's now would go.
pub(super) const GIVE_BACK: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

pub(super) async fn take(redis: &Redis, key: &Key, ttl: Duration) -> Result<Lease, StoreError> {
    let token = fastrand::u64(..);
    let mut command = cmd("SET");
    command.arg(redis.lease_name(key)).arg(token).arg("NX").arg("PX").arg(millis(ttl).max(1));
    match redis.run(&command).await? {
        Value::Okay => Ok(Lease::Granted(Some(LeaseToken(token)))),
        Value::Nil => Ok(Lease::Held),
        other => Err(unexpected("SET", &other)),
    }
}

pub(super) async fn give_back(
    redis: Redis,
    name: String,
    token: LeaseToken,
) -> Result<(), StoreError> {
    let mut command = cmd("EVAL");
    command.arg(GIVE_BACK).arg(1).arg(name).arg(token.0);
    redis.run(&command).await.map(drop)
}
