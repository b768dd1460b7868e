//! How the next key is chosen.

use super::{KeySpace, Zipfian};
use crate::error::BadOption;
use rand::{Rng, RngExt as _};
use std::fmt;
use std::str::FromStr;

/// Which keys are popular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// A few popular ones, scattered over the key space by a hash (YCSB's scrambled zipfian, theta 0.99).
    Zipfian,
    /// The latest inserted ones, by zipfian distance from the newest.
    Latest,
}

impl Distribution {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
            Self::Latest => "latest",
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Distribution {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Self, BadOption> {
        [Self::Uniform, Self::Zipfian, Self::Latest]
            .into_iter()
            .find(|d| d.name() == text)
            .ok_or_else(|| BadOption::new("distribution", "one of `uniform`, `zipfian`, `latest`"))
    }
}

/// Chooses key numbers below the key space's visible end.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    distribution: Distribution,
    /// Of the two skewed distributions.
    zipfian: Option<Zipfian>,
}

impl Chooser {
    pub(crate) fn new(distribution: Distribution, keys: u64) -> Self {
        let zipfian = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipfian | Distribution::Latest => Some(Zipfian::new(keys)),
        };
        Self { distribution, zipfian }
    }

    pub(crate) fn choose(&mut self, space: &KeySpace, rng: &mut impl Rng) -> u64 {
        let keys = space.visible();
        let Some(zipfian) = &mut self.zipfian else { return rng.random_range(0..keys) };
        zipfian.grow(keys);
        let rank = zipfian.draw(rng);
        match self.distribution {
            // YCSB scrambles ranks out of ten thousand million; ours are as many as there are keys, which keeps the
            // popular ones as popular as the formula says.
            Distribution::Uniform | Distribution::Zipfian => fnv1a(rank) % keys,
            Distribution::Latest => keys - 1 - rank.min(keys - 1),
        }
    }
}

/// The 64-bit FNV-1a hash of a number's bytes, low byte first, as YCSB uses it.
fn fnv1a(number: u64) -> u64 {
    const OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01B3;
    number.to_le_bytes().into_iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    fn counts(distribution: Distribution, keys: u64) -> Vec<u32> {
        let space = KeySpace::new(keys);
        let mut chooser = Chooser::new(distribution, keys);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut counts = vec![0; usize::try_from(keys).unwrap()];
        for _ in 0..50_000 {
            counts[usize::try_from(chooser.choose(&space, &mut rng)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn uniform_is_flat_and_zipfian_is_not() {
        let flat = counts(Distribution::Uniform, 100);
        assert!(flat.iter().all(|c| (350..=650).contains(c)), "{flat:?}");
        let skewed = counts(Distribution::Zipfian, 100);
        let popular = skewed.iter().max().unwrap();
        assert!((8_000..=14_000).contains(popular), "{popular}");
        assert!(skewed[0] < *popular, "the popular key is not the first one");
    }

    #[test]
    fn latest_prefers_the_end_and_follows_inserts() {
        let c = counts(Distribution::Latest, 100);
        assert!(c[99] > c[98] && c[98] > c[50]);
        let space = KeySpace::new(100);
        let mut chooser = Chooser::new(Distribution::Latest, 100);
        space.insert_ended(space.allocate());
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        assert!((0..100).any(|_| chooser.choose(&space, &mut rng) == 100));
    }
}
