//! Hash tables without a seed: the same run costs the same, and repeats itself.
//!
//! They are looked into, never walked: the order inside must not reach an output.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table with a fixed hasher.
pub(super) type Table<K, V> = HashMap<K, V, BuildHasherDefault<Fixed>>;

/// Multiply and rotate, as compilers hash their own tables. Good for identities, which nobody forges here.
#[derive(Clone, Copy, Default)]
pub(super) struct Fixed(u64);

const FACTOR: u64 = 0xf135_7aea_2e62_a9c5;

impl Hasher for Fixed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(FACTOR).rotate_left(23);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(FACTOR).rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_do_not_collide() {
        let hash = |a: u64, b: u64| {
            let mut h = Fixed::default();
            h.write_u64(a);
            h.write_u64(b);
            h.finish()
        };
        let all: std::collections::BTreeSet<u64> =
            (0..64).flat_map(|a| (0..1_000).map(move |b| hash(a, b) >> 32)).collect();
        assert!(all.len() > 63_990, "{}", all.len());
    }
}
