//! What is remembered of the newest versions changes no answer: views of all ages against maps, with reads between the
//! writes, and against scans while others write.

use crate::support::{Machine, open, state};
use bytes::Bytes;
use meridian_storage::{DataBatch, DataView, Store, Version};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

const SHARD: ShardId = ShardId(3);
const TABLE: TableId = TableId(7);

/// Keys of the tests; more than one set of remembered keys holds.
const KEYS: u8 = 12;

type Versions = BTreeMap<(u8, u64), Option<Bytes>>;

#[derive(Clone, Debug)]
enum Step {
    /// Versions that become visible together; stamps in no order.
    Write(Vec<(u8, u64, Option<u8>)>),
    /// Reads in every open view.
    Read(u8, u64),
    /// Keeps a view of now, and closes the oldest one.
    View,
    Flush,
    Clear,
    /// Replaces everything by a snapshot of it.
    Install,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let stamp = || prop_oneof![0..20_u64, Just(u64::MAX)];
    let change = (0..KEYS, 0..20_u64, prop::option::weighted(0.8, any::<u8>()));
    prop_oneof![
        6 => prop::collection::vec(change, 1..4).prop_map(Step::Write),
        12 => (0..KEYS, stamp()).prop_map(|(key, at)| Step::Read(key, at)),
        2 => Just(Step::View),
        1 => Just(Step::Flush),
        1 => Just(Step::Clear),
        1 => Just(Step::Install),
        1 => Just(Step::Compact),
    ]
}

fn get(versions: &Versions, key: u8, at: u64) -> Option<Version> {
    let ((_, ts), value) = versions.range((key, 0)..=(key, at)).next_back()?;
    Some(Version { ts: Timestamp(*ts), value: value.clone() })
}

fn run(store: &Store, steps: Vec<Step>) {
    let data = &store.data;
    let mut now = Versions::new();
    let mut open: Vec<(DataView, Versions)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(changes) => {
                let mut batch = DataBatch::default();
                for (key, ts, value) in changes {
                    let value = value.map(|byte| Bytes::from(vec![byte; 3]));
                    batch.put_version(TABLE, &[key], Timestamp(ts), value.clone());
                    now.insert((key, ts), value);
                }
                data.write(batch).unwrap();
            }
            Step::Read(key, at) => {
                let fresh = [(data.view(), now.clone())];
                for (view, versions) in open.iter().chain(&fresh) {
                    let found = view.get(TABLE, &[key], Timestamp(at)).unwrap();
                    assert_eq!(found, get(versions, key, at), "key {key} at {at}");
                }
            }
            Step::View => {
                open.truncate(3);
                open.insert(0, (data.view(), now.clone()));
            }
            Step::Flush => data.flush().unwrap(),
            Step::Clear => {
                data.clear_shard(SHARD, TABLE, &KeyRange::all()).unwrap();
                now.clear();
            }
            Step::Install => {
                let dir = store.snapshots_dir().join("staged");
                let mut position = DataBatch::default();
                position.put_shard_state(SHARD, &state(1, 1));
                data.write(position).unwrap();
                let manifest = data.build_snapshot(SHARD, TABLE, &KeyRange::all(), &dir).unwrap();
                store.install_snapshot(SHARD, TABLE, &KeyRange::all(), &dir, &manifest).unwrap();
                store.files().remove_dir(&dir).unwrap();
            }
            Step::Compact => data.compact(TABLE, &KeyRange::all()).unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn views_of_all_ages_answer_as_maps_do(steps in prop::collection::vec(step(), 1..120)) {
        run(&Machine::rocks().open(), steps.clone());
        run(&Machine::simulated().open(), steps);
    }
}

/// Stamps of the keys only grow, as a shard's do; two writers have keys of their own, so their changes overlap.
#[test]
fn reads_among_writes_find_what_scans_of_the_same_view_find() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path()).data;
    let stop = AtomicBool::new(false);
    let scanned = |view: &DataView, key: u8, at: Timestamp| {
        let range = KeyRange::new(vec![key].into(), Some(vec![key + 1].into())).unwrap();
        let found = view.scan(TABLE, &range, at, false, 2, usize::MAX).unwrap();
        found.rows.first().map(|row| (row.ts, row.value.clone()))
    };
    let write = &|writer: u64| {
        for round in 1..4_000 {
            let mut batch = DataBatch::default();
            let key = (round * 7 + writer) % u64::from(KEYS);
            for key in [key, key + 2] {
                let ts = Timestamp(2 * round + writer);
                batch.put_version(TABLE, &[key as u8], ts, Some(ts.0.to_be_bytes().to_vec().into()));
            }
            data.write(batch).unwrap();
            if round % 500 == 0 {
                data.flush().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    let read = &|reader: u64| {
        let (mut n, mut held) = (reader, data.view());
        while !stop.load(Ordering::Relaxed) {
            n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ 1;
            let (key, fresh) = ((n % u64::from(KEYS + 2)) as u8, data.view());
            let below = fresh.newest_ts(TABLE, &[key]).unwrap().map_or(Timestamp::MAX, |ts| Timestamp(ts.0 - 1));
            for (view, at) in [(&fresh, Timestamp::MAX), (&fresh, below), (&held, Timestamp::MAX), (&held, below)] {
                let found = view.get(TABLE, &[key], at).unwrap().map(|v| (v.ts, v.value.unwrap()));
                assert_eq!(found, scanned(view, key, at));
            }
            if n.is_multiple_of(16) {
                held = fresh;
            }
        }
    };
    std::thread::scope(|scope| {
        for n in [0, 1] {
            scope.spawn(move || write(n));
            scope.spawn(move || read(n + 1));
        }
    });
}
