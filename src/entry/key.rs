//! Cache keys of requests, values and queries.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use super::position::first_u64;
use super::text::Text;

/// The key of an entry: a canonical text and, for the shared store, its BLAKE3 hash.
///
/// Two keys are equal only if their texts are equal. In a shared store, the hash finds an entry, and the text proves
/// that it is the right one. Each part of the text is preceded by its length, so two different lists of parts never
/// have the same text, whatever characters they contain.
///
/// ```
/// use tidegate::Key;
///
/// let key = Key::new("report").part("2026").part("emea").finish();
/// assert_ne!(key, Key::new("report").part("2026emea").part("").finish());
/// ```
#[derive(Clone)]
pub struct Key {
    text: Text,
    /// Computed on first use: a hit in memory needs no hash.
    hash: OnceLock<[u8; 32]>,
}

impl Key {
    /// Begins a key in a namespace of its own, such as the name of the function it is for.
    #[expect(clippy::new_ret_no_self, reason = "a key is begun, then finished")]
    pub fn new(namespace: &str) -> KeyText {
        KeyText(Text::new()).part(namespace)
    }

    /// Begins the key of one of the variants of a key.
    pub(crate) fn variant(of: &Self) -> KeyText {
        Self::new("variant").part(of.text())
    }

    /// The hash.
    pub fn hash(&self) -> &[u8; 32] {
        self.hash.get_or_init(|| *blake3::hash(self.text()).as_bytes())
    }

    /// The canonical text.
    pub fn text(&self) -> &[u8] {
        self.text.as_slice()
    }

    /// The hash in hexadecimal.
    pub(crate) fn to_hex(&self) -> impl std::ops::Deref<Target = str> {
        blake3::Hash::from_bytes(*self.hash()).to_hex()
    }

    /// A short form of the hash for tables and slots on this node.
    pub(crate) fn short(&self) -> u64 {
        first_u64(self.hash())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text().hash(state);
    }
}

impl fmt::Display for Key {
    /// The hash in hexadecimal. The text may hold personal data and is never printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A key being written, part by part.
#[derive(Clone, Debug)]
pub struct KeyText(Text);

impl KeyText {
    /// Adds one part: its length, then its bytes.
    #[must_use]
    pub fn part(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.add(bytes.as_ref());
        self
    }

    /// Adds one part.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend(bytes);
    }

    /// Adds a number in LEB128: seven bits per byte, the lowest first, with a continuation bit on all but the last byte. No
    /// number's encoding is a prefix of another's.
    pub(crate) fn number(&mut self, number: usize) {
        let mut rest = number;
        while rest >= 0x80 {
            self.0.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        self.0.push(rest.to_le_bytes()[0]);
    }

    /// Adds several parts, with their number before them.
    #[must_use]
    pub fn list<I>(mut self, parts: I) -> Self
    where
        I: IntoIterator<IntoIter: ExactSizeIterator>,
        I::Item: AsRef<[u8]>,
    {
        let parts = parts.into_iter();
        self.number(parts.len());
        parts.for_each(|part| self.add(part.as_ref()));
        self
    }

    /// The key.
    pub fn finish(self) -> Key {
        Key { text: self.0, hash: OnceLock::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{Entry, Epoch, Lifetime, LogPosition, Position};

    fn key(parts: &[Vec<u8>]) -> Key {
        parts.iter().fold(Key::new("t"), KeyText::part).finish()
    }

    #[test]
    fn a_key_with_the_hash_of_another_is_not_that_key() {
        let one = Key::new("a").finish();
        let other = Key { text: Key::new("b").finish().text, hash: OnceLock::from(*one.hash()) };
        assert!(one.hash() == other.hash() && one != other);
        let second = Duration::from_secs(1);
        let (life, basis) = (
            Lifetime::starting_now(second, second, second),
            LogPosition::new(Epoch::UNKNOWN, Position::ZERO),
        );
        let entry = Entry::new(&one, basis, [].into(), life, Bytes::new(), Bytes::new());
        assert!(entry.is_for(&one) && !entry.is_for(&other));
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_if_their_parts_are(
            a in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..4),
            b in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..4),
        ) {
            prop_assert_eq!(a == b, key(&a) == key(&b));
            prop_assert_eq!(a == b, key(&a).hash() == key(&b).hash());
        }
    }

    #[test]
    fn a_long_part_never_equals_two_short_ones() {
        // A length that takes two bytes, and parts that look like one.
        let long = key(&[vec![7; 300]]);
        assert_ne!(long, key(&[vec![7; 0x2c], vec![7; 255]]));
        assert_eq!(long.text().len(), 2 + 2 + 300);
    }

    #[test]
    fn a_list_never_equals_its_parts() {
        let listed = Key::new("t").list(["a", "b"]).part("c").finish();
        let other = Key::new("t").list(["a"]).part("b").part("c").finish();
        assert_ne!(listed, other);
    }

    #[test]
    fn debug_output_hides_the_key_text() {
        assert!(
            !format!("{:?}", Key::new("t").part("alice@example.org").finish()).contains("alice")
        );
    }
}
