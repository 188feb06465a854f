//! The cookies of a request: how the key parses them, and which of them a handler gets.
//!
//! Parsers differ in how they read a `Cookie` line: one drops the whole line for a single byte, another splits it at
//! white space or at commas, or reads only the first line. With such a handler, a response would be stored for requests
//! that it does not fit. So if the key holds individual cookies, the handler gets a line that is written from the key.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::list::is_token;
use crate::cache::Policy;

/// All cookies of a request: names and values. A pair without `=` is a value without a name, as browsers have it (RFC
/// 6265bis, section 5.6).
pub(crate) fn all(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.get_all(COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter(|pair| !pair.trim_ascii().is_empty()).map(|pair| {
        let (name, value) = split(pair).unwrap_or((b"", pair));
        (name.trim_ascii(), value.trim_ascii())
    })
}

/// The values of a cookie, however often it is sent.
pub(crate) fn named<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    all(headers).filter_map(move |(found, value)| (found == name.as_bytes()).then_some(value))
}

/// The cookies that the policy names, as one line that depends on nothing but the key: the names in the policy's order, the
/// values of each in the order in which they were sent.
pub(crate) fn line(headers: &HeaderMap, policy: &Policy) -> Option<HeaderValue> {
    let names = policy.vary_cookies.iter().enumerate();
    let once = names.filter(|(at, name)| !policy.vary_cookies[..*at].contains(name));
    let pairs = once.flat_map(|(_, name)| {
        named(headers, name).map(move |value| [name.as_bytes(), b"=", value].concat())
    });
    join(&pairs.collect::<Vec<_>>())
}

/// Rewrites the cookies of a request for the handler: to those that the key holds or, if the handler needs others too, to
/// all of them in one line (RFC 9113, section 8.2.3). Leaves them unchanged if the key holds the raw lines, or if neither
/// the key nor the policy depends on cookies.
pub(crate) fn rewrite(headers: &mut HeaderMap, policy: &Policy, needs_others: bool) {
    let is_read = !policy.vary_cookies.is_empty();
    if holds_lines(policy) || !is_read && (needs_others || policy.public) {
        return;
    }
    let line = match needs_others {
        true => join(&headers.get_all(COOKIE).iter().collect::<Vec<_>>()),
        false => line(headers, policy),
    };
    headers.remove(COOKIE);
    headers.extend(line.map(|line| (COOKIE, line)));
}

/// Whether a handler could parse other cookies from a request than the key does: the key holds some, the handler gets
/// others too (because they identify the client), and the lines do not have the standard's syntax.
pub(crate) fn are_ambiguous(headers: &HeaderMap, policy: &Policy, needs_others: bool) -> bool {
    let is_handed_whole = needs_others && !policy.identity.is_strict && !holds_lines(policy);
    is_handed_whole
        && !policy.vary_cookies.is_empty()
        && !headers.get_all(COOKIE).iter().all(|line| is_plain(line.as_bytes()))
}

/// Whether the key holds the lines as they were sent.
fn holds_lines(policy: &Policy) -> bool {
    policy.vary.iter().any(|name| COOKIE == name.as_str())
}

fn join(parts: &[impl AsRef<[u8]>]) -> Option<HeaderValue> {
    let parts: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).collect();
    HeaderValue::from_bytes(&parts.join(&b"; "[..])).ok().filter(|line| !line.is_empty())
}

/// Whether a line is a `cookie-string` (RFC 6265, section 4.2.1): all parsers read it alike.
fn is_plain(line: &[u8]) -> bool {
    let mut pairs = line.split(|byte| *byte == b';').enumerate();
    pairs.all(|(at, pair)| {
        let pair = if at == 0 { Some(pair) } else { pair.strip_prefix(b" ") };
        pair.and_then(split).is_some_and(|(name, value)| {
            let is_named = !name.is_empty() && name.iter().copied().all(is_token);
            is_named && unquoted(value).iter().copied().all(is_value)
        })
    })
}

fn split(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((&pair[..at], &pair[at + 1..]))
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

fn is_value(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let line = |line: &&[u8]| (COOKIE, HeaderValue::from_bytes(line).unwrap());
        lines.iter().map(line).collect()
    }

    fn policy(names: &[&str]) -> Policy {
        Policy::ttl(Duration::from_secs(1)).vary_cookies(names.iter().copied())
    }

    #[test]
    fn the_cookie_line_is_rewritten_from_the_cookies_in_the_key() {
        let of = |lines: &[&[u8]], names: &[&str]| {
            line(&headers(lines), &policy(names)).map(|line| line.as_bytes().to_vec())
        };
        let both = Some(b"a=1; b=2".to_vec());
        assert_eq!(of(&[b"b=2; c=3; a=1"], &["a", "b"]), both);
        assert_eq!(of(&[b"b=2", b"x", b" a = 1;;"], &["a", "b", "a"]), both);
        assert_eq!(of(&[b"a=2; b=x; a=1"], &["a"]), Some(b"a=2; a=1".to_vec()));
        assert_eq!(of(&[b"a=\xff; a=\"x; b\""], &["a"]), Some(b"a=\xff; a=\"x".to_vec()));
        assert_eq!(of(&[b"a"], &["a"]), None, "it has a value and no name");
        assert_eq!(of(&[b"b=1"], &["a"]), None);
    }

    #[test]
    fn only_cookie_lines_of_the_strict_grammar_are_plain() {
        for line in [&b"a=1"[..], b"a=", b"a=\"1\"; b=2", b"a=1=2; b=/?{}"] {
            assert!(is_plain(line), "{}", line.escape_ascii());
        }
        for line in [
            &b""[..],
            b"a",
            b"=1",
            b"a=1;b=2",
            b"a=1;",
            b"a=1;  b=2",
            b" a=1",
            b"a =1",
            b"a=1 b=2",
            b"a=1, b=2",
            b"a=\"1",
            b"a=\"",
            b"a=\xff",
            b"a=\\",
            b"a=1;; b=2",
        ] {
            assert!(!is_plain(line), "{}", line.escape_ascii());
        }
    }
}
