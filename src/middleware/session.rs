//! Sessions that see their own writes.
//!
//! After a request that wrote, its response carries a token: a position in the database's log that is
//! past the write. A later request that brings the token is answered with at least all of that. The
//! token is encrypted and authenticated (`token`), so that nobody can make up positions that the node would wait for, or
//! learn how much is written to the database.

use std::fmt;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::cookies;
use crate::clock::unix_millis;
use crate::entry::{Epoch, Position};
use crate::secret::SecretError;

mod token;

use token::{Token, Tokens};

/// The header that carries a token, both ways.
const HEADER: HeaderName = HeaderName::from_static("tidegate-position");

/// The cookie that carries it for browsers, which by this prefix accept it only from this host, over https, and never
/// from a subdomain (RFC 6265bis, section 4.1.3.2).
const SECURE_COOKIE: &str = "__Host-tidegate-position";

/// The cookie of a service that is reached over plain http.
const PLAIN_COOKIE: &str = "tidegate-position";

/// Seconds for which a browser keeps the cookie. After that every node has long followed the log past it.
const LIFE: u64 = 300;

/// Tokens of one request that are read; a client may send any number.
const MOST: usize = 64;

/// Encrypts and reads the tokens of sessions. All nodes of a service need the same secret.
///
/// A token is opaque to clients, and travels in the header `Tidegate-Position` and in a cookie that only this host gets,
/// over https, for five minutes (`__Host-tidegate-position`; `Secure`, `HttpOnly`, `SameSite=Lax`). If a request brings
/// several tokens, all that are ours count. A token that is older than five minutes costs nothing: every node has followed
/// the log past its position, or finds out once that the history of that position is over.
#[derive(Clone)]
pub struct Sessions {
    tokens: Tokens,
    is_plain: bool,
}

/// What a request says of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    None,
    Forged,
    Position {
        at: (Epoch, Position),
        /// By this node's clock it was written longer ago than a token lives. The clock of the node that wrote it may
        /// differ.
        is_old: bool,
    },
}

/// Whether a cookie of this name is ours, and so says nothing of the client.
pub(crate) fn is_session_cookie(name: &[u8]) -> bool {
    name == SECURE_COOKIE.as_bytes() || name == PLAIN_COOKIE.as_bytes()
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
    /// `[old, new]`, then `[new, old]`, then `[new]`.
    ///
    /// # Errors
    ///
    /// If there is none, or one is shorter than 16 bytes.
    pub fn with_secrets(secrets: &[impl AsRef<[u8]>]) -> Result<Self, SecretError> {
        Ok(Self { tokens: Tokens::new(secrets)?, is_plain: false })
    }

    /// Sessions with the secret in the environment variable `TIDEGATE_SECRET`. If `TIDEGATE_SECRET_OLD` is set, its
    /// secret is accepted as well.
    ///
    /// # Errors
    ///
    /// If it is not set, or one is too short.
    pub fn from_env() -> Result<Self, SecretError> {
        let secret = std::env::var("TIDEGATE_SECRET").map_err(|_| SecretError::Unset)?;
        let secrets: Vec<_> =
            [secret].into_iter().chain(std::env::var("TIDEGATE_SECRET_OLD")).collect();
        Self::with_secrets(&secrets)
    }

    /// Binds tokens to a name, such as that of the service, or of the tenant whose database this is: a token that is bound
    /// to another name is not ours, though the secret is the same.
    #[must_use]
    pub fn bound_to(mut self, name: &str) -> Self {
        self.tokens.bound_to = name.into();
        self
    }

    /// For a service that browsers reach over plain http, as on a developer's machine: the cookie is called
    /// `tidegate-position` and lacks `Secure`. Browsers don't keep the other one there.
    #[must_use]
    pub fn plain_http(mut self) -> Self {
        self.is_plain = true;
        self
    }

    fn cookie_name(&self) -> &'static str {
        if self.is_plain { PLAIN_COOKIE } else { SECURE_COOKIE }
    }

    /// The session's position, from headers and cookies. One that is not ours hides none that is.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Claim {
        let in_headers = headers.get_all(HEADER).into_iter().map(HeaderValue::as_bytes);
        let texts = in_headers.chain(cookies::named(headers, self.cookie_name())).take(MOST);
        let mut is_forged = false;
        let tokens = texts.filter_map(|text| {
            let token = self.tokens.open(text);
            is_forged |= token.is_none();
            token
        });
        match tokens.reduce(Token::and) {
            Some(token) => {
                Claim::Position { at: (token.epoch, token.position), is_old: is_old(token) }
            }
            None if is_forged => Claim::Forged,
            None => Claim::None,
        }
    }

    /// Adds a token to a response.
    pub(crate) fn write(&self, headers: &mut HeaderMap, (epoch, position): (Epoch, Position)) {
        let token = self.tokens.seal(Token { epoch, position, written: unix_millis() });
        let name = self.cookie_name();
        let secure = if self.is_plain { "" } else { "; Secure" };
        let cookie =
            format!("{name}={token}; Path=/; Max-Age={LIFE}; HttpOnly; SameSite=Lax{secure}");
        if let (Ok(token), Ok(cookie)) = (token.parse(), cookie.parse()) {
            headers.insert(HEADER, token);
            headers.append(SET_COOKIE, cookie);
        }
    }
}

fn is_old(token: Token) -> bool {
    unix_millis().saturating_sub(token.written) > LIFE * 1000
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: (Epoch, Position) = (Epoch::new(3), Position::new(0x16_B374_D848));

    fn sessions() -> Sessions {
        Sessions::new([7; 32]).unwrap()
    }

    fn token_at(position: u64, age: u64) -> String {
        let written = unix_millis() - age * 1000;
        sessions().tokens.seal(Token { epoch: AT.0, position: Position::new(position), written })
    }

    fn claim(name: &'static str, value: &str) -> Claim {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        sessions().read(&headers)
    }

    fn at(position: u64) -> Claim {
        Claim::Position { at: (AT.0, Position::new(position)), is_old: false }
    }

    #[test]
    fn what_is_written_is_read_by_header_and_by_cookie() {
        let mut headers = HeaderMap::new();
        sessions().write(&mut headers, AT);
        let token = headers[HEADER].to_str().unwrap();
        assert_eq!(claim("tidegate-position", token), at(AT.1.get()));
        let cookie = headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
        assert_eq!(claim("cookie", cookie), at(AT.1.get()));
        assert_eq!(sessions().read(&HeaderMap::new()), Claim::None);
    }

    #[test]
    fn security_the_cookie_is_for_this_host_and_https_unless_the_service_is_plain_http() {
        let cookie = |sessions: Sessions| {
            let mut headers = HeaderMap::new();
            sessions.write(&mut headers, AT);
            headers[SET_COOKIE].to_str().unwrap().to_owned()
        };
        let secure = cookie(sessions());
        assert!(secure.starts_with("__Host-tidegate-position=") && secure.ends_with("; Secure"));
        assert!(secure.contains("; Path=/;") && !secure.contains("Domain"), "{secure}");
        let plain = cookie(sessions().plain_http());
        assert!(plain.starts_with("tidegate-position=") && !plain.contains("Secure"), "{plain}");
        let pair = plain.split(';').next().unwrap();
        assert_eq!(claim("cookie", pair), Claim::None, "a subdomain may have set it");
    }

    #[test]
    fn security_a_forged_token_hides_no_valid_one_behind_it() {
        let (older, newer, forged) = (token_at(7, 9), token_at(8, 1), "f".repeat(80));
        let cookie = |token: &str| format!("__Host-tidegate-position={token}");
        let line = [cookie(&forged), cookie(&older), cookie(&newer), cookie(&older)].join("; ");
        assert_eq!(claim("cookie", &line), at(8));
        let mut headers = HeaderMap::new();
        headers.append(HEADER, forged.parse().unwrap());
        assert_eq!(sessions().read(&headers), Claim::Forged);
        headers.append("cookie", cookie(&older).parse().unwrap());
        assert_eq!(sessions().read(&headers), at(7));
    }

    #[test]
    fn security_a_token_is_old_after_its_life_and_counts_all_the_same() {
        assert_eq!(claim("tidegate-position", &token_at(7, LIFE - 1)), at(7));
        let old = Claim::Position { at: (AT.0, Position::new(7)), is_old: true };
        assert_eq!(claim("tidegate-position", &token_at(7, LIFE + 1)), old);
    }

    #[test]
    fn tokens_of_two_histories_require_a_position_in_neither() {
        let session = |tokens: &[(u64, u64, u64)]| {
            let mut headers = HeaderMap::new();
            for &(epoch, position, age) in tokens {
                let (epoch, position) = (Epoch::new(epoch), Position::new(position));
                let written = unix_millis() - age * 1000;
                let token = sessions().tokens.seal(Token { epoch, position, written });
                headers.append(HEADER, token.parse().unwrap());
            }
            sessions().read(&headers)
        };
        let of_both = session(&[(3, 7, 0), (4, 5, 0)]);
        assert_eq!(session(&[(4, 5, 9), (3, 7, 900)]), of_both, "whatever the clocks said");
        let Claim::Position { at: (epoch, _), is_old: false } = of_both else {
            panic!("{of_both:?}")
        };
        assert!(![Epoch::new(3), Epoch::new(4), Epoch::UNKNOWN].contains(&epoch));
        assert_ne!(session(&[(3, 8, 0), (4, 5, 0)]), of_both, "it is of these two positions");
        assert_ne!(session(&[(3, 7, 0), (4, 5, 0), (5, 1, 0)]), of_both);
    }

    #[test]
    fn security_a_token_of_another_name_is_worth_nothing() {
        let (shop, office) = (sessions().bound_to("shop"), sessions().bound_to("office"));
        let mut headers = HeaderMap::new();
        shop.write(&mut headers, AT);
        assert_eq!(shop.read(&headers), at(AT.1.get()));
        assert_eq!(
            (office.read(&headers), sessions().read(&headers)),
            (Claim::Forged, Claim::Forged)
        );
    }

    #[test]
    fn a_token_that_is_not_ours_is_worth_nothing() {
        let other = Sessions::new([8; 32]).unwrap().tokens;
        let other = other.seal(Token { epoch: AT.0, position: AT.1, written: unix_millis() });
        for forged in [&other, &other[1..], "", &"0".repeat(80), &"0".repeat(64), &"é".repeat(40)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(forged.as_bytes()).unwrap());
            assert_eq!(sessions().read(&headers), Claim::Forged, "{forged}");
        }
    }

    #[test]
    fn security_secrets_of_sessions_are_replaced_while_nodes_run() {
        let mut headers = HeaderMap::new();
        sessions().write(&mut headers, AT);
        let both = Sessions::with_secrets(&[[8; 32], [7; 32]]).unwrap();
        assert_eq!(both.read(&headers), at(AT.1.get()));
    }

    #[test]
    fn a_secret_is_long_and_never_shown() {
        assert!(matches!(Sessions::new("short"), Err(SecretError::Short(5))));
        assert_eq!(Sessions::with_secrets(&[] as &[&str]).err(), Some(SecretError::Missing));
        assert_eq!(format!("{:?}", Sessions::new("a".repeat(16)).unwrap()), "Sessions");
    }
}
