//! Sessions that see their own writes.
//!
//! After a request that wrote, its answer carries a token: a position in the database's log that is
//! past the write. A later request that brings the token is answered with at least all of that. The
//! token is signed, so that nobody can make up positions that the node would wait for.

use std::fmt;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::keying::cookies;
use crate::entry::{Epoch, Position};
use crate::secret::{SecretError, Secrets};

/// The header that carries a token, both ways.
const HEADER: HeaderName = HeaderName::from_static("tidegate-position");

/// The cookie that carries it for browsers.
pub(crate) const COOKIE_NAME: &str = "tidegate-position";

/// Seconds that a browser keeps the cookie. After that every node has long followed the log past it.
const COOKIE_LIFE: u32 = 300;

const BODY: usize = 16;
const MAC: usize = 16;

/// Signs and reads the tokens of sessions. All nodes of a service need the same secret.
#[derive(Clone)]
pub struct Sessions {
    secrets: Secrets,
}

/// What a request says of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    None,
    Forged,
    Position(Epoch, Position),
}

impl Sessions {
    /// Sessions with a secret.
    ///
    /// # Errors
    ///
    /// If the secret is shorter than 16 bytes.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        Ok(Self { secrets: Secrets::derive("tidegate 2026 session token", [secret])? })
    }

    /// Sessions with the secret in the environment variable `TIDEGATE_SECRET`.
    ///
    /// # Errors
    ///
    /// If it is not set, or too short.
    pub fn from_env() -> Result<Self, SecretError> {
        Self::new(std::env::var("TIDEGATE_SECRET").map_err(|_| SecretError::Unset)?)
    }

    /// The session's position, from the header or else from the cookie.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Claim {
        let header = headers.get(HEADER).map(HeaderValue::as_bytes);
        match header.or_else(|| cookies(headers, COOKIE_NAME).next()) {
            None => Claim::None,
            Some(token) => self.verify(token).unwrap_or(Claim::Forged),
        }
    }

    /// Adds a token to an answer.
    pub(crate) fn write(&self, headers: &mut HeaderMap, at: (Epoch, Position)) {
        let token = self.sign(at);
        let cookie =
            format!("{COOKIE_NAME}={token}; Path=/; Max-Age={COOKIE_LIFE}; HttpOnly; SameSite=Lax");
        if let (Ok(token), Ok(cookie)) = (token.parse(), cookie.parse()) {
            headers.insert(HEADER, token);
            headers.append(SET_COOKIE, cookie);
        }
    }

    fn sign(&self, (epoch, position): (Epoch, Position)) -> String {
        let mut body = [0; BODY];
        body[..8].copy_from_slice(&epoch.get().to_be_bytes());
        body[8..].copy_from_slice(&position.get().to_be_bytes());
        let mac = blake3::keyed_hash(self.secrets.first(), &body);
        let whole = body.iter().chain(&mac.as_bytes()[..MAC]);
        whole.map(|byte| format!("{byte:02x}")).collect()
    }

    fn verify(&self, token: &[u8]) -> Option<Claim> {
        let token = std::str::from_utf8(token).ok()?;
        if token.len() != 2 * (BODY + MAC) || !token.is_ascii() {
            return None;
        }
        let number = |at: usize| u64::from_str_radix(token.get(at..at + 16)?, 16).ok();
        let (epoch, position) = (Epoch::new(number(0)?), Position::new(number(16)?));
        let expected = self.sign((epoch, position));
        // blake3's comparison of hashes takes the same time wherever they differ.
        let same = blake3::hash(expected.as_bytes()) == blake3::hash(token.as_bytes());
        same.then_some(Claim::Position(epoch, position))
    }
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

    fn claim(name: &'static str, value: &str) -> Claim {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        sessions().read(&headers)
    }

    #[test]
    fn what_is_written_is_read_by_header_and_by_cookie() {
        let mut headers = HeaderMap::new();
        sessions().write(&mut headers, AT);
        let token = headers[HEADER].to_str().unwrap();
        assert_eq!(claim("tidegate-position", token), Claim::Position(AT.0, AT.1));
        let cookie = headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
        assert_eq!(claim("cookie", cookie), Claim::Position(AT.0, AT.1));
        assert_eq!(sessions().read(&HeaderMap::new()), Claim::None);
    }

    #[test]
    fn a_token_that_is_not_ours_is_worth_nothing() {
        let token = sessions().sign(AT);
        let other = Sessions::new([8; 32]).unwrap().sign(AT);
        let future = format!("{}{}", &"f".repeat(32), &token[32..]);
        for forged in [&other, &future, &token[1..], "", &"0".repeat(64), &"é".repeat(32)] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(forged.as_bytes()).unwrap());
            assert_eq!(sessions().read(&headers), Claim::Forged, "{forged}");
        }
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(&changed).unwrap());
            assert_eq!(sessions().read(&headers), Claim::Forged, "digit {at}");
        }
    }

    #[test]
    fn a_secret_is_long_and_never_shown() {
        assert!(matches!(Sessions::new("short"), Err(SecretError::Short(5))));
        assert_eq!(format!("{:?}", Sessions::new("a".repeat(16)).unwrap()), "Sessions");
    }
}
