//! The form of a session's token.
//!
//! ```text
//! bytes  what                                                   written as 80 hexadecimal digits
//!    16  code: over the name that the token is bound to, and the plain content
//!     8  epoch                                                  these three are encrypted
//!     8  position
//!     8  when it was written, in milliseconds since 1970
//! ```
//!
//! The code is computed with keyed BLAKE3 and also serves as the initialization vector of the cipher, whose keystream is
//! BLAKE3's extended output with a second key. Such a synthetic initialization vector (as in RFC 5297) needs no unique
//! random numbers. Two tokens are equal if and only if their contents are.

use std::sync::Arc;

use crate::entry::{Epoch, Position};
use crate::secret::{MAC, SecretError, Secrets, is_same, mac};

const CONTENT: usize = 24;
const LENGTH: usize = MAC + CONTENT;

/// The content of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionToken {
    pub(super) epoch: Epoch,
    pub(super) position: Position,
    /// Milliseconds since 1970.
    pub(super) written: u64,
}

/// Writes and reads tokens.
#[derive(Clone)]
pub(super) struct TokenCodec {
    codes: Secrets,
    streams: Secrets,
    /// Tokens that are bound to another name are not accepted.
    pub(super) bound_to: Arc<str>,
}

impl TokenCodec {
    pub(super) fn new<I>(secrets: I) -> Result<Self, SecretError>
    where
        I: Clone + IntoIterator<Item: AsRef<[u8]>>,
    {
        let codes = Secrets::derive("tidegate 2026 session token code", secrets.clone())?;
        let streams = Secrets::derive("tidegate 2026 session token stream", secrets)?;
        Ok(Self { codes, streams, bound_to: Arc::default() })
    }

    pub(super) fn seal(&self, token: SessionToken) -> String {
        let content = token.content();
        let code = self.code(self.codes.first(), &content);
        let hidden = apply(stream(self.streams.first(), &code), &content);
        code.iter().chain(&hidden).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Decrypts a token; `None` if it is invalid.
    pub(super) fn open(&self, text: &[u8]) -> Option<SessionToken> {
        let bytes = digits(text)?;
        let (code, hidden) = bytes.split_first_chunk::<MAC>()?;
        let keys = self.codes.all().zip(self.streams.all());
        keys.into_iter().find_map(|(key, cipher)| {
            let content = apply(stream(cipher, code), hidden.try_into().ok()?);
            is_same(&self.code(key, &content), code).then(|| SessionToken::from_content(&content))
        })
    }

    fn code(&self, key: &[u8; 32], content: &[u8; CONTENT]) -> [u8; MAC] {
        mac(key, &[self.bound_to.as_bytes(), content])
    }
}

impl SessionToken {
    fn content(self) -> [u8; CONTENT] {
        let mut content = [0; CONTENT];
        let numbers = [self.epoch.get(), self.position.get(), self.written];
        for (place, number) in content.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_be_bytes();
        }
        content
    }

    fn from_content(content: &[u8; CONTENT]) -> Self {
        let (numbers, _) = content.as_chunks::<8>();
        let [epoch, position, written] = [0, 1, 2].map(|at| u64::from_be_bytes(numbers[at]));
        Self { epoch: Epoch::new(epoch), position: Position::new(position), written }
    }

    /// Combines two tokens of one client. In one history, the later position counts. If they are from two histories, it is
    /// unknown which one has ended, and the nodes' clocks can't decide it. Then the result is a position in an epoch that
    /// does not exist, which a node treats like an epoch that it has not learned of yet.
    pub(super) fn and(self, other: Self) -> Self {
        let written = self.written.max(other.written);
        match self.epoch == other.epoch {
            true => Self { position: self.position.max(other.position), written, ..self },
            false => Self { epoch: neither(self, other), position: Position::MAX, written },
        }
    }
}

/// An epoch derived from two tokens, in either order.
fn neither(one: SessionToken, other: SessionToken) -> Epoch {
    let numbers = |token: SessionToken| (token.epoch.get(), token.position.get());
    let (first, second) = (numbers(one).min(numbers(other)), numbers(one).max(numbers(other)));
    let mut hasher = blake3::Hasher::new_derive_key("tidegate 2026 tokens of two histories");
    for number in [first.0, first.1, second.0, second.1] {
        hasher.update(&number.to_be_bytes());
    }
    let mut number = [0; 8];
    hasher.finalize_xof().fill(&mut number);
    Epoch::new(u64::from_be_bytes(number).max(1))
}

fn stream(key: &[u8; 32], code: &[u8; MAC]) -> [u8; CONTENT] {
    let mut stream = [0; CONTENT];
    blake3::Hasher::new_keyed(key).update(code).finalize_xof().fill(&mut stream);
    stream
}

fn apply(mut stream: [u8; CONTENT], content: &[u8; CONTENT]) -> [u8; CONTENT] {
    stream.iter_mut().zip(content).for_each(|(byte, content)| *byte ^= content);
    stream
}

/// Decodes lower-case hexadecimal digits.
fn digits(text: &[u8]) -> Option<[u8; LENGTH]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != LENGTH || !rest.is_empty() {
        return None;
    }
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; LENGTH];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: SessionToken = SessionToken {
        epoch: Epoch::new(3),
        position: Position::new(0x16_B374_D848),
        written: 1_790_000_000_000,
    };

    fn tokens(secrets: &[[u8; 32]]) -> TokenCodec {
        TokenCodec::new(secrets).unwrap()
    }

    #[test]
    fn a_token_is_sealed_with_the_first_secret_and_opens_with_any() {
        let (old, both, new) =
            (tokens(&[[1; 32]]), tokens(&[[2; 32], [1; 32]]), tokens(&[[2; 32]]));
        assert_eq!(both.open(old.seal(TOKEN).as_bytes()), Some(TOKEN));
        assert_eq!(new.open(both.seal(TOKEN).as_bytes()), Some(TOKEN));
        assert_eq!(old.open(both.seal(TOKEN).as_bytes()), None);
    }

    #[test]
    fn any_changed_digit_or_truncation_is_detected() {
        let (tokens, token) = (tokens(&[[7; 32]]), tokens(&[[7; 32]]).seal(TOKEN));
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(tokens.open(&changed), None, "digit {at}");
            assert_eq!(tokens.open(&token.as_bytes()[..at]), None, "cut at {at}");
        }
        assert_eq!(tokens.open(token.to_uppercase().as_bytes()), None, "one form for each");
    }

    #[test]
    fn a_sealed_token_reveals_nothing_of_the_position() {
        let tokens = tokens(&[[7; 32]]);
        let next = SessionToken { position: Position::new(TOKEN.position.get() + 1), ..TOKEN };
        let (a, b) = (tokens.seal(TOKEN), tokens.seal(next));
        let same = a.bytes().zip(b.bytes()).filter(|(a, b)| a == b).count();
        // Of 80 digits that are drawn at random, 5 are the same on average, and 20 once in a hundred million.
        assert!(same < 20 && !a.contains("16b374d848"), "{a} {b}");
    }
}
