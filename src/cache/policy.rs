//! What one route, or one kind of value, wants of the cache.
//!
//! Lookups take a [`Policy`] in both cases. A [`ValuePolicy`] is one without what only requests have.

use std::time::Duration;

use super::identity::ClientKeying;
use super::permit::FillBound;
use super::streak::UncacheableStreak;
use super::template::{PolicyTag, TagTemplate};

mod settings;
mod value;

use settings::freshness_settings;
pub use value::{ValuePolicy, ValuePolicyBuilder};

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
    pub(crate) error_ttl: Duration,
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
    pub(crate) any_query_order: bool,
    pub(crate) query_content: Option<usize>,
    pub(crate) s_maxage_allows_stale: bool,
    pub(crate) vary: Vec<String>,
    pub(crate) tag_fields: Vec<String>,
    pub(crate) vary_cookies: Vec<String>,
    pub(crate) public: bool,
    pub(crate) host: bool,
    pub(crate) audit: f64,
    pub(crate) shadow: bool,
    pub(crate) fills: FillBound,
    pub(crate) streak: UncacheableStreak,
    pub(crate) identity: ClientKeying,
}

/// The fields that tags can be read from.
const TAG_FIELDS: [&str; 4] = ["surrogate-key", "xkey", "cache-tag", "edge-cache-tag"];

/// Which query parameters tell answers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryPart {
    All,
    Only(Vec<String>),
}

/// One or more policies make no sense, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct PolicyError(pub(crate) Vec<String>);

freshness_settings!(Policy);

impl Policy {
    /// Answers live for `ttl`, at most. With tracked reads the TTL only bounds how much is kept;
    /// a change in the database makes an answer invalid at once.
    pub fn ttl(ttl: Duration) -> Self {
        Self {
            is_standard: false,
            ttl,
            negative_ttl: None,
            error_ttl: Duration::from_secs(10),
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
            any_query_order: false,
            query_content: None,
            s_maxage_allows_stale: false,
            vary: Vec::new(),
            tag_fields: Vec::new(),
            vary_cookies: Vec::new(),
            public: false,
            host: true,
            audit: 0.0,
            shadow: false,
            fills: FillBound::default(),
            streak: UncacheableStreak::default(),
            identity: ClientKeying::default(),
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

    /// Under [`standard`](Self::standard), the longest that an error (4xx and 5xx, but 404 and 410) is fresh, whatever its
    /// headers say; 10 s by default, zero stores none. Errors are never served stale. Without a cap, one client that provokes
    /// a 400, 413 or 431 makes the page an error for all, where an origin has one `max-age` for everything.
    #[must_use]
    pub fn error_ttl(mut self, longest: Duration) -> Self {
        self.error_ttl = longest;
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

    /// Only these query parameters are part of the key, and the cache hands no others to the handler. By
    /// default all are, in the order in which they are sent.
    #[must_use]
    pub fn query<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.query = QueryPart::Only(names.into_iter().map(Into::into).collect());
        self
    }

    /// The order of query parameters of different names does not distinguish responses: `?a=1&b=2` is `?b=2&a=1`. The handler
    /// gets them sorted by name. Parameters of one name, and of `i[a]` and `i.b` alike, keep their order.
    /// Not for [`standard`](Self::standard) policies, where another URI is another resource.
    #[must_use]
    pub fn any_query_order(mut self) -> Self {
        self.any_query_order = true;
        self
    }

    /// Caches responses to requests by QUERY (RFC 10008) whose content is `bytes` long at most. Without this they bypass the
    /// cache. The content is part of the key, with the fields that describe it (`Content-Type`, `Content-Encoding` and all
    /// others that begin so), so it is read before anything is looked up; the handler gets it whole. Larger content, and
    /// content that can't be read to its end within 30 s, is handed on as it comes, and the response is not stored.
    ///
    /// For services whose request body is [`axum::body::Body`]: with another type of body, QUERY bypasses the cache. The
    /// content counts toward [`CacheLayer::capture_limit`](crate::CacheLayer::capture_limit) while it is read.
    #[must_use]
    pub fn query_content(mut self, bytes: usize) -> Self {
        self.query_content = Some(bytes);
        self
    }

    /// Under [`standard`](Self::standard), reads `s-maxage=1, stale-while-revalidate=30` as frameworks that send it mean it: the
    /// response may be served stale, and goes by its `stale-while-revalidate` and `stale-if-error`. Without this, `s-maxage`
    /// forbids both, as RFC 9111, section 5.2.2.10, has it. A response with `must-revalidate`, `proxy-revalidate` or
    /// `no-cache` is never served stale.
    #[must_use]
    pub fn s_maxage_allows_stale(mut self) -> Self {
        self.s_maxage_allows_stale = true;
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

    /// Reads tags from these fields of responses: `Surrogate-Key` and `xkey`, which separate names with spaces, `Cache-Tag`
    /// and `Edge-Cache-Tag`, which do so with commas. So an origin in any language says what a response depends on, an
    /// application's own word ([`Cache::invalidate`](crate::Cache::invalidate)), a table (`users`), or rows of it
    /// (`users:id=42`). Clients do not get these fields. A response with more than 256 tags is not stored.
    #[must_use]
    pub fn tag_fields<I>(mut self, fields: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let names = fields.into_iter().map(|name| name.into().to_ascii_lowercase());
        self.tag_fields.extend(names);
        self
    }

    /// These cookies distinguish responses. Naming the session's cookie makes each response personal. The handler gets them in
    /// one line that is written from the key, without the cookies that do not count. A request with other
    /// cookies is not answered from the cache, since they may identify the client too: unless the policy ignores them
    /// ([`ignore_cookies`](Self::ignore_cookies)) or says [`public`](Self::public).
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

    fn settings(&mut self) -> &mut Self {
        self
    }

    /// What makes no sense about this policy, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.ttl.is_zero() {
            return Some("its TTL is zero: leave the route out, or give it a TTL".into());
        }
        if self.is_standard && self.any_query_order {
            return Some(
                "a standard policy takes each URI as it is: leave out any_query_order".into(),
            );
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
        if let Some(field) =
            self.tag_fields.iter().find(|field| !TAG_FIELDS.contains(&field.as_str()))
        {
            return Some(format!(
                "how the field {field} separates tags is not known: name one of {}",
                TAG_FIELDS.join(", ")
            ));
        }
        self.identity.fault().or_else(|| self.tags.iter().find_map(TagTemplate::fault))
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
            ("any_query_order", Policy::standard().any_query_order()),
            ("strict", Policy::ttl(ttl).forward(["accept"])),
            ("x-tags", Policy::ttl(ttl).tag_fields(["x-tags"])),
        ] {
            assert!(policy.fault().is_some_and(|text| text.contains(fault)), "{policy:?}");
        }
    }
}
