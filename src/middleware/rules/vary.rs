//! Which requests an answer is for (RFC 9111, section 4.1).
//!
//! The names in `Vary` are known only from an answer. So under the key of the request there is a
//! signpost with the names, and the answer is under a key of its own, made of the first and of the
//! request's values. One key has at most [`VARIANTS`] such keys, whatever clients send: a value chooses
//! one by its hash, and the entry's whole key says whether it is the right one.

use std::borrow::Cow;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::list::members;
use crate::cache::{Policy, Unfit};
use crate::entry::Key;

/// How many variants one key has at most.
const VARIANTS: u8 = 64;

/// How many names one answer may vary by, beyond those in its key.
const NAMES: usize = 16;

/// The names that an answer varies by and that its policy does not know of; sorted.
pub(crate) fn names(headers: &HeaderMap, policy: &Policy) -> Result<Vec<HeaderName>, Unfit> {
    let mut names = Vec::new();
    for member in members(headers, VARY) {
        // `*` is no name, and neither is what can't be read: both stand for anything.
        let name = HeaderName::from_bytes(member).ok().filter(|_| member != b"*");
        let name = name.ok_or_else(|| Unfit::new("vary", "the answer varies by anything"))?;
        if is_in_key(&name, policy) {
            continue;
        }
        if [COOKIE, AUTHORIZATION, PROXY_AUTHORIZATION].contains(&name) {
            let why = format!(
                "the answer varies by {name}, so it is somebody's: name what tells people apart with \
                 Policy::vary or Policy::vary_cookies"
            );
            return Err(Unfit::new("vary", why));
        }
        names.push(name);
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    if names.len() > NAMES {
        return Err(Unfit::new("vary", format!("the answer varies by more than {NAMES} headers")));
    }
    Ok(names)
}

fn is_in_key(name: &HeaderName, policy: &Policy) -> bool {
    let cookies = *name == COOKIE && !policy.vary_cookies.is_empty();
    cookies || policy.vary.iter().any(|known| known == name.as_str())
}

/// The key of the answer for a request with these headers.
pub(crate) fn key(of: &Key, names: &[HeaderName], headers: &HeaderMap) -> Key {
    if names.is_empty() {
        return of.clone();
    }
    let text = names.iter().fold(Key::variant(of), |text, name| {
        text.part(name.as_str()).list(value(headers, name).as_deref())
    });
    text.finish_among(of, VARIANTS)
}

/// A field's value in the one form that all that mean the same have, or none.
fn value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = lines.next()?;
    if *name == ACCEPT_ENCODING {
        return Some(codings(headers).into());
    }
    if *name == ACCEPT_LANGUAGE {
        // Case means nothing in a language tag (RFC 5646, section 2.1.1); order may, where weights are
        // the same.
        return Some(spelled(members(headers, name)).join(&b","[..]).into());
    }
    let rest: Vec<&[u8]> = lines.collect();
    // White space at commas means nothing, and several lines are one list (RFC 9110, section 5.3); but
    // within quotes it does, so what has some is left as it is.
    let is_plain = |line: &[u8]| !line.iter().any(|byte| matches!(byte, b'"' | b'\\'));
    if rest.is_empty() && !(first.contains(&b',') && is_plain(first)) {
        return Some(first.trim_ascii().into());
    }
    if !is_plain(first) || !rest.iter().all(|line| is_plain(line)) {
        return Some([&[first], &rest[..]].concat().join(&b"\0"[..]).into());
    }
    let members: Vec<&[u8]> = members(headers, name).collect();
    Some(members.join(&b","[..]).into())
}

/// `Accept-Encoding`, in the order of the codings' names: their order means nothing (RFC 9110, section
/// 12.5.3), and there are more ways to write it than answers to it.
fn codings(headers: &HeaderMap) -> Vec<u8> {
    let mut members = spelled(members(headers, ACCEPT_ENCODING));
    members.sort();
    members.dedup();
    members.join(&b","[..])
}

/// Members in lower case and without white space.
fn spelled<'h>(members: impl Iterator<Item = &'h [u8]>) -> Vec<Vec<u8>> {
    let spelled = members.map(|member| {
        let mut member = member.to_ascii_lowercase();
        member.retain(|byte| !byte.is_ascii_whitespace());
        member
    });
    spelled.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn policy() -> Policy {
        Policy::ttl(Duration::from_secs(1))
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter();
        lines.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn names_of(vary: &[&str], policy: &Policy) -> Option<Vec<String>> {
        let vary: Vec<_> = vary.iter().map(|vary| ("vary", *vary)).collect();
        let names = names(&headers(&vary), policy).ok()?;
        Some(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_are_those_that_the_key_does_not_have() {
        assert_eq!(names_of(&[], &policy()), Some(vec![]));
        let two = Some(vec!["accept".to_owned(), "foo".to_owned()]);
        assert_eq!(names_of(&["Foo, accept", "FOO"], &policy()), two);
        let knows = policy().vary(["Foo"]).vary_cookies(["sid"]);
        assert_eq!(names_of(&["foo, Cookie, accept"], &knows), Some(vec!["accept".to_owned()]));
    }

    #[test]
    fn what_varies_by_anything_or_anybody_has_no_names() {
        for vary in ["*", "*, *", ", *", "Foo, *", "*, Foo", "a b", "Cookie", "Authorization"] {
            assert_eq!(names_of(&[vary], &policy()), None, "{vary}");
        }
        assert_eq!(names_of(&["Foo", "*"], &policy()), None);
        let many: Vec<String> = (0..17).map(|name| format!("x-{name}")).collect();
        assert_eq!(names_of(&[&many.join(",")], &policy()), None);
    }

    fn of(name: &'static str, lines: &[&str]) -> Key {
        let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
        key(&Key::new("t").finish(), &[HeaderName::from_static(name)], &headers(&lines))
    }

    #[test]
    fn values_that_mean_the_same_have_one_key() {
        assert_eq!(of("foo", &["1, 2"]), of("foo", &["1,2"]));
        assert_eq!(of("foo", &["1, 2"]), of("foo", &["1", "2"]));
        assert_eq!(
            of("accept-encoding", &["gzip, BR;q=0.5"]),
            of("accept-encoding", &["br; q=0.5,gzip"])
        );
    }

    #[test]
    fn values_that_do_not_have_keys_of_their_own() {
        let all: &[&[&str]] =
            &[&[], &[""], &["1"], &["1,2"], &["2,1"], &["\"1, 2\""], &["\"1,2\""], &["\"1", "2\""]];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(of("foo", one), of("foo", other), "{one:?} and {other:?}");
            }
        }
        assert_ne!(of("foo", &["1"]), of("bar", &["1"]));
        assert_ne!(of("foo", &["1"]), Key::new("t").finish());
    }

    #[test]
    fn however_many_values_there_are_the_places_are_few() {
        let places: std::collections::HashSet<_> =
            (0..10_000).map(|value| *of("foo", &[&value.to_string()]).hash()).collect();
        assert_eq!(places.len(), usize::from(VARIANTS));
    }
}
