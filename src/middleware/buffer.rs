//! Buffers a body for the cache.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, SET_COOKIE};
use http_body::{Body as HttpBody, Frame};

use super::budget::BudgetShare;
use super::rules::storable::{
    announces_trailers, grpc_failure, is_failure_of_one_call, is_grpc_failure,
};
use super::stored::StoredHead;
use crate::cache::{
    ComputedEntry, FillGuard, FillOutcome, Freshness, Policy, Record, Uncacheable, VaryMarker,
};
use crate::clock::{self, Instant};
use crate::entry::Key;

/// The reason for a body that is larger than the policy's limit.
const TOO_LARGE: &str = "too-large";

/// The reason for a response whose trailers set a cookie.
const SETS_COOKIE: &str = "set-cookie";

/// Where a response is stored once it is complete.
#[derive(Debug)]
pub(crate) struct StoreTarget {
    pub(crate) key: Key,
    pub(crate) freshness: Freshness,
    pub(crate) vary_marker: Option<VaryMarker>,
}

/// A body that is being buffered, up to its limit.
#[derive(Debug)]
pub(crate) struct BodyBuffer {
    guard: Box<FillGuard>,
    head: StoredHead,
    target: StoreTarget,
    limit: usize,
    /// How long to keep reading after the client disconnects.
    pub(crate) finish: Duration,
    taken: Vec<Bytes>,
    length: usize,
    /// Whether trailers may follow the last byte that `Content-Length` promises.
    may_have_trailers: bool,
    /// Whether it streams, and neither `Content-Length` nor its size hint gives the length.
    is_open_ended: bool,
    /// Whether an entry is stored that this response supersedes, even if the response can't be stored.
    pub(crate) supersedes: bool,
    share: BudgetShare,
    /// When the head arrived. The response's age counts from this moment (RFC 9111, section 4.2.3).
    since: Instant,
}

/// How buffering ended.
pub(crate) enum BufferOutcome {
    /// The body is complete; the outcome of the fill.
    Whole(FillOutcome),
    /// The body can't be stored. It continues to stream.
    NotKept(Uncacheable),
}

impl BodyBuffer {
    /// Boxed, since it is large and changes hands often.
    pub(crate) fn new(
        guard: Box<FillGuard>,
        head: StoredHead,
        target: StoreTarget,
        policy: &Policy,
        share: BudgetShare,
    ) -> Box<Self> {
        Box::new(Self {
            guard,
            head,
            target,
            limit: policy.body_limit,
            finish: policy.finish,
            taken: Vec::new(),
            length: 0,
            may_have_trailers: false,
            is_open_ended: false,
            supersedes: false,
            share,
            since: clock::now(),
        })
    }

    /// Awaits the end of the body if its head, with the fields that are not stored, announces trailers.
    pub(crate) fn expect_trailers_of(&mut self, headers: &HeaderMap) {
        self.may_have_trailers = announces_trailers(headers);
    }

    /// From now on the body arrives at the client's pace, if it is sent `to_client`. `is_measured` says whether its size hint
    /// is exact.
    pub(crate) fn streams(&mut self, is_measured: bool, to_client: bool) {
        if to_client {
            self.guard.begin_streaming();
        }
        self.is_open_ended = !is_measured && promised(&self.head.headers).is_none();
        self.note_first_byte();
    }

    /// Lets waiting requests go on once a body of unknown length has begun.
    fn note_first_byte(&self) {
        if self.is_open_ended && self.length > 0 {
            self.guard.note_first_byte();
        }
    }

    /// Releases the lease of a body of unknown length that takes long, so that other nodes do not wait for it.
    pub(crate) fn lingers(&mut self) {
        if self.is_open_ended && self.length > 0 {
            self.guard.release_lease();
        }
    }

    pub(crate) fn record(&self) -> &Record {
        self.guard.record()
    }

    /// Buffers a frame, or returns why the body can't be stored.
    pub(crate) fn take(&mut self, frame: &Frame<Bytes>) -> Result<(), Uncacheable> {
        if let Some(trailers) = frame.trailers_ref() {
            if trailers.contains_key(SET_COOKIE) {
                let why = "its trailers set a cookie, so it is personal";
                return Err(Uncacheable::new(SETS_COOKIE, why));
            }
            if is_grpc_failure(trailers) {
                return Err(grpc_failure());
            }
            self.head.trailers.get_or_insert_default().extend(trailers.clone());
        }
        let Some(data) = frame.data_ref() else { return Ok(()) };
        self.length = self.length.saturating_add(data.len());
        if self.length > self.limit {
            return Err(too_large(self.limit));
        }
        if !self.share.take(data.len()) {
            let why = "other bodies have used up the byte budget: see CacheLayer::buffer_limit";
            return Err(Uncacheable::new("buffer-limit", why));
        }
        self.taken.push(data.clone());
        self.note_first_byte();
        Ok(())
    }

    /// Whether the body has as many bytes as `Content-Length` says, and no trailers are announced, which could forbid
    /// storing it.
    pub(crate) fn is_whole(&self) -> bool {
        !self.may_have_trailers && promised(&self.head.headers) == Some(self.length)
    }

    /// Stores the complete body.
    pub(crate) fn end(self: Box<Self>) -> BufferOutcome {
        // RFC 9111, section 3.3.
        if promised(&self.head.headers).is_some_and(|promised| promised != self.length) {
            let why = "the body's length differs from its Content-Length";
            return BufferOutcome::NotKept(self.refuse(Uncacheable::new("incomplete", why)));
        }
        let body = joined(self.taken, self.length);
        let StoreTarget { key, mut freshness, vary_marker } = self.target;
        freshness.age = freshness.age.saturating_add(self.since.elapsed());
        let head = self.head.encode();
        let filled = self.guard.store(ComputedEntry { key, freshness, head, body, vary_marker });
        BufferOutcome::Whole(filled)
    }

    /// Ends the fill, since the body can't be stored. If that is due to the response itself, and not to its transfer, the
    /// older response that is stored may no longer be used (RFC 9111, section 4.3.3).
    pub(crate) fn refuse(self: Box<Self>, uncacheable: Uncacheable) -> Uncacheable {
        if self.supersedes && [TOO_LARGE, SETS_COOKIE].contains(&uncacheable.token) {
            self.guard.remove_stored();
        }
        // This does not show that the next response can't be shared.
        match is_failure_of_one_call(self.head.status, &uncacheable) {
            true => self.guard.fail_for(uncacheable, None),
            false => self.guard.reject(uncacheable),
        }
    }
}

/// Fails if `Content-Length` or the size hint shows that the body is larger than the limit.
pub(crate) fn fits<B: HttpBody>(
    headers: &HeaderMap,
    body: &B,
    limit: usize,
) -> Result<(), Uncacheable> {
    let at_least = body.size_hint().lower();
    let is_larger = |length: usize| length > limit;
    match promised(headers).is_some_and(is_larger) || at_least > limit as u64 {
        true => Err(too_large(limit)),
        false => Ok(()),
    }
}

fn too_large(limit: usize) -> Uncacheable {
    Uncacheable::new(
        TOO_LARGE,
        format!("the body is larger than {limit} bytes; see Policy::body_limit"),
    )
}

fn promised(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Copies the parts into one buffer of exactly this length. A part may be a slice of a much larger buffer of unknown size,
/// which it would keep in memory.
fn joined(parts: Vec<Bytes>, length: usize) -> Bytes {
    let whole = BytesMut::with_capacity(length);
    let whole = parts.into_iter().fold(whole, |mut whole, part| {
        whole.extend_from_slice(&part);
        whole
    });
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_body_does_not_retain_a_larger_buffer() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let kept = joined(vec![buffer.slice(1000..200_000)], 199_000);
        assert_eq!(kept, buffer.slice(1000..200_000));
        assert!(!buffer.as_ptr_range().contains(&kept.as_ptr()));
    }
}
