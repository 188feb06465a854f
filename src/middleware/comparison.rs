//! Compares the body that a handler sends with that of a stored response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use super::rendered::RenderedHead;
use crate::cache::protocol::Verdict;
use crate::cache::{Cache, Record, spawn};
use crate::clock;
use crate::entry::Entry;

/// How long to wait for the log to be read once more, before a difference is left undecided.
const JUDGE_WITHIN: Duration = Duration::from_secs(10);

/// One comparison, made while the handler's body is sent.
pub(crate) struct Comparison {
    cache: Cache,
    route: Arc<str>,
    /// The stored response.
    entry: Arc<Entry>,
    pub(crate) record: Record,
    /// The number of bytes of the body that were the same.
    same: usize,
    is_same: bool,
}

impl Comparison {
    /// Starts to compare an entry with a response of this status, whose body follows.
    pub(crate) fn new(
        cache: &Cache,
        route: &Arc<str>,
        entry: &Arc<Entry>,
        status: StatusCode,
        record: Record,
    ) -> Self {
        let is_same =
            RenderedHead::from_entry(entry).is_ok_and(|rendered| rendered.status == status);
        let (cache, route, entry) = (cache.clone(), route.clone(), entry.clone());
        Self { cache, route, entry, record, same: 0, is_same }
    }

    /// Compares the next part of the body.
    pub(crate) fn take(&mut self, part: &Bytes) {
        let rest = &self.entry.body()[self.same..];
        self.is_same &= rest.starts_with(part);
        self.same += if self.is_same { part.len() } else { 0 };
    }

    /// Ends the comparison after the whole body.
    pub(crate) fn end(mut self) {
        self.is_same &= self.same == self.entry.body().len();
        if self.is_same {
            self.cache.shared.audits.note(&self.route, false);
        } else {
            spawn(self.judge());
        }
    }

    /// Judges a difference. A change between the two responses may explain it; in that case the entry is invalid after the
    /// node has read the log once more.
    async fn judge(self) {
        let fences = self.cache.fences();
        if let Some(log) = self.cache.log() {
            let Some(seen) = fences.seen() else { return };
            let polled = timeout(JUDGE_WITHIN, log.catch_up(seen.position)).await;
            if !matches!(polled, Ok(Ok(()))) {
                return;
            }
        }
        if self.entry.age() >= self.entry.ttl() || fences.judge(&self.entry) != Verdict::Valid {
            return;
        }
        self.cache.shared.audits.note(&self.route, true);
        let fresh = self.record.basis().ok().map(|proof| proof.basis.position.to_string());
        tracing::error!(
            route = %self.route,
            key = %blake3::hash(&self.entry.key).to_hex(),
            as_of = %self.entry.as_of(),
            fresh_as_of = fresh.as_deref().unwrap_or("unknown"),
            age = ?self.entry.age(),
            at = clock::unix_millis(),
            "a cached response differs from what the handler returns now: it depends on something that is not \
             tracked, or the handler is not deterministic"
        );
    }
}
