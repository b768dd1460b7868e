//! Which versions of a key a compaction may leave out.
//!
//! A compaction sees some of the files, and so some of the versions of a key, newest first. Of those at or below the
//! floor it keeps the newest it sees: reads at or above the floor find that one, or one between it and the floor that
//! lies in another file. Everything older may go, for a newer one at or below the floor surely stays.
//!
//! A tombstone is kept like a value, since it hides what is older. If nothing older can exist it hides nothing: a
//! compaction of *all* files leaves it out together with everything older. What is not in files yet, in a memtable,
//! is newer: versions of a shard are written in the order of their timestamps, and a range is cleared before older
//! ones are put into it. Two halves of such a compaction must not share a key, so it is never divided
//! (`max_subcompactions` in `families.rs`). A compaction of some files keeps the tombstone, and `sweep` removes it later.

use super::floors::{Cursor, Floors};
use crate::data::{key, value};
use meridian_types::Timestamp;

/// What becomes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays.
    Stay,
    /// It goes.
    Go,
    /// It stays, a tombstone that may be the last version of its key.
    Lonely,
}

/// The versions of one key, as one compaction sees them: newest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyVersions {
    floor: Timestamp,
    /// The compaction has all files.
    whole: bool,
    /// A version at or below the floor has been seen.
    covered: bool,
}

impl KeyVersions {
    pub(crate) fn new(floor: Timestamp, whole: bool) -> Self {
        Self { floor, whole, covered: false }
    }

    /// Decides on the next older version.
    pub(crate) fn next(&mut self, ts: Timestamp, is_tombstone: bool) -> Verdict {
        // A floor of zero is none: then nothing goes, not even from timestamp zero.
        if ts > self.floor || self.floor == Timestamp::ZERO {
            return Verdict::Stay;
        }
        match (std::mem::replace(&mut self.covered, true), is_tombstone, self.whole) {
            (true, _, _) | (false, true, true) => Verdict::Go,
            (false, true, false) => Verdict::Lonely,
            (false, false, _) => Verdict::Stay,
        }
    }
}

/// Decides on the records of the family of versions, in the order in which a compaction passes them.
pub(crate) struct Collector {
    floors: Cursor,
    whole: bool,
    stem: Vec<u8>,
    current: KeyVersions,
}

impl Collector {
    /// For a compaction; `whole`: of all files that there are.
    pub(crate) fn new(floors: Floors, whole: bool) -> Self {
        let current = KeyVersions::new(Timestamp::ZERO, whole);
        Self { floors: Cursor::new(floors), whole, stem: Vec::new(), current }
    }

    /// Decides on a record. What cannot be read stays: whoever reads it has to hear of it.
    pub(crate) fn pass(&mut self, encoded: &[u8], value: &[u8]) -> Verdict {
        let (Ok((stem, ts)), Ok(value)) = (key::split(encoded), value::decode(value)) else { return Verdict::Stay };
        if stem != self.stem {
            self.stem.clear();
            self.stem.extend_from_slice(stem);
            self.current = KeyVersions::new(self.floors.at(encoded), self.whole);
        }
        self.current.next(ts, value.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::key::Span;
    use meridian_types::{KeyRange, ShardId, TableId};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TABLE: TableId = TableId(7);

    /// Versions of a few keys as they lie in files: by encoded key.
    type Records = BTreeMap<Vec<u8>, Vec<u8>>;

    fn record(key: u8, ts: u64, value: Option<u8>) -> (Vec<u8>, Vec<u8>) {
        (key::version(TABLE, &[key], Timestamp(ts)), value::encode(value.map(|v| vec![v]).as_deref()))
    }

    /// What a read of the key at `at` finds: the newest version at or below it; a tombstone is nothing.
    fn read(records: &Records, key: u8, at: u64) -> Option<(Timestamp, Vec<u8>)> {
        let start = key::version(TABLE, &[key], Timestamp(at));
        let (encoded, found) = records.range(start..).next()?;
        let (stem, ts) = key::split(encoded).unwrap();
        let same = stem == key::stem(TABLE, &[key]);
        let value = value::decode(found).unwrap()?.to_vec();
        same.then_some((ts, value))
    }

    fn floors(floor: u64) -> Floors {
        Floors::of([(ShardId(1), Span::of(TABLE, &KeyRange::all()), Timestamp(floor))])
    }

    /// Runs a compaction over the records whose place is in `picked`; returns those that went.
    fn compact(records: &mut Records, floor: u64, whole: bool, picked: impl Fn(usize) -> bool) -> Vec<Vec<u8>> {
        let mut collector = Collector::new(floors(floor), whole);
        let mut gone = Vec::new();
        for (place, (encoded, value)) in records.iter().enumerate() {
            if (whole || picked(place)) && collector.pass(encoded, value) == Verdict::Go {
                gone.push(encoded.clone());
            }
        }
        gone.iter().for_each(|encoded| drop(records.remove(encoded)));
        gone
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A version of a key, some time after the last one.
        Write { key: u8, after: u64, value: Option<u8> },
        /// The floor rises to this part, in percent, of the way to the last timestamp.
        Raise(u64),
        /// A compaction of everything, or of the records whose bit is set.
        Compact { whole: bool, picked: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_u8, 1..5_u64, prop::option::weighted(0.6, any::<u8>()))
                .prop_map(|(key, after, value)| Step::Write { key, after, value }),
            1 => (0..=100_u64).prop_map(Step::Raise),
            2 => (prop::bool::weighted(0.3), any::<u64>())
                .prop_map(|(whole, picked)| Step::Compact { whole, picked }),
        ]
    }

    #[test]
    fn without_a_floor_nothing_goes() {
        let mut versions = KeyVersions::new(Timestamp::ZERO, true);
        assert_eq!(versions.next(Timestamp::ZERO, true), Verdict::Stay);
        assert_eq!(versions.next(Timestamp::ZERO, true), Verdict::Stay);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn reads_at_or_above_the_floor_never_change(steps in prop::collection::vec(step(), 1..60)) {
            let (mut records, mut truth) = (Records::new(), Records::new());
            let (mut last, mut floor) = (0, 0);
            for step in steps {
                match step {
                    Step::Write { key, after, value } => {
                        last += after;
                        let (encoded, value) = record(key, last, value);
                        records.insert(encoded.clone(), value.clone());
                        truth.insert(encoded, value);
                    }
                    Step::Raise(percent) => floor += (last - floor) * percent / 100,
                    Step::Compact { whole, picked } => {
                        let gone = compact(&mut records, floor, whole, |place| picked & (1 << (place % 64)) != 0);
                        for encoded in gone {
                            prop_assert!(key::split(&encoded).unwrap().1 <= Timestamp(floor), "above the floor");
                        }
                    }
                }
                for key in 0..3 {
                    for at in floor..=last + 1 {
                        prop_assert_eq!(read(&records, key, at), read(&truth, key, at), "{} at {}", key, at);
                    }
                }
            }
        }

        #[test]
        fn a_whole_compaction_leaves_one_version_at_or_below_the_floor_and_no_tombstone(
            writes in prop::collection::vec((0..3_u8, 1..5_u64, prop::option::of(any::<u8>())), 1..40),
            percent in 0..=100_u64,
        ) {
            let (mut records, mut last) = (Records::new(), 0);
            for (key, after, value) in writes {
                last += after;
                records.extend([record(key, last, value)]);
            }
            let floor = last * percent / 100;
            compact(&mut records, floor, true, |_| true);
            for key in 0..3_u8 {
                let below = records.range(key::version(TABLE, &[key], Timestamp(floor))..)
                    .take_while(|(encoded, _)| key::split(encoded).unwrap().0 == key::stem(TABLE, &[key]));
                let below: Vec<_> = below.collect();
                prop_assert!(below.len() <= 1, "{} versions", below.len());
                prop_assert!(below.iter().all(|(_, value)| value::decode(value).unwrap().is_some()));
            }
        }
    }

    #[test]
    fn a_tombstone_stays_while_something_older_may_lie_elsewhere() {
        let mut records = Records::from([record(1, 10, Some(1)), record(1, 20, None), record(1, 30, Some(3))]);
        let gone = compact(&mut records, 25, false, |place| place == 1);
        assert!(gone.is_empty(), "20 hides 10");
        assert_eq!(read(&records, 1, 25), None);
        assert_eq!(compact(&mut records, 25, true, |_| true).len(), 2);
        assert_eq!((read(&records, 1, 25), records.len()), (None, 1));
    }

    #[test]
    fn the_newest_at_the_floor_itself_stays() {
        let mut records = Records::from([record(1, 10, Some(1)), record(1, 20, Some(2)), record(1, 21, Some(3))]);
        assert_eq!(compact(&mut records, 20, true, |_| true), [record(1, 10, Some(1)).0]);
        assert_eq!(compact(&mut records, 20, true, |_| true), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn what_cannot_be_read_stays() {
        let mut collector = Collector::new(floors(100), true);
        assert_eq!(collector.pass(b"short", b"x"), Verdict::Stay);
        for _ in 0..2 {
            assert_eq!(collector.pass(&record(1, 9, None).0, b"no such format"), Verdict::Stay);
        }
    }
}
