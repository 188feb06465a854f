//! These rules beside those of another implementation, `http-cache-semantics`, over random requests and responses.
//!
//! Both say for how long a response may be served without asking, and whether it may be stored at all. Where they differ,
//! one of [`DIFFERENCES`] must say why; each of them must come up.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_cache_semantics::{CacheOptions, CachePolicy};

use super::list::members;
use super::request::RequestDirectives;
use super::storable::{Times, cacheability};
use crate::cache::Policy;
use crate::middleware::identity::IdentitySource;

const NOW: &str = "Wed, 25 Nov 2026 12:00:00 GMT";

const CASES: usize = 30_000;

/// What a field may be in a case; most have none.
type Choices = &'static [&'static str];

const DIRECTIVES: Choices = &[
    "public",
    "private",
    "private=\"x-a\"",
    "no-store",
    "no-cache",
    "no-cache=\"x-a\"",
    "must-revalidate",
    "proxy-revalidate",
    "must-understand",
    "immutable",
    "max-age=60",
    "max-age=60",
    "max-age=0",
    "max-age=\"30\"",
    "max-age=x",
    "max-age=-1",
    "MAX-AGE=60",
    "s-maxage=40",
    "s-maxage=0",
    "s-maxage=x",
    "stale-while-revalidate=9",
    "other=\"a, max-age=9\"",
];

/// Fields of the response, with what each may be.
const RESPONSE: [(&str, Choices); 8] = [
    (
        "expires",
        &[
            "Wed, 25 Nov 2026 12:05:00 GMT",
            "Wed, 25 Nov 2026 11:00:00 GMT",
            "Wednesday, 25-Nov-26 12:05:00 GMT",
            "WED, 25 NOV 2026 12:05:00 GMT",
            "Wed, 25 Nov 2026 13:05:00 +0100",
            "0",
        ],
    ),
    ("date", &["Wed, 25 Nov 2026 12:00:00 GMT", "Wed, 25 Nov 2026 11:59:30 GMT", "yesterday"]),
    ("age", &["10", "10, 3", "-1", "x"]),
    ("last-modified", &["Wed, 25 Nov 2026 10:00:00 GMT", "Wed, 25 Nov 2026 13:00:00 GMT"]),
    ("etag", &["\"a\""]),
    ("vary", &["*", "accept", "accept, *", "cookie"]),
    ("set-cookie", &["a=b"]),
    ("pragma", &["no-cache"]),
];

/// Fields of the request.
const REQUEST: [(&str, Choices); 4] = [
    ("authorization", &["x"]),
    ("cookie", &["a=b"]),
    ("cache-control", &["no-store", "max-age=5"]),
    ("x-api-key", &["x"]),
];

const STATUSES: [u16; 15] =
    [200, 200, 200, 203, 204, 206, 299, 301, 302, 304, 404, 405, 410, 500, 503];

/// A request and its response.
#[derive(Debug)]
struct Case {
    status: StatusCode,
    asked: HeaderMap,
    response: HeaderMap,
}

/// What an implementation makes of a case.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    is_stored: bool,
    /// For how long it may be served without asking.
    fresh: u64,
}

impl Case {
    fn random(rng: &mut fastrand::Rng) -> Self {
        let status = StatusCode::from_u16(STATUSES[rng.usize(..STATUSES.len())]).unwrap();
        let (mut asked, mut response) = (HeaderMap::new(), HeaderMap::new());
        let mut pick = |headers: &mut HeaderMap, name: &'static str, from: Choices, of: usize| {
            if rng.usize(..of) == 0 {
                let value = from[rng.usize(..from.len())].parse().unwrap();
                headers.append(HeaderName::from_static(name), value);
            }
        };
        for _ in 0..3 {
            pick(&mut response, "cache-control", DIRECTIVES, 2);
        }
        for (name, choices) in RESPONSE {
            pick(&mut response, name, choices, 4);
        }
        for (name, choices) in REQUEST {
            pick(&mut asked, name, choices, 10);
        }
        Self { status, asked, response }
    }

    fn request(&self) -> Request<axum::body::Body> {
        let mut request = Request::new(axum::body::Body::empty());
        *request.headers_mut() = self.asked.clone();
        request
    }

    fn has(&self, name: &str) -> bool {
        self.response.contains_key(name)
    }

    fn says(&self, directive: &str) -> bool {
        members(&self.response, "cache-control").any(|member| member == directive.as_bytes())
    }

    fn says_any(&self, directives: &[&str]) -> bool {
        directives.iter().any(|directive| self.says(directive))
    }

    fn is(&self, name: &str, values: &[&str]) -> bool {
        self.response.get(name).is_some_and(|value| values.iter().any(|one| value == one))
    }

    fn ours(&self) -> Judged {
        let policy = Policy::standard().error_ttl(Duration::MAX);
        let none = Judged { is_stored: false, fresh: 0 };
        let Ok(asked) =
            RequestDirectives::new(&self.request(), &policy, &IdentitySource::default(), None)
        else {
            return none;
        };
        let times = Times { now: now(), delay: Duration::ZERO };
        let Ok(leave) = cacheability(self.status, &self.response, &asked, &policy, times) else {
            return none;
        };
        let fresh = leave.terms.ttl.saturating_sub(leave.terms.age).as_secs();
        Judged { is_stored: true, fresh }
    }

    fn theirs(&self) -> Judged {
        let mut response = Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (self.status, self.response.clone());
        let policy =
            CachePolicy::new_options(&self.request(), &response, now(), CacheOptions::default());
        let fresh = policy.time_to_live(now()).as_secs();
        Judged { is_stored: policy.is_storable(), fresh }
    }
}

fn now() -> SystemTime {
    httpdate::parse_http_date(NOW).unwrap()
}

/// Why the two may differ in a case: a name with the section that decides, in which direction, and the cases that it is
/// about.
type Difference = (&'static str, bool, fn(&Case) -> bool);

/// These rules may serve what the other does not, or for longer.
const MORE: bool = true;
/// Only the other may.
const LESS: bool = false;

const DIFFERENCES: &[Difference] = &[
    ("we store no response that sets a cookie (RFC 9111, 7.3, allows either)", LESS, |case| {
        case.has("set-cookie")
    }),
    ("we store nothing that varies by anything or by cookies (RFC 9111, 4.1)", LESS, |case| {
        case.is("vary", &["*", "accept, *", "cookie"])
    }),
    (
        "we take cookies and keys of a client for Authorization (stricter than RFC 9111, 3.5)",
        LESS,
        |case| case.asked.contains_key("cookie") || case.asked.contains_key("x-api-key"),
    ),
    (
        "s-maxage=0, or one that can't be read, does not allow what Authorization forbids (3.5)",
        LESS,
        |case| {
            case.asked.contains_key("authorization") && case.says_any(&["s-maxage=0", "s-maxage=x"])
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
    ("directives have no case (RFC 9111, 5.2)", MORE, |case| case.says("MAX-AGE=60")),
    ("a quoted comma is part of its directive (RFC 9110, 5.6.4)", MORE, |case| {
        case.says("other=\"a, max-age=9\"")
    }),
    ("a lifetime that can't be read, or is said twice, is none (RFC 9111, 4.2.1)", MORE, |case| {
        let lifetimes = |name: &str| {
            let is_named =
                |member: &&[u8]| member.to_ascii_lowercase().starts_with(name.as_bytes());
            let said = members(&case.response, "cache-control").filter(is_named);
            said.count() > 1
        };
        case.says_any(&["max-age=x", "max-age=-1", "s-maxage=x"])
            || lifetimes("max-age")
            || lifetimes("s-maxage")
    }),
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
        |case| !case.has("etag") && !case.has("last-modified") && case.theirs().fresh == 0,
    ),
];

#[test]
fn every_difference_from_http_cache_semantics_has_a_listed_reason() {
    let mut rng = fastrand::Rng::with_seed(9111);
    let (mut hits, mut agreed) = (vec![0; DIFFERENCES.len()], 0);
    let mut unexplained = Vec::new();
    for _ in 0..CASES {
        let case = Case::random(&mut rng);
        let (ours, theirs) = (case.ours(), case.theirs());
        if ours == theirs {
            agreed += 1;
            continue;
        }
        let is_more = ours.fresh > theirs.fresh || ours.is_stored && !theirs.is_stored;
        let explains =
            |(_, may_be_more, is_about): &Difference| (*may_be_more || !is_more) && is_about(&case);
        let reason = DIFFERENCES.iter().position(explains);
        match reason {
            Some(reason) => hits[reason] += 1,
            None => unexplained.push(format!("{case:?}: {ours:?}, and not {theirs:?}")),
        }
    }
    let first = &unexplained[..unexplained.len().min(20)];
    assert!(unexplained.is_empty(), "{}, such as {first:#?}", unexplained.len());
    for ((name, _, _), hits) in DIFFERENCES.iter().zip(&hits) {
        assert!(*hits > 0, "no case shows that {name}");
    }
    assert!(agreed > CASES / 4, "they agree in {agreed} cases only");
}
