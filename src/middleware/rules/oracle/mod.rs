//! These rules beside those of another implementation, `http-cache-semantics`, over many requests and responses.
//!
//! Both say whether a response may be stored, for how long it may be served without asking, and whether it may be served to
//! a second request some time later. Where they differ, one of [`STORING`] or [`SERVING`] must say why. The unit test below
//! compares random cases; the fuzz target `rules` lets the fuzzer choose them. The other implementation is a dependency of
//! these two only.

#![cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "the fuzz target reaches it"))]

mod case;
#[cfg(test)]
mod theirs;

use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
pub use case::Case;
use http::{HeaderMap, Request};

use super::audience::audience;
use super::identity::IdentityHeaders;
use super::list::members;
use super::request::RequestDirectives;
use super::storable::{Cacheability, Times, cacheability};
use super::vary;
use crate::cache::protocol::Verdict;
use crate::cache::{EntryUse, Policy, decide};
use crate::clock;
use crate::entry::{Entry, Epoch, Key, Lifetime, LogPosition, Position};

/// What an implementation makes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether the response may be stored.
    pub is_stored: bool,
    /// For how many seconds it may be served without asking.
    pub fresh: u64,
    /// Whether it is served to the second request.
    pub is_served: bool,
}

/// When the response arrives: 25 November 2026, 12:00.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_608_000)
}

fn request(headers: &HeaderMap) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.headers_mut() = headers.clone();
    request
}

fn directives(headers: &HeaderMap, policy: &Policy) -> Option<RequestDirectives> {
    RequestDirectives::new(&request(headers), policy, &IdentityHeaders::default(), || false, None)
        .ok()
}

/// What these rules make of a case.
fn ours(case: &Case) -> Judged {
    let policy = Policy::standard().error_ttl(Duration::MAX);
    let times = Times { now: now(), delay: Duration::ZERO };
    let storable = directives(&case.first, &policy).and_then(|directives| {
        cacheability(case.status, &case.response, &directives, &policy, times).ok()
    });
    let Some(storable) = storable else {
        return Judged { is_stored: false, fresh: 0, is_served: false };
    };
    Judged {
        is_stored: true,
        fresh: storable.freshness.ttl.saturating_sub(storable.freshness.age).as_secs(),
        is_served: is_served(case, &storable, &policy),
    }
}

/// Whether the second request gets the stored response.
fn is_served(case: &Case, storable: &Cacheability, policy: &Policy) -> bool {
    let Some(directives) = directives(&case.second, policy) else { return false };
    let key = Key::new("t").finish();
    let variant = |headers| vary::key(&key, &storable.varies_by, headers);
    if variant(&case.first) != variant(&case.second) {
        return false;
    }
    let life = Lifetime {
        age_on_arrival: storable.freshness.age + case.later,
        // It arrives in the future, so that its age is a whole number of seconds.
        arrived: clock::now() + Duration::from_secs(3600),
        ..storable.freshness.life(0.0, Duration::ZERO)
    };
    let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
    let entry = Entry::new(&key, basis, [].into(), life, Bytes::new(), Bytes::new());
    let is_kept = entry.age() < life.keep;
    let accepted = directives.accepts(audience(&case.response), vary::by_cookies(&case.response));
    let used = decide(Verdict::Valid, &entry, policy, &directives.limits);
    is_kept && accepted && !matches!(used, EntryUse::Miss(_))
}

impl Case {
    fn has(&self, name: &str) -> bool {
        self.response.contains_key(name)
    }

    fn says(&self, directive: &str) -> bool {
        said_by(&self.response).any(|member| member == directive)
    }

    fn says_any(&self, directives: &[&str]) -> bool {
        directives.iter().any(|directive| self.says(directive))
    }

    /// Whether the response has a directive with this name, in this case.
    fn names(&self, name: &str) -> bool {
        said_by(&self.response).any(|member| member.split('=').next() == Some(name))
    }

    fn is(&self, name: &str, values: &[&str]) -> bool {
        self.response.get(name).is_some_and(|value| values.iter().any(|one| value == one))
    }

    /// Whether the second request says something that contains this.
    fn asks(&self, directive: &str) -> bool {
        said_by(&self.second).any(|member| member.contains(directive))
    }

    fn asks_with(&self, fields: &[&str]) -> bool {
        fields.iter().any(|field| self.second.contains_key(*field))
    }
}

/// The directives of a message.
fn said_by(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    members(headers, "cache-control").filter_map(|member| std::str::from_utf8(member).ok())
}

/// Whether a message has two directives of one name with different values.
fn contradicts_itself(headers: &HeaderMap) -> bool {
    let said: Vec<_> = said_by(headers).map(str::to_ascii_lowercase).collect();
    let name = |member: &str| member.split('=').next().map(str::to_owned);
    said.iter().any(|one| said.iter().any(|other| one != other && name(one) == name(other)))
}

/// Whether a response has two quoted values; the other implementation takes even equal ones for different.
fn quotes_twice(case: &Case) -> bool {
    said_by(&case.response).filter(|member| member.contains("=\"")).count() > 1
}

/// Numbers of seconds of more than 2^31: one that fits into 64 bits, and one that does not.
const BEYOND: &[&str] = &["4294967296", "99999999999999999999"];

fn is_beyond(directive: &str) -> bool {
    BEYOND.iter().any(|number| directive.contains(number))
}

/// Why the two may differ in a case: a name with the section that decides, in which direction, and the cases that it is
/// about.
type Difference = (&'static str, bool, fn(&Case) -> bool);

/// These rules may serve what the other does not, or for longer.
const MORE: bool = true;
/// Only the other may.
const LESS: bool = false;

/// On whether a response may be stored, and for how long it is fresh.
const STORING: &[Difference] = &[
    ("we store no response that sets a cookie (RFC 9111, 7.3, allows either)", LESS, |case| {
        case.has("set-cookie")
    }),
    ("we store nothing that varies by anything or by cookies (RFC 9111, 4.1)", LESS, |case| {
        case.is("vary", &["*", "accept, *", "cookie", "a b"])
    }),
    (
        "we take cookies and keys of a client for Authorization (stricter than RFC 9111, 3.5)",
        LESS,
        |case| case.first.contains_key("cookie") || case.first.contains_key("x-api-key"),
    ),
    (
        "s-maxage=0, or one that can't be read, does not allow what Authorization forbids (3.5)",
        LESS,
        |case| {
            case.first.contains_key("authorization") && case.says_any(&["s-maxage=0", "s-maxage=x"])
        },
    ),
    (
        "private and no-cache with fields withhold these (RFC 9111, 5.2.2.4 and 5.2.2.7)",
        MORE,
        |case| case.says_any(&["private=\"x-a\"", "no-cache=\"x-a\""]),
    ),
    ("must-understand goes before no-store (RFC 9111, 5.2.2.3)", MORE, |case| {
        case.says("must-understand")
    }),
    ("proxy-revalidate is about stale responses only (RFC 9111, 5.2.2.8)", MORE, |case| {
        case.says("proxy-revalidate")
    }),
    ("immutable is about reloads and no lifetime (RFC 8246, 2)", LESS, |case| {
        case.says("immutable")
    }),
    ("directives have no case (RFC 9111, 5.2)", MORE, |case| case.names("MAX-AGE")),
    ("a quoted comma is part of its directive (RFC 9110, 5.6.4)", MORE, |case| {
        case.says("other=\"a, max-age=9\"")
    }),
    ("a lifetime that can't be read, or is said twice, is none (RFC 9111, 4.2.1)", MORE, |case| {
        case.says_any(&["max-age=x", "max-age=-1", "s-maxage=x"])
            || contradicts_itself(&case.response)
    }),
    ("more than 2^31 seconds are 2^31 seconds (RFC 9111, 1.2.2)", MORE, |case| {
        case.is("age", BEYOND) || said_by(&case.response).any(is_beyond)
    }),
    (
        "two lifetimes are no must-revalidate, which allows Authorization (RFC 9111, 3.5)",
        LESS,
        |case| {
            let is_twice = quotes_twice(case) || contradicts_itself(&case.response);
            is_twice && case.first.contains_key("authorization")
        },
    ),
    ("Pragma is for requests (RFC 9111, 5.4)", MORE, |case| case.has("pragma")),
    ("the status may be any final one that says how long (RFC 9111, 3)", MORE, |case| {
        let theirs = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];
        !theirs.contains(&case.status.as_u16())
    }),
    (
        "a date has three forms and no case, in GMT only (RFC 9110, 5.6.7; RFC 9111, 4.2)",
        MORE,
        |case| {
            case.is(
                "expires",
                &[
                    "Wednesday, 25-Nov-26 12:05:00 GMT",
                    "WED, 25 NOV 2026 12:05:00 GMT",
                    "Wed, 25 Nov 2026 13:05:00 +0100",
                ],
            )
        },
    ),
    ("the age is what the date says, if that is more (RFC 9111, 4.2.3)", LESS, |case| {
        case.is("date", &["Wed, 25 Nov 2026 11:59:30 GMT"])
    }),
    ("of a list of ages the first counts (RFC 9111, 5.1)", LESS, |case| case.is("age", &["10, 3"])),
    (
        "nothing could confirm it, so that it is not worth a place (RFC 9111, 3, allows it)",
        LESS,
        |case| !case.has("etag") && !case.has("last-modified"),
    ),
];

/// On whether the second request gets the stored response, where that does not follow from the lifetime.
const SERVING: &[Difference] = &[
    (
        "what was sent to nobody in particular is for authenticated clients only if it says so (stricter than RFC 9111, \
         3.5)",
        LESS,
        |case| case.asks_with(&["authorization", "cookie", "x-api-key"]),
    ),
    ("no-store is about the response to this request too (RFC 9111, 5.2.1.5)", LESS, |case| {
        case.asks("no-store")
    }),
    ("Pragma is for HTTP/1.0 (RFC 9111, 5.4)", MORE, |case| case.second.contains_key("pragma")),
    ("stale-while-revalidate allows to serve what is stale (RFC 5861, 3)", MORE, |case| {
        case.names("stale-while-revalidate")
    }),
    (
        "s-maxage, proxy-revalidate and no-cache forbid to serve what is stale (RFC 9111, 5.2.2.4, 5.2.2.8 and 5.2.2.10)",
        LESS,
        |case| {
            let names = ["s-maxage", "proxy-revalidate", "no-cache"];
            case.asks("max-stale") && names.iter().any(|name| case.names(name))
        },
    ),
    ("an error is not served when it is stale (stricter than RFC 9111, 4.2.4)", LESS, |case| {
        case.asks("max-stale") && (case.status.is_client_error() || case.status.is_server_error())
    }),
    ("nothing is stored forever (RFC 9111, 4.2.4, allows it)", LESS, |case| {
        case.asks("max-stale") && case.later >= Duration::from_secs(60 * 60)
    }),
    ("a directive that can't be read counts as the strictest (RFC 9111, 4.2.1)", LESS, |case| {
        case.asks("=x") || contradicts_itself(&case.second)
    }),
    ("more than 2^31 seconds are 2^31 seconds (RFC 9111, 1.2.2)", MORE, |case| {
        said_by(&case.second).any(is_beyond)
    }),
    ("two lifetimes are no must-revalidate (RFC 9111, 4.2.1)", MORE, |case| {
        case.asks("max-stale") && (quotes_twice(case) || contradicts_itself(&case.response))
    }),
    ("a quoted comma is part of its directive (RFC 9110, 5.6.4)", MORE, |case| {
        case.asks("max-stale") && case.says("other=\"a, max-age=9\"")
    }),
    ("directives have no case (RFC 9111, 5.2)", LESS, |case| case.asks("MAX-AGE")),
    ("languages have no case (RFC 9111, 4.1; RFC 4647, 2)", MORE, |case| {
        case.is("vary", &["accept-language"])
    }),
    ("a field is all of its lines (RFC 9110, 5.3)", LESS, |case| {
        case.second.get_all("accept").iter().count() > 1
            || case.first.get_all("accept").iter().count() > 1
    }),
    (
        "what is encoded or for one origin varies by that (RFC 9110, 12.5.3; Fetch, 3.3.4)",
        LESS,
        |case| case.has("content-encoding") || case.has("access-control-allow-origin"),
    ),
];

/// What is not explained of the two verdicts on a case; otherwise the places of the reasons, in [`STORING`] and then
/// [`SERVING`].
fn reasons(case: &Case, theirs: Judged) -> Result<Vec<usize>, String> {
    let ours = ours(case);
    let find = |reasons: &[Difference], is_more: bool| {
        let explains =
            |(_, may_be_more, is_about): &Difference| (*may_be_more || !is_more) && is_about(case);
        reasons.iter().position(explains)
    };
    let unexplained = || format!("{case:#?}: {ours:?}, and not {theirs:?}");
    let mut found = Vec::new();
    let is_more = ours.fresh > theirs.fresh || ours.is_stored && !theirs.is_stored;
    let is_equal = (ours.is_stored, ours.fresh) == (theirs.is_stored, theirs.fresh);
    if !is_equal {
        found.push(find(STORING, is_more).ok_or_else(unexplained)?);
    }
    let follows = !is_equal && is_more == ours.is_served;
    if ours.is_served != theirs.is_served && !follows {
        let serving = find(SERVING, ours.is_served).map(|at| STORING.len() + at);
        // Of what is not fresh, they do not say how stale it is.
        let storing = || find(STORING, ours.is_served).filter(|_| ours.fresh == 0);
        found.push(serving.or_else(storing).ok_or_else(unexplained)?);
    }
    Ok(found)
}

/// Compares the verdicts on the case that a fuzzer's bytes make.
///
/// # Panics
///
/// If they differ for a reason that is not listed.
#[cfg(fuzzing)]
#[allow(clippy::panic, reason = "that is how a fuzz target reports a fault")]
pub fn compare(mut data: &[u8], theirs: impl FnOnce(&Case) -> Judged) {
    let case = Case::new(&mut data);
    if let Err(unexplained) = reasons(&case, theirs(&case)) {
        panic!("{unexplained}");
    }
}

#[cfg(test)]
mod tests {
    use super::theirs::theirs;
    use super::*;

    const CASES: usize = 60_000;

    #[test]
    fn every_difference_from_http_cache_semantics_has_a_listed_reason() {
        let mut rng = fastrand::Rng::with_seed(9111);
        let known = || STORING.iter().chain(SERVING);
        let (mut hits, mut agreed, mut served) = (vec![0; known().count()], 0, 0);
        let mut unexplained = Vec::new();
        // Some reasons are rare.
        for n in 0..10 * CASES {
            if n >= CASES && hits.iter().all(|hits| *hits > 0) {
                break;
            }
            let case = Case::new(&mut rng);
            let theirs = theirs(&case);
            served += usize::from(theirs.is_served);
            match reasons(&case, theirs) {
                Ok(reasons) if reasons.is_empty() => agreed += 1,
                Ok(reasons) => reasons.into_iter().for_each(|reason| hits[reason] += 1),
                Err(why) => unexplained.push(why),
            }
        }
        let first = &unexplained[..unexplained.len().min(20)];
        assert!(unexplained.is_empty(), "{}, such as {}", unexplained.len(), first.join("\n"));
        for ((name, _, _), hits) in known().zip(&hits) {
            assert!(*hits > 0, "no case shows that {name}");
        }
        assert!(agreed > CASES / 4, "they agree in {agreed} cases only");
        assert!(served > CASES / 20, "they serve in {served} cases only");
    }

    #[test]
    fn the_cases_use_a_fixed_time_at_noon() {
        let noon = httpdate::parse_http_date("Wed, 25 Nov 2026 12:00:00 GMT");
        assert_eq!(noon.unwrap(), now());
    }
}
