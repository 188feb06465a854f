//! Attacks on caches, one test to each, under both ways to decide. docs/security.md says what the
//! defaults refuse; the names here are its index.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{both_policies, cache, fetch, read, send, ttl};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use tidegate::{Cache, CacheLayer, Event, Key, Memory, Policy, Sessions};

const TTL: Duration = Duration::from_mins(1);

/// A handler that shows all that it could see of a request: the worst that a cache can be in front of.
async fn mirror(method: Method, uri: Uri, headers: HeaderMap, body: String) -> impl IntoResponse {
    let mut seen: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    seen.sort();
    let fresh = [("cache-control", "max-age=60")];
    (fresh, format!("{method} {uri} [{}] {body}", seen.join(" ")))
}

async fn read_by(app: &Router, request: Request<Body>) -> (String, String) {
    read(send(app, request).await).await
}

fn mirrored(policy: Policy) -> Router {
    Router::new().fallback(any(mirror)).layer(CacheLayer::with_policy(cache(), policy))
}

fn request(
    method: Method,
    uri: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::from(body)).unwrap()
}

fn plain(headers: &[(&str, &str)]) -> Request<Body> {
    request(Method::GET, "/page", headers, "")
}

/// An attacker sends one request, a victim another; the victim must see nothing of the attacker's.
async fn never_reaches(attack: impl Fn() -> Request<Body>, victim: impl Fn() -> Request<Body>) {
    for policy in both_policies() {
        let app = mirrored(policy);
        for _ in 0..2 {
            drop(read(send(&app, attack()).await).await);
        }
        let (got, status) = read(send(&app, victim()).await).await;
        let alone = read(send(&mirrored(ttl()), victim()).await).await.0;
        assert_eq!(got, alone, "{status}");
    }
}

/// A handler with these headers and this status stores nothing, however the policy decides.
async fn never_stored(
    status: u16,
    headers: &[(&'static str, &'static str)],
    sent: &[(&str, &str)],
) {
    for policy in both_policies() {
        let runs = Arc::new(AtomicUsize::new(0));
        let handler = {
            let (runs, headers) = (runs.clone(), headers.to_vec());
            move || {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                let mut response = run.to_string().into_response();
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                for (name, value) in &headers {
                    response.headers_mut().append(*name, value.parse().unwrap());
                }
                std::future::ready(response)
            }
        };
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        for run in 1..=2 {
            assert_eq!(read(send(&app, plain(sent)).await).await.0, run.to_string());
        }
    }
}

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

// Poisoning: what is not in the key must not be in the response.

#[tokio::test]
async fn x_forwarded_host_cannot_poison_the_cache() {
    never_reaches(|| plain(&[("x-forwarded-host", "evil.example")]), || plain(&[])).await;
}

#[tokio::test]
async fn forwarded_cannot_poison_the_cache() {
    never_reaches(|| plain(&[("forwarded", "host=evil.example")]), || plain(&[])).await;
}

#[tokio::test]
async fn x_forwarded_proto_and_prefix_cannot_poison_the_cache() {
    never_reaches(|| plain(&[("x-forwarded-proto", "gopher")]), || plain(&[])).await;
    never_reaches(|| plain(&[("x-forwarded-prefix", "//evil.example")]), || plain(&[])).await;
}

#[tokio::test]
async fn other_forwarding_headers_cannot_poison_the_cache() {
    for (name, value) in [
        ("x-forwarded-port", "1337"),
        ("x-forwarded-scheme", "nothttps"),
        ("x-forwarded-server", "evil.example"),
        ("x-forwarded-ssl", "off"),
        ("x-forwarded-path", "/admin"),
        ("x-forwarded-uri", "/admin"),
        ("x-host", "evil.example"),
        ("x-original-host", "evil.example"),
        ("x-url-scheme", "gopher"),
    ] {
        never_reaches(move || plain(&[(name, value)]), || plain(&[])).await;
    }
}

#[tokio::test]
async fn x_original_url_and_x_rewrite_url_cannot_poison_the_cache() {
    never_reaches(|| plain(&[("x-original-url", "/admin")]), || plain(&[])).await;
    never_reaches(|| plain(&[("x-rewrite-url", "/admin")]), || plain(&[])).await;
}

#[tokio::test]
async fn the_host_cannot_poison_the_cache() {
    let by = |host| plain(&[("host", host)]);
    never_reaches(move || by("evil.example"), move || by("example.org")).await;
}

#[tokio::test]
async fn the_port_of_the_host_cannot_poison_the_cache() {
    let by = |host| plain(&[("host", host)]);
    never_reaches(move || by("example.org:1337"), move || by("example.org")).await;
}

#[tokio::test]
async fn an_absolute_target_that_contradicts_the_host_cannot_poison_the_cache() {
    let by = |uri| request(Method::GET, uri, &[("host", "example.org")], "");
    never_reaches(move || by("http://evil.example/page"), move || by("/page")).await;
}

#[tokio::test]
async fn a_body_in_a_get_cannot_poison_the_cache() {
    never_reaches(|| request(Method::GET, "/page", &[], "evil"), || plain(&[])).await;
}

#[tokio::test]
async fn a_method_override_cannot_poison_the_cache() {
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        never_reaches(|| plain(&[(name, "DELETE")]), || plain(&[])).await;
    }
}

#[tokio::test]
async fn a_method_that_looks_like_get_cannot_poison_the_cache() {
    let named =
        |name: &str| request(Method::from_bytes(name.as_bytes()).unwrap(), "/page", &[], "");
    for name in ["get", "GETS", "POST", "TRACE", "OPTIONS"] {
        never_reaches(|| named(name), || plain(&[])).await;
    }
}

#[tokio::test]
async fn a_head_request_cannot_poison_a_get() {
    never_reaches(|| request(Method::HEAD, "/page", &[], ""), || plain(&[])).await;
}

#[tokio::test]
async fn a_range_cannot_poison_the_cache() {
    never_reaches(|| plain(&[("range", "bytes=0-0")]), || plain(&[])).await;
}

// Parameter cloaking and key injection: two requests that a handler distinguishes have two keys.

/// Each of these is another query to some parser.
const QUERIES: [&str; 20] = [
    "a=1",
    "a=1&a=2",
    "a=2&a=1",
    "a=1;b=2",
    "crop&rotate",
    "rotate&crop",
    "i[][id]=1&i[][q]=2&i[][id]=3",
    "i[][id]=1&i[][id]=3&i[][q]=2",
    "b=2&a=1",
    "b=2&a=1&b=3",
    "a=1&b=2",
    "a=1%26b=2",
    "a=1%3Bb=2",
    "a[]=1",
    "%61=1",
    "a=1&utm_source=x",
    "a=1%00",
    "a=%31",
    "a=1&",
    "A=1",
];

#[tokio::test]
async fn parameters_cannot_be_cloaked_by_separators_duplicates_or_encodings() {
    let handler = |RawQuery(query): RawQuery| async move { ([FRESH], query.unwrap_or_default()) };
    for policy in both_policies() {
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        for _ in 0..2 {
            for query in QUERIES {
                assert_eq!(fetch(&app, &format!("/?{query}")).await.0, query);
            }
        }
    }
}

#[tokio::test]
async fn an_allowed_parameter_cannot_be_cloaked() {
    let handler = |RawQuery(query): RawQuery| async move { query.unwrap_or_default() };
    let layer = CacheLayer::with_policy(cache(), ttl().query(["a"]));
    let app = Router::new().fallback(handler).layer(layer);
    for (query, counting) in [
        ("a=1", "a=1"),
        ("utm=x;a=2", "utm=x;a=2"),
        ("utm=x&%61=3", "%61=3"),
        ("utm=%&a=4", "a=4"),
        ("utm=x&a[]=5", "a[]=5"),
        ("a.b=6", "a.b=6"),
    ] {
        assert_eq!(fetch(&app, &format!("/?{query}")).await.0, counting);
    }
}

#[tokio::test]
async fn delimiters_in_values_cannot_inject_into_the_key() {
    let by =
        |a: &'static str, b: &'static str| request(Method::GET, "/", &[("a", a), ("b", b)], "");
    for vary in [["a", "b"], ["b", "a"]] {
        let app = mirrored(ttl().vary(vary));
        let mut seen = std::collections::HashSet::new();
        for (a, b) in
            [("x", "y"), ("x:y", ""), ("", "x:y"), ("x\ty", ""), ("x|b=y", ""), ("xy", "")]
        {
            let (body, status) = read(send(&app, by(a, b)).await).await;
            assert!(seen.insert(body) && status.contains("stored"), "{a} {b}: {status}");
        }
    }
}

#[tokio::test]
async fn unicode_lookalikes_have_separate_keys() {
    let handler = |Path(name): Path<String>| async move { name };
    let app =
        Router::new().route("/{name}", get(handler)).layer(CacheLayer::with_policy(cache(), ttl()));
    for (path, name) in [("/%C3%A9", "\u{e9}"), ("/e%CC%81", "e\u{301}"), ("/%c3%a9", "\u{e9}")] {
        let (body, status) = fetch(&app, path).await;
        assert!(body == name && status.contains("absent"), "{path}: {status}");
    }
}

// Deception: a response is stored by its route and never by what its path looks like.

fn account() -> Router {
    let runs = Arc::new(AtomicUsize::new(0));
    let personal = move |headers: HeaderMap| {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        let name = headers.get("cookie").map_or("nobody", |name| name.to_str().unwrap());
        std::future::ready(([FRESH], format!("{name} {run}")))
    };
    let public = || async { "style" };
    let layer = CacheLayer::new(cache()).route("/static/{*file}", ttl().public());
    Router::new()
        .route("/account", get(personal.clone()))
        .route("/account/{*rest}", get(personal))
        .route("/static/{*file}", get(public))
        .layer(layer)
}

async fn is_never_cached(path: &str) {
    let app = account();
    for _ in 0..2 {
        let (_, status) =
            read(send(&app, request(Method::GET, path, &[("cookie", "alice")], "")).await).await;
        assert!(!status.contains("stored") && !status.contains("; hit;"), "{path}: {status}");
        let (body, status) = fetch(&app, path).await;
        assert!(!body.contains("alice"), "{path}: {status}");
    }
}

#[tokio::test]
async fn a_suffix_that_looks_static_does_not_make_a_private_page_cacheable() {
    for path in ["/account/x.css", "/account/logo.png", "/account/a/b.js", "/account/robots.txt"] {
        is_never_cached(path).await;
    }
}

#[tokio::test]
async fn path_parameters_and_encoded_delimiters_do_not_make_a_private_page_cacheable() {
    for path in ["/account/;x.css", "/account/%3Bx.css", "/account/%0Ax.css", "/account/%00x.css"] {
        is_never_cached(path).await;
    }
}

#[tokio::test]
async fn dot_segments_do_not_make_a_private_page_cacheable() {
    for path in ["/account/..%2fstatic/x", "/account/%2e%2e/static/x", "/account/../static/x"] {
        is_never_cached(path).await;
    }
}

#[tokio::test]
async fn paths_that_only_look_alike_have_separate_keys() {
    let handler = |uri: Uri| async move { ([FRESH], uri.to_string()) };
    for policy in both_policies() {
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        for _ in 0..2 {
            for path in
                ["/a", "/a/", "//a", "/./a", "/b/../a", "/%61", "/A", "/a%2F", "/a;x", "/a%20"]
            {
                assert_eq!(fetch(&app, path).await.0, path);
            }
        }
    }
}

// Answers that are somebody's.

#[tokio::test]
async fn a_response_that_sets_a_cookie_is_never_stored() {
    never_stored(200, &[FRESH, ("set-cookie", "sid=1")], &[]).await;
    never_stored(200, &[("cache-control", "public, s-maxage=60"), ("set-cookie", "a=b")], &[])
        .await;
}

#[tokio::test]
async fn a_response_to_a_request_with_cookies_is_never_stored() {
    never_stored(200, &[FRESH], &[("cookie", "sid=1")]).await;
}

#[tokio::test]
async fn a_response_to_an_authorized_request_is_never_stored() {
    never_stored(200, &[FRESH], &[("authorization", "Bearer x")]).await;
}

#[tokio::test]
async fn a_private_or_no_store_response_is_never_stored() {
    for said in ["private, max-age=60", "max-age=60, PRIVATE", "private=\"", "no-store, max-age=60"]
    {
        never_stored(200, &[("cache-control", said)], &[]).await;
    }
}

#[tokio::test]
async fn a_response_that_varies_by_star_or_credentials_is_never_stored() {
    for vary in ["cookie", "authorization", "Accept, Cookie", "*", "accept, *"] {
        never_stored(200, &[FRESH, ("vary", vary)], &[]).await;
    }
}

#[tokio::test]
async fn no_identity_ever_gets_the_response_of_another() {
    let handler = |headers: HeaderMap| async move {
        let who = ["cookie", "authorization"].map(|name| {
            headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        });
        ([FRESH], who.join("/"))
    };
    let policies = [
        ttl(),
        Policy::standard(),
        ttl().vary_cookies(["sid"]),
        ttl().vary(["authorization"]),
        Policy::standard().vary_cookies(["sid"]),
        Policy::standard().vary(["authorization", "cookie"]),
    ];
    let people: [&[(&str, &str)]; 6] = [
        &[("cookie", "sid=alice")],
        &[("cookie", "sid=bob")],
        &[("authorization", "alice")],
        &[("authorization", "bob")],
        &[("cookie", "sid=alice"), ("authorization", "bob")],
        &[("cookie", "sid=bob"), ("authorization", "alice")],
    ];
    for policy in policies {
        let layer = CacheLayer::with_policy(cache(), policy.clone());
        let app = Router::new().fallback(handler).layer(layer);
        for _ in 0..2 {
            for person in people {
                let expected = ["cookie", "authorization"].map(|name| {
                    person
                        .iter()
                        .find(|(header, _)| *header == name)
                        .map_or("", |(_, value)| *value)
                });
                let (body, status) = read(send(&app, plain(person)).await).await;
                assert_eq!(body, expected.join("/"), "{policy:?}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn an_identified_client_never_gets_the_response_of_an_anonymous_one() {
    for policy in both_policies() {
        let app = mirrored(policy);
        drop(read(send(&app, plain(&[])).await).await);
        let (body, _) = read(send(&app, plain(&[("authorization", "alice")])).await).await;
        assert!(body.contains("alice"), "{body}");
    }
}

/// What gateways, proxies that authenticate and clients send to say who the client is.
const IDENTITY: [&str; 58] = [
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-access-token",
    "x-authenticated-user",
    "x-authorization",
    "x-authentik-username",
    "x-access-token",
    "x-amzn-oidc-identity",
    "x-amzn-oidc-data",
    "x-amzn-oidc-accesstoken",
    "x-amz-security-token",
    "cf-access-jwt-assertion",
    "cf-access-authenticated-user-email",
    "cf-access-client-id",
    "x-goog-iap-jwt-assertion",
    "x-goog-authenticated-user-email",
    "x-goog-authenticated-user-id",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "x-ms-token-aad-access-token",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-remote-user",
    "remote-user",
    "x-user",
    "x-user-id",
    "x-user-email",
    "x-client-cert",
    "client-cert",
    "x-ssl-client-s-dn",
    "ssl-client-cert",
    "x-tenant-id",
    "x-session-id",
    "x-session-token",
    "x-consumer-username",
    "x-jwt-assertion",
    "x-pomerium-jwt-assertion",
    "tailscale-user-login",
    "ocp-apim-subscription-key",
    "oam_remote_user",
    "xi-api-key",
    "x-functions-key",
    "x-zumo-auth",
    "x-rapidapi-key",
    "x-rapidapi-user",
    "x-scope-orgid",
    "x-wsse",
    "x-groups",
    "x-forwarded-role",
    "x-acme-current-user",
];

#[tokio::test]
async fn an_identity_header_is_treated_like_authorization() {
    for policy in both_policies() {
        let app = mirrored(policy);
        let by = |name, path: &str, headers: &[(&str, &str)]| {
            read_by(&app, request(Method::GET, &format!("/{path}/{name}"), headers, ""))
        };
        for name in IDENTITY {
            for person in ["alice", "bob"] {
                let (body, status) = by(name, "known", &[(name, person)]).await;
                assert!(body.contains(person), "{name}: {body} {status}");
            }
            // Nor does a known client get what was computed for an unknown one.
            by(name, "unknown", &[]).await;
            let (body, status) = by(name, "unknown", &[(name, "bob")]).await;
            assert!(body.contains("bob"), "{name}: {body} {status}");
        }
    }
}

#[tokio::test]
async fn a_service_can_declare_its_own_identity_headers() {
    for policy in both_policies() {
        let layer = CacheLayer::with_policy(cache(), policy).identity_headers(["X-Badge"]);
        let app = Router::new().fallback(any(mirror)).layer(layer);
        for person in ["alice", "bob"] {
            let (body, _) = read(send(&app, plain(&[("x-badge", person)])).await).await;
            assert!(body.contains(person), "{body}");
        }
    }
}

#[tokio::test]
async fn a_policy_decides_whether_an_identity_header_is_part_of_the_key() {
    let named = ttl().vary(["x-user-id"]);
    for (policy, other) in [(named, "absent"), (ttl().public(), "hit")] {
        let app = mirrored(policy);
        let by = |user| send(&app, plain(&[("x-user-id", user)]));
        drop(read(by("alice").await).await);
        assert!(read(by("alice").await).await.1.contains("hit"));
        let (_, status) = read(by("bob").await).await;
        assert!(status.contains(other), "{status}");
    }
}

#[tokio::test]
async fn varying_by_one_cookie_shares_nothing_between_sessions() {
    for policy in both_policies() {
        let app = mirrored(policy.vary_cookies(["theme"]));
        for person in ["sid=alice; theme=dark", "sid=bob; theme=dark"] {
            let (body, status) = read_by(&app, plain(&[("cookie", person)])).await;
            assert!(body.contains(person), "{body} {status}");
        }
        for status in ["absent", "hit"] {
            let (_, said) = read_by(&app, plain(&[("cookie", "theme=dark")])).await;
            assert!(said.contains(status), "{said}");
        }
    }
}

#[tokio::test]
async fn a_response_with_vary_cookie_serves_only_requests_without_unlisted_cookies() {
    let handler = |headers: HeaderMap| async move {
        let cookies = headers["cookie"].to_str().unwrap().to_owned();
        ([("cache-control", "public, max-age=60"), ("vary", "cookie")], cookies)
    };
    let (anybody, bob) = ("lang=de", "lang=de; sid=bob");
    for order in [[anybody, bob, anybody], [bob, anybody, bob]] {
        let policy = Policy::standard().vary_cookies(["lang"]);
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        for cookies in order {
            let (body, status) = read_by(&app, plain(&[("cookie", cookies)])).await;
            assert_eq!(body, cookies, "{status}");
        }
        assert!(read_by(&app, plain(&[("cookie", anybody)])).await.1.contains("hit"));
    }
}

#[tokio::test]
async fn a_response_with_vary_cookie_serves_no_other_client_of_the_same_key() {
    let handler = |headers: HeaderMap| async move {
        let cookies = headers["cookie"].to_str().unwrap().to_owned();
        ([("cache-control", "public, max-age=60"), ("vary", "cookie")], cookies)
    };
    let tenant = |parts: &axum::http::request::Parts| {
        Some(parts.headers.get("x-tenant")?.to_str().unwrap().to_owned())
    };
    let by = |cookies| plain(&[("x-tenant", "acme"), ("cookie", cookies)]);
    for policy in both_policies() {
        let policy = policy.vary_by(tenant).vary_cookies(["lang"]);
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        for cookies in ["lang=de", "lang=de; sid=alice", "lang=de; sid=bob", "lang=de"] {
            let (body, status) = read_by(&app, by(cookies)).await;
            assert_eq!(body, cookies, "{status}");
        }
        assert!(read_by(&app, by("lang=de")).await.1.contains("hit"), "nothing has removed it");
    }
}

#[tokio::test]
async fn forwarded_cannot_poison_the_cache_where_hosts_are_not_in_the_key() {
    for policy in both_policies() {
        let app = mirrored(policy.host(false));
        for said in ["proto=gopher", "proto=https", "host=a.example; proto=\"x\""] {
            let (body, status) = read_by(&app, plain(&[("forwarded", said)])).await;
            assert!(body.contains(&said.replace('"', "\\\"")), "{body} {status}");
        }
    }
}

#[tokio::test]
async fn allowed_origins_and_codings_are_not_shared_even_without_a_vary_field() {
    let handler = |headers: HeaderMap| async move {
        let of = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let mut response = [FRESH].into_response();
        if let Some(origin) = of("origin") {
            response.headers_mut().insert("access-control-allow-origin", origin.parse().unwrap());
        }
        if let Some(coding) = of("accept-encoding") {
            response.headers_mut().insert("content-encoding", coding.parse().unwrap());
        }
        response
    };
    for policy in both_policies() {
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        for (field, said, values) in [
            ("origin", "access-control-allow-origin", ["https://a.example", "https://b.example"]),
            ("accept-encoding", "content-encoding", ["gzip", "br"]),
        ] {
            for value in [values[0], values[1], values[0]] {
                let path = format!("/{field}");
                let response = send(&app, request(Method::GET, &path, &[(field, value)], "")).await;
                assert_eq!(response.headers()[said], value, "{:?}", response.headers());
            }
            let path = format!("/{field}");
            let response = send(&app, request(Method::GET, &path, &[], "")).await;
            assert!(!response.headers().contains_key(said), "{:?}", response.headers());
        }
    }
}

/// A handler that names a header in `Vary`, if at all, only in response to a request that has this header.
async fn forgetful(headers: HeaderMap) -> impl IntoResponse {
    let of = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let mut response = [FRESH].into_response();
    let mut say = |name: &'static str, value: &str| {
        response.headers_mut().append(name, value.parse().unwrap());
    };
    if let Some(origin) = of("origin") {
        say("access-control-allow-origin", &origin);
    }
    if let Some(language) = of("accept-language") {
        say("content-language", &language);
        say("vary", "accept-language");
    }
    if of("x-compressed").is_some() {
        say("vary", "accept-encoding");
    }
    response
}

/// RFC 9111, section 4.1: some resources omit `Vary` from their default response.
#[tokio::test]
async fn a_response_without_a_vary_field_does_not_take_the_place_of_the_variants() {
    for policy in both_policies() {
        for (field, said, more) in [
            ("origin", "access-control-allow-origin", ("x-other", "1")),
            ("origin", "access-control-allow-origin", ("x-compressed", "1")),
            ("accept-language", "content-language", ("x-other", "1")),
        ] {
            let layer = CacheLayer::with_policy(cache(), policy.clone());
            let app = Router::new().fallback(forgetful).layer(layer);
            for (at, value) in ["a", "", "a", "", "b", "a", "b", ""].into_iter().enumerate() {
                let fields = [(field, value), more];
                let fields = if value.is_empty() { &fields[1..] } else { &fields };
                let response = send(&app, request(Method::GET, "/", fields, "")).await;
                let got = response.headers().get(said).map_or("", |got| got.to_str().unwrap());
                assert_eq!(got, value, "{at}: {:?}", response.headers());
                let status = response.headers()["cache-status"].to_str().unwrap();
                let is_new = [0, 1, 4].contains(&at);
                assert_eq!(!status.contains("; hit"), is_new, "{at}: {status}");
            }
        }
    }
}

/// A response that no longer varies, to a request to which it did, shows that the handler has changed.
#[tokio::test(start_paused = true)]
async fn a_response_that_varies_no_more_serves_all_requests() {
    for policy in both_policies() {
        let varies = Arc::new(AtomicBool::new(true));
        let handler = {
            let varies = varies.clone();
            async move || match varies.load(Ordering::SeqCst) {
                true => [FRESH, ("vary", "accept-language")].into_response(),
                false => [FRESH].into_response(),
            }
        };
        let policy = policy.stale_if_error(TTL * 60);
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        let status = async |language| {
            read(send(&app, plain(&[("accept-language", language)])).await).await.1
        };
        status("de").await;
        varies.store(false, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(status("de").await.contains("expired"));
        let status = status("fr").await;
        assert!(status.contains("; hit"), "{status}");
    }
}

#[tokio::test]
async fn a_repeated_or_malformed_cookie_is_another_identity() {
    let handler = |headers: HeaderMap| async move { format!("{:?}", headers.get_all("cookie")) };
    let layer = CacheLayer::with_policy(cache(), ttl().vary_cookies(["sid"]));
    let app = Router::new().fallback(handler).layer(layer);
    for cookies in ["sid=1", "sid=1; sid=2", "sid=2; sid=1", "sid=\"1\"", "sid", "sid=1=2"] {
        let (body, _) = read(send(&app, plain(&[("cookie", cookies)])).await).await;
        assert!(body.contains(&format!("{cookies:?}")), "{cookies}: {body}");
    }
}

// Denial of service by what is stored.

#[tokio::test]
async fn errors_without_a_lifetime_are_never_stored() {
    for status in [400, 401, 403, 404, 405, 408, 413, 414, 431, 500, 501, 502, 503, 504] {
        never_stored(status, &[], &[]).await;
    }
}

#[tokio::test]
async fn an_error_provoked_by_an_oversized_header_reaches_no_other_client() {
    let long = "x".repeat(20_000);
    let handler = |headers: HeaderMap| async move {
        let size: usize = headers.values().map(axum::http::HeaderValue::len).sum();
        let status = if size > 10_000 { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        (status, "page")
    };
    for policy in both_policies() {
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        assert_eq!(send(&app, plain(&[("x-long", &long)])).await.status(), 400);
        assert_eq!(send(&app, plain(&[])).await.status(), 200);
    }
}

#[tokio::test]
async fn redirects_without_a_lifetime_are_never_stored() {
    for status in [301, 302, 303, 307, 308] {
        never_stored(status, &[("location", "http://evil.example")], &[]).await;
    }
}

#[tokio::test]
async fn a_partial_response_is_never_stored_as_the_whole() {
    never_stored(206, &[FRESH, ("content-range", "bytes 0-1/10")], &[]).await;
}

#[tokio::test]
async fn the_number_of_variants_of_a_response_is_bounded() {
    let handler = |headers: HeaderMap| async move {
        ([FRESH, ("vary", "a")], headers["a"].to_str().unwrap().to_owned())
    };
    let memory = Memory::new(16 << 20);
    let cache = Cache::new(memory);
    let layer = CacheLayer::with_policy(cache.clone(), Policy::standard());
    let app = Router::new().fallback(handler).layer(layer);
    for value in 0..1000 {
        let value = value.to_string();
        assert_eq!(read(send(&app, plain(&[("a", &value)])).await).await.0, value);
    }
    let shown = format!("{cache:?}");
    let entries = shown.split("entries: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert!(entries.parse::<usize>().unwrap() <= 65, "{shown}");
}

/// As of a client that makes up values of `Accept-Language`.
#[tokio::test]
async fn security_invented_variants_never_evict_one_in_use() {
    let handler = |headers: HeaderMap| async move {
        let language = headers["accept-language"].to_str().unwrap().to_owned();
        ([FRESH, ("vary", "accept-language")], language)
    };
    let layer = CacheLayer::with_policy(cache(), Policy::standard());
    let app = Router::new().fallback(handler).layer(layer);
    let fetch = async |language: &str| {
        read(send(&app, plain(&[("accept-language", language)])).await).await
    };
    fetch("de").await;
    for junk in 0..1000 {
        let (text, status) = fetch("de").await;
        assert!(text == "de" && status.contains("; hit"), "after {junk}: {status}");
        for n in 0..10 {
            fetch(&format!("x-{junk}-{n}")).await;
        }
    }
}

#[tokio::test]
async fn the_memory_taken_by_any_number_of_keys_is_bounded() {
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), ttl());
    let app = Router::new().fallback(any(mirror)).layer(layer);
    for at in 0..5000 {
        drop(fetch(&app, &format!("/?{at}={}", "x".repeat(500))).await);
    }
    let shown = format!("{cache:?}");
    let bytes = shown.split("bytes: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert!(bytes.parse::<u64>().unwrap() <= 1 << 20, "{shown}");
}

#[tokio::test]
async fn a_request_for_many_ranges_gets_the_whole_body() {
    let app = Router::new()
        .fallback(|| async { ([FRESH], "0123456789") })
        .layer(CacheLayer::with_policy(cache(), Policy::standard()));
    drop(fetch(&app, "/page").await);
    let many = format!("bytes={}", vec!["0-"; 1000].join(","));
    let response = send(&app, plain(&[("range", &many)])).await;
    assert_eq!(response.status(), 200);
    assert_eq!(read(response).await.0.len(), 10);
}

#[tokio::test]
async fn a_client_cannot_force_recomputation_under_a_ttl_policy() {
    let app = mirrored(ttl());
    drop(read(send(&app, plain(&[])).await).await);
    for said in ["no-cache", "max-age=0", "min-fresh=99999"] {
        let (_, status) = read(send(&app, plain(&[("cache-control", said)])).await).await;
        assert!(status.contains("; hit;"), "{said}: {status}");
    }
}

#[tokio::test]
async fn a_write_invalidates_no_page_but_its_own() {
    let handler = |method: Method, headers: HeaderMap| async move {
        let place = headers.get("x-place").cloned();
        let place = place.map(|place| [("location", place.clone()), ("content-location", place)]);
        ([FRESH], place, method.to_string())
    };
    let layer = CacheLayer::with_policy(cache(), Policy::standard());
    let app = Router::new().fallback(any(handler)).layer(layer);
    let fetch = |method: &str, path: &str, place: &str| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let fields = [("host", "example.org"), ("x-place", place)];
        read_by(&app, request(method, path, &fields, ""))
    };
    drop(fetch("GET", "/page", "").await);
    for method in ["POST", "PUT", "DELETE", "PATCH", "UNKNOWN"] {
        for place in ["/page", "http://example.org/page", "//example.org/page", "page"] {
            drop(fetch(method, "/other", place).await);
            let (_, status) = fetch("GET", "/page", "").await;
            assert!(status.contains("hit"), "{method} {place}: {status}");
        }
    }
    for method in ["PROPFIND", "QUERY", "REPORT", "SEARCH", "OPTIONS", "TRACE"] {
        drop(fetch(method, "/page", "").await);
        assert!(fetch("GET", "/page", "").await.1.contains("hit"), "{method}");
    }
    drop(fetch("POST", "/page", "").await);
    assert!(
        fetch("GET", "/page", "").await.1.contains("changed"),
        "its own it must (RFC 9111, 4.4)"
    );
}

#[tokio::test]
async fn a_write_invalidates_its_page_however_the_path_is_encoded() {
    let handler = |Path(id): Path<String>| async move { ([FRESH], id) };
    let layer = CacheLayer::with_policy(cache(), Policy::standard());
    let app = Router::new().route("/users/{id}", any(handler)).layer(layer);
    for (page, write) in [("%34", "4"), ("4", "%34"), ("a%2fb", "a%2Fb"), ("%c3%a9", "%C3%A9")] {
        let page = format!("/users/{page}");
        drop(fetch(&app, &page).await);
        assert!(fetch(&app, &page).await.1.contains("hit"));
        drop(send(&app, request(Method::PUT, &format!("/users/{write}"), &[], "")).await);
        assert!(fetch(&app, &page).await.1.contains("changed"), "{page} {write}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_with_a_long_lifetime_expires_soon() {
    let handler = |headers: HeaderMap| async move {
        let status =
            headers.get("x-provoke").map(|status| status.to_str().unwrap().parse::<u16>().unwrap());
        (StatusCode::from_u16(status.unwrap_or(200)).unwrap(), [("cache-control", "max-age=3600")])
    };
    for status in ["400", "405", "413", "414", "431", "500", "501"] {
        let policy = Policy::standard().stale_if_error(TTL).stale_while_revalidate(TTL);
        let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
        drop(send(&app, plain(&[("x-provoke", status)])).await);
        assert_eq!(
            send(&app, plain(&[])).await.status(),
            status.parse::<u16>().unwrap(),
            "as RFC 9111 has it"
        );
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(send(&app, plain(&[])).await.status(), 200, "{status}");
    }
}

// Sessions.

fn with_sessions() -> (Router, Cache) {
    let cache = cache();
    let sessions = Sessions::new([7; 32]).unwrap();
    let layer = CacheLayer::with_policy(cache.clone(), ttl()).sessions(sessions);
    (Router::new().fallback(any(mirror)).layer(layer), cache)
}

#[tokio::test]
async fn forged_or_oversized_session_tokens_are_counted_and_rejected() {
    let (app, cache) = with_sessions();
    let (future, long) = ("f".repeat(80), "0".repeat(10_000));
    let tokens = ["x", "", &future, &long, &"0".repeat(80)];
    for token in tokens {
        for name in ["tidegate-position", "cookie"] {
            let cookie = format!("__Host-tidegate-position={token}");
            let value = if name == "cookie" { cookie.as_str() } else { token };
            let (_, status) = read(send(&app, plain(&[(name, value)])).await).await;
            assert!(!status.contains("session"), "{status}");
        }
    }
    assert_eq!(cache.counters().event(Event::BadToken), 2 * tokens.len() as u64);
}

// What is echoed, logged and shown.

#[tokio::test]
async fn an_echoed_value_cannot_split_a_header() {
    let handler = |RawQuery(query): RawQuery| async move {
        let mut headers = HeaderMap::new();
        if let Ok(value) = query.unwrap_or_default().parse() {
            headers.insert("x-echo", value);
        }
        headers
    };
    let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), ttl()));
    for _ in 0..2 {
        let evil = request(Method::GET, "/?x%0d%0aset-cookie:%20evil", &[], "");
        let response = send(&app, evil).await;
        assert!(!response.headers().contains_key("set-cookie"));
        assert_eq!(response.headers()["x-echo"], "x%0d%0aset-cookie:%20evil");
    }
}

#[tokio::test]
async fn fields_named_by_connection_are_not_stored() {
    let headers = [FRESH, ("connection", "x-hop, close"), ("x-hop", "1"), ("keep-alive", "5")];
    for policy in both_policies() {
        let app = Router::new()
            .fallback(move || async move { (axum::response::AppendHeaders(headers), "body") })
            .layer(CacheLayer::with_policy(cache(), policy));
        drop(fetch(&app, "/page").await);
        let hit = send(&app, plain(&[])).await;
        assert!(hit.headers()["cache-status"].to_str().unwrap().contains("; hit;"));
        for name in ["connection", "x-hop", "keep-alive"] {
            assert!(!hit.headers().contains_key(name), "{name}");
        }
    }
}

#[test]
fn keys_and_secrets_are_never_shown() {
    let key = Key::new("t").part("alice@example.org").finish();
    let sessions = Sessions::new("a secret of many bytes").unwrap();
    let shown = format!("{key:?} {key} {sessions:?}");
    assert!(!shown.contains("alice") && !shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn two_layers_over_one_store_can_be_separated_by_namespace() {
    let cache = cache();
    let app = |name: &'static str| {
        let layer = CacheLayer::with_policy(cache.clone(), ttl()).namespace(name);
        Router::new().fallback(move || async move { name }).layer(layer)
    };
    let (one, other) = (app("one"), app("other"));
    for _ in 0..2 {
        assert_eq!(fetch(&one, "/").await.0, "one");
        assert_eq!(fetch(&other, "/").await.0, "other");
    }
}
