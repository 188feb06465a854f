//! Secrets that the nodes of one service share, and the codes (MACs) that are computed with them.

use std::fmt;
use std::sync::Arc;

/// The shortest secret, in bytes.
const SECRET_BYTES: usize = 16;

/// The length of a message authentication code, in bytes. A forger succeeds once in 2^128 attempts.
pub(crate) const MAC: usize = 16;

/// A secret that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Too easy to guess.
    #[error("a secret has {0} bytes; it needs {SECRET_BYTES} or more random bytes")]
    Short(usize),
    /// No secret was given.
    #[error("there is no secret; give one of {SECRET_BYTES} or more random bytes")]
    Missing,
    /// Not set.
    #[error(
        "TIDEGATE_SECRET is not set; give it {SECRET_BYTES} or more random bytes, the same on every node"
    )]
    Unset,
}

/// The keys of one purpose, derived from a service's secrets. The first signs, all verify, so a secret can be replaced
/// while nodes with the old and the new one are running.
#[derive(Clone)]
pub(crate) struct Secrets {
    first: [u8; 32],
    others: Arc<[[u8; 32]]>,
}

impl Secrets {
    /// Derives the keys. `purpose` makes the keys of two purposes independent, whatever secrets they share.
    ///
    /// # Errors
    ///
    /// If there is no secret, or one is shorter than 16 bytes.
    pub(crate) fn derive<I>(purpose: &str, secrets: I) -> Result<Self, SecretError>
    where
        I: IntoIterator<Item: AsRef<[u8]>>,
    {
        let derived = secrets.into_iter().map(|secret| match secret.as_ref() {
            short if short.len() < SECRET_BYTES => Err(SecretError::Short(short.len())),
            secret => Ok(blake3::derive_key(purpose, secret)),
        });
        let mut keys = derived.collect::<Result<Vec<_>, _>>()?.into_iter();
        let first = keys.next().ok_or(SecretError::Missing)?;
        Ok(Self { first, others: keys.collect() })
    }

    /// The key that signs.
    pub(crate) fn first(&self) -> &[u8; 32] {
        &self.first
    }

    /// All keys, the one that signs first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &[u8; 32]> {
        [&self.first].into_iter().chain(&*self.others)
    }
}

#[cfg(feature = "redis")]
impl Secrets {
    /// The code of `parts`, by the first key.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; MAC] {
        mac(&self.first, parts)
    }

    /// Whether `code` is that of `parts` by any of the keys.
    pub(crate) fn verifies(&self, parts: &[&[u8]], code: &[u8]) -> bool {
        self.all().any(|key| is_same(&mac(key, parts), code))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", 1 + self.others.len())
    }
}

/// BLAKE3 in keyed mode over parts that are each preceded by their length, so that no two lists have one input.
pub(crate) fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; MAC] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut code = [0; MAC];
    hasher.finalize_xof().fill(&mut code);
    code
}

/// Compares two codes in a time that does not depend on where they differ.
pub(crate) fn is_same(computed: &[u8; MAC], given: &[u8]) -> bool {
    let Ok(given) = <&[u8; MAC]>::try_from(given) else { return false };
    let differences = computed.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differences) == 0
}

#[cfg(test)]
#[cfg(feature = "redis")]
mod tests {
    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn derive(secrets: &[[u8; 32]]) -> Secrets {
        Secrets::derive("test", secrets).unwrap()
    }

    #[test]
    fn the_first_secret_signs_and_all_verify() {
        let (old, both, new) = (derive(&[OLD]), derive(&[NEW, OLD]), derive(&[NEW]));
        let parts: [&[u8]; 2] = [b"a", b"b"];
        assert!(
            both.verifies(&parts, &old.sign(&parts)) && both.verifies(&parts, &new.sign(&parts))
        );
        assert!(
            new.verifies(&parts, &both.sign(&parts)) && !old.verifies(&parts, &both.sign(&parts))
        );
    }

    #[test]
    fn a_signature_is_bound_to_its_purpose_and_its_parts() {
        let secrets = derive(&[OLD]);
        let code = secrets.sign(&[b"ab", b"c"]);
        assert!(secrets.verifies(&[b"ab", b"c"], &code));
        assert!(!secrets.verifies(&[b"a", b"bc"], &code));
        assert!(!secrets.verifies(&[b"ab", b"c"], &code[..15]) && !secrets.verifies(&[], &[]));
        let other = Secrets::derive("another test", [OLD]).unwrap();
        assert!(!other.verifies(&[b"ab", b"c"], &code));
        for at in 0..MAC {
            let mut changed = code;
            changed[at] ^= 1;
            assert!(!secrets.verifies(&[b"ab", b"c"], &changed));
        }
    }

    #[test]
    fn a_secret_must_be_present_and_long_and_is_never_shown() {
        assert_eq!(Secrets::derive("test", ["short"]).err(), Some(SecretError::Short(5)));
        let mixed = Secrets::derive("test", ["long enough to be one", "short"]);
        assert_eq!(mixed.err(), Some(SecretError::Short(5)));
        assert_eq!(Secrets::derive("test", [] as [&str; 0]).err(), Some(SecretError::Missing));
        assert_eq!(format!("{:?}", derive(&[NEW, OLD])), "Secrets(2)");
    }
}
