//! Variants of a response (RFC 9111, section 4.1).
//!
//! The names in `Vary` are known only from a response. So a vary marker with the names is stored under the request's key,
//! and the response is stored under a second key, computed from the first key and the request's values. A node stores a
//! bounded number of variants per key, whatever clients send, and removes those that are used least (`entry/entry.rs`).

use std::borrow::Cow;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONTENT_ENCODING,
    COOKIE, ORIGIN, PROXY_AUTHORIZATION, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::list::members;
use crate::cache::{Policy, Uncacheable};
use crate::entry::Key;

const AVAILABLE_DICTIONARY: HeaderName = HeaderName::from_static("available-dictionary");

/// The maximum number of names that a response may vary by, besides those in its key.
const NAMES: usize = 16;

/// The maximum length, in bytes, of a line that is normalized. A longer one is compared as it was sent: no browser sends
/// one, and this bounds the work that a client can cause.
const LONGEST_LIST: usize = 1024;

/// The names that a response varies by and that are not in its key, sorted.
pub(crate) fn names(headers: &HeaderMap, policy: &Policy) -> Result<Vec<HeaderName>, Uncacheable> {
    let mut names: Vec<_> = unsaid(headers, policy).collect();
    for member in members(headers, VARY) {
        // `*` and a malformed name both mean that the response varies by anything.
        let name = HeaderName::from_bytes(member).ok().filter(|_| member != b"*");
        let name = name.ok_or_else(|| {
            Uncacheable::new("vary", "the Vary of the response is `*` or malformed")
        })?;
        if is_in_key(&name, policy) || is_withheld(&name, policy) {
            continue;
        }
        if [COOKIE, AUTHORIZATION, PROXY_AUTHORIZATION].contains(&name) {
            let why = format!(
                "the response varies by {name}, so it is personal: name the headers or cookies that distinguish clients \
                 with Policy::vary or Policy::vary_cookies"
            );
            return Err(Uncacheable::new("vary", why));
        }
        names.push(name);
    }
    let names = sorted(names);
    if names.len() > NAMES {
        return Err(Uncacheable::new(
            "vary",
            format!("the response varies by more than {NAMES} headers"),
        ));
    }
    Ok(names)
}

/// The names by which a response varies, `own`, with those by which other responses under its key are `known` to vary. Some
/// resources omit `Vary` from their default response, which then must not be used for all requests (RFC 9111, section 4.1);
/// and [`unsaid`] finds a name only in responses with the field in question. A response with `Vary` is believed otherwise.
/// Names are left out by which the `last` response to the same request varied: this response shows that it no longer does.
pub(crate) fn with_known(
    own: &[HeaderName],
    known: &[HeaderName],
    last: &[HeaderName],
    headers: &HeaderMap,
) -> Vec<HeaderName> {
    let says = headers.contains_key(VARY);
    let may_be_unsaid = [ORIGIN, ACCEPT_ENCODING, AVAILABLE_DICTIONARY];
    let others = known.iter().filter(|name| !says || may_be_unsaid.contains(name));
    let others = others.filter(|name| !last.contains(name));
    sorted(own.iter().chain(others).cloned().collect())
}

fn sorted(mut names: Vec<HeaderName>) -> Vec<HeaderName> {
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names
}

/// Whether the response's `Vary` has this name.
pub(crate) fn is_named(headers: &HeaderMap, name: &HeaderName) -> bool {
    members(headers, VARY).any(|member| member.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Whether a response varies by `Cookie`, that is by all cookies of the request and not only those that the policy names.
pub(crate) fn by_cookies(headers: &HeaderMap) -> bool {
    members(headers, VARY).any(|member| member.eq_ignore_ascii_case(COOKIE.as_str().as_bytes()))
}

/// Names by which a response varies even if its `Vary` lacks them: `Origin` if it allows one origin (Fetch, section 3.3.4),
/// `Accept-Encoding` if it is encoded (RFC 9110, section 12.5.3), and `Available-Dictionary` if it is compressed with a
/// dictionary (RFC 9842, section 6.2).
fn unsaid<'p>(
    headers: &HeaderMap,
    policy: &'p Policy,
) -> impl Iterator<Item = HeaderName> + use<'p> {
    let allowed = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).is_some_and(|origin| origin != "*");
    let is_coded_by = |is: fn(&[u8]) -> bool| members(headers, CONTENT_ENCODING).any(is);
    let coded = is_coded_by(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    let by_dictionary = is_coded_by(|coding| {
        coding.eq_ignore_ascii_case(b"dcb") || coding.eq_ignore_ascii_case(b"dcz")
    });
    let names = [
        allowed.then_some(ORIGIN),
        coded.then_some(ACCEPT_ENCODING),
        by_dictionary.then_some(AVAILABLE_DICTIONARY),
    ];
    let names = names.into_iter().flatten();
    names.filter(|name| !is_in_key(name, policy) && !is_withheld(name, policy))
}

fn is_in_key(name: &HeaderName, policy: &Policy) -> bool {
    let cookies = *name == COOKIE && !policy.vary_cookies.is_empty();
    cookies || policy.vary.iter().any(|known| known == name.as_str())
}

/// Whether the handler did not get this header, so that its response can't differ by it.
fn is_withheld(name: &HeaderName, policy: &Policy) -> bool {
    policy.identity.is_strict && !policy.identity.forwards(name.as_str())
}

/// The key of the variant for a request with these headers.
pub(crate) fn key(of: &Key, names: &[HeaderName], headers: &HeaderMap) -> Key {
    if names.is_empty() {
        return of.clone();
    }
    let text = names
        .iter()
        .fold(Key::variant(of), |text, name| text.part(name.as_str()).list(lines(headers, name)));
    text.finish()
}

/// A field's lines. For two fields of known syntax, equivalent spellings are normalized. A handler may distinguish any two
/// values of other fields.
fn lines<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<Cow<'h, [u8]>> {
    match spelled(headers, name) {
        Some(line) => vec![line.into()],
        None => headers.get_all(name).iter().map(|line| line.as_bytes().into()).collect(),
    }
}

/// The normalized value of a field, if it differs from the one that was sent. The handler gets it, since it could
/// distinguish spellings that have the same key.
pub(crate) fn respelled(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let line = spelled(headers, name)?;
    let is_other = headers.get(name).is_some_and(|sent| sent.as_bytes() != line);
    HeaderValue::from_bytes(&line).ok().filter(|_| is_other)
}

/// Normalizes a field that lists what a client accepts: one line, without optional white space (RFC 9110, sections 5.6.1
/// and 12.4.2), in the usual case. `None` for any other field, for several lines, for a line that is not clearly such a
/// list, and for a long one.
fn spelled(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let case: fn(&[u8]) -> Vec<u8> = match *name {
        ACCEPT_ENCODING => <[u8]>::to_ascii_lowercase,
        ACCEPT_LANGUAGE => language,
        _ => return None,
    };
    let mut sent = headers.get_all(name).iter();
    let (Some(line), None) = (sent.next(), sent.next()) else { return None };
    if line.len() > LONGEST_LIST {
        return None;
    }
    let members = line.as_bytes().split(|byte| *byte == b',').map(|member| respell(member, case));
    let mut members = members.collect::<Option<Vec<_>>>()?;
    // The order of codings has no meaning (RFC 9110, section 12.5.3). That of languages may have one if weights are equal.
    if *name == ACCEPT_ENCODING {
        members.sort();
    }
    Some(members.join(&b","[..]))
}

/// A member of such a list, with its weight.
fn respell(member: &[u8], case: fn(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
    let is_plain = |part: &[u8]| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-*=._".contains(byte);
        !part.is_empty() && part.iter().all(plain)
    };
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let mut whole = parts.next().filter(|part| is_plain(part)).map(case)?;
    for part in parts {
        if !is_plain(part) {
            return None;
        }
        whole.push(b';');
        whole.extend(part.iter().map(u8::to_ascii_lowercase));
    }
    Some(whole)
}

/// A range of languages in the case that browsers use, and that some handlers expect (RFC 5646, section 2.1.1): `zh-Hant-TW`.
fn language(range: &[u8]) -> Vec<u8> {
    let mut is_extension = false;
    let subtags = range.split(|byte| *byte == b'-').enumerate().map(|(at, subtag)| {
        is_extension |= subtag.len() == 1 && subtag != b"*";
        let mut subtag = subtag.to_ascii_lowercase();
        match subtag.len() {
            2 if at > 0 && !is_extension => subtag.make_ascii_uppercase(),
            4 if at > 0 && !is_extension => subtag[..1].make_ascii_uppercase(),
            _ => {}
        }
        subtag
    });
    subtags.collect::<Vec<_>>().join(&b"-"[..])
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
    fn variant_names_are_those_not_already_in_the_key() {
        assert_eq!(names_of(&[], &policy()), Some(vec![]));
        let two = Some(vec!["accept".to_owned(), "foo".to_owned()]);
        assert_eq!(names_of(&["Foo, accept", "FOO"], &policy()), two);
        let knows = policy().vary(["Foo"]).vary_cookies(["sid"]);
        assert_eq!(names_of(&["foo, Cookie, accept"], &knows), Some(vec!["accept".to_owned()]));
    }

    #[test]
    fn a_response_can_vary_by_origin_and_encoding_without_a_vary_field() {
        let names_of = |lines: &[(&'static str, &str)], policy: &Policy| {
            let names = names(&headers(lines), policy).unwrap();
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let allowed = ("access-control-allow-origin", "https://a.example");
        let coded = ("content-encoding", "gzip");
        let both = [allowed, coded, ("vary", "Origin, foo")];
        assert_eq!(names_of(&both, &policy()), ["accept-encoding", "foo", "origin"]);
        assert_eq!(names_of(&both[..2], &policy().vary(["origin"])), ["accept-encoding"]);
        assert!(names_of(&both, &policy().strict()).is_empty());
        let open = [("access-control-allow-origin", "*"), ("content-encoding", "identity")];
        assert!(names_of(&open, &policy()).is_empty());
    }

    #[test]
    fn a_response_without_vary_is_a_variant_by_the_names_of_others() {
        let names = |names: &[&'static str]| -> Vec<HeaderName> {
            names.iter().copied().map(HeaderName::from_static).collect()
        };
        let known = names(&["accept-language", "origin"]);
        let joint = |own: &[&'static str], last: &[&'static str], says: bool| {
            let said = headers(&[("vary", "x")]);
            let said = if says { said } else { HeaderMap::new() };
            with_known(&names(own), &known, &names(last), &said)
        };
        assert_eq!(joint(&[], &[], false), known);
        assert_eq!(joint(&["accept-encoding"], &[], false).len(), 3);
        assert_eq!(joint(&["x"], &[], true), names(&["origin", "x"]), "its Vary counts");
        assert_eq!(joint(&[], &["origin"], false), names(&["accept-language"]), "no longer");
        assert_eq!(joint(&["origin"], &["origin"], true), names(&["origin"]));
    }

    /// RFC 9842, section 6.2.
    #[test]
    fn a_response_compressed_with_a_dictionary_varies_by_it_without_a_vary_field() {
        for (coding, expected) in [
            ("dcb", &["accept-encoding", "available-dictionary"][..]),
            ("gzip, DCZ", &["accept-encoding", "available-dictionary"]),
            ("br", &["accept-encoding"]),
        ] {
            let names = names(&headers(&[("content-encoding", coding)]), &policy()).unwrap();
            assert_eq!(names, expected, "{coding}");
        }
    }

    #[test]
    fn vary_by_star_credentials_or_too_many_names_has_no_variant_names() {
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
    fn equivalent_accept_values_share_a_key() {
        assert_eq!(
            of("accept-encoding", &["gzip, BR;q=0.5"]),
            of("accept-encoding", &["br; q=0.5,gzip"])
        );
        assert_eq!(
            of("accept-language", &["de-CH, en;q=0.5"]),
            of("accept-language", &["de-ch,en; q=0.5"])
        );
    }

    #[test]
    fn the_handler_gets_the_normalized_spelling_that_the_key_holds() {
        let given = |name: &'static str, line: &str| {
            let value = respelled(&headers(&[(name, line)]), &HeaderName::from_static(name));
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        for (sent, expected) in [
            ("DE-ch, zh-hANT-tw; Q=0.5", "de-CH,zh-Hant-TW;q=0.5"),
            ("EN-us-U-CA-buddhist-x-ABCD", "en-US-u-ca-buddhist-x-abcd"),
            ("ab, *;q=0.1", "ab,*;q=0.1"),
        ] {
            assert_eq!(given("accept-language", sent).as_deref(), Some(expected));
            assert_eq!(given("accept-language", expected), None, "it is one already");
        }
        assert_eq!(given("accept-encoding", "GZIP, br").as_deref(), Some("br,gzip"));
        assert_eq!(given("accept-language", "de,,en"), None);
        assert_eq!(given("accept", "Text/HTML, a"), None);
    }

    #[test]
    fn security_an_overlong_list_is_compared_verbatim() {
        let list = |bytes: usize| "de, ".repeat(bytes / 4);
        let (longest, longer) = (list(LONGEST_LIST) + "en", list(LONGEST_LIST + 4) + "en");
        let name = HeaderName::from_static("accept-language");
        for (line, is_same) in [(&longest[4..], true), (longer.as_str(), false)] {
            let tight = line.replace(' ', "");
            let given = respelled(&headers(&[("accept-language", line)]), &name);
            assert_eq!(given.is_some(), is_same, "{} bytes", line.len());
            let one = of("accept-language", &[line]);
            // Of the longer one, the tight spelling is short enough to be respelled.
            assert_eq!(one == of("accept-language", &[&tight]), is_same, "{} bytes", line.len());
        }
    }

    #[test]
    fn values_that_differ_in_meaning_have_separate_keys() {
        let all: &[&[&str]] = &[
            &[],
            &[""],
            &["1"],
            &[",1"],
            &["1,"],
            &["1,2"],
            &["1, 2"],
            &["1", "2"],
            &["2,1"],
            &["\"1, 2\""],
            &["\"1,2\""],
            &["\"1", "2\""],
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(of("foo", one), of("foo", other), "{one:?} and {other:?}");
                // What is not plainly a list of languages is left as it is.
                let name = "accept-language";
                let same = one.join("").replace(' ', "") == other.join("").replace(' ', "");
                assert!(same || of(name, one) != of(name, other), "{one:?} and {other:?}");
            }
        }
        for (one, other) in [("de", "d e"), ("de", ",de"), ("de", "de,"), ("a,b", "a,,b")] {
            assert_ne!(of("accept-language", &[one]), of("accept-language", &[other]), "{other}");
        }
        assert_ne!(of("accept-encoding", &["", "gzip"]), of("accept-encoding", &["gzip"]));
        assert_ne!(of("accept-encoding", &["g zip"]), of("accept-encoding", &["gzip"]));
        assert_ne!(of("foo", &["1"]), of("bar", &["1"]));
        assert_ne!(of("foo", &["1"]), Key::new("t").finish());
    }
}
