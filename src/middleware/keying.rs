//! Computes cache keys.
//!
//! Two requests that a handler could distinguish never share a key. Parts that can't be parsed are added to the key as
//! raw bytes, marked as such.

use std::borrow::Cow;

use axum::extract::{MatchedPath, NestedPath};
use http::header::{AsHeaderName, HOST};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use percent_encoding::percent_decode;
use smallvec::SmallVec;

use super::route;
use super::routers::PathParameters;
use super::rules::cookies;
use super::rules::fields::{RequestField, RequestFields};
use super::rules::list::is_token;
use super::rules::request::{ContentHash, RequestDirectives, is_keyed_with_content};
use super::rules::search_variance::{CountedParams, SearchVariance};
use crate::cache::{Policy, QueryPart};
use crate::entry::{Key, KeyText};

/// Headers that frameworks and proxies interpret as the host. They are part of the key, unless the policy says that
/// hosts do not count. So a client never gets a response that was computed for another value.
pub(crate) const HOST_LIKE: [RequestField; 5] = [
    RequestField::Forwarded,
    RequestField::XForwardedHost,
    RequestField::XForwardedServer,
    RequestField::XHost,
    RequestField::XOriginalHost,
];

/// Headers that they interpret as the path or the scheme. These are part of every key.
pub(crate) const PATH_LIKE: [RequestField; 10] = [
    RequestField::XForwardedPath,
    RequestField::XForwardedPort,
    RequestField::XForwardedPrefix,
    RequestField::XForwardedProto,
    RequestField::XForwardedScheme,
    RequestField::XForwardedSsl,
    RequestField::XForwardedUri,
    RequestField::XOriginalUrl,
    RequestField::XRewriteUrl,
    RequestField::XUrlScheme,
];

/// The parameters of a query; most queries fit without an allocation.
type QueryPairs<'q> = SmallVec<[&'q str; 8]>;

/// The parts of a request from which its key is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySource<'r> {
    uri: &'r Uri,
    /// The URI that the handler sees, if a layer or a router has changed it.
    rewritten: Option<&'r Uri>,
    /// What routers know of the path, if the URIs may not show all of it.
    routed: Option<&'r Extensions>,
    headers: &'r HeaderMap,
    fields: RequestFields,
    /// The client's identity, as returned by the policy's `vary_by` function.
    client: Option<&'r str>,
    /// Which query parameters count, if a response has declared it.
    variance: Option<&'r SearchVariance>,
    /// The hash of the content that counts, with the method.
    content: Option<(&'r Method, &'r ContentHash)>,
}

impl<'r> KeySource<'r> {
    /// From a request that the layer sees.
    pub(crate) fn new<B>(request: &'r Request<B>, directives: &'r RequestDirectives) -> Self {
        let client = directives.client_key.as_deref();
        let uri = route::uri(request);
        let rewritten = Some(request.uri()).filter(|seen| *seen != uri);
        let has_hidden_parts = route::has_hidden_parts(request, rewritten.is_some());
        Self {
            uri,
            rewritten,
            routed: has_hidden_parts.then(|| request.extensions()),
            headers: request.headers(),
            fields: directives.fields,
            client,
            variance: None,
            content: directives.content.as_ref().map(|content| (&directives.method, content)),
        }
    }

    /// The same, with the query parameters that count according to a response.
    pub(crate) fn varying<'v>(&self, variance: Option<&'v SearchVariance>) -> KeySource<'v>
    where
        'r: 'v,
    {
        KeySource { variance, ..*self }
    }

    /// The same, with the URI that routers around the layer pass on.
    #[cfg(feature = "admin")]
    pub(crate) fn nested<'n>(&self, seen: &'n Uri) -> KeySource<'n>
    where
        'r: 'n,
    {
        KeySource { rewritten: Some(seen), ..*self }
    }

    /// From a URI and headers alone.
    #[cfg(any(test, fuzzing, feature = "__internals"))]
    pub(crate) fn from_parts(uri: &'r Uri, headers: &'r HeaderMap) -> Self {
        Self {
            uri,
            rewritten: None,
            routed: None,
            headers,
            fields: RequestFields::from_headers(headers),
            client: None,
            variance: None,
            content: None,
        }
    }
}

/// The first parts of the keys of a layer: its namespace, and the cache's version.
pub(crate) fn space(namespace: &str, version: &str) -> KeyText {
    Key::new("http").part(namespace).part(version)
}

/// The key of a request under a policy: by GET and HEAD, by QUERY, or by POST.
pub(crate) fn key(space: &KeyText, of: &KeySource<'_>, policy: &Policy) -> Key {
    let KeySource { uri, rewritten, routed, headers, fields, client, variance, content } = *of;
    let mut text = space.clone();
    if policy.host {
        hosts(&mut text, uri, headers, fields);
    } else {
        text.add(b"");
    }
    text.add(uri.scheme_str().unwrap_or_default().as_bytes());
    present(
        &mut text,
        headers,
        fields,
        &PATH_LIKE,
        const { RequestFields::from_fields(&PATH_LIKE) },
    );
    text.add(uri.path().as_bytes());
    match variance.filter(|_| rewritten.is_none()) {
        Some(variance) => counting_query(&mut text, uri.query(), variance),
        None => query(&mut text, uri.query(), policy),
    }
    for name in &policy.vary {
        text.add(name.as_bytes());
        varied(&mut text, headers, name);
    }
    for name in &policy.vary_cookies {
        text.add(name.as_bytes());
        let sent = || cookies::named(headers, name);
        all(&mut text, sent().count(), sent());
    }
    // Rare parts come last, each after a distinct word.
    if policy.identity.is_strict {
        text.add(b"strict");
    }
    if !policy.host && fields.has(RequestField::Forwarded) {
        forwarded(&mut text, headers);
    }
    if let Some(seen) = rewritten {
        text.add(b"rewritten");
        text.add(seen.scheme_str().unwrap_or_default().as_bytes());
        let authority = seen.authority().filter(|_| policy.host);
        text.add(authority.map_or("", |authority| authority.as_str()).as_bytes());
        text.add(seen.path().as_bytes());
        query(&mut text, seen.query(), policy);
    }
    if let Some(extensions) = routed {
        routes(&mut text, uri, extensions);
    }
    if let Some(client) = client {
        text.add(b"client");
        text.add(client.as_bytes());
    }
    if let Some((method, content)) = content {
        text.add(if *method == Method::POST { b"post" } else { b"query" });
        text.add(content.as_bytes());
        description(&mut text, headers, policy);
    }
    text.finish()
}

/// Adds what a handler can learn from axum's routers, unless the client's path shows all of it.
fn routes(text: &mut KeyText, uri: &Uri, extensions: &Extensions) {
    let prefix = extensions.get::<NestedPath>().map_or("", NestedPath::as_str);
    let pattern = extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    // If a parameter is not UTF-8, a handler gets none of them.
    let parameters = PathParameters::from_extensions(extensions);
    let parameters = || parameters.iter().flat_map(PathParameters::iter);
    if route::shows_all(pattern, uri.path(), parameters()) {
        return;
    }
    text.add(b"routes");
    text.add(prefix.as_bytes());
    text.add(pattern.as_bytes());
    for (name, value) in parameters() {
        text.add(b"parameter");
        text.add(name.as_bytes());
        text.add(value.as_bytes());
    }
}

/// Adds the fields that count for a request with content, independently of their order.
fn description(text: &mut KeyText, headers: &HeaderMap, policy: &Policy) {
    let is_keyed = |name: &&HeaderName| is_keyed_with_content(name, policy);
    let mut names: Vec<_> = headers.keys().filter(is_keyed).collect();
    names.sort_by_key(|name| name.as_str());
    text.number(names.len());
    for name in names {
        text.add(name.as_str().as_bytes());
        varied(text, headers, name);
    }
}

fn hosts(text: &mut KeyText, uri: &Uri, headers: &HeaderMap, fields: RequestFields) {
    text.add(uri.authority().map_or("", |authority| authority.as_str()).as_bytes());
    varied(text, headers, HOST);
    present(text, headers, fields, &HOST_LIKE, const { RequestFields::from_fields(&HOST_LIKE) });
}

/// Adds `Forwarded` (RFC 7239) without the host and the addresses: the scheme, and unknown parameters. Lines and elements
/// stay separate, since a handler may read only the first or the last.
fn forwarded(text: &mut KeyText, headers: &HeaderMap) {
    let lines = headers.get_all(RequestField::Forwarded.name());
    text.add(b"forwarded");
    text.number(lines.iter().count());
    for line in lines.iter().map(HeaderValue::as_bytes) {
        // A quoted value may contain separators: add the whole line.
        let is_quoted = line.contains(&b'"');
        let elements = line.split(move |byte| !is_quoted && *byte == b',');
        text.number(elements.clone().count());
        for element in elements {
            let pairs = element.split(|byte| !is_quoted && *byte == b';').map(<[u8]>::trim_ascii);
            let kept = pairs.filter(|pair| !pair.is_empty() && !is_of_host(pair));
            // No pair is empty, so an empty part marks the end.
            kept.for_each(|pair| text.add(pair));
            text.add(b"");
        }
    }
}

/// Whether a pair of `Forwarded` is a host or an address in the form of a token, which every parser accepts. With any
/// other value, a parser may drop the whole line.
fn is_of_host(pair: &[u8]) -> bool {
    let Some(at) = pair.iter().position(|byte| *byte == b'=') else { return false };
    let (name, value) = (&pair[..at], &pair[at + 1..]);
    let mut names = [&b"host"[..], b"for", b"by"].into_iter();
    !value.is_empty()
        && value.iter().copied().all(is_token)
        && names.any(|of_host| name.eq_ignore_ascii_case(of_host))
}

/// Adds those of the given headers that the request has: their number, and the name and values of each.
fn present(
    text: &mut KeyText,
    headers: &HeaderMap,
    fields: RequestFields,
    names: &[RequestField],
    any: RequestFields,
) {
    // Most requests have none.
    if !fields.has_one_of(any) {
        return text.number(0);
    }
    let present = names.iter().filter(|field| fields.has(**field));
    text.number(present.clone().count());
    for field in present {
        text.add(field.name().as_bytes());
        varied(text, headers, field.name());
    }
}

/// Adds the number of a header's values, and all of them in order.
fn varied<N: AsHeaderName>(text: &mut KeyText, headers: &HeaderMap, name: N) {
    let values = headers.get_all(name);
    all(text, values.iter().count(), values.iter().map(HeaderValue::as_bytes));
}

fn all<'a>(text: &mut KeyText, count: usize, parts: impl Iterator<Item = &'a [u8]>) {
    text.number(count);
    parts.for_each(|part| text.add(part));
}

/// Adds the query parameters that count, or the raw query if that can't be determined.
fn query(text: &mut KeyText, query: Option<&str>, policy: &Policy) {
    let Some(query) = query else { return text.add(b"none") };
    let Some(pairs) = pairs(query, policy) else {
        text.add(b"raw");
        return text.add(query.as_bytes());
    };
    text.add(b"pairs");
    all(text, pairs.len(), pairs.iter().map(|pair| pair.as_bytes()));
}

/// Adds the query parameters that count according to `No-Vary-Search`, and the rule itself: all responses under this key
/// have the same rule. If a handler may read the query in another way, the raw query is added too.
fn counting_query(text: &mut KeyText, query: Option<&str>, variance: &SearchVariance) {
    let (mode, names) = match &variance.counting {
        CountedParams::AllBut(names) => (&b"all but"[..], names),
        CountedParams::Only(names) => (&b"only"[..], names),
    };
    text.add(mode);
    text.number(usize::from(variance.is_ordered));
    all(text, names.len(), names.iter().map(Vec::as_slice));
    let query = query.unwrap_or_default();
    let pairs = variance.pairs(query);
    text.number(pairs.len());
    for (name, value) in &pairs {
        text.add(name);
        text.add(value);
    }
    let raw = is_ambiguous(query, variance).then_some(query.as_bytes());
    all(text, usize::from(raw.is_some()), raw.into_iter());
}

/// Whether a handler may read a parameter that counts out of one that does not, or out of one in another place: by a
/// semicolon, by a name that is more than letters and digits (PHP reads `+id` as `id`), or by rejecting a malformed one.
fn is_ambiguous(query: &str, variance: &SearchVariance) -> bool {
    if variance.counts_none() {
        return false;
    }
    query.contains(';')
        || query.split('&').filter(|pair| !pair.is_empty()).any(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(_)) = (decoded(name), decoded(value)) else { return true };
            match variance.counts(name.as_bytes()) {
                true => !variance.is_ordered && !is_plain(stem(&name)),
                false => !is_plain(&name),
            }
        })
}

/// Whether every parser reads this name as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !name.is_empty() && name.bytes().all(is_plain)
}

/// The query parameters that count, in their order or, if the policy says that order does not matter, sorted by name.
/// Parameters of one name stay in their order. `None` if this is ambiguous: some parsers also split a query at
/// semicolons, and a name can be encoded in several ways.
fn pairs<'q>(query: &'q str, policy: &Policy) -> Option<QueryPairs<'q>> {
    if query.contains(';') {
        return None;
    }
    let all: QueryPairs<'_> = query.split('&').collect();
    let mut pairs = match &policy.query {
        // A malformed name may be one that counts.
        QueryPart::Only(names) => only(&all, names)?,
        QueryPart::All => all,
    };
    if policy.any_query_order && !pairs.iter().any(|pair| raw_name(pair).contains(['%', '+'])) {
        pairs.sort_by_key(|pair| stem(raw_name(pair)));
    }
    Some(pairs)
}

/// Whether the key always holds the raw query.
pub(crate) fn counts_all(policy: &Policy) -> bool {
    policy.query == QueryPart::All && !policy.any_query_order
}

/// The query with only the parameters that count, in the key's order; the raw query if that can't be determined.
pub(crate) fn counting(query: &str, policy: &Policy) -> String {
    pairs(query, policy).map_or_else(|| query.to_owned(), |pairs| pairs.join("&"))
}

/// The pairs whose names, decoded as a handler would, are among `names`.
fn only<'q>(pairs: &[&'q str], names: &[String]) -> Option<QueryPairs<'q>> {
    let mut counting = QueryPairs::new();
    for pair in pairs {
        let name = decoded(raw_name(pair))?;
        if names.iter().any(|wanted| *wanted == name || *wanted == stem(&name)) {
            counting.push(*pair);
        }
    }
    Some(counting)
}

/// `page[]` and `page[size]` are parts of `page` to some parsers.
fn stem(name: &str) -> &str {
    name.split(['[', '.']).next().unwrap_or_default()
}

fn raw_name(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// A form-encoded name, or `None` if it is malformed.
fn decoded(raw: &str) -> Option<Cow<'_, str>> {
    let bytes = raw.as_bytes();
    let is_whole = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    let percents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    if !percents.map(|(at, _)| at).all(is_whole) {
        return None;
    }
    let spaced: Cow<'_, [u8]> = match raw.contains('+') {
        true => raw.replace('+', " ").into_bytes().into(),
        false => bytes.into(),
    };
    let decoded: Vec<u8> = percent_decode(&spaced).collect();
    String::from_utf8(decoded).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        Policy::ttl(Duration::from_secs(1))
    }

    fn of(uri: &str, policy: &Policy) -> Key {
        key(
            &space("", ""),
            &KeySource::from_parts(&uri.parse().unwrap(), &HeaderMap::new()),
            policy,
        )
    }

    fn with(headers: &[(&'static str, &str)], policy: &Policy) -> Key {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect::<HeaderMap>();
        key(&space("", ""), &KeySource::from_parts(&"/".parse().unwrap(), &headers), policy)
    }

    #[test]
    fn parameter_order_is_part_of_the_key_unless_the_policy_ignores_it() {
        for policy in [policy(), Policy::standard(), policy().query(["a", "b"])] {
            assert_ne!(of("/?a=1&b=2", &policy), of("/?b=2&a=1", &policy));
        }
        assert_ne!(of("/?crop&rotate", &policy()), of("/?rotate&crop", &policy()));
        let any = policy().any_query_order();
        assert_eq!(of("/?a=1&b=2", &any), of("/?b=2&a=1", &any));
    }

    #[test]
    fn the_order_of_parameters_with_one_name_is_always_part_of_the_key() {
        for policy in [policy(), policy().any_query_order()] {
            assert_ne!(of("/?a=1&a=2", &policy), of("/?a=2&a=1", &policy));
            assert_ne!(of("/?a=1", &policy), of("/?a=1&a=1", &policy));
            let nested = "/?i[][id]=1&i[][q]=2&i[][id]=3";
            assert_ne!(of(nested, &policy), of("/?i[][id]=1&i[][id]=3&i[][q]=2", &policy));
            assert_ne!(of("/?i.a=1&i.b=2", &policy), of("/?i.b=2&i.a=1", &policy));
        }
    }

    #[test]
    fn urls_that_a_handler_can_distinguish_never_share_a_key() {
        let all = [
            "/",
            "/?",
            "/?a",
            "/?a=",
            "/?=a",
            "/?a=1",
            "/?a=1&",
            "/?a=%31",
            "/?a=1;b=2",
            "/?a=1&b=2",
            "/?a=1%26b=2",
            "/?A=1",
            "/a",
            "/A",
            "/%61",
            "/a/",
            "//a",
            "/a/../a",
            "/?a=+",
            "/?a=%20",
            "/?a=%",
            "/?a=%zz",
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(of(one, &policy()), of(other, &policy()), "{one} and {other}");
            }
        }
    }

    #[test]
    fn only_listed_parameters_are_in_the_key_however_their_names_are_encoded() {
        let policy = policy().query(["page"]);
        assert_eq!(of("/?page=1&utm_source=x", &policy), of("/?page=1", &policy));
        assert_ne!(of("/?page=1", &policy), of("/?page=2", &policy));
        assert_ne!(of("/?utm=1", &policy), of("/?%70age=2", &policy));
        assert_ne!(of("/?page[]=1", &policy), of("/?page[]=2", &policy));
        // With malformed names, the key holds the whole query: a lenient parser may see `page` in them.
        assert_ne!(of("/?x%=1;page=1", &policy), of("/?x%=1;page=2", &policy));
        assert_ne!(of("/?page=1&utm=x;page=2", &policy), of("/?page=1", &policy));
    }

    #[test]
    fn parameters_of_one_name_in_two_encodings_keep_their_order() {
        assert_ne!(of("/?a=1&%61=2", &policy()), of("/?%61=2&a=1", &policy()));
        let only = policy().query(["a"]);
        assert_ne!(of("/?a=1&%61=2", &only), of("/?%61=2&a=1", &only));
        assert_ne!(of("/?x=1&a=2;x=3", &policy()), of("/?a=2;x=3&x=1", &policy()));
    }

    #[test]
    fn hosts_have_separate_keys_even_when_a_proxy_header_names_them() {
        let policy = policy();
        assert_ne!(with(&[("host", "a")], &policy), with(&[("host", "b")], &policy));
        let poisoned = [("host", "a"), ("x-forwarded-host", "evil")];
        assert_ne!(with(&poisoned, &policy), with(&[("host", "a")], &policy));
        let anywhere = policy.host(false);
        assert_eq!(with(&[("host", "a")], &anywhere), with(&[("host", "b")], &anywhere));
        for said in ["proto=https", "for=1;PROTO=https", "for=\"a\";proto=https", "x=y"] {
            let other = [("forwarded", said)];
            assert_ne!(with(&other, &anywhere), with(&[("forwarded", "proto=http")], &anywhere));
            assert_ne!(with(&other, &anywhere), with(&[], &anywhere), "{said}");
        }
        let elsewhere = [("forwarded", "host=a;for=192.0.2.1; by=_2;proto=http")];
        assert_eq!(with(&elsewhere, &anywhere), with(&[("forwarded", "proto=http")], &anywhere));
        // A handler may read one line, or one element, or drop a line that is malformed.
        for line in ["for=1, proto=http", "proto=http, for=1", "for=[;proto=http", "for;proto=http"]
        {
            assert_ne!(
                with(&[("forwarded", line)], &anywhere),
                with(&elsewhere, &anywhere),
                "{line}"
            );
        }
        for field in PATH_LIKE {
            let other = [(field.name(), "/other")];
            assert_ne!(with(&other, &anywhere), with(&[], &anywhere), "{field:?}");
        }
    }

    #[test]
    fn only_listed_headers_and_cookies_are_part_of_the_key() {
        let policy = policy().vary(["Accept-Language"]).vary_cookies(["sid"]);
        let with = |headers: &[(&'static str, &str)]| with(headers, &policy);
        assert_ne!(with(&[("accept-language", "de")]), with(&[("accept-language", "en")]));
        assert_ne!(with(&[("accept-language", "de")]), with(&[]));
        assert_eq!(with(&[("accept", "a")]), with(&[]));
        assert_ne!(with(&[("cookie", "sid=1")]), with(&[("cookie", "sid=2")]));
        assert_eq!(with(&[("cookie", "x=1; sid=1")]), with(&[("cookie", "sid=1; y=2")]));
        assert_ne!(with(&[("cookie", "sid=1; sid=2")]), with(&[("cookie", "sid=1")]));
    }

    proptest! {
        #[test]
        fn different_raw_queries_of_one_name_never_share_a_key(a in "[!-~&&[^#]]{0,12}", b in "[!-~&&[^#]]{0,12}") {
            let path = |query: &str| format!("/?x={}", query.replace('&', "%26")).parse::<Uri>();
            if let (Ok(one), Ok(other)) = (path(&a), path(&b)) {
                let same = one.query() == other.query();
                let (one, other) = (one.to_string(), other.to_string());
                prop_assert_eq!(same, of(&one, &policy()) == of(&other, &policy()));
            }
        }
    }
}
