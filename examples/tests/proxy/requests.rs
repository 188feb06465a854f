//! What the proxy does with a request before the cache sees it.

use super::{proxy, raw_exchange};

/// The response to a GET of `path` with these additional lines. Each client closes its connection.
async fn head(at: &str, path: &str, lines: &[&str]) -> String {
    let line = format!("GET {path} HTTP/1.1");
    let close = if lines.iter().any(|line| line.starts_with("connection")) {
        "x-none: 1"
    } else {
        "connection: close"
    };
    raw_exchange(at, &[&[line.as_str(), close], lines].concat()).await
}

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn fields_named_by_connection_are_removed_before_the_key_is_computed() {
    let (_proxy, at) = proxy().await;
    let host = "host: victim.example";
    let removed = ["connection: close, accept-language, x-hop", host, "x-hop: 1"];
    let attack = [&removed[..], &["accept-language: de"]].concat();
    let first = head(&at, "/head/1", &attack).await;
    assert!(!first.contains("x-hop") && !first.contains("accept-language: de"), "{first}");
    // The origin did not see the language, and the key does not hold it.
    let same = head(&at, "/head/1", &[host]).await;
    assert!(same.contains("tidegate; hit"), "{same}");
    let victim = head(&at, "/head/1", &[host, "accept-language: de"]).await;
    assert!(victim.contains("accept-language: de\r\n"), "{victim}");
}

#[tokio::test]
async fn connection_cannot_remove_end_to_end_fields() {
    let (_proxy, at) = proxy().await;
    let kept = [
        "host: victim.example",
        "x-forwarded-proto: https",
        "x-forwarded-for: 1.2.3.4",
        "forwarded: proto=https",
        "authorization: secret",
        "cookie: a=b",
        "cache-control: max-age=9",
        "via: 1.0 other",
    ];
    for field in kept {
        let name = field.split(':').next().unwrap();
        let connection = format!("connection: close, {name}");
        let lines = [connection.as_str(), "host: victim.example", field];
        let lines = if name == "host" { &lines[..2] } else { &lines[..] };
        let response = head(&at, &format!("/head/{name}"), lines).await;
        assert_eq!(status(&response), "200", "{response}");
        assert!(response.contains(field), "{field}: {response}");
    }
}

#[tokio::test]
async fn a_request_needs_one_valid_host() {
    let (_proxy, at) = proxy().await;
    for lines in [
        &[][..],
        &["host: a.example", "host: b.example"],
        &["host: a.example", "host: a.example"],
        &["host: "],
        &["host: a b"],
        &["host: a.example, b.example"],
        &["host: user@a.example"],
        &["host: a.example:port"],
        &["host: a.example/path"],
        &["host: [::1"],
    ] {
        let response = head(&at, "/head", lines).await;
        assert_eq!(status(&response), "400", "{lines:?}: {response}");
    }
    for host in ["a.example", "a.example:80", "[::1]:8080", "a_b", "127.0.0.1"] {
        let response = head(&at, "/head", &[&format!("host: {host}")]).await;
        assert_eq!(status(&response), "200", "{host}: {response}");
        assert!(response.contains(&format!("host: {host}\r\n")), "{host}: {response}");
    }
    let old = raw_exchange(&at, &["GET /head HTTP/1.0"]).await;
    assert_eq!(status(&old), "200", "HTTP/1.0 has no such rule: {old}");
}

#[tokio::test]
async fn the_host_of_an_absolute_target_replaces_the_host_field() {
    let (_proxy, at) = proxy().await;
    let close = "connection: close";
    let to = |target: &str| format!("GET {target} HTTP/1.1");
    let absolute = to("http://real.example:80/head/a?b");
    let first = raw_exchange(&at, &[&absolute, "host: other.example", close]).await;
    assert!(first.contains("get /head/a?b http/1.1"), "{first}");
    assert!(first.contains("host: real.example:80") && !first.contains("other.example"), "{first}");
    let same = raw_exchange(&at, &[&to("/head/a?b"), "host: real.example:80", close]).await;
    assert!(same.contains("tidegate; hit"), "one resource, one key: {same}");
    let other = raw_exchange(&at, &[&to("/head/a?b"), "host: other.example", close]).await;
    assert!(!other.contains("tidegate; hit"), "{other}");
    for (target, expected) in
        [("https://real.example/head", "421"), ("http://user@real.example/head", "400")]
    {
        let response = raw_exchange(&at, &[&to(target), "host: real.example", close]).await;
        assert_eq!(status(&response), expected, "{target}: {response}");
    }
    let connect = ["CONNECT a.example:443 HTTP/1.1", "host: a.example:443", close];
    assert_eq!(status(&raw_exchange(&at, &connect).await), "501");
}

#[tokio::test]
async fn max_forwards_zero_ends_at_this_proxy_and_a_larger_value_is_decremented() {
    let (_proxy, at) = proxy().await;
    let with = |method: &str, target: &str, hops: &str| {
        let line = format!("{method} {target} HTTP/1.1");
        let (hops, at) = (format!("max-forwards: {hops}"), at.clone());
        async move {
            let secrets = ["authorization: secret", "cookie: secret"];
            let lines = [line.as_str(), "host: a.example", "connection: close", "x-some: 1", &hops];
            raw_exchange(&at, &[&lines[..], &secrets].concat()).await
        }
    };
    let options = with("OPTIONS", "*", "0").await;
    assert!(status(&options) == "204" && !options.contains("options *"), "{options}");
    let trace = with("TRACE", "/head", "0").await;
    assert!(trace.contains("content-type: message/http"), "{trace}");
    assert!(trace.contains("TRACE /head HTTP/1.1\r\n") && trace.contains("x-some: 1"), "{trace}");
    assert!(!trace.contains("secret") && !trace.contains("via"), "{trace}");
    for method in ["OPTIONS", "TRACE"] {
        let forwarded = with(method, "/head", "7").await;
        assert!(forwarded.contains("max-forwards: 6"), "{forwarded}");
        assert!(forwarded.contains("via: 1.1 tidegate"), "{forwarded}");
        for invalid in ["-1", "x", ""] {
            assert_eq!(status(&with(method, "/head", invalid).await), "400", "{invalid}");
        }
    }
    let star = with("OPTIONS", "*", "1").await;
    assert!(star.contains("options * http/1.1"), "{star}");
    let other = with("GET", "/head/get", "0").await;
    assert!(other.contains("max-forwards: 0"), "of GET it says nothing: {other}");
}
