//! Sessions that see their own writes.
//!
//! The response to a request that wrote carries a token: a position in the database's log past the write. The response
//! to a later request with this token contains everything up to that position. Tokens are encrypted and authenticated
//! (`token`), so nobody can forge positions that nodes would wait for, or learn how much is written to the database.

use std::fmt;
use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::rules::cookies;
use super::rules::session_cookie::cookie_name;
use crate::clock::unix_millis;
use crate::entry::{Epoch, LogPosition};
use crate::secret::SecretError;

#[cfg(test)]
mod tests;
mod token;

use token::{SessionToken, TokenCodec};

/// The request and response header that carries a token.
const HEADER: HeaderName = HeaderName::from_static("tidegate-position");

/// How long a browser keeps the cookie, in seconds. By then, every node has read the log past the position.
const LIFE: u64 = 300;

/// The maximum number of tokens that are read per request; a client may send any number.
const MOST: usize = 64;

/// Lets clients read their own writes (see [`CacheLayer::sessions`](super::CacheLayer::sessions)): encrypts and
/// decrypts the tokens of their sessions. All nodes of a service need the same secret.
///
/// A token is opaque to clients. It travels in the header `Tidegate-Position` and in a cookie that only this host gets,
/// over https, for five minutes (`__Host-tidegate-position`; `Secure`, `HttpOnly`, `SameSite=Lax`). If a request has
/// several tokens, on one line of the header (separated by commas) or on several, all valid ones count.
///
/// A client may send a token that is older than five minutes. It delays nothing, since every node has read the change
/// log past its position. Its only effect is on further databases of the service: since the token holds a position in
/// the layer's database only, the request reads the others from their primaries. If the token is from before a
/// failover, the node ignores it once a check in the background has shown that.
///
/// ```
/// use tidegate::{Cache, CacheLayer, Memory, Sessions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = "0123456789abcdef0123456789abcdef";
/// let cache = Cache::new(Memory::new(64 << 20));
/// let layer = CacheLayer::new(cache).sessions(Sessions::new(secret)?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sessions {
    tokens: TokenCodec,
    is_plain: bool,
    cookie: Arc<str>,
}

/// What a request says about its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionClaim {
    None,
    Forged,
    Position {
        at: LogPosition,
        /// Whether, by this node's clock, the token is older than its lifetime. The clock of the node that issued it may
        /// differ.
        is_old: bool,
    },
}

impl Sessions {
    /// Sessions with a secret.
    ///
    /// # Errors
    ///
    /// If the secret is shorter than 16 bytes.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        Self::with_secrets(&[secret])
    }

    /// Sessions with several secrets: the first encrypts, all are accepted. To replace a secret, give the nodes
    /// `[old, new]`, then `[new, old]`, and five minutes later `[new]`.
    ///
    /// # Errors
    ///
    /// If there is none, or one is shorter than 16 bytes.
    pub fn with_secrets(secrets: &[impl AsRef<[u8]>]) -> Result<Self, SecretError> {
        let cookie = cookie_name("", false).into();
        Ok(Self { tokens: TokenCodec::new(secrets)?, is_plain: false, cookie })
    }

    /// Sessions with the secret in the environment variable `TIDEGATE_SECRET`. If `TIDEGATE_SECRET_OLD` is set and not
    /// empty, its secret is accepted as well.
    ///
    /// To replace a secret without losing tokens, deploy three times. First, all nodes must accept the new secret
    /// (`TIDEGATE_SECRET` = old, `TIDEGATE_SECRET_OLD` = new). Then they encrypt with it (`TIDEGATE_SECRET` = new,
    /// `TIDEGATE_SECRET_OLD` = old). Five minutes later, remove `TIDEGATE_SECRET_OLD`.
    ///
    /// # Errors
    ///
    /// If `TIDEGATE_SECRET` is not set, or a secret is shorter than 16 bytes.
    pub fn from_env() -> Result<Self, SecretError> {
        let secret = std::env::var("TIDEGATE_SECRET").map_err(|_| SecretError::Unset)?;
        Self::with_old(secret, std::env::var("TIDEGATE_SECRET_OLD").ok())
    }

    fn with_old(secret: String, old: Option<String>) -> Result<Self, SecretError> {
        // An empty variable counts as unset, for platforms where variables can't be removed.
        let old = old.filter(|old| !old.is_empty());
        Self::with_secrets(&[secret].into_iter().chain(old).collect::<Vec<_>>())
    }

    /// Binds tokens to a name, for example that of the service or of the tenant that owns the database. A token that is
    /// bound to another name is not accepted, even if the secret is the same. The cookie's name ends with a hash of this
    /// name.
    ///
    /// If several services share a host, or several layers have databases of their own, give each a name. Otherwise their
    /// cookies have the same name, and a browser keeps only the last token that it got.
    #[must_use]
    pub fn bound_to(mut self, name: &str) -> Self {
        self.tokens.bound_to = name.into();
        self.with_cookie()
    }

    /// For a service that browsers reach over plain http, for example on a developer's machine. The cookie is called
    /// `tidegate-position` and has no `Secure`; over plain http, browsers would not store the default one.
    #[must_use]
    pub fn plain_http(mut self) -> Self {
        self.is_plain = true;
        self.with_cookie()
    }

    fn with_cookie(mut self) -> Self {
        self.cookie = cookie_name(&self.tokens.bound_to, self.is_plain).into();
        self
    }

    /// Reads the session's position from headers and cookies. Invalid tokens are ignored if there is a valid one.
    pub(crate) fn read(&self, headers: &HeaderMap) -> SessionClaim {
        // A proxy may join the lines of a header into one (RFC 9110, section 5.3).
        let lines = headers.get_all(HEADER).into_iter().map(HeaderValue::as_bytes);
        let in_headers = lines.flat_map(|line| line.split(|byte| *byte == b','));
        let in_headers = in_headers.map(<[u8]>::trim_ascii);
        let texts = in_headers.chain(cookies::named(headers, &self.cookie)).take(MOST);
        let mut is_forged = false;
        let tokens = texts.filter_map(|text| {
            let token = self.tokens.open(text);
            is_forged |= token.is_none();
            token
        });
        match tokens.reduce(SessionToken::and) {
            Some(token) => {
                let at = LogPosition::new(token.epoch, token.position);
                SessionClaim::Position { at, is_old: is_old(token) }
            }
            None if is_forged => SessionClaim::Forged,
            None => SessionClaim::None,
        }
    }

    /// Adds a token to a response.
    pub(crate) fn write(&self, headers: &mut HeaderMap, at: LogPosition) {
        let LogPosition { epoch, position } = at;
        let token = self.tokens.seal(SessionToken { epoch, position, written: unix_millis() });
        let name = &self.cookie;
        let secure = if self.is_plain { "" } else { "; Secure" };
        let cookie =
            format!("{name}={token}; Path=/; Max-Age={LIFE}; HttpOnly; SameSite=Lax{secure}");
        if let (Ok(token), Ok(cookie)) = (token.parse(), cookie.parse()) {
            let others = self.others(headers, epoch);
            headers.insert(HEADER, token);
            headers.extend(others.into_iter().map(|other| (HEADER, other)));
            headers.append(SET_COOKIE, cookie);
        }
    }

    /// The tokens in a response that a new token of this epoch does not replace: tokens of other databases, and of other
    /// services whose responses are part of this one.
    fn others(&self, headers: &HeaderMap, epoch: Epoch) -> Vec<HeaderValue> {
        let is_other = |value: &&HeaderValue| {
            self.tokens.open(value.as_bytes()).is_none_or(|token| token.epoch != epoch)
        };
        headers.get_all(HEADER).into_iter().filter(is_other).cloned().collect()
    }
}

fn is_old(token: SessionToken) -> bool {
    unix_millis().saturating_sub(token.written) > LIFE * 1000
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}
