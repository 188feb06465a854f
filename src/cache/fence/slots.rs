//! The slots of a tag in the fence table.

use std::hash::{BuildHasher, RandomState};

use crate::entry::Tag;

/// Slots per tag.
pub(super) const ROWS: usize = 2;

/// Chooses a tag's slots with a secret of this process.
///
/// Tag names contain values that clients choose, such as the id of a row. An attacker who knew the slots of a tag could
/// look for two other tags that cover them, and then invalidate every entry with the first tag by writing to the rows of
/// the other two. Nothing that nodes share depends on the secret. Tags are BLAKE3 hashes, so two rounds of a folded
/// multiplication, as in wyhash and foldhash, are enough to hide the slots; a hit costs two multiplications per tag.
#[derive(Debug)]
pub(super) struct Slots {
    seeds: [u64; 4],
    per_row: usize,
}

impl Slots {
    /// Slots in rows of a length that is a power of two.
    pub(super) fn new(per_row: usize) -> Self {
        Self { seeds: seeds(), per_row }
    }

    /// The slots of a tag, one in each row.
    pub(super) fn indexes(&self, tag: Tag) -> impl Iterator<Item = usize> {
        let [a, b, c, d] = self.seeds;
        let hash = folded(folded(tag.hash() ^ a, b) ^ c, d);
        let per_row = self.per_row;
        (0..ROWS).map(move |row| {
            // Each row takes 32 bits of its own from the hash; a row has fewer slots than that.
            let bits = usize::try_from((hash >> (32 * row)) & 0xffff_ffff).unwrap_or_default();
            row * per_row + (bits & (per_row - 1))
        })
    }
}

/// Both halves of a product, each bit of which depends on all lower ones of the factors.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

/// Random numbers from the operating system. loom and shuttle run the same steps again, so there they are the same.
fn seeds() -> [u64; 4] {
    if cfg!(all(test, any(tidegate_loom, tidegate_shuttle))) {
        return [3, 5, 7, 11].map(|seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    // A factor of zero would send all tags to one slot; an odd one keeps all bits.
    std::array::from_fn(|n| RandomState::new().hash_one(n) | 1)
}

#[cfg(all(test, not(tidegate_loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tags_are_spread_over_each_row() {
        const SLOTS: usize = 4096;
        let slots = Slots::new(SLOTS);
        let mut taken = [HashSet::new(), HashSet::new()];
        for n in 0..SLOTS {
            for (row, slot) in slots.indexes(Tag::column("users", "id", &n.to_string())).enumerate()
            {
                assert_eq!(slot / SLOTS, row);
                taken[row].insert(slot);
            }
        }
        // At random, 1 - 1/e of the slots are taken: 2,589, give or take 26 (one standard deviation).
        assert!(taken.iter().all(|taken| (2400..2800).contains(&taken.len())));
    }
}
