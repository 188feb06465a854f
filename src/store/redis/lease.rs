//! Leases on computing an entry.
//!
//! A lease is a SET NX with an expiry and a token, so that a node releases only its own lease. One server is enough for
//! this: if two nodes both hold a lease, the worst effect is that the entry is computed twice.
//!
//! A lookup that expects a miss takes the lease in the same step, by a script: one round trip. A lease is released in the same
//! step that stores the entry. Where scripts are refused, the steps are separate.
//!
//! A request for a lease whose reply is lost may have taken the lease, and other nodes would wait until it expires. So a
//! request that ends without a reply (it is cancelled, takes too long, or loses its connection) releases its token.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, RedisError, ServerErrorKind, Value, cmd};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::link::RedisLink;
use super::links::RedisLinks;
use super::reply::unexpected;
use super::script::{RedisScript, error_kind};
use crate::clock::{Instant, millis, now};
use crate::entry::{EntryVersion, codec};
use crate::store::{Lease, LeaseToken, StoreError};

/// Compares and deletes in one step. Otherwise this could delete another node's lease after its own has expired.
pub(super) const RELEASE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

/// Returns the entry, unless it has the version ARGV[3] or is longer than ARGV[4] bytes; otherwise takes the lease. Returns 1 if
/// it was taken, 0 if another node holds it, and 2 if the server refuses to write, as one does that is full.
static GET_OR_ACQUIRE: LazyLock<RedisScript> = LazyLock::new(|| {
    RedisScript::new(format!(
        "local entry = redis.call('get', KEYS[1])
        if entry and #entry <= tonumber(ARGV[4]) and string.sub(entry, {}, {}) ~= ARGV[3] then return entry end
        local taken = redis.pcall('set', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
        if not taken then
            -- A cluster client may have sent this twice.
            if redis.call('get', KEYS[2]) == ARGV[1] then return 1 end
            return 0
        end
        if not taken.err then return 1 end
        if string.find(taken.err, 'READONLY', 1, true) then return redis.error_reply('READONLY replica') end
        return 2",
        codec::VERSION.start + 1,
        codec::VERSION.end,
    ))
});

/// Stores the entry, and releases the lease whether that succeeds or not. Returns 1 if it does, and 0 if the server refuses to
/// store, as one does that is full.
static PUT_AND_RELEASE: LazyLock<RedisScript> = LazyLock::new(|| {
    let code = "local stored = redis.pcall('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
        if redis.call('get', KEYS[2]) == ARGV[3] then redis.pcall('del', KEYS[2]) end
        if not stored.err then return 1 end
        if string.find(stored.err, 'READONLY', 1, true) then return redis.error_reply('READONLY replica') end
        return 0";
    RedisScript::new(code.to_owned())
});

/// What [`get_or_acquire`] finds.
pub(super) enum EntryOrLease {
    /// The bytes of the entry.
    Entry(Vec<u8>),
    Lease(Lease),
}

/// Pauses between attempts to release a lease: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Takes the lease with a name.
pub(super) async fn acquire(
    links: &Arc<RedisLinks>,
    name: String,
    ttl: Duration,
) -> Result<Lease, StoreError> {
    let request = Request::new(links, name, ttl);
    let mut command = cmd("SET");
    command.arg(&request.name).arg(request.token.0).arg("NX").arg("PX").arg(millis(ttl).max(1));
    match request.link.run(&command, 1).await {
        Ok(Value::Okay) => Ok(Lease::Granted(Some(request.settle()))),
        Ok(Value::Nil) => {
            request.settle();
            Ok(Lease::Held)
        }
        Ok(other) => Err(unexpected("SET", &other)),
        Err(error) => {
            if !may_be_taken(&error) {
                request.settle();
            }
            Err(error)
        }
    }
}

/// Gets the entry with a name, if it is not `unusable` and has at most `longest` bytes; otherwise takes the lease.
pub(super) async fn get_or_acquire(
    links: &Arc<RedisLinks>,
    entry: &str,
    lease: String,
    ttl: Duration,
    unusable: Option<EntryVersion>,
    longest: usize,
) -> Result<EntryOrLease, StoreError> {
    let request = Request::new(links, lease, ttl);
    let version = unusable.map(codec::encode_version);
    let version: &[u8] = version.as_ref().map_or(&[], |version| version);
    let arguments = |command: &mut Cmd| {
        command.arg(2).arg(entry).arg(&request.name).arg(request.token.0);
        command.arg(millis(ttl).max(1)).arg(version).arg(longest);
    };
    match GET_OR_ACQUIRE.run(&request.link, arguments).await {
        Ok(Value::Int(1)) => Ok(EntryOrLease::Lease(Lease::Granted(Some(request.settle())))),
        Ok(other) => {
            request.settle();
            match other {
                Value::BulkString(bytes) => Ok(EntryOrLease::Entry(bytes)),
                Value::Int(0) => Ok(EntryOrLease::Lease(Lease::Held)),
                Value::Int(2) => Ok(EntryOrLease::Lease(Lease::Granted(None))),
                other => Err(unexpected("EVALSHA", &other)),
            }
        }
        Err(error) => {
            if !may_be_taken(&error) {
                request.settle();
            }
            match error_kind(&error) {
                // There was no entry to return.
                Some(ServerErrorKind::ReadOnly) => Ok(EntryOrLease::Lease(Lease::Granted(None))),
                _ => Err(error),
            }
        }
    }
}

/// Stores the bytes of an entry for `left` milliseconds, and then releases the lease, in one step.
pub(super) async fn put_and_release(
    links: &RedisLinks,
    entry: &str,
    lease: &str,
    bytes: &[u8],
    left: u64,
    token: LeaseToken,
) -> Result<(), StoreError> {
    let arguments = |command: &mut Cmd| {
        command.arg(2).arg(entry).arg(lease).arg(bytes).arg(left).arg(token.0);
    };
    match PUT_AND_RELEASE.run(links.next(), arguments).await? {
        Value::Int(0) => Err(StoreError::Backend("Redis refuses to store the entry".into())),
        _ => Ok(()),
    }
}

pub(super) async fn release(
    links: Arc<RedisLinks>,
    name: String,
    token: LeaseToken,
) -> Result<(), StoreError> {
    links.run(&releasing(&name, token)).await.map(drop)
}

fn releasing(name: &str, token: LeaseToken) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(RELEASE).arg(1).arg(name).arg(token.0);
    command
}

/// A request for a lease; dropped before [`settle`](Self::settle), it releases its token in the background.
struct Request {
    links: Arc<RedisLinks>,
    link: Arc<RedisLink>,
    name: String,
    token: LeaseToken,
    since: Instant,
    ttl: Duration,
    is_settled: bool,
}

impl Request {
    fn new(links: &Arc<RedisLinks>, name: String, ttl: Duration) -> Self {
        let token = LeaseToken(fastrand::u64(..));
        Self {
            links: links.clone(),
            link: links.next().clone(),
            name,
            token,
            since: now(),
            ttl,
            is_settled: false,
        }
    }

    /// Records that the reply has arrived.
    fn settle(mut self) -> LeaseToken {
        self.is_settled = true;
        self.token
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if !self.is_settled
            && let Ok(runtime) = Handle::try_current()
        {
            let (links, link) = (self.links.clone(), self.link.clone());
            let command = releasing(&self.name, self.token);
            runtime.spawn(release_lost(links, link, command, self.since, self.ttl));
        }
    }
}

/// Releases a lease that may have been taken, until the server confirms it or the lease has expired.
async fn release_lost(
    links: Arc<RedisLinks>,
    link: Arc<RedisLink>,
    command: Cmd,
    since: Instant,
    ttl: Duration,
) {
    // On the connection of the request, so that the server receives the release second.
    let mut released = link.run(&command, 1).await;
    let mut pause = PAUSES[0];
    while released.is_err() && since.elapsed() < ttl {
        sleep(pause).await;
        pause = (2 * pause).min(PAUSES[1]);
        released = links.run(&command).await;
    }
}

/// Whether the server may have taken the lease although there was no reply. It has not if it replied with an error, or
/// if nothing was sent.
fn may_be_taken(error: &StoreError) -> bool {
    match error {
        StoreError::Timeout(_) => true,
        StoreError::Backend(error) => {
            error.downcast_ref::<RedisError>().is_some_and(|error| error.code().is_none())
        }
        _ => false,
    }
}
