//! What protects entries and messages in Redis: a checksum against damage or, where the nodes of a service share a
//! secret, a message authentication code against forgery.
//!
//! The code covers the whole name in Redis. So an entry that is copied to another key is rejected, and so is a message that
//! is repeated on another channel or under another prefix.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::clock::unix_millis;
use crate::entry::{DecodeError, Entry, Packing, codec};
use crate::secret::{MAC, Secrets};

/// The shortest time between two warnings, in milliseconds.
const WARN_EVERY: u64 = 60_000;

/// The prefixes of the signed input of entries and of messages, so that one can't be used as the other.
const ENTRY: &[u8] = b"entry";
const MESSAGE: &[u8] = b"message";

/// Signs what goes to Redis and checks what comes from it.
#[derive(Debug)]
pub(super) struct Seal {
    secrets: Option<Secrets>,
    /// How the bodies of entries are compressed.
    packing: Packing,
    refused: AtomicU64,
    /// When the last warning was logged, in milliseconds since 1970.
    warned: AtomicU64,
}

impl Seal {
    pub(super) fn new(secrets: Option<Secrets>, packing: Packing) -> Self {
        Self { secrets, packing, refused: AtomicU64::new(0), warned: AtomicU64::new(0) }
    }

    /// Whether nodes share a secret.
    pub(super) fn signs(&self) -> bool {
        self.secrets.is_some()
    }

    /// How many entries and messages did not verify.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The bytes of an entry that is stored under `name`.
    pub(super) fn encode(&self, name: &str, entry: &Entry) -> Bytes {
        let Some(secrets) = &self.secrets else {
            return codec::encode_sealed(entry, self.packing, codec::checksum);
        };
        codec::encode_sealed(entry, self.packing, |bytes| {
            let (before, after) = codec::around_seal(bytes);
            secrets.sign(&[ENTRY, name.as_bytes(), before, after])
        })
    }

    /// Reads an entry that was found under a name, which matters only if nodes share a secret.
    pub(super) fn decode(
        &self,
        name: impl FnOnce() -> String,
        bytes: &Bytes,
    ) -> Result<Entry, DecodeError> {
        let Some(secrets) = &self.secrets else {
            return codec::decode_sealed(bytes, self.packing, codec::is_whole);
        };
        let name = name();
        codec::decode_sealed(bytes, self.packing, |bytes, code| {
            let (before, after) = codec::around_seal(bytes);
            if secrets.verifies(&[ENTRY, name.as_bytes(), before, after], code) {
                return Ok(());
            }
            self.refuse("entry", &name);
            Err(DecodeError::Signature)
        })
    }

    /// Signs a message for a channel: prepends the code.
    pub(super) fn wrap<'a>(&self, channel: &str, message: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.secrets {
            None => Cow::Borrowed(message),
            Some(secrets) => {
                let code = secrets.sign(&[MESSAGE, channel.as_bytes(), message]);
                Cow::Owned([&code, message].concat())
            }
        }
    }

    /// The message in bytes from a channel, if its code is valid.
    pub(super) fn unwrap(&self, channel: &str, bytes: Bytes) -> Option<Bytes> {
        let Some(secrets) = &self.secrets else { return Some(bytes) };
        let split = bytes.split_at_checked(MAC);
        let is_ours = split.is_some_and(|(code, message)| {
            secrets.verifies(&[MESSAGE, channel.as_bytes(), message], code)
        });
        if !is_ours {
            self.refuse("message", channel);
        }
        is_ours.then(|| bytes.slice(MAC..))
    }

    /// Counts a rejection, and warns at most once a minute, since an attacker controls how often this happens.
    fn refuse(&self, kind: &str, name: &str) {
        let refused = 1 + self.refused.fetch_add(1, Ordering::Relaxed);
        let (now, warned) = (unix_millis(), self.warned.load(Ordering::Relaxed));
        let is_due = now.saturating_sub(warned) >= WARN_EVERY;
        let order = Ordering::Relaxed;
        if is_due && self.warned.compare_exchange(warned, now, order, order).is_ok() {
            tracing::warn!(
                kind,
                name,
                refused,
                "ignored an entry or a message in Redis that is not signed with a secret of this service: another service \
                 uses the same prefix, a node has another secret, or someone forges; see RedisOptions::secrets"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::entry::{Epoch, Key, Lifetime, LogPosition, Position};

    fn seal(secrets: &[&str]) -> Seal {
        Seal::new(Some(Secrets::derive("test", secrets).unwrap()), Packing::default())
    }

    fn entry() -> Entry {
        let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let key = Key::new("k").finish();
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        Entry::new(&key, basis, [].into(), life, "head".into(), "body".into())
    }

    #[test]
    fn a_signed_entry_decodes_only_under_its_own_key_and_unchanged() {
        let seal = seal(&["one secret of ours"]);
        let bytes = seal.encode("a", &entry());
        assert_eq!(seal.decode(|| "a".to_owned(), &bytes).unwrap().body(), "body");
        assert_eq!(seal.decode(|| "b".to_owned(), &bytes).err(), Some(DecodeError::Signature));
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x40;
            assert!(seal.decode(|| "a".to_owned(), &changed.into()).is_err(), "changed at {at}");
            assert!(seal.decode(|| "a".to_owned(), &bytes.slice(..at)).is_err(), "cut at {at}");
        }
        assert_eq!(
            seal.decode(|| "a".to_owned(), &codec::encode(&entry())).err(),
            Some(DecodeError::Signature)
        );
        assert!(seal.refused() > 100);
    }

    #[test]
    fn secrets_can_be_rotated_one_node_at_a_time() {
        let (old, both) = (
            seal(&["one secret of ours"]),
            seal(&["a newer secret than that", "one secret of ours"]),
        );
        assert!(both.decode(|| "a".to_owned(), &old.encode("a", &entry())).is_ok());
        assert!(old.decode(|| "a".to_owned(), &both.encode("a", &entry())).is_err());
        assert_eq!((old.refused(), both.refused()), (1, 0));
    }

    #[test]
    fn a_signed_message_is_valid_only_on_its_channel() {
        let seal = seal(&["one secret of ours"]);
        let sent = Bytes::from(seal.wrap("news", b"all is new").into_owned());
        assert_eq!(seal.unwrap("news", sent.clone()).as_deref(), Some(&b"all is new"[..]));
        assert_eq!(seal.unwrap("questions", sent.clone()), None);
        for forged in [&b""[..], b"short", b"all is new, and long enough for a code"] {
            assert_eq!(seal.unwrap("news", Bytes::from_static(forged)), None);
        }
        assert_eq!(seal.refused(), 4);
        let open = Seal::new(None, Packing::default());
        assert_eq!(open.unwrap("news", sent.clone()), Some(sent));
    }
}
