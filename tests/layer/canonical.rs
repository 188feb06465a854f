//! What the key holds in a parsed form: the handler reads no more than that, so no spelling of a request changes the
//! response that others get.

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, RawQuery};
use axum::http::{HeaderMap, HeaderValue, Method, Request};
use axum::response::IntoResponse;
use tidegate::{Cache, CacheLayer, Memory, Policy};

use crate::common::origin::{FRESH, by, get};
use crate::common::{both_policies, fetch, read, send, ttl};

fn layer(policy: Policy) -> CacheLayer {
    CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy)
}

/// A GET with these lines of cookies, whatever their bytes.
fn with_cookies(lines: &[&[u8]]) -> Request<Body> {
    let mut request = get(&[]);
    for line in lines {
        request.headers_mut().append("cookie", HeaderValue::from_bytes(line).unwrap());
    }
    request
}

/// The cookies that a handler finds which reads the first line only, and all of it or nothing.
fn first_line(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let line = headers.get("cookie").and_then(|line| line.to_str().ok()).unwrap_or_default();
    let pairs =
        line.split("; ").map(|pair| pair.split_once('=').filter(|(_, value)| is_plain(value)));
    pairs.collect::<Option<_>>().unwrap_or_default()
}

fn is_plain(value: &str) -> bool {
    !value.contains([' ', ',', '"', ';'])
}

/// The cookies that a handler finds which splits a line at white space and at commas as well.
fn loose(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let line = headers.get("cookie").and_then(|line| line.to_str().ok()).unwrap_or_default();
    line.split([' ', ',', ';']).filter_map(|pair| pair.split_once('=')).collect()
}

type Parser = fn(&HeaderMap) -> Vec<(&str, &str)>;

/// A page in the language of a cookie, and for the user of another.
fn page(parser: Parser, policy: Policy) -> Router {
    let handler = async move |headers: HeaderMap| {
        let cookies = parser(&headers);
        let value = |name: &str| {
            let found = cookies.iter().find(|(found, _)| *found == name);
            found.map_or("none", |(_, value)| value).to_owned()
        };
        ([FRESH], format!("{} {}", value("lang"), value("sid")))
    };
    Router::new().fallback(handler).layer(layer(policy))
}

async fn body(app: &Router, request: Request<Body>) -> String {
    read(send(app, request).await).await.0
}

/// Lines for which the key is that of `lang=de` and that some parser reads in another way.
const ODD: [&[&[u8]]; 9] = [
    &[b"lang=de; tidegate-position=\xff"],
    &[b"lang=de; tidegate-position"],
    &[b"lang=de;tidegate-position=x"],
    &[b"lang=de; ; tidegate-position=x"],
    &[b"tidegate-position=\"; lang=de"],
    &[b" lang = de"],
    &[b"tidegate-position=x", b"lang=de"],
    &[b"tidegate-position=a,lang=fr; lang=de"],
    &[b"tidegate-position=a lang=fr; lang=de"],
];

#[tokio::test]
async fn no_spelling_of_cookies_changes_the_response_for_others() {
    for lines in ODD {
        for parser in [first_line as Parser, loose] {
            for policy in both_policies() {
                let app = page(parser, policy.vary_cookies(["lang"]));
                body(&app, with_cookies(lines)).await;
                let got = body(&app, with_cookies(&[b"lang=de"])).await;
                assert_eq!(got, "de none", "{lines:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_ignored_cookie_cannot_smuggle_in_one_that_counts() {
    for policy in both_policies() {
        let app = page(loose, policy.ignore_cookies(["_ga*"]));
        for line in [&b"tidegate-position=a sid=alice"[..], b"_ga=1,sid=alice", b"_gat=sid=alice"] {
            body(&app, with_cookies(&[line])).await;
            assert_eq!(body(&app, with_cookies(&[])).await, "none none", "{}", line.escape_ascii());
        }
    }
}

#[tokio::test]
async fn the_cookie_line_that_a_handler_gets_depends_on_the_key_alone() {
    let handler = async |headers: HeaderMap| headers["cookie"].to_str().unwrap().to_owned();
    let policy = ttl().vary_cookies(["a", "b"]).ignore_cookies(["c"]);
    let app = Router::new().fallback(handler).layer(layer(policy));
    for lines in [&[&b"b=2; a=1"[..]][..], &[b"c=3; a=1", b"b=2"], &[b"a=1;b=2"]] {
        assert_eq!(body(&app, with_cookies(lines)).await, "a=1; b=2");
    }
}

#[tokio::test]
async fn a_handler_that_needs_other_cookies_gets_them_and_malformed_lines_are_not_stored() {
    let handler = async |headers: HeaderMap| {
        let cookies = first_line(&headers);
        let lang =
            cookies.iter().find(|(name, _)| *name == "lang").map_or("none", |(_, lang)| lang);
        ([("cache-control", "public, max-age=60")], format!("{lang} of {}", cookies.len()))
    };
    let by_key = |parts: &axum::http::request::Parts| {
        let cookies = parts.headers.get("cookie").map(HeaderValue::as_bytes).unwrap_or_default();
        cookies.starts_with(b"sid=alice").then(|| "alice".to_owned())
    };
    for policy in [Policy::standard(), ttl().vary_by(by_key)] {
        let policy = policy.vary_cookies(["lang"]);
        let app = Router::new().fallback(handler).layer(layer(policy));
        let odd = read(send(&app, with_cookies(&[b"sid=alice; x=\xff; lang=de"])).await).await;
        assert!(odd.0 == "none of 0" && odd.1.contains("personal"), "{odd:?}");
        // As HTTP/2 has it (RFC 9113, section 8.2.3).
        let split = body(&app, with_cookies(&[b"sid=alice", b"lang=de"])).await;
        assert_eq!(split, "de of 2");
        let (whole, status) = read(send(&app, with_cookies(&[b"sid=alice; lang=de"])).await).await;
        assert!(whole == "de of 2" && status.contains("hit"), "{whole} {status}");
    }
}

#[tokio::test]
async fn a_policy_keyed_by_the_whole_cookie_line_or_none_of_it_passes_it_unchanged() {
    let handler = async |headers: HeaderMap| format!("{:?}", headers.get_all("cookie"));
    for policy in [ttl().vary(["cookie"]).vary_cookies(["lang"]), ttl().public()] {
        let app = Router::new().fallback(handler).layer(layer(policy));
        let got = body(&app, with_cookies(&[b"lang=de;x", b"\xff"])).await;
        assert!(got.contains("lang=de;x") && got.contains("xff"), "{got}");
    }
}

#[tokio::test]
async fn a_parameter_outside_the_key_does_not_affect_the_response() {
    // Reads nothing of a query that is malformed anywhere.
    let handler = async |RawQuery(query): RawQuery, OriginalUri(uri): OriginalUri| {
        assert_eq!(query.as_deref(), uri.query());
        let query = query.filter(|query| !query.contains("%%"));
        let page = query.and_then(|query| query.strip_prefix("page=")?.get(..1).map(str::to_owned));
        ([FRESH], page.unwrap_or_else(|| "1".into())).into_response()
    };
    for policy in both_policies() {
        let app = Router::new().fallback(handler).layer(layer(policy.query(["page"])));
        fetch(&app, "/?page=2&x=%%").await;
        assert_eq!(fetch(&app, "/?page=2").await.0, "2");
        fetch(&app, "/?x=%%&page=3").await;
        assert_eq!(fetch(&app, "/?page=3").await.0, "3");
    }
}

#[tokio::test]
async fn an_empty_query_shares_no_response_with_one_whose_parameters_do_not_count() {
    let handler = async |RawQuery(query): RawQuery| ([FRESH], format!("{query:?}")).into_response();
    for policy in both_policies() {
        let app = Router::new().fallback(handler).layer(layer(policy.query(["page"])));
        for uri in ["/?", "/?utm=1", "/"] {
            assert_eq!(fetch(&app, uri).await.0, "None", "{uri}");
        }
    }
}

#[tokio::test]
async fn with_any_query_order_the_handler_always_sees_the_same_order() {
    let handler = async |RawQuery(query): RawQuery| query.unwrap_or_default();
    for policy in [ttl().any_query_order(), ttl().any_query_order().strict()] {
        let app = Router::new().fallback(handler).layer(layer(policy));
        for query in ["/?b=1&a=2&a=1", "/?a=2&b=1&a=1"] {
            assert_eq!(fetch(&app, query).await.0, "a=2&a=1&b=1");
        }
    }
}

#[tokio::test]
async fn no_spelling_of_languages_and_codings_changes_the_response_for_others() {
    // Knows the spelling of browsers, and no other.
    let handler = async |headers: HeaderMap| {
        let of =
            |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let language = of("accept-language").split(',').any(|range| range == "de-CH");
        let coding = of("accept-encoding").split(',').any(|coding| coding == "gzip");
        ([FRESH, ("vary", "accept-language, accept-encoding")], format!("{language} {coding}"))
    };
    for policy in both_policies() {
        for language in ["DE-ch", "en;q=0.5", "en;q=0.5, de-CH"] {
            let app = Router::new().fallback(handler).layer(layer(policy.clone()));
            let with = |language, coding| {
                get(&[("accept-language", language), ("accept-encoding", coding)])
            };
            body(&app, with(language, "GZIP")).await;
            body(&app, with("DE-CH", "Br , gzip")).await;
            assert_eq!(body(&app, with("de-CH", "gzip")).await, "true true", "{language}");
            assert_eq!(body(&app, with("de-CH", "gzip, br")).await, "true true", "{language}");
        }
    }
}

#[tokio::test]
async fn forwarded_is_keyed_by_element_and_malformed_lines_are_keyed_apart() {
    // Goes by the first element, if the whole line is well-formed.
    let handler = async |headers: HeaderMap| {
        let line = headers.get("forwarded").map_or("", |line| line.to_str().unwrap());
        let first = line.split(',').next().filter(|_| !line.contains('[')).unwrap_or_default();
        let scheme = first.split(';').find_map(|pair| pair.strip_prefix("proto="));
        ([FRESH], scheme.unwrap_or("http").to_owned())
    };
    for policy in both_policies() {
        let app = Router::new().fallback(handler).layer(layer(policy.host(false)));
        let with = |line| by(Method::GET, "/", &[("forwarded", line)]);
        for odd in ["for=1, proto=https", "for=[;proto=https", "for=1;proto=https, for=["] {
            body(&app, with(odd)).await;
            assert_eq!(body(&app, with("for=192.0.2.1;proto=https")).await, "https", "{odd}");
            let (_, status) = read(send(&app, with("for=192.0.2.2;proto=https")).await).await;
            assert!(status.contains("hit"), "{status}");
        }
    }
}
