//! What one route, or one kind of value, wants of the cache.

use std::time::Duration;

use super::permit::FillBound;
use super::template::{PolicyTag, TagTemplate};

/// What one route wants: how long an answer lives, what it depends on, what tells answers apart,
/// and what may be served stale.
///
/// ```
/// use std::time::Duration;
/// use tidegate::Policy;
///
/// let user = Policy::ttl(Duration::from_secs(300)).tag("users:id={id}");
/// let feed = Policy::ttl(Duration::from_secs(5))
///     .stale_while_revalidate(Duration::from_secs(30))
///     .query(["page"])
///     .vary(["accept-language"]);
/// ```
///
/// Who decides how long an answer lives is said by how a policy begins: with [`ttl`](Self::ttl) the
/// route's author does, and the answer's headers can only forbid; with [`standard`](Self::standard)
/// the headers do, as RFC 9111 has it. `docs/http.md` has the whole table.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Policy {
    pub(crate) is_standard: bool,
    pub(crate) ttl: Duration,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) early_refresh: f64,
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) stale_after_failover: bool,
    pub(crate) max_staleness: Duration,
    pub(crate) wait: Duration,
    pub(crate) lease: Duration,
    pub(crate) body_limit: usize,
    pub(crate) finish: Duration,
    pub(crate) untracked: bool,
    pub(crate) tags: Vec<TagTemplate>,
    pub(crate) query: QueryPart,
    pub(crate) vary: Vec<String>,
    pub(crate) vary_cookies: Vec<String>,
    pub(crate) public: bool,
    pub(crate) host: bool,
    pub(crate) audit: f64,
    pub(crate) shadow: bool,
    pub(crate) fills: FillBound,
}

/// Which query parameters tell answers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryPart {
    All,
    Only(Vec<String>),
}

impl Policy {
    /// Answers live for `ttl`, at most. With tracked reads the TTL only bounds how much is kept;
    /// a change in the database makes an answer invalid at once.
    pub fn ttl(ttl: Duration) -> Self {
        Self {
            is_standard: false,
            ttl,
            negative_ttl: None,
            jitter: 0.1,
            early_refresh: 1.0,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_after_failover: false,
            max_staleness: Duration::from_secs(5),
            wait: Duration::from_secs(3),
            lease: Duration::from_secs(2),
            body_limit: 1 << 20,
            finish: Duration::from_secs(10),
            untracked: false,
            tags: Vec::new(),
            query: QueryPart::All,
            vary: Vec::new(),
            vary_cookies: Vec::new(),
            public: false,
            host: true,
            audit: 0.0,
            shadow: false,
            fills: FillBound::default(),
        }
    }

    /// The answer's headers decide whether it is stored and for how long, as RFC 9111 has it for a
    /// shared cache; a client may ask for a younger one with `Cache-Control`. For handlers and origins
    /// that speak of their own freshness; those that say nothing are not cached. Reads need not be
    /// [tracked](Self::untracked), and a successful POST, PUT or DELETE invalidates its URI.
    ///
    /// What a client may do to an answer that others get stays bounded: one that was made for a request
    /// with `Authorization` or `Cookie` is stored only if its headers say that it is for everybody.
    pub fn standard() -> Self {
        Self {
            is_standard: true,
            jitter: 0.0,
            early_refresh: 0.0,
            untracked: true,
            ..Self::ttl(Duration::MAX)
        }
    }

    /// Adds a tag: what the answer depends on. `{name}` stands for a parameter of the route.
    ///
    /// A tag of the form `table:column={name}` narrows: reads of that table then depend on the
    /// rows with that value, not on the whole table. It must cover all that the handler reads of
    /// the table. A column without row tags (see `tidegate install`) narrows nothing.
    #[must_use]
    pub fn tag(mut self, template: &str) -> Self {
        self.tags.push(TagTemplate::parse(template));
        self
    }

    /// Stores answers though not all that they depend on is tracked: reads by other means than
    /// `Database::reader()`, tables without triggers, other services. Only the TTL and the
    /// policy's own tags then bound how stale an answer can be.
    #[must_use]
    pub fn untracked(mut self) -> Self {
        self.untracked = true;
        self
    }

    /// Stores answers that say "there is none" (404 and 410, or `None`) for `ttl`. Without it they
    /// are not stored.
    #[must_use]
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Shortens each entry's TTL by a random part of it, up to this share (0 to 1; 0.1 by default),
    /// so that entries made together do not expire together.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// How eagerly an entry is refreshed before it expires, by the rule of Vattani, Chierichetti and
    /// Lowenstein, "Optimal probabilistic cache stampede prevention" (VLDB 2015): their β, 1 by
    /// default; 0 turns it off.
    #[must_use]
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.early_refresh = beta;
        self
    }

    /// Serves an expired answer for this long while a new one is made (RFC 5861, section 3). Only
    /// the TTL may have passed: an answer that a change has made invalid is never served so.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// Serves the last known answer, however it became stale, for this long past its TTL when the
    /// handler fails (RFC 5861, section 4). Never to a session that wrote something since.
    #[must_use]
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// After a failover, or a crash of the primary, serves responses of before it until their TTL while new ones are
    /// computed: those that were valid on this node when it came, until the node learns of a change since. They may show
    /// writes that were lost by the failover, and may lack writes of the moment before it that the node had not seen yet.
    /// A node that was started since serves none.
    #[must_use]
    pub fn stale_after_failover(mut self) -> Self {
        self.stale_after_failover = true;
        self
    }

    /// How long the node may not have heard from the primary and still serve from the cache: the
    /// largest δ of the guarantee. 5 s by default.
    #[must_use]
    pub fn max_staleness(mut self, bound: Duration) -> Self {
        self.max_staleness = bound;
        self
    }

    /// How long requests wait for the one that computes their answer before one of them computes it too; the rest wait on,
    /// for the first of both. So a slow handler runs twice for each such time, and not once for each request. Also how long
    /// a fill waits for its turn while no other one ends (see [`Cache::with_limits`](crate::Cache::with_limits)). 3 s by
    /// default; with zero each request computes its own.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// How many fills of this policy, of its route or its values, run at a time on a node, at least one. Three quarters of
    /// what [`Cache::with_limits`](crate::Cache::with_limits) allows to all if nothing is said, so that a handler that
    /// hangs leaves some to the others. Each route has a bound of its own; clones of a policy of values share one.
    #[must_use]
    pub fn fills(mut self, most: usize) -> Self {
        self.fills = FillBound::new(most);
        self
    }

    /// How long one node may be the only one that makes an answer: about as long as it takes at
    /// worst. 2 s by default; zero leaves each node to itself.
    #[must_use]
    pub fn lease(mut self, limit: Duration) -> Self {
        self.lease = limit;
        self
    }

    /// The largest body that is stored, in bytes; 1 MiB by default. A larger one is passed on whole
    /// and not stored. Raise `RedisOptions::body_limit` too where nodes are to share larger ones.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// How long the rest of a body is read for the cache when the client has left before its end;
    /// 10 s by default. Zero drops the answer with the client. Never more than
    /// [`body_limit`](Self::body_limit) bytes.
    #[must_use]
    pub fn finish(mut self, limit: Duration) -> Self {
        self.finish = limit;
        self
    }

    /// Only these query parameters tell answers apart; the handler must not look at others. By
    /// default all do, in any order.
    #[must_use]
    pub fn query<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.query = QueryPart::Only(names.into_iter().map(Into::into).collect());
        self
    }

    /// These request headers tell answers apart.
    #[must_use]
    pub fn vary<I>(mut self, headers: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let names = headers.into_iter().map(|name| name.into().to_ascii_lowercase());
        self.vary.extend(names);
        self
    }

    /// These cookies tell answers apart; others are ignored. Naming the session's cookie makes each
    /// answer personal.
    #[must_use]
    pub fn vary_cookies<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.vary_cookies.extend(names.into_iter().map(Into::into));
        self
    }

    /// Everyone gets the same answer: `Cookie` and `Authorization` in a request do not matter.
    /// Without it, and without naming them in [`vary`](Self::vary) or
    /// [`vary_cookies`](Self::vary_cookies), a request that has one is not answered from the cache.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// Whether the host tells answers apart; it does by default.
    #[must_use]
    pub fn host(mut self, tells_apart: bool) -> Self {
        self.host = tells_apart;
        self
    }

    /// Of this share of hits (0 to 1) the handler is asked as well, in the background, and its answer compared.
    /// One that differs, though nothing has changed that the cached one depends on, is logged and counted
    /// ([`Cache::audits`](crate::Cache::audits)): something is read that is not tracked, or the handler gives
    /// another answer each time, as with a timestamp. Status and body are compared, of GET.
    #[must_use]
    pub fn audit(mut self, share: f64) -> Self {
        self.audit = share;
        self
    }

    /// Tries the policy and serves nothing from the cache: answers are made and stored as ever, and what would
    /// have been a hit is compared with what the handler gives instead, as [`audit`](Self::audit) does. For a
    /// route that is to go live later.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// What makes no sense about this policy, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.ttl.is_zero() {
            return Some("its TTL is zero: leave the route out, or give it a TTL".into());
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Some(format!("its jitter is {}, which is not within 0 and 1", self.jitter));
        }
        if !(self.early_refresh.is_finite() && self.early_refresh >= 0.0) {
            return Some(format!("its early refresh β is {}, not 0 or more", self.early_refresh));
        }
        if !(0.0..=1.0).contains(&self.audit) {
            return Some(format!(
                "its audited share is {}, which is not within 0 and 1",
                self.audit
            ));
        }
        self.tags.iter().find_map(TagTemplate::fault)
    }

    /// The names of the parameters that the tags use.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().flat_map(TagTemplate::parameters)
    }

    /// The tags with their parameters filled in; `None` if one is missing.
    pub(crate) fn tags_with<'a>(
        &self,
        parameter: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Option<Vec<PolicyTag>> {
        self.tags.iter().map(|template| template.fill(&parameter)).collect()
    }

    /// What the tags are called, with their parameters filled in as far as they are there.
    pub(crate) fn tag_names_with<'a>(
        &self,
        parameter: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Vec<String> {
        self.tags.iter().filter_map(|template| template.name(&parameter)).collect()
    }

    /// Whether a hit is to be compared with a fresh answer.
    pub(crate) fn audits_this(&self) -> bool {
        self.audit > 0.0 && fastrand::f64() < self.audit
    }

    /// How long a value lasts, or an answer that has no terms of its own; `None` if nobody says.
    pub(crate) fn lasts(&self, negative: bool) -> Option<Duration> {
        match negative {
            true => self.negative_ttl,
            false => (!self.is_standard).then_some(self.ttl),
        }
    }

    /// No entry is fresh for longer, whatever it says.
    pub(crate) fn longest(&self) -> Duration {
        self.ttl.max(self.negative_ttl.unwrap_or_default())
    }

    /// No entry is served for longer past its TTL while it is made anew, whatever it says.
    pub(crate) fn longest_while_revalidating(&self) -> Duration {
        if self.is_standard { Duration::MAX } else { self.stale_while_revalidate }
    }

    /// No entry is served for longer past its TTL when it can't be made anew, whatever it says.
    pub(crate) fn longest_if_error(&self) -> Duration {
        if self.is_standard { Duration::MAX } else { self.stale_if_error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_make_no_sense_say_why() {
        let ttl = Duration::from_secs(1);
        assert!(Policy::ttl(ttl).fault().is_none());
        for (fault, policy) in [
            ("TTL", Policy::ttl(Duration::ZERO)),
            ("jitter", Policy::ttl(ttl).jitter(1.5)),
            ("jitter", Policy::ttl(ttl).jitter(f64::NAN)),
            ("β", Policy::ttl(ttl).early_refresh(-1.0)),
            ("brace", Policy::ttl(ttl).tag("users:id={id")),
            ("brace", Policy::ttl(ttl).tag("users:id=id}")),
            ("empty", Policy::ttl(ttl).tag(" ")),
        ] {
            assert!(policy.fault().is_some_and(|text| text.contains(fault)), "{policy:?}");
        }
    }
}
