//! The stream of operations of one client: the same for the same seed.

use super::choose::Chooser;
use super::{KeySpace, mix::Mix};
use crate::options::BenchOptions;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// One operation, before values are filled in. Keys are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read { key: u64 },
    Update { key: u64 },
    Insert { key: u64 },
    Delete { key: u64 },
    Scan { from: u64, rows: u32 },
    ReadModifyWrite { key: u64 },
}

/// The random numbers of stream `number` of a run: ChaCha's streams never overlap.
pub(crate) fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    rng
}

/// Draws operations. While the workload inserts nothing, the stream follows from the seed alone; with inserts, which
/// keys exist also depends on how far the other clients are.
#[derive(Clone, Debug)]
pub(crate) struct Generator {
    mix: Mix,
    chooser: Chooser,
    space: Arc<KeySpace>,
    scan_rows_max: u32,
    rng: ChaCha8Rng,
}

impl Generator {
    /// The generator of client `number`, as a copy of `self` with random numbers of its own.
    pub(crate) fn for_client(&self, seed: u64, number: u64) -> Self {
        Self { rng: stream(seed, number), ..self.clone() }
    }

    pub(crate) fn new(options: &BenchOptions, space: Arc<KeySpace>) -> Self {
        Self {
            mix: options.workload.mix(),
            chooser: Chooser::new(options.distribution(), options.keys),
            space,
            scan_rows_max: options.scan_rows_max,
            rng: stream(options.seed, 0),
        }
    }

    pub(crate) fn draw(&mut self) -> Op {
        let share = self.rng.random_range(0..100);
        let Mix { read, update, insert, scan, delete, .. } = self.mix;
        if share >= read + update && share < read + update + insert {
            return Op::Insert { key: self.space.allocate() };
        }
        let key = self.chooser.choose(&self.space, &mut self.rng);
        if share < read {
            Op::Read { key }
        } else if share < read + update {
            Op::Update { key }
        } else if share < read + update + insert + scan {
            Op::Scan { from: key, rows: self.rng.random_range(1..=self.scan_rows_max) }
        } else if share < read + update + insert + scan + delete {
            Op::Delete { key }
        } else {
            Op::ReadModifyWrite { key }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    fn draws(workload: Workload, seed: u64, client: u64) -> Vec<Op> {
        let options = BenchOptions { workload, seed, ..BenchOptions::default() };
        let mut generator = Generator::new(&options, Arc::new(KeySpace::new(options.keys))).for_client(seed, client);
        (0..5000).map(|_| generator.draw()).collect()
    }

    #[test]
    fn the_seed_decides_and_clients_differ() {
        assert_eq!(draws(Workload::A, 5, 1), draws(Workload::A, 5, 1));
        assert_ne!(draws(Workload::A, 5, 1), draws(Workload::A, 5, 2));
        assert_ne!(draws(Workload::A, 5, 1), draws(Workload::A, 6, 1));
    }

    #[test]
    fn shares_are_as_stated() {
        let share =
            |workload, is: fn(&Op) -> bool| draws(workload, 9, 0).iter().filter(|op| is(op)).count() as f64 / 50.0;
        assert!((share(Workload::A, |op| matches!(op, Op::Update { .. })) - 50.0).abs() < 3.0);
        assert!((share(Workload::D, |op| matches!(op, Op::Insert { .. })) - 5.0).abs() < 1.5);
        assert!((share(Workload::E, |op| matches!(op, Op::Scan { .. })) - 95.0).abs() < 1.5);
        assert!((share(Workload::F, |op| matches!(op, Op::ReadModifyWrite { .. })) - 50.0).abs() < 3.0);
        assert!((share(Workload::Write, |op| matches!(op, Op::Update { .. })) - 100.0).abs() < 0.01);
    }

    #[test]
    fn inserts_take_new_keys() {
        let keys: Vec<u64> = draws(Workload::D, 1, 0)
            .into_iter()
            .filter_map(|op| if let Op::Insert { key } = op { Some(key) } else { None })
            .collect();
        assert!(keys.iter().zip(1000..).all(|(key, expected)| *key == expected));
    }
}
