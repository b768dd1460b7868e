//! Versions against a model: a map from (key, timestamp) to value answers every get and scan the same.

use crate::support::{Machine, on_both_engines, open, quiet_disk};
use bytes::Bytes;
use meridian_storage::{DataBatch, DataStore, ScanResult, ScanRow, Version};
use meridian_types::{KeyRange, TableId, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;

const TABLE: TableId = TableId(7);

on_both_engines!(a_view_stays_at_its_moment, a_tombstone_is_revealed_by_get_and_by_scan);

/// Per key, its versions; `None` is a tombstone.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<Vec<u8>, BTreeMap<u64, Option<Bytes>>>);

impl Model {
    fn get(&self, key: &[u8], at: u64) -> Option<Version> {
        let (ts, value) = self.0.get(key)?.range(..=at).next_back()?;
        Some(Version { ts: Timestamp(*ts), value: value.clone() })
    }

    fn scan(&self, range: &KeyRange, at: u64, reverse: bool, max_rows: usize, max_bytes: usize) -> ScanResult {
        let mut keys: Vec<_> = self.0.keys().filter(|k| range.contains(k)).collect();
        if reverse {
            keys.reverse();
        }
        let (mut result, mut bytes) = (ScanResult::default(), 0);
        for key in keys {
            let Some(version) = self.get(key, at) else { continue };
            result.reveals = result.reveals.max(version.ts);
            let Some(value) = version.value else { continue };
            bytes += key.len() + value.len();
            if result.rows.len() >= max_rows || (bytes > max_bytes && !result.rows.is_empty()) {
                result.more = true;
                break;
            }
            result.rows.push(ScanRow { key: key.clone().into(), ts: version.ts, value });
        }
        result
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, u64, Option<Bytes>),
    /// Many versions of one key, enough to make scans seek.
    Burst(Vec<u8>, u64),
    Flush,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0x00, 0x01, b'a', 0xff]), 1..4)
}

fn value() -> impl Strategy<Value = Option<Bytes>> {
    prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (key(), 0..60_u64, value()).prop_map(|(k, ts, v)| Step::Put(k, ts, v)),
        2 => (key(), 0..60_u64).prop_map(|(k, ts)| Step::Burst(k, ts)),
        1 => Just(Step::Flush),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    (prop_oneof![Just(Vec::new()), key()], prop::option::of(key()))
        .prop_filter_map("empty range", |(start, end)| KeyRange::new(start.into(), end.map(Bytes::from)).ok())
}

fn run(data: &DataStore, model: &mut Model, step: Step) {
    let mut batch = DataBatch::default();
    let mut put = |key: &[u8], ts, value: Option<Bytes>| {
        batch.put_version(TABLE, key, Timestamp(ts), value.clone());
        model.0.entry(key.to_vec()).or_default().insert(ts, value);
    };
    match step {
        Step::Put(key, ts, value) => put(&key, ts, value),
        Step::Burst(key, from) => {
            (from..from + 30).for_each(|ts| put(&key, ts, (!ts.is_multiple_of(7)).then(|| ts.to_string().into())))
        }
        Step::Flush => data.flush().unwrap(),
    }
    data.write(batch).unwrap();
}

/// Rows of other tables, which no answer may show.
fn surround(data: &DataStore) {
    let mut batch = DataBatch::default();
    for table in [TABLE.0 - 1, TABLE.0 + 1] {
        batch.put_version(TableId(table), b"", Timestamp(1), Some("other".into()));
        batch.put_version(TableId(table), &[0xff; 5], Timestamp(1), Some("other".into()));
    }
    data.write(batch).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn gets_and_scans_answer_as_the_model_does(
        steps in prop::collection::vec(step(), 1..60),
        gets in prop::collection::vec((key(), 0..100_u64), 20),
        scans in prop::collection::vec((range(), 0..100_u64, any::<bool>(), 0..6_usize, 0..40_usize), 30),
    ) {
        for machine in [Machine::rocks(), Machine::Simulated(quiet_disk(1))] {
            let data = machine.open().data;
            let mut model = Model::default();
            surround(&data);
            for step in steps.clone() {
                run(&data, &mut model, step);
            }
            let view = data.view();
            for (key, at) in &gets {
                prop_assert_eq!(view.get(TABLE, key, Timestamp(*at)).unwrap(), model.get(key, *at));
                let newest = model.get(key, u64::MAX).map(|v| v.ts);
                prop_assert_eq!(view.newest_ts(TABLE, key).unwrap(), newest);
            }
            for (range, at, reverse, rows, bytes) in scans.clone() {
                for (rows, bytes) in [(rows, bytes), (usize::MAX, usize::MAX)] {
                    let found = view.scan(TABLE, &range, Timestamp(at), reverse, rows, bytes).unwrap();
                    let expected = model.scan(&range, at, reverse, rows, bytes);
                    prop_assert_eq!(found, expected, "{:?} at {} reverse {}", &range, at, reverse);
                }
            }
        }
    }
}

fn a_view_stays_at_its_moment(machine: Machine) {
    let data = machine.open().data;
    let put = |ts, value: &'static str| {
        let mut batch = DataBatch::default();
        batch.put_version(TABLE, b"k", Timestamp(ts), Some(value.into()));
        data.write(batch).unwrap();
    };
    put(5, "old");
    let view = data.view();
    put(3, "older, written later");
    put(9, "new");
    data.flush().unwrap();
    let (in_view, now) = std::thread::spawn({
        let data = data.clone();
        move || (view.newest_ts(TABLE, b"k").unwrap(), data.view().newest_ts(TABLE, b"k").unwrap())
    })
    .join()
    .unwrap();
    assert_eq!((in_view, now), (Some(Timestamp(5)), Some(Timestamp(9))));
}

fn a_tombstone_is_revealed_by_get_and_by_scan(machine: Machine) {
    let data = machine.open().data;
    let mut batch = DataBatch::default();
    batch.put_version(TABLE, b"a", Timestamp(10), Some("v".into()));
    batch.put_version(TABLE, b"b", Timestamp(20), Some("v".into()));
    batch.put_version(TABLE, b"b", Timestamp(100), None);
    data.write(batch).unwrap();
    let view = data.view();
    assert_eq!(view.get(TABLE, b"b", Timestamp::MAX).unwrap(), Some(Version { ts: Timestamp(100), value: None }));
    for reverse in [false, true] {
        let reveals = |at| view.scan(TABLE, &KeyRange::all(), Timestamp(at), reverse, 10, 1000).unwrap().reveals.0;
        assert_eq!((reveals(5), reveals(15), reveals(99), reveals(100)), (0, 10, 20, 100));
    }
}

#[test]
fn a_damaged_data_file_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    {
        let data = open(dir.path()).data;
        let mut batch = DataBatch::default();
        for n in 0..1000_u32 {
            batch.put_version(TABLE, &n.to_be_bytes(), Timestamp(1), Some(n.to_string().into()));
        }
        data.write(batch).unwrap();
        data.flush().unwrap();
    }
    let largest = std::fs::read_dir(dir.path().join("data"))
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "sst"))
        .max_by_key(|p| p.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    // In the first data block.
    bytes[100] ^= 0xff;
    std::fs::write(&largest, bytes).unwrap();
    let view = open(dir.path()).data.view();
    let corrupt = |error| assert!(matches!(error, meridian_storage::StorageError::Corrupt { .. }), "{error}");
    corrupt(view.get(TABLE, &3_u32.to_be_bytes(), Timestamp::MAX).expect_err("damaged"));
    for reverse in [false, true] {
        corrupt(view.scan(TABLE, &KeyRange::all(), Timestamp::MAX, reverse, 5000, usize::MAX).expect_err("damaged"));
    }
}
