//! Zipf-distributed ranks: rank `i` (from 0) is drawn with a probability proportional to `1 / (i + 1)^theta`.
//!
//! Source: Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994, figure 3; the same
//! algorithm and constant as YCSB's `ZipfianGenerator`. It is exact for the two most popular ranks and approximates
//! the others by the inverse of a continuous distribution.

use rand::{Rng, RngExt as _};

/// YCSB's constant.
const THETA: f64 = 0.99;

/// A generator of ranks `0..items`.
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    /// The harmonic number of `items`: sum of `1 / i^theta`.
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Over `items` ranks, at least one. Costs time in proportion to `items`, once.
    pub fn new(items: u64) -> Self {
        let mut new = Self { items: 0, zeta: 0.0, alpha: 1.0 / (1.0 - THETA), eta: 0.0 };
        new.grow(items.max(1));
        new
    }

    /// How many ranks there are.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Adds ranks up to `items`; fewer than there are: nothing happens. Costs time in proportion to what is added.
    pub fn grow(&mut self, items: u64) {
        if items <= self.items {
            return;
        }
        self.zeta += (self.items + 1..=items).map(|i| (i as f64).powf(-THETA)).sum::<f64>();
        self.items = items;
        let zeta_of_two = 1.0 + 0.5_f64.powf(THETA);
        self.eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta_of_two / self.zeta);
    }

    /// Draws a rank.
    pub fn draw(&self, rng: &mut impl Rng) -> u64 {
        let u: f64 = rng.random();
        let scaled = u * self.zeta;
        if scaled < 1.0 || self.items == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) || self.items == 2 {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn popular_ranks_have_their_share() {
        let (items, draws) = (1000, 200_000);
        let zipfian = Zipfian::new(items);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut counts = vec![0_u64; usize::try_from(items).unwrap()];
        for _ in 0..draws {
            counts[usize::try_from(zipfian.draw(&mut rng)).unwrap()] += 1;
        }
        let share = |rank: usize| counts[rank] as f64 / f64::from(draws);
        let expected = |rank: usize| 1.0 / ((rank + 1) as f64).powf(THETA) / zipfian.zeta;
        for rank in [0, 1] {
            assert!((share(rank) / expected(rank) - 1.0).abs() < 0.05, "{rank}: {} {}", share(rank), expected(rank));
        }
        let head = |range: std::ops::Range<usize>| range.map(share).sum::<f64>();
        let expected_head: f64 = (0..100).map(expected).sum();
        assert!((head(0..100) - expected_head).abs() < 0.03, "{} {expected_head}", head(0..100));
        assert!(counts[999] > 0 && head(500..1000) > 0.05);
    }

    #[test]
    fn growing_is_the_same_as_starting_larger() {
        let mut grown = Zipfian::new(10);
        grown.grow(500);
        grown.grow(20);
        let fresh = Zipfian::new(500);
        assert_eq!(grown.items(), 500);
        assert!((grown.zeta - fresh.zeta).abs() < 1e-9 && (grown.eta - fresh.eta).abs() < 1e-9);
    }

    #[test]
    fn tiny_key_spaces_stay_in_bounds() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for items in 1..=3 {
            let zipfian = Zipfian::new(items);
            assert!((0..1000).all(|_| zipfian.draw(&mut rng) < items));
        }
    }
}
