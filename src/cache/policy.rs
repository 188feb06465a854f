//! The cache settings of a route, or of a kind of value.
//!
//! Lookups take a [`Policy`] in both cases. A [`ValuePolicy`] contains one, without the settings that only requests use.

use std::time::Duration;

use super::gate::FillBound;
use super::identity::ClientKeying;
use super::miss_hint::MissHint;
use super::streak::UncacheableStreak;
use super::template::{PolicyTag, TagTemplate};

mod clients;
mod content;
mod fault;
mod post_reads;
mod settings;
mod value;

pub(crate) use post_reads::PostReads;
use settings::freshness_settings;
pub use value::{ValuePolicy, ValuePolicyBuilder};

/// The cache settings of one route: how long responses are stored, what they depend on, which parts of a request
/// distinguish them, and when they may be served stale.
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
/// The constructor says who decides what is stored, and for how long. With [`ttl`](Self::ttl) it is the route's author,
/// and the response's headers can only forbid storing; with [`standard`](Self::standard) it is the response's headers, as
/// RFC 9111 specifies. `docs/http.md` has the complete table.
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
    pub(crate) post_reads: Option<PostReads>,
    pub(crate) s_maxage_allows_stale: bool,
    pub(crate) vary: Vec<String>,
    pub(crate) tag_fields: Vec<String>,
    pub(crate) vary_cookies: Vec<String>,
    pub(crate) public: bool,
    pub(crate) host: bool,
    pub(crate) audit: f64,
    pub(crate) shadow: bool,
    pub(crate) fills: FillBound,
    pub(crate) miss_hint: MissHint,
    pub(crate) streak: UncacheableStreak,
    /// The same for requests that identify their clients.
    pub(crate) identified_streak: UncacheableStreak,
    pub(crate) identity: ClientKeying,
}

/// The fields that tags can be read from.
const TAG_FIELDS: [&str; 4] = ["surrogate-key", "xkey", "cache-tag", "edge-cache-tag"];

/// Which query parameters are part of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryPart {
    All,
    Only(Vec<String>),
}

/// One or more policies are invalid. The message has the reason for each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct PolicyError(pub(crate) Vec<String>);

freshness_settings!(Policy);

impl Policy {
    /// Stores responses with status 200 or 203 for at most `ttl` (204, 404 and 410 for
    /// [`negative_ttl`](Self::negative_ttl)). If reads are tracked (through `Database::reader`), a change in the
    /// database makes a response invalid as soon as the node has read the change from the change log. The TTL then
    /// only limits how long an unchanged response is stored. If the cache has a `Listener`, a response is stored only
    /// if the handler read something, and all of its reads were tracked; for other responses, see
    /// [`untracked`](Self::untracked).
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
            post_reads: None,
            s_maxage_allows_stale: false,
            vary: Vec::new(),
            tag_fields: Vec::new(),
            vary_cookies: Vec::new(),
            public: false,
            host: true,
            audit: 0.0,
            shadow: false,
            fills: FillBound::default(),
            miss_hint: MissHint::default(),
            streak: UncacheableStreak::default(),
            identified_streak: UncacheableStreak::default(),
            identity: ClientKeying::default(),
        }
    }

    /// The response's headers decide whether it is stored and for how long, as RFC 9111 specifies for a shared cache;
    /// a client may request a fresher one with `Cache-Control`. Use it for handlers and origins that declare their own
    /// freshness. A response that neither states its freshness nor has `Last-Modified` or `ETag` is not stored. Reads
    /// need not be [tracked](Self::untracked). A request with an unsafe method (POST, PUT, PATCH, DELETE and unknown
    /// ones) whose response has a 2xx or 3xx status invalidates the responses of its path.
    ///
    /// The response to a request with `Authorization` or `Cookie` is stored only if its headers say that it is for
    /// everybody, so no client can have a personal response stored for others.
    pub fn standard() -> Self {
        Self {
            is_standard: true,
            jitter: 0.0,
            early_refresh: 0.0,
            untracked: true,
            ..Self::ttl(Duration::MAX)
        }
    }

    /// Adds a tag, the name of something that the response depends on. `{name}` stands for a parameter of the route.
    ///
    /// A tag of the form `table:column={name}` narrows the dependency: the response then depends on that table's rows
    /// with this value, not on the whole table. The tag must cover everything that the handler reads from the table. If
    /// the triggers do not record changes by the values of this column (see `tidegate install`), the response still
    /// depends on the whole table.
    #[must_use]
    pub fn tag(mut self, template: &str) -> Self {
        self.tags.push(TagTemplate::parse(template));
        self
    }

    /// Under [`standard`](Self::standard), the longest time for which an error (4xx and 5xx except 404 and 410) is
    /// fresh, whatever its headers say; 10 s by default. With zero, errors are not stored. Errors are never served
    /// stale.
    ///
    /// Some origins send the same `max-age` with every response, errors included. Without this limit, a client that
    /// provokes a 400, 413 or 431 could then replace a page with an error for everyone.
    #[must_use]
    pub fn error_ttl(mut self, longest: Duration) -> Self {
        self.error_ttl = longest;
        self
    }

    /// The largest body that is stored, in bytes; 1 MiB by default. A response with a larger body is passed on whole
    /// and not stored. With 0, only responses without a body are stored. To share larger bodies among nodes, raise
    /// `RedisOptions::body_limit` too.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// How long the layer keeps reading a body, in order to store it, after the client has disconnected; 10 s by default.
    /// With zero, the response is not stored if the client disconnects. At most [`body_limit`](Self::body_limit) bytes are
    /// read.
    #[must_use]
    pub fn finish(mut self, limit: Duration) -> Self {
        self.finish = limit;
        self
    }

    /// Only these query parameters are part of the key, and the handler receives no others. By default, all parameters are
    /// part of the key, in the order in which they are sent.
    #[must_use]
    pub fn query<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.query = QueryPart::Only(names.into_iter().map(Into::into).collect());
        self
    }

    /// Ignores the order of query parameters with different names: `?a=1&b=2` and `?b=2&a=1` get the same response. The
    /// handler receives the parameters sorted by name. Parameters with the same name keep their order; `i`, `i[a]` and
    /// `i.b` count as the same name. Not for [`standard`](Self::standard) policies, where each URI is a resource of its
    /// own.
    #[must_use]
    pub fn any_query_order(mut self) -> Self {
        self.any_query_order = true;
        self
    }

    /// Under [`standard`](Self::standard), applies `stale-while-revalidate` and `stale-if-error` to responses that also
    /// have `s-maxage`. Frameworks that send `s-maxage=1, stale-while-revalidate=30` mean that the response may be
    /// served stale. By default, `s-maxage` forbids that, as RFC 9111, section 5.2.2.10, specifies. A response with
    /// `must-revalidate`, `proxy-revalidate` or `no-cache` is never served stale.
    #[must_use]
    pub fn s_maxage_allows_stale(mut self) -> Self {
        self.s_maxage_allows_stale = true;
        self
    }

    /// Makes these request headers part of the key: requests that differ in one of them get responses of their own.
    #[must_use]
    pub fn vary<I>(mut self, headers: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let names = headers.into_iter().map(|name| name.into().to_ascii_lowercase());
        self.vary.extend(names);
        self
    }

    /// Reads tags from these fields of responses: `Surrogate-Key` or `xkey` (names separated by spaces), `Cache-Tag` or
    /// `Edge-Cache-Tag` (names separated by commas). So an origin in any language can declare what a response depends on:
    /// a custom tag ([`Cache::invalidate`](crate::Cache::invalidate)), a table (`users`), or rows of it (`users:id=42`).
    /// Clients do not get these fields. A response with more than 256 tags is not stored.
    #[must_use]
    pub fn tag_fields<I>(mut self, fields: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let names = fields.into_iter().map(|name| name.into().to_ascii_lowercase());
        self.tag_fields.extend(names);
        self
    }

    /// Makes these cookies part of the key. If you name the session cookie, each session gets responses of its own.
    /// The handler receives one `Cookie` line with these cookies alone, rebuilt from the key. There is one exception:
    /// if [`vary_by`](Self::vary_by) has returned the client's identity and the policy is not
    /// [`strict`](Self::strict), the handler receives all cookies. A request with other cookies bypasses the cache,
    /// since they may identify the client too, unless the policy ignores them
    /// ([`ignore_cookies`](Self::ignore_cookies)) or says [`public`](Self::public).
    #[must_use]
    pub fn vary_cookies<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.vary_cookies.extend(names.into_iter().map(Into::into));
        self
    }

    /// Declares that the response is the same for every client with the same key, even if a request has `Cookie`,
    /// `Authorization` or another header that identifies the client. The layer can't check this declaration;
    /// [`strict`](Self::strict) enforces it. Together with `public`, [`vary`](Self::vary) may name such a header only
    /// under `strict`. Without `public`, a request with such a header bypasses the cache unless the policy names the
    /// header in `vary` or the cookies in [`vary_cookies`](Self::vary_cookies).
    #[must_use]
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// Whether the host is part of the key; it is by default.
    #[must_use]
    pub fn host(mut self, in_key: bool) -> Self {
        self.host = in_key;
        self
    }

    /// For this share of hits (0 to 1), also calls the handler in the background and compares its response with the cached
    /// one. If they differ although nothing that the cached one depends on has changed, this is logged and counted
    /// ([`Cache::audits`](crate::Cache::audits)). Either the handler reads something that is not tracked, or its response
    /// is different each time, for example by a timestamp. Only status and body are compared.
    #[must_use]
    pub fn audit(mut self, share: f64) -> Self {
        self.audit = share;
        self
    }

    /// Tries the policy without serving anything from the cache: every request gets the handler's response. Responses are
    /// stored as usual, and where there would have been a hit, the stored response is compared with the handler's, as
    /// [`audit`](Self::audit) does. Use it before you put the cache in front of a route.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    fn settings(&mut self) -> &mut Self {
        self
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

    /// The names of the tags, with those parameters filled in that are known.
    pub(crate) fn tag_names_with<'a>(
        &self,
        parameter: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Vec<String> {
        self.tags.iter().filter_map(|template| template.name(&parameter)).collect()
    }

    /// Decides at random whether to compare this hit with a fresh response.
    pub(crate) fn audits_this(&self) -> bool {
        self.audit > 0.0 && fastrand::f64() < self.audit
    }

    /// How long a value lasts, or a response without freshness of its own; `None` if the policy does not say.
    pub(crate) fn lasts(&self, negative: bool) -> Option<Duration> {
        match negative {
            true => self.negative_ttl,
            false => (!self.is_standard).then_some(self.ttl),
        }
    }

    /// The longest TTL, whatever the entry says.
    pub(crate) fn longest(&self) -> Duration {
        self.ttl.max(self.negative_ttl.unwrap_or_default())
    }

    /// The longest time past its TTL for which an entry is served while it is recomputed, whatever it says.
    pub(crate) fn longest_while_revalidating(&self) -> Duration {
        if self.is_standard { Duration::MAX } else { self.stale_while_revalidate }
    }

    /// The longest time past its TTL for which an entry is served if recomputing it fails, whatever it says.
    pub(crate) fn longest_if_error(&self) -> Duration {
        if self.is_standard { Duration::MAX } else { self.stale_if_error }
    }
}
