//! A buffer for short keys.

/// Bytes that are stored inline as long as they fit. Most requests' keys do, so looking them up allocates nothing.
#[derive(Clone, Debug)]
pub(super) struct Text {
    short: [u8; IN_PLACE],
    /// How many bytes of `short` are used.
    length: usize,
    /// All bytes, once they no longer fit into `short`.
    long: Vec<u8>,
}

const IN_PLACE: usize = 192;

impl Text {
    pub(super) const fn new() -> Self {
        Self { short: [0; IN_PLACE], length: 0, long: Vec::new() }
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        match self.short.get_mut(self.length..end) {
            Some(room) if self.long.is_empty() => {
                room.copy_from_slice(bytes);
                self.length = end;
            }
            _ => self.extend_long(bytes),
        }
    }

    #[cold]
    fn extend_long(&mut self, bytes: &[u8]) {
        if self.long.is_empty() {
            self.long.reserve(2 * IN_PLACE + bytes.len());
            self.long.extend_from_slice(&self.short[..self.length]);
        }
        self.long.extend_from_slice(bytes);
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self.long.is_empty() {
            true => &self.short[..self.length],
            false => &self.long,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn appended_bytes_read_back_inline_and_on_the_heap(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..6),
        ) {
            let mut text = Text::new();
            for part in &parts {
                text.extend(part);
            }
            text.push(7);
            let mut all = parts.concat();
            all.push(7);
            prop_assert_eq!(text.as_slice(), &all[..]);
        }
    }

    #[test]
    fn bytes_stay_inline_until_they_no_longer_fit() {
        let mut text = Text::new();
        text.extend(&[1; IN_PLACE]);
        assert!(text.long.is_empty());
        text.push(2);
        text.extend(&[]);
        assert_eq!(text.as_slice(), [&[1; IN_PLACE][..], &[2]].concat());
    }
}
