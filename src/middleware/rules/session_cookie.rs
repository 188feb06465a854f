//! The names of the cookies that carry session tokens. Such a cookie does not identify the client.

/// The prefix of the cookie that carries the token for browsers. With it, they accept the cookie only from this host
/// over https, and not from a subdomain (RFC 6265bis, section 4.1.3.2).
const SECURE_PREFIX: &str = "__Host-";

/// The cookie's name without the prefix, as used over plain http. If sessions are bound to a name, a hash of that name
/// follows, so that services on one host have different cookies.
const COOKIE: &str = "tidegate-position";

/// The number of hexadecimal digits of that hash.
const HASH: usize = 8;

/// Whether a cookie of this name carries a session token, and so does not identify the client.
pub(crate) fn is_session_cookie(name: &[u8]) -> bool {
    let name = name.strip_prefix(SECURE_PREFIX.as_bytes()).unwrap_or(name);
    name.strip_prefix(COOKIE.as_bytes()).is_some_and(|rest| match rest.strip_prefix(b"-") {
        Some(hash) => hash.len() == HASH && hash.iter().all(u8::is_ascii_hexdigit),
        None => rest.is_empty(),
    })
}

/// The name of the cookie of sessions that are bound to a name, or to none if it is empty.
pub(crate) fn cookie_name(bound_to: &str, is_plain: bool) -> String {
    let prefix = if is_plain { "" } else { SECURE_PREFIX };
    match bound_to {
        // Unbound sessions have no hash in the cookie's name, as in earlier versions.
        "" => format!("{prefix}{COOKIE}"),
        name => format!("{prefix}{COOKIE}-{}", &blake3::hash(name.as_bytes()).to_hex()[..HASH]),
    }
}
