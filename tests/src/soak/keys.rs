//! The tables and keys of a run.
//!
//! Every table has a few live keys at a time, so that clients meet on them. Some are written by everybody, others by
//! the clients of one region alone: a leader that is cut off has no write of its own clients in flight on those, for
//! which a read would wait, so it would show what it should not.
//!
//! A key is given up after [`OPS_MAX`] operations or [`UNKNOWN_MAX`] writes of unknown outcome: the search for a
//! linearization is exponential in the unknown writes of one key, so no key may gather many.

use meridian_bench::history::Record;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Operations on one key before the next takes its place.
pub const OPS_MAX: u32 = 200;

/// Writes of unknown outcome on one key before the next takes its place.
pub const UNKNOWN_MAX: u32 = 3;

/// Live keys of a table that everybody writes; half of them on either side of [`MIDDLE`].
const SHARED: usize = 4;

/// Live keys of a table, those that one region writes included.
const SLOTS: usize = SHARED + 4;

/// Regions.
const REGIONS: usize = 3;

/// Between the two halves of a table's keys.
const MIDDLE: &str = "m";

/// One table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Where it lives.
    pub placement: &'static str,
    /// Where it is split into shards.
    pub split_keys: &'static [&'static str],
    /// The region that should lead it, counted from 0.
    pub led_from: usize,
}

/// The tables: led from each region, one of them split, and one whose only voters are in one region.
pub const TABLES: [Table; 4] = [
    Table { name: "us", placement: "global:us-east", split_keys: &[], led_from: 0 },
    Table { name: "eu", placement: "global:eu-west", split_keys: &[MIDDLE], led_from: 1 },
    Table { name: "ap", placement: "global:ap-northeast", split_keys: &[], led_from: 2 },
    Table { name: "home", placement: "regional:eu-west", split_keys: &[], led_from: 1 },
];

/// Which shard of its table a key is in, counted from 0. Of unknown tables all keys are in one.
pub fn shard_of(table: &str, key: &str) -> usize {
    let table = TABLES.iter().find(|t| t.name == table);
    table.map_or(0, |t| t.split_keys.iter().filter(|split| **split <= key).count())
}

/// Whether a read of everything from the record's key on reads several shards.
pub fn spans_shards(record: &Record) -> bool {
    let table = TABLES.iter().find(|t| t.name == record.table);
    table.is_some_and(|t| shard_of(&record.table, &record.key) < t.split_keys.len())
}

/// The live keys, shared by all clients.
#[derive(Debug, Default)]
pub struct Keys {
    slots: Mutex<HashMap<(&'static str, usize), Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    ops: u32,
    unknown: u32,
}

impl Slot {
    fn give_up_if_used(&mut self) {
        if self.ops >= OPS_MAX || self.unknown >= UNKNOWN_MAX {
            *self = Self { generation: self.generation + 1, ..Self::default() };
        }
    }
}

impl Keys {
    /// One of a table's live keys, to be read.
    pub fn to_read(&self, table: &'static str, rng: &mut ChaCha8Rng) -> String {
        self.take(table, rng.random_range(0..SLOTS))
    }

    /// One of those that the clients of a region, counted from 0, may write.
    pub fn to_write(&self, table: &'static str, region: usize, rng: &mut ChaCha8Rng) -> String {
        let own = (SHARED..SLOTS).filter(|slot| slot % REGIONS == region % REGIONS);
        let slots: Vec<_> = (0..SHARED).chain(own).collect();
        self.take(table, slots[rng.random_range(0..slots.len())])
    }

    /// One of those that only clients of other regions write.
    pub fn to_watch(&self, table: &'static str, region: usize, rng: &mut ChaCha8Rng) -> String {
        let others: Vec<_> = (SHARED..SLOTS).filter(|slot| slot % REGIONS != region % REGIONS).collect();
        self.take(table, others[rng.random_range(0..others.len())])
    }

    /// Two different ones in the same shard that everybody may write.
    pub fn two_to_write(&self, table: &'static str, rng: &mut ChaCha8Rng) -> [String; 2] {
        // Slots whose numbers differ by two are on the same side.
        let first = rng.random_range(0..SHARED);
        [first, (first + 2) % SHARED].map(|slot| self.take(table, slot))
    }

    /// Notes that the outcome of a write to this key is unknown.
    pub fn unknown(&self, table: &'static str, key: &str) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in 0..SLOTS {
            if let Some(live) = slots.get_mut(&(table, slot))
                && name(slot, live.generation) == key
            {
                live.unknown += 1;
                live.give_up_if_used();
            }
        }
    }

    fn take(&self, table: &'static str, slot: usize) -> String {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let live = slots.entry((table, slot)).or_default();
        let key = name(slot, live.generation);
        live.ops += 1;
        live.give_up_if_used();
        key
    }
}

/// Keys of one generation are neighbours, so a scan from one live key meets others.
fn name(slot: usize, generation: u32) -> String {
    let side = if slot.is_multiple_of(2) { 'a' } else { 'z' };
    format!("{side}{generation:05}-{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::collections::HashSet;

    #[test]
    fn keys_are_given_up_when_they_are_used() {
        let (keys, mut rng) = (Keys::default(), ChaCha8Rng::seed_from_u64(1));
        let mut uses: HashMap<String, u32> = HashMap::new();
        for _ in 0..10 * OPS_MAX {
            *uses.entry(keys.to_read("us", &mut rng)).or_default() += 1;
        }
        assert!(uses.values().all(|n| *n <= OPS_MAX) && uses.len() >= 10, "{uses:?}");
    }

    #[test]
    fn a_key_with_unknown_outcomes_is_given_up() {
        let (keys, mut rng) = (Keys::default(), ChaCha8Rng::seed_from_u64(1));
        let key = keys.to_read("us", &mut rng);
        (0..UNKNOWN_MAX).for_each(|_| keys.unknown("us", &key));
        let later: HashSet<_> = (0..100).map(|_| keys.to_read("us", &mut rng)).collect();
        assert!(!later.contains(&key));
        assert_eq!(later.len(), SLOTS);
    }

    #[test]
    fn some_keys_are_written_by_one_region_alone() {
        let (keys, mut rng) = (Keys::default(), ChaCha8Rng::seed_from_u64(1));
        let written = |region, rng: &mut ChaCha8Rng| -> HashSet<_> {
            (0..OPS_MAX / 2).map(|_| keys.to_write("us", region, rng)).collect()
        };
        let by = [0, 1, 2].map(|region| written(region, &mut rng));
        let all: HashSet<_> = by.iter().flatten().collect();
        for key in all {
            let writers = by.iter().filter(|keys| keys.contains(key)).count();
            assert!(writers == 1 || writers == 3, "{key} is written by {writers} regions");
        }
        for (region, own) in by.iter().enumerate() {
            assert!((0..20).all(|_| !own.contains(&keys.to_watch("us", region, &mut rng))));
        }
        assert!(by.iter().all(|own| own.len() > SHARED), "{by:?}");
    }

    #[test]
    fn two_keys_are_different_and_in_one_shard() {
        let (keys, mut rng) = (Keys::default(), ChaCha8Rng::seed_from_u64(1));
        let mut shards = HashSet::new();
        for _ in 0..100 {
            let [a, b] = keys.two_to_write("eu", &mut rng);
            assert_ne!(a, b);
            assert_eq!(shard_of("eu", &a), shard_of("eu", &b));
            shards.insert(shard_of("eu", &a));
        }
        assert_eq!(shards.len(), 2);
        assert_eq!(shard_of("us", "z"), 0);
    }
}
