//! Fields that belong to one connection (RFC 9110, section 7.6.1), and fields that name the proxies of a message.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};

/// Connection fields even if `Connection` does not name them.
const OF_CONNECTION: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields for all recipients, which `Connection` must not name. If a client could remove one of these, a response for
/// another host, scheme or user could be stored, or a personal response for everybody.
const FOR_ALL: [&str; 21] = [
    "age",
    "authorization",
    "cache-control",
    "cdn-cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expires",
    "forwarded",
    "host",
    "last-modified",
    "max-forwards",
    "pragma",
    "set-cookie",
    "tidegate-cache-control",
    "vary",
    "via",
];

/// Prefixes of other fields with which a proxy in front of this one describes the client.
const FORWARDED: [&str; 2] = ["x-forwarded-", "x-real-"];

/// Drops the fields of the client's connection, and adds `Via`. An upgrade to a WebSocket is allowed. Another protocol,
/// such as HTTP/2 without TLS, would bypass the cache and the proxy's checks.
pub(crate) fn strip_request(request: &mut Request) {
    let is_websocket = upgrades_to(request.headers(), "websocket");
    let version = request.version();
    strip(request.headers_mut(), version);
    if is_websocket {
        switch(request.headers_mut());
    } else {
        drop(hyper::upgrade::on(request));
    }
}

/// Drops the fields of the origin's connection, and adds `Via`.
pub(crate) fn strip_response<B>(response: &mut Response<B>) {
    let says_protocol = [StatusCode::SWITCHING_PROTOCOLS, StatusCode::UPGRADE_REQUIRED];
    let is_websocket =
        says_protocol.contains(&response.status()) && upgrades_to(response.headers(), "websocket");
    let version = response.version();
    strip(response.headers_mut(), version);
    if is_websocket {
        switch(response.headers_mut());
    }
}

fn strip(headers: &mut HeaderMap, version: Version) {
    let named: Vec<_> = members(headers, &header::CONNECTION)
        .filter_map(|name| name.parse::<HeaderName>().ok())
        .filter(|name| !is_for_all(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    // RFC 9110, section 7.6.3: the version in which the message came.
    let via = match version {
        Version::HTTP_10 => "1.0 tidegate",
        _ => "1.1 tidegate",
    };
    headers.append(header::VIA, HeaderValue::from_static(via));
}

fn is_for_all(name: &HeaderName) -> bool {
    let name = name.as_str();
    FOR_ALL.contains(&name) || FORWARDED.iter().any(|start| name.starts_with(start))
}

fn upgrades_to(headers: &HeaderMap, protocol: &str) -> bool {
    let mut protocols = members(headers, &header::UPGRADE);
    let is_meant =
        members(headers, &header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    is_meant && protocols.any(|named| named.eq_ignore_ascii_case(protocol))
}

fn switch(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

fn members<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}
