//! POST requests that only read (`Policy::post_reads`): responses are stored by the request's content, and every
//! request that may write reaches the handler once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
use axum::routing::post;
use futures_util::future::{join, join_all};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidegate::{CacheLayer, Policy, Record};
use tokio::time::{Instant, sleep};

use crate::common;
use crate::common::origin::by;
use crate::common::warnings::{all_warnings, keep_warnings, warnings};
use crate::common::{cache, eventually, exchange, read, send};
use crate::query::{Given, MakeBody, streamed};

const LIMIT: usize = 64;

const SECOND: Duration = Duration::from_secs(1);

const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// Whatever does not contain this word only reads.
fn reads(policy: Policy) -> Policy {
    policy.post_reads(LIMIT, |_, content| !content.windows(5).any(|word| word == b"write"))
}

fn ttl() -> Policy {
    reads(common::ttl().untracked())
}

/// Both ways to decide.
fn both() -> [Policy; 2] {
    [ttl(), reads(Policy::standard())]
}

fn posted(content: impl Into<Body>, headers: &[(&str, &str)]) -> Request<Body> {
    by(Method::POST, "/search", headers).map(|_| content.into())
}

#[tokio::test]
async fn a_response_is_keyed_by_content_and_content_headers() {
    for policy in both() {
        let given = Given::default();
        let app = given.router(policy);
        let different: [(&str, &[(&str, &str)]); 6] = [
            ("a=1", &[FORM]),
            ("a=2", &[FORM]),
            ("a=1", &[JSON]),
            ("a=1", &[]),
            ("a=1", &[FORM, ("content-encoding", "gzip")]),
            ("", &[FORM]),
        ];
        for (at, (content, headers)) in different.into_iter().enumerate() {
            let (first, status) = exchange(&app, posted(content, headers)).await;
            assert!(status.contains("stored") && given.all().len() == at + 1, "{at}: {status}");
            assert!(first.starts_with("POST /search [") && first.ends_with(content), "{first}");
            let (again, status) = exchange(&app, posted(content, headers)).await;
            assert!(again == first && status.contains("; hit;"), "{at}: {status}");
        }
    }
}

#[tokio::test]
async fn get_query_and_post_of_one_uri_have_separate_entries() {
    for policy in both() {
        let app = Given::default().router(policy.query_content(LIMIT));
        let query = Method::from_bytes(b"QUERY").unwrap();
        for _ in 0..2 {
            for method in [Method::POST, Method::GET, query.clone()] {
                let name = format!("{method} ");
                assert!(exchange(&app, by(method, "/search", &[])).await.0.starts_with(&name));
            }
        }
        let head = send(&app, by(Method::HEAD, "/search", &[])).await;
        assert!(read(head).await.1.contains("; hit;"), "by the response to GET");
    }
    let app = Given::default().router(ttl());
    exchange(&app, posted("", &[])).await;
    assert!(exchange(&app, by(query_method(), "/search", &[])).await.1.contains("fwd=method"));
}

fn query_method() -> Method {
    Method::from_bytes(b"QUERY").unwrap()
}

#[tokio::test]
async fn a_request_that_may_write_reaches_the_handler_each_time() {
    for policy in both() {
        let given = Given::default();
        let app = given.router(policy);
        for _ in 0..2 {
            let parts = || streamed(&["a=1&", "", "write=2"], None);
            let (got, status) = exchange(&app, posted(parts(), &[FORM, ("x-other", "x")])).await;
            assert_eq!(got, format!("POST /search [{}x] a=1&write=2", FORM.1));
            assert!(status.contains("fwd=method; detail=\"method\""), "{status}");
        }
        assert_eq!(given.all().len(), 2);
    }
}

#[tokio::test]
async fn without_post_reads_every_post_goes_to_the_handler() {
    let other_methods = [Method::PUT, Method::PATCH, Method::DELETE];
    let given = Given::default();
    let app = given.router(Policy::ttl(Duration::from_mins(1)).query_content(LIMIT));
    for _ in 0..2 {
        assert!(exchange(&app, posted("a", &[])).await.1.contains("fwd=method"));
    }
    let app = given.router(ttl());
    for method in other_methods {
        for _ in 0..2 {
            assert!(
                exchange(&app, by(method.clone(), "/search", &[])).await.1.contains("fwd=method")
            );
        }
    }
    assert_eq!(given.all().len(), 8);
    // The client says that the method is another one, or that the handler must run once at most.
    for header in ["x-http-method-override", "x-method-override", "idempotency-key"] {
        for _ in 0..2 {
            let (_, status) = exchange(&app, posted("a", &[(header, "DELETE")])).await;
            assert!(status.contains("method") && !status.contains("stored"), "{status}");
        }
    }
    assert_eq!(given.all().len(), 14);
}

#[tokio::test]
async fn content_that_cannot_be_keyed_reaches_the_handler_unchanged_and_counts_as_a_write() {
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    let bodies: [(&str, MakeBody); 4] = [
        ("0123456789abcdefg", |_| Body::from("0123456789abcdefg")),
        ("0123456789abcdef0123456789abcdef", |_| streamed(&["0123456789abcdef"; 2], None)),
        ("error: broken off", |_| streamed(&["01"], Some(Err("broken off")))),
        ("01 with trailers", |trailers| streamed(&["01"], Some(Ok(Frame::trailers(trailers))))),
    ];
    for (at, (expected, body)) in bodies.into_iter().enumerate() {
        let given = Given::default();
        let app = given.router(Policy::standard().post_reads(16, |_, _| true));
        exchange(&app, by(Method::GET, "/search", &[])).await;
        for _ in 0..2 {
            let (got, status) = exchange(&app, posted(body(trailers.clone()), &[JSON])).await;
            assert_eq!(got, format!("POST /search [application/json] {expected}"), "{at}");
            assert!(status.contains("fwd=bypass; detail=\"request-body\""), "{at}: {status}");
        }
        let (_, status) = exchange(&app, by(Method::GET, "/search", &[])).await;
        assert!(status.contains("changed"), "{at}: it may have written: {status}");
    }
}

#[tokio::test]
async fn a_write_invalidates_the_path_and_a_read_does_not() {
    let app = Given::default().router(reads(Policy::standard()));
    let get = || by(Method::GET, "/search", &[]);
    exchange(&app, get()).await;
    exchange(&app, posted("a", &[])).await;
    // Nor does one that bypasses the cache for another reason.
    let nostore = [("cache-control", "no-store")];
    assert!(exchange(&app, posted("a", &nostore)).await.1.contains("detail=\"no-store\""));
    assert!(exchange(&app, get()).await.1.contains("; hit;"));
    assert!(exchange(&app, posted("a", &[])).await.1.contains("; hit;"));
    for is_refused in [false, true] {
        let headers: &[(&str, &str)] = if is_refused { &nostore } else { &[] };
        assert!(exchange(&app, posted("write", headers)).await.1.contains("detail=\"method\""));
        assert!(exchange(&app, posted("a", &[])).await.1.contains("changed"));
        assert!(exchange(&app, get()).await.1.contains("changed"));
    }
}

#[tokio::test]
async fn a_tag_invalidates_a_stored_response() {
    let cache = cache();
    let layer = CacheLayer::new(cache.clone()).route("/{shop}/search", ttl().tag("shop={shop}"));
    let handler = async |Path(shop): Path<String>, body: String| format!("{shop}: {body}");
    let app = Router::new().route("/{shop}/search", post(handler)).layer(layer);
    let of = |uri| by(Method::POST, uri, &[]).map(|_| Body::from("a"));
    for uri in ["/1/search", "/2/search"] {
        exchange(&app, of(uri)).await;
    }
    cache.invalidate(["shop=1"]).await.unwrap();
    assert!(exchange(&app, of("/1/search")).await.1.contains("changed"));
    assert!(exchange(&app, of("/2/search")).await.1.contains("; hit;"));
}

/// A handler that takes a second and says how often it has run; it writes if the content says `unseen`.
fn slow(policy: Policy) -> (Router, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = async move |body: String| {
        let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
        sleep(SECOND).await;
        if body.contains("unseen") {
            Record::current().unwrap().wrote();
        }
        ([("cache-control", "max-age=60")], format!("{body}: {run}"))
    };
    let app = Router::new().route("/search", post(handler));
    (app.layer(CacheLayer::new(cache()).route("/search", policy)), runs)
}

/// The bodies that ten requests at a time with this content get, and how long they take.
async fn burst(app: &Router, content: &'static str) -> (Vec<String>, Duration) {
    let began = Instant::now();
    let all = join_all((0..10).map(|_| exchange(app, posted(content, &[])))).await;
    let mut bodies: Vec<_> = all.into_iter().map(|(body, _)| body).collect();
    bodies.sort_unstable();
    bodies.dedup();
    (bodies, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn requests_that_only_read_share_a_response_and_those_that_may_write_never_do() {
    for policy in both() {
        let (app, runs) = slow(policy);
        let (bodies, took) = burst(&app, "a").await;
        assert_eq!((bodies.len(), took, runs.load(Ordering::SeqCst)), (1, SECOND, 1));
        let (bodies, took) = burst(&app, "write").await;
        assert_eq!((bodies.len(), took, runs.load(Ordering::SeqCst)), (10, SECOND, 11));
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_writes_unexpectedly_runs_once_for_each_request() {
    for policy in both() {
        let (app, runs) = slow(policy.wait(Duration::from_hours(1)));
        // They wait for the first, and then run themselves.
        let (bodies, took) = burst(&app, "unseen").await;
        assert_eq!((bodies.len(), took, runs.load(Ordering::SeqCst)), (10, 2 * SECOND, 10));
        // Later ones do not wait.
        let (bodies, took) = burst(&app, "unseen").await;
        assert_eq!((bodies.len(), took, runs.load(Ordering::SeqCst)), (10, SECOND, 20));
        let (_, status) = exchange(&app, posted("unseen", &[])).await;
        assert!(status.contains("wrote") && !status.contains("stored"), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_contents_at_once_get_responses_of_their_own() {
    let (app, runs) = slow(ttl());
    let (one, other) = join(burst(&app, "one"), burst(&app, "other")).await;
    assert_eq!((one.0.len(), other.0.len(), runs.load(Ordering::SeqCst)), (1, 1, 2));
    assert!(one.0[0].starts_with("one: ") && other.0[0].starts_with("other: "));
}

#[tokio::test]
async fn conditions_and_ranges_on_a_post_are_ignored() {
    for policy in both() {
        let given = Given::default();
        let app = given.router(policy);
        exchange(&app, posted("a", &[])).await;
        // RFC 9110, sections 13.1.3 and 14.2.
        let since = ("if-modified-since", "Sun, 06 Nov 2044 08:49:37 GMT");
        for ignored in [since, ("range", "bytes=0-1"), ("if-range", "\"v1\"")] {
            let response = send(&app, posted("a", &[ignored])).await;
            assert_eq!(response.status(), StatusCode::OK, "{ignored:?}");
            assert!(read(response).await.1.contains("; hit;"), "{ignored:?}");
        }
        // A response to the first of such requests is a whole one, too.
        let range = [("range", "bytes=0-1")];
        assert!(exchange(&app, posted("b", &range)).await.1.contains("stored"));
        // Section 13.1.2: with POST, only the handler can evaluate it.
        for judged in [("if-none-match", "\"v1\""), ("if-match", "\"v1\"")] {
            let (_, status) = exchange(&app, posted("a", &[judged])).await;
            assert!(status.contains("detail=\"precondition\""), "{status}");
        }
    }
}

#[tokio::test]
async fn only_if_cached_applies_to_requests_that_only_read() {
    const STORED: (&str, &str) = ("cache-control", "only-if-cached");
    for policy in both() {
        let given = Given::default();
        let app = given.router(policy);
        let status = async |content: &str| {
            send(&app, posted(content.to_owned(), &[STORED])).await.status().as_u16()
        };
        assert_eq!(status("a").await, 504);
        assert!(given.all().is_empty());
        assert_eq!(status("write").await, 200, "the handler of a write always gets it");
        assert_eq!(status(&"a".repeat(LIMIT + 1)).await, 200);
        exchange(&app, posted("a", &[])).await;
        assert_eq!(status("a").await, 200);
        assert_eq!(given.all().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn background_runs_get_the_method_and_the_content() {
    let window = Duration::from_mins(10);
    for policy in [ttl().stale_while_revalidate(window), ttl().audit(1.0)] {
        let given = Given::default();
        let app = given.router(policy);
        exchange(&app, posted("a=1", &[FORM])).await;
        tokio::time::advance(Duration::from_secs(61)).await;
        for _ in 0..2 {
            assert!(exchange(&app, posted("a=1", &[FORM])).await.0.ends_with("a=1"));
        }
        eventually("it ran again", async || given.all().len() > 1).await;
        for given in given.all() {
            assert_eq!(given, format!("POST /search [{}] a=1", FORM.1));
        }
    }
}

#[tokio::test]
async fn a_strict_policy_passes_on_the_content_and_its_content_headers() {
    let given = Given::default();
    let app = given.router(ttl().strict());
    exchange(&app, posted("a", &[FORM, ("x-other", "x")])).await;
    // A write gets everything.
    exchange(&app, posted("write", &[FORM, ("x-other", "x")])).await;
    let [read, write] = ["] a", "x] write"].map(|rest| format!("POST /search [{}{rest}", FORM.1));
    assert_eq!(given.all(), [read, write]);
}

#[tokio::test]
async fn a_request_that_identifies_the_client_bypasses_the_cache() {
    let given = Given::default();
    let app = given.router(ttl());
    for _ in 0..2 {
        let (got, status) = exchange(&app, posted("a", &[("cookie", "sid=1")])).await;
        assert!(got.ends_with("] a") && status.contains("detail=\"personal\""), "{status}");
    }
    let app = given.router(ttl().vary_cookies(["sid"]));
    for sid in ["sid=1", "sid=2"] {
        assert!(exchange(&app, posted("a", &[("cookie", sid)])).await.1.contains("stored"));
        assert!(exchange(&app, posted("a", &[("cookie", sid)])).await.1.contains("; hit;"));
    }
}

#[tokio::test(start_paused = true)]
async fn under_a_standard_policy_only_an_explicit_lifetime_counts() {
    for (control, expected) in [
        (("cache-control", "max-age=60"), "stored"),
        (("expires", "Sun, 06 Nov 2044 08:49:37 GMT"), "stored"),
        (("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), "no-lifetime"),
        (("cache-control", "public"), "no-lifetime"),
        (("etag", "\"v1\""), "no-lifetime"),
        (("cache-control", "no-cache"), "no-lifetime"),
        (("cache-control", "max-age=0"), "stale"),
    ] {
        let handler = async move |headers: HeaderMap| {
            let is_conditional = headers.contains_key("if-none-match");
            let failed = StatusCode::PRECONDITION_FAILED;
            let status = if is_conditional { failed } else { StatusCode::OK };
            (status, [control, ("etag", "\"v1\"")], "body")
        };
        let layer = CacheLayer::with_policy(cache(), reads(Policy::standard()));
        let app = Router::new().fallback(handler).layer(layer);
        let (_, status) = exchange(&app, posted("a", &[])).await;
        assert!(status.contains(expected), "{control:?}: {status}");
        tokio::time::advance(Duration::from_secs(61)).await;
        // It is not revalidated: with POST, the condition would mean something else.
        let response = send(&app, posted("a", &[])).await;
        assert_eq!(response.status(), StatusCode::OK, "{control:?}");
    }
}

/// The check for GraphQL in docs/guide/2-policies.md.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    query: String,
    #[serde(default, rename = "operationName")]
    _operation_name: IgnoredAny,
    #[serde(default, rename = "variables")]
    _variables: IgnoredAny,
}

fn is_json(parts: &Parts) -> bool {
    let mut types = parts.headers.get_all(CONTENT_TYPE).iter();
    let first = types.next().and_then(|it| it.to_str().ok());
    let is_utf8 = |of: &str| {
        let (essence, parameters) = of.split_once(';').unwrap_or((of, "charset=utf-8"));
        essence.trim().eq_ignore_ascii_case("application/json")
            && parameters.trim().eq_ignore_ascii_case("charset=utf-8")
    };
    types.next().is_none() && first.is_some_and(is_utf8)
}

fn only_reads(parts: &Parts, content: &[u8]) -> bool {
    if parts.uri.query().is_some() || !is_json(parts) {
        return false;
    }
    let is_object = content.trim_ascii_start().starts_with(b"{");
    let reads = |query: &str| {
        !query.trim().is_empty() && !query.contains("mutation") && !query.contains("subscription")
    };
    let operation = serde_json::from_slice::<Operation>(content);
    is_object && operation.is_ok_and(|it| reads(&it.query))
}

#[tokio::test]
async fn the_guides_check_for_graphql_lets_no_mutation_pass() {
    let policy = Policy::ttl(Duration::from_mins(1)).strict().post_reads(1 << 10, only_reads);
    let app = Given::default().router(policy);
    let reads = [
        r#"{"query":"{ shops { name } }"}"#,
        r#"{"query":"query S($id: ID) { shop(id: $id) { name } }","variables":{"id":"mutation"}}"#,
        r##"{"operationName":"S","query":"# shops\nquery S { shops { name } }"}"##,
        " \n{\"operationName\":null,\"variables\":null,\"query\":\"{ a }\"}",
    ];
    let writes = [
        r#"{"query":"mutation { buy }"}"#,
        r#"{"query":"\u006dutation { buy }"}"#,
        r##"{"query":"# a comment\n mutation { buy }"}"##,
        r#"{"operationName":"B","query":"query A { a } mutation B { buy }"}"#,
        r#"{"query":"subscription { news }"}"#,
        r#"{"query":"mutation { buy }","query":"{ a }"}"#,
        r#"{"query":"{ a }","query":"mutation { buy }"}"#,
        r#"[{"query":"{ a }"},{"query":"mutation { buy }"}]"#,
        r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"ab"}}}"#,
        // async-graphql looks these up by hash, too.
        r#"{"query":"","extensions":{"persistedQuery":{"version":1,"sha256Hash":"ab"}}}"#,
        r#"{"query":"{ a }","extensions":{"persistedQuery":{"version":1,"sha256Hash":"ab"}}}"#,
        r#"{"query":""}"#,
        r#"{"query":" \n\t","variables":{}}"#,
        r#"{"query":"{ a }","id":"ab"}"#,
        r#"{"query":"{ a }","documentId":"ab"}"#,
        r#"{"query":"{ a }","doc_id":"1"}"#,
        r#"{"query":"{ a }","Query":"mutation { buy }"}"#,
        r#"{"query":"{ a }","variables":{},"variables":{}}"#,
        r#"["{ a }"]"#,
        r#" ["{ a }", null, null]"#,
        r#"{"query":"{ a }"}{"query":"mutation { buy }"}"#,
        "\u{feff}{\"query\":\"{ a }\"}",
        "--boundary\r\nContent-Disposition: form-data; name=\"operations\"\r\n\r\n{}",
        "",
    ];
    let utf8 = ("content-type", "Application/JSON ; charset=utf-8");
    for read in reads {
        for by in [JSON, utf8] {
            exchange(&app, posted(read, &[by])).await;
            assert!(exchange(&app, posted(read, &[by])).await.1.contains("; hit;"), "{read}");
        }
    }
    for write in writes {
        for _ in 0..2 {
            assert!(
                exchange(&app, posted(write, &[JSON])).await.1.contains("fwd=method"),
                "{write}"
            );
        }
    }
    let by_uri = by(Method::POST, "/search?query=mutation", &[JSON]);
    assert!(exchange(&app, by_uri.map(|_| Body::from(reads[0]))).await.1.contains("fwd=method"));
    let upload = ("content-type", "multipart/form-data; boundary=b");
    let json_too = ("content-type", "application/json, multipart/form-data");
    let other_types: [&[(&str, &str)]; 6] =
        [&[], &[FORM], &[upload], &[json_too], &[JSON, FORM], &[("content-type", "text/plain")]];
    for others in other_types {
        assert!(
            exchange(&app, posted(reads[0], others)).await.1.contains("fwd=method"),
            "{others:?}"
        );
    }
    // Express decodes these: the first is a mutation in UTF-7.
    let encoded = r#"{"query":"+AG0-utation { buy }"}"#;
    for parameters in [
        "charset=utf-7",
        "charset=\"utf-7\"",
        "charset=utf-16",
        "charset=utf-8; charset=utf-7",
        "charset=utf-7; charset=utf-8",
        "version=1",
        "",
    ] {
        let json = format!("application/json; {parameters}");
        let by = [("content-type", json.as_str())];
        for write in [encoded, reads[0]] {
            let (_, status) = exchange(&app, posted(write, &by)).await;
            assert!(status.contains("fwd=method"), "{parameters}: {status}");
        }
    }
}

/// Responds with what it gets of the request.
fn mirror(policy: Policy) -> Router {
    let handler = async |uri: Uri, headers: HeaderMap| {
        let of =
            |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        ([("cache-control", "max-age=60")], format!("{uri} {}{}", of("accept"), of("soapaction")))
    };
    Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy))
}

#[tokio::test]
async fn clients_that_accept_different_types_share_no_response() {
    let accepted = [("accept", "application/json"), ("accept", "multipart/mixed; deferSpec=1")];
    for policy in both() {
        let app = mirror(policy);
        for accept in accepted {
            let (first, status) = exchange(&app, posted("a", &[accept])).await;
            assert!(status.contains("stored") && first.ends_with(accept.1), "{first} {status}");
        }
        for accept in accepted {
            let (again, status) = exchange(&app, posted("a", &[accept])).await;
            assert!(status.contains("; hit;") && again.ends_with(accept.1), "{again} {status}");
        }
        assert!(exchange(&app, posted("a", &[])).await.1.contains("stored"));
    }
    // A strict policy withholds the header, unless it names or forwards it.
    let app = mirror(ttl().strict());
    for (at, accept) in accepted.into_iter().enumerate() {
        let (got, status) = exchange(&app, posted("a", &[accept])).await;
        assert!(got == "/search " && (at == 0) == status.contains("stored"), "{got} {status}");
    }
    for policy in [ttl().strict().vary(["accept"]), ttl().strict().forward(["Accept"])] {
        let app = mirror(policy);
        for accept in accepted {
            let (got, status) = exchange(&app, posted("a", &[accept])).await;
            assert!(got.ends_with(accept.1) && status.contains("stored"), "{got} {status}");
        }
    }
}

#[tokio::test]
async fn the_function_judges_the_request_that_the_handler_gets() {
    // Under a strict policy, the handler does not get this header.
    let is_find = |parts: &Parts, _: &[u8]| {
        parts.headers.get("soapaction").is_some_and(|action| action == "find")
    };
    let find = [("soapaction", "find")];
    let app = mirror(ttl().strict().post_reads(LIMIT, is_find));
    for _ in 0..2 {
        let (got, status) = exchange(&app, posted("a", &find)).await;
        assert!(got == "/search find" && status.contains("fwd=method"), "{got} {status}");
    }
    let app = mirror(ttl().strict().vary(["soapaction"]).post_reads(LIMIT, is_find));
    for expected in ["stored", "; hit;"] {
        let (got, status) = exchange(&app, posted("a", &find)).await;
        assert!(got == "/search find" && status.contains(expected), "{got} {status}");
    }
    // Nor this parameter, without which the request writes.
    let is_dry = |parts: &Parts, _: &[u8]| {
        parts.uri.query().is_some_and(|query| query.contains("dry_run=1"))
    };
    let app = mirror(ttl().query(["page"]).post_reads(LIMIT, is_dry));
    for _ in 0..2 {
        let request = by(Method::POST, "/search?page=1&dry_run=1", &[]);
        let (got, status) = exchange(&app, request).await;
        assert_eq!(got, "/search?page=1&dry_run=1 ");
        assert!(status.contains("fwd=method"), "{status}");
    }
    let app = mirror(ttl().query(["dry_run"]).post_reads(LIMIT, is_dry));
    for expected in ["stored", "; hit;"] {
        let request = by(Method::POST, "/search?page=1&dry_run=1", &[]);
        let (got, status) = exchange(&app, request).await;
        assert!(got == "/search?dry_run=1 " && status.contains(expected), "{got} {status}");
    }
}

/// Even if `vary` names them: they are for GET, and the response is for other requests too.
#[tokio::test]
async fn the_function_judges_the_request_without_the_conditions_that_the_handler_does_not_get() {
    let since = ("if-modified-since", "Sun, 06 Nov 2044 08:49:37 GMT");
    for condition in [("range", "bytes=0-1"), since, ("if-range", "\"v1\"")] {
        for policy in [ttl(), ttl().strict()] {
            let has_it = move |parts: &Parts, _: &[u8]| parts.headers.contains_key(condition.0);
            let app = mirror(policy.vary([condition.0]).post_reads(LIMIT, has_it));
            for _ in 0..2 {
                let (_, status) = exchange(&app, posted("a", &[condition])).await;
                assert!(status.contains("detail=\"method\""), "{condition:?}: {status}");
            }
        }
    }
}

/// Without its header, this request would be another one, which only reads.
#[tokio::test]
async fn a_request_that_may_write_as_the_client_sent_it_counts_as_a_write() {
    let is_no_delete = |parts: &Parts, _: &[u8]| !parts.headers.contains_key("soapaction");
    let app = mirror(ttl().strict().post_reads(LIMIT, is_no_delete));
    for _ in 0..2 {
        let (got, status) = exchange(&app, posted("a", &[("soapaction", "delete")])).await;
        assert!(got == "/search delete" && status.contains("fwd=method"), "{got} {status}");
    }
    assert!(exchange(&app, posted("a", &[])).await.1.contains("stored"));
}

#[tokio::test]
async fn a_function_that_panics_loses_no_request() {
    keep_warnings();
    let panics = |_: &Parts, content: &[u8]| {
        assert!(content != b"bad", "the function fails");
        true
    };
    let policy = || Policy::ttl(Duration::from_mins(1)).untracked().post_reads(LIMIT, panics);
    let layer = CacheLayer::new(cache()).route("/search", policy()).route("/other", policy());
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = async move |body: String| {
        counted.fetch_add(1, Ordering::SeqCst);
        body
    };
    let app = Router::new()
        .route("/search", post(handler.clone()))
        .route("/other", post(handler))
        .layer(layer.validate().unwrap());
    for _ in 0..3 {
        let (got, status) = exchange(&app, posted("bad", &[])).await;
        assert!(got == "bad" && status.contains("detail=\"method\""), "{got} {status}");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert_eq!(warnings(&["route=/search", "post_reads", "panicked"]), 1, "{}", all_warnings());
    exchange(&app, by(Method::POST, "/other", &[]).map(|_| Body::from("bad"))).await;
    assert_eq!(warnings(&["route=/other", "panicked"]), 1, "{}", all_warnings());
    for expected in ["stored", "; hit;"] {
        assert!(exchange(&app, posted("good", &[])).await.1.contains(expected));
    }
}

#[tokio::test]
async fn nothing_but_the_handlers_body_holds_the_content_while_the_handler_runs() {
    let handler = async |mut body: Body| {
        let content = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(content, "a=1");
        let is_alone = content.is_unique() && body.frame().await.is_none();
        format!("{is_alone}")
    };
    let policy = reads(Policy::ttl(Duration::from_mins(1))).query_content(LIMIT);
    let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
    for method in [Method::POST, query_method()] {
        for content in [Body::from("a=1"), streamed(&["a", "=1"], None)] {
            let request = by(method.clone(), "/search", &[]).map(|_| content);
            let got = exchange(&app, request).await;
            assert!(got.0 == "true", "{method}: {got:?}");
        }
    }
}

#[tokio::test]
async fn a_limit_of_zero_bytes_takes_requests_without_content() {
    let policy = Policy::ttl(Duration::from_mins(1)).query_content(0);
    let policy = policy.post_reads(0, |_, _| true);
    let layer = CacheLayer::new(cache()).default_policy(policy).validate().unwrap();
    let app = Given::default().behind(layer);
    for method in [Method::POST, query_method()] {
        for expected in ["stored", "; hit;"] {
            let (_, status) = exchange(&app, by(method.clone(), "/search", &[])).await;
            assert!(status.contains(expected), "{method}: {status}");
        }
        let one = by(method.clone(), "/search", &[]).map(|_| Body::from("a"));
        assert!(exchange(&app, one).await.1.contains("request-body"), "{method}");
    }
}
