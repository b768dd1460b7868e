//! The data store after a crash: one consistent earlier moment, never a mix (rule D1).

use crate::support::{Machine, crash, on_both_engines, open, state};
use meridian_storage::{DataBatch, Store};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use proptest::prelude::*;

const SHARD: ShardId = ShardId(4);
const TABLE: TableId = TableId(9);

on_both_engines!(
    without_a_flush_the_old_moment_is_found,
    closing_flushes,
    memtables_are_measured_and_emptied_by_a_flush,
    clearing_a_shard_leaves_its_neighbours,
    the_ledger_forgets_by_age_and_by_shard,
);

/// Applies "entry" `n` as the state machine does: a version, a ledger record and the position in one batch.
fn apply(store: &Store, n: u64) {
    let mut batch = DataBatch::default();
    batch.put_version(TABLE, b"k", Timestamp(n), Some(n.to_string().into()));
    batch.put_ledger(SHARD, &id(n), n.to_string().as_bytes());
    batch.put_shard_state(SHARD, &state(n, n));
    store.data.write(batch).unwrap();
}

fn id(n: u64) -> RequestId {
    RequestId { time: Timestamp(n), client: 1, sequence: n }
}

/// The entry up to which everything is there, asserting that all families agree on it.
fn applied(store: &Store) -> Option<u64> {
    let view = store.data.view();
    let position = view.shard_state(SHARD).unwrap().map(|s| s.last_ts);
    assert_eq!(view.newest_ts(TABLE, b"k").unwrap().map(|ts| ts.0), position, "versions agree with the position");
    for n in 1..=50 {
        let recorded = view.ledger(SHARD, &id(n)).unwrap().is_some();
        assert_eq!(recorded, position.is_some_and(|p| n <= p), "ledger record {n} agrees with the position");
    }
    position
}

fn without_a_flush_the_old_moment_is_found(mut machine: Machine) {
    let store = machine.open();
    (1..=10).for_each(|n| apply(&store, n));
    assert_eq!((applied(&store), store.data.durable(SHARD)), (Some(10), None));
    let store = machine.crash();
    assert_eq!((applied(&store), store.data.durable(SHARD)), (None, None));

    (1..=10).for_each(|n| apply(&store, n));
    store.data.flush().unwrap();
    assert_eq!(store.data.durable(SHARD), Some(state(10, 10)));
    (11..=20).for_each(|n| apply(&store, n));
    assert_eq!(store.data.durable(SHARD), Some(state(10, 10)), "durable lags until the next flush");
    let store = machine.crash();
    assert_eq!((applied(&store), store.data.durable(SHARD)), (Some(10), Some(state(10, 10))));

    (11..=20).for_each(|n| apply(&store, n));
    store.data.flush().unwrap();
    assert_eq!(applied(&machine.crash()), Some(20));
}

fn closing_flushes(machine: Machine) {
    let store = machine.open();
    (1..=10).for_each(|n| apply(&store, n));
    drop(store);
    assert_eq!(applied(&machine.open()), Some(10));
}

#[test]
fn flushes_of_its_own_keep_the_families_together() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open(&live);
    apply(&store, 1);
    store.data.flush().unwrap();
    // Well over the memtable's size: RocksDB flushes while the batches go on.
    for n in 2..=50 {
        let mut filler = DataBatch::default();
        filler.put_version(TABLE, format!("filler {n}").as_bytes(), Timestamp(n), Some(vec![7; 100 << 10].into()));
        store.data.write(filler).unwrap();
        apply(&store, n);
    }
    // More than fits into the memtables, so some of it has been flushed, and counts as durable without being asked for.
    let durable = store.data.durable(SHARD).unwrap();
    assert!(durable.last_ts > 1);
    let copy = dir.path().join("copy");
    crash(&live, &copy);
    assert!(applied(&open(&copy)).is_some_and(|found| found >= durable.last_ts));
    // Closing flushes the rest.
    drop(store);
    assert_eq!(applied(&open(&live)), Some(50));
}

fn memtables_are_measured_and_emptied_by_a_flush(machine: Machine) {
    let store = machine.open();
    let empty = store.data.memtable_bytes().unwrap();
    let mut batch = DataBatch::default();
    batch.put_version(TABLE, b"k", Timestamp(1), Some(vec![1; 200_000].into()));
    assert!(batch.bytes() > 200_000 && !batch.is_empty());
    store.data.write(batch).unwrap();
    let full = store.data.memtable_bytes().unwrap();
    assert!(full > empty + 100_000, "{full} against {empty}");
    store.data.flush().unwrap();
    assert!(store.data.memtable_bytes().unwrap() < full - 100_000);
}

fn clearing_a_shard_leaves_its_neighbours(machine: Machine) {
    let store = machine.open();
    let other = ShardId(5);
    let mut batch = DataBatch::default();
    for key in ["a", "m", "z"] {
        batch.put_version(TABLE, key.as_bytes(), Timestamp(1), Some("v".into()));
        batch.put_version(TableId(10), key.as_bytes(), Timestamp(1), Some("v".into()));
    }
    for shard in [SHARD, other] {
        batch.put_ledger(shard, &id(1), b"r");
        batch.put_shard_state(shard, &state(1, 1));
    }
    store.data.write(batch).unwrap();
    store.data.flush().unwrap();
    let range = KeyRange::new("b".into(), Some("z".into())).unwrap();
    store.data.clear_shard(SHARD, TABLE, &range).unwrap();
    assert_eq!((store.data.durable(SHARD), store.data.durable(other)), (None, Some(state(1, 1))));
    let view = store.data.view();
    let keys = |table| {
        let all = view.scan(table, &KeyRange::all(), Timestamp::MAX, false, 10, usize::MAX).unwrap();
        all.rows.into_iter().map(|r| r.key).collect::<Vec<_>>()
    };
    assert_eq!(
        (keys(TABLE), keys(TableId(10))),
        (vec!["a".into(), "z".into()], vec!["a".into(), "m".into(), "z".into()])
    );
    assert_eq!((view.ledger(SHARD, &id(1)).unwrap(), view.shard_state(SHARD).unwrap()), (None, None));
    assert_eq!(
        (view.ledger(other, &id(1)).unwrap(), view.shard_state(other).unwrap()),
        (Some("r".into()), Some(state(1, 1)))
    );
}

fn the_ledger_forgets_by_age_and_by_shard(machine: Machine) {
    let store = machine.open();
    let mut batch = DataBatch::default();
    for n in 1..=10 {
        batch.put_ledger(SHARD, &id(n), b"r");
        batch.put_ledger(ShardId(5), &id(n), b"r");
    }
    store.data.write(batch).unwrap();
    let mut batch = DataBatch::default();
    batch.forget_ledger_before(SHARD, Timestamp(6));
    store.data.write(batch).unwrap();
    let view = store.data.view();
    let kept = |shard| (1..=10).filter(|n| view.ledger(shard, &id(*n)).unwrap().is_some()).collect::<Vec<_>>();
    assert_eq!((kept(SHARD), kept(ShardId(5))), ((6..=10).collect(), (1..=10).collect()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn wherever_it_crashes_the_last_flush_is_what_counts(
        steps in prop::collection::vec(prop_oneof![3 => Just(false), 1 => Just(true)], 1..40)
    ) {
        for mut machine in [Machine::rocks(), Machine::simulated()] {
            let store = machine.open();
            let (mut now, mut flushed) = (0, None);
            for flush in &steps {
                if *flush {
                    store.data.flush().unwrap();
                    flushed = (now > 0).then_some(now);
                } else {
                    now += 1;
                    apply(&store, now);
                }
            }
            prop_assert_eq!(store.data.durable(SHARD).map(|s| s.last_ts), flushed);
            prop_assert_eq!(applied(&machine.crash()), flushed);
        }
    }
}
