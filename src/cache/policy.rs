//! What one route, or one kind of value, wants of the cache.

use std::time::Duration;

use crate::entry::Tag;

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
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Policy {
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
    pub(crate) untracked: bool,
    pub(crate) tags: Vec<TagTemplate>,
    pub(crate) query: QueryPart,
    pub(crate) vary: Vec<String>,
    pub(crate) vary_cookies: Vec<String>,
    pub(crate) public: bool,
    pub(crate) host: bool,
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
            untracked: false,
            tags: Vec::new(),
            query: QueryPart::All,
            vary: Vec::new(),
            vary_cookies: Vec::new(),
            public: false,
            host: true,
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

    /// After a failover, serves answers of before it until their TTL while new ones are made. They
    /// may show writes that the failover lost.
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

    /// How long a request waits for another that is making the same answer, before it makes its
    /// own. 3 s by default.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = limit;
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
    /// and not stored.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
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
        self.tags.iter().find_map(TagTemplate::fault)
    }

    /// The names of the parameters that the tags use.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().flat_map(|tag| tag.pieces.iter()).filter_map(|piece| match piece {
            Piece::Parameter(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The tags with their parameters filled in; `None` if one is missing.
    pub(crate) fn tags_with<'a>(
        &self,
        parameter: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Option<Vec<PolicyTag>> {
        self.tags.iter().map(|template| template.fill(&parameter)).collect()
    }

    /// The time that entries are kept beyond their TTL.
    pub(crate) fn grace(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }
}

/// A tag with places for the route's parameters.
#[derive(Clone, Debug)]
pub(crate) struct TagTemplate {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Parameter(String),
}

impl TagTemplate {
    fn parse(source: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else { break };
            pieces.push(Piece::Text(before.into()));
            pieces.push(Piece::Parameter(name.trim_start_matches('*').into()));
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        Self { source: source.into(), pieces }
    }

    fn fault(&self) -> Option<String> {
        let unbalanced = self.pieces.iter().any(|piece| match piece {
            Piece::Text(text) => text.contains(['{', '}']),
            Piece::Parameter(name) => name.is_empty(),
        });
        if self.source.trim().is_empty() {
            return Some("it has an empty tag".into());
        }
        unbalanced.then(|| format!("its tag `{}` has a brace without its match", self.source))
    }

    fn fill<'a>(
        &self,
        parameter: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Option<PolicyTag> {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Parameter(wanted) => name.push_str(&parameter(wanted)?),
            }
        }
        Some(PolicyTag::new(&name))
    }
}

/// A tag that a policy names, with what it narrows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyTag {
    tag: Tag,
    /// Table and column, for a tag of that form.
    column_of: Option<(String, String)>,
}

impl PolicyTag {
    pub(crate) fn new(name: &str) -> Self {
        let column_of = name
            .split_once('=')
            .and_then(|(column, _)| column.rsplit_once(':'))
            .map(|(table, column)| (table.to_owned(), column.to_owned()));
        Self { tag: Tag::named(name), column_of }
    }

    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// The tag, and the one of large changes to its table.
    pub(crate) fn with_bulk(&self) -> impl Iterator<Item = Tag> + use<> {
        let bulk = self.column_of.as_ref().map(|(table, _)| Tag::bulk(table));
        [self.tag].into_iter().chain(bulk)
    }

    /// Whether this names one of the `tagged` columns of `table`.
    pub(crate) fn is_column_of(&self, table: &str, tagged: &[String]) -> bool {
        let named = self.column_of.as_ref();
        named.is_some_and(|(of, column)| of == table && tagged.contains(column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, value: &str) -> Option<PolicyTag> {
        TagTemplate::parse(template).fill(|name| (name == "id").then(|| value.to_owned().into()))
    }

    #[test]
    fn a_template_takes_the_parameters_of_the_route() {
        assert_eq!(fill("users:id={id}", "42"), Some(PolicyTag::new("users:id=42")));
        assert_eq!(fill("front-page", "42"), Some(PolicyTag::new("front-page")));
        assert_eq!(fill("users:id={other}", "42"), None);
    }

    #[test]
    fn a_value_can_not_change_what_a_tag_is_about() {
        let tag = fill("users:id={id}", "1:name=ada").unwrap();
        assert!(tag.is_column_of("users", &["id".into()]));
    }

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
