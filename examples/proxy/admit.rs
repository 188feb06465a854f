//! Checks and normalizes requests before the cache sees them.

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::connection;

/// Why a request is refused: the status, and what the client can do about it.
type Refusal = (StatusCode, &'static str);

/// Passes on a request with an unambiguous host and target, without the fields of the client's connection.
pub(crate) async fn admit(mut request: Request, next: Next) -> Response {
    match admitted(&mut request) {
        Ok(None) => next.run(request).await,
        Ok(Some(response)) => response,
        Err(refusal) => refusal.into_response(),
    }
}

/// Brings a request into the form that goes to the origin, or returns the response if the proxy itself responds.
fn admitted(request: &mut Request) -> Result<Option<Response>, Refusal> {
    if request.method() == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "this proxy opens no tunnels"));
    }
    check_host(request)?;
    take_target(request)?;
    if let Some(response) = last_hop(request)? {
        return Ok(Some(response));
    }
    connection::strip_request(request);
    Ok(None)
}

/// RFC 9112, section 3.2: one `Host`, whose value is a host and perhaps a port.
fn check_host(request: &Request) -> Result<(), Refusal> {
    let mut lines = request.headers().get_all(header::HOST).into_iter();
    let refused = |why| Err((StatusCode::BAD_REQUEST, why));
    match (lines.next(), lines.next()) {
        (Some(_), Some(_)) => refused("send one Host field"),
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => refused("send a Host field with a host and an optional port"),
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => refused("send a Host field"),
    }
}

/// Whether a value is a host and perhaps a port (RFC 9110, section 7.2). Commas, which a name may have by RFC 3986,
/// are refused: such a value is two fields in one.
fn is_host(value: &HeaderValue) -> bool {
    let authority = value.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    let Some(authority) = authority else { return false };
    let (all, host) = (authority.as_str(), authority.host());
    let is_name = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte))
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let rest = all.strip_prefix(host);
    (is_address || !host.is_empty() && is_name(host))
        && rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// A target in absolute form names the host, whatever `Host` says (RFC 9112, section 3.2.2). It goes on in origin form.
fn take_target(request: &mut Request) -> Result<(), Refusal> {
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    if request.uri().scheme() != Some(&Scheme::HTTP) {
        return Err((StatusCode::MISDIRECTED_REQUEST, "this proxy is for http"));
    }
    let host = HeaderValue::from_str(authority.as_str()).ok().filter(is_host);
    let host = host.ok_or((StatusCode::BAD_REQUEST, "the target must have a host, and no user"))?;
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

/// Decrements `Max-Forwards` of OPTIONS and TRACE (RFC 9110, section 7.6.2). At zero, this proxy responds itself.
fn last_hop(request: &mut Request) -> Result<Option<Response>, Refusal> {
    if ![Method::OPTIONS, Method::TRACE].contains(request.method()) {
        return Ok(None);
    }
    let mut lines = request.headers().get_all(header::MAX_FORWARDS).into_iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let is_number =
        |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hops = line.to_str().ok().filter(is_number).filter(|_| lines.next().is_none());
    let hops = hops.ok_or((StatusCode::BAD_REQUEST, "send one number as Max-Forwards"))?;
    // A number that does not fit exceeds any real number of hops.
    let hops: u64 = hops.parse().unwrap_or(u64::MAX);
    match hops.checked_sub(1) {
        Some(left) => {
            request.headers_mut().insert(header::MAX_FORWARDS, left.into());
            Ok(None)
        }
        None if request.method() == Method::TRACE => Ok(Some(trace(request))),
        None => Ok(Some(StatusCode::NO_CONTENT.into_response())),
    }
}

/// Echoes the request as it arrived, without secrets (RFC 9110, section 9.3.8).
fn trace(request: &Request) -> Response {
    const SECRET: [header::HeaderName; 3] =
        [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];
    let mut text = format!("TRACE {} {:?}\r\n", request.uri(), request.version()).into_bytes();
    for (name, value) in request.headers().iter().filter(|(name, _)| !SECRET.contains(name)) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    let mut response = Response::new(Body::from(text));
    let of = HeaderValue::from_static("message/http");
    *response.headers_mut() = HeaderMap::from_iter([(header::CONTENT_TYPE, of)]);
    response
}
