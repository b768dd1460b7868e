//! Garbage collection of versions, through the store: what goes, when, and who holds it up.

use crate::support::{Machine, on_both_engines, small_options, state};
use bytes::Bytes;
use meridian_proto::internal::v1::ShardState;
use meridian_storage::{Collected, DataBatch, DataStore, DataView, Store};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use std::path::Path;

const SHARD: ShardId = ShardId(3);
const TABLE: TableId = TableId(8);

on_both_engines!(
    old_versions_go_once_the_floor_is_durable,
    a_crash_takes_no_floor_back_that_was_collected_by,
    an_open_view_sees_what_it_saw,
    a_snapshot_being_cut_keeps_what_it_is_made_of,
    a_protected_timestamp_is_readable_while_it_is_protected,
    a_cleared_range_is_not_collected_by_the_floor_that_it_had,
    what_no_open_replica_covers_stays,
);

fn put(data: &DataStore, key: &str, ts: u64, value: Option<&str>) {
    let mut batch = DataBatch::default();
    batch.put_version(TABLE, key.as_bytes(), Timestamp(ts), value.map(|v| Bytes::copy_from_slice(v.as_bytes())));
    data.write(batch).unwrap();
}

/// The shard's position with this floor; not durable yet.
fn raise(data: &DataStore, floor: u64) {
    let mut batch = DataBatch::default();
    batch.put_shard_state(SHARD, &ShardState { gc_floor: floor, ..state(floor, 1_000) });
    data.write(batch).unwrap();
}

/// A key with versions at 10, 20 and 30, one that was deleted at 20, and one of a single version; all flushed.
fn filled(machine: &Machine) -> Store {
    let store = machine.open();
    store.data.collect_in(SHARD, TABLE, &KeyRange::all());
    for (key, ts, value) in [
        ("a", 10, Some("1")),
        ("b", 10, Some("1")),
        ("c", 5, Some("5")),
        ("a", 20, Some("2")),
        ("b", 20, None),
        ("a", 30, Some("3")),
    ] {
        put(&store.data, key, ts, value);
    }
    raise(&store.data, 0);
    store.data.flush().unwrap();
    store
}

fn compact(data: &DataStore) {
    data.compact(TABLE, &KeyRange::all()).unwrap();
}

/// Timestamp of the version that a read finds, tombstones included.
fn found(view: &DataView, key: &str, at: u64) -> Option<u64> {
    view.get(TABLE, key.as_bytes(), Timestamp(at)).unwrap().map(|v| v.ts.0)
}

/// What is left of the keys: `a` below 30 and below 20, `b` at 20 and below, `c`.
fn left(view: &DataView) -> [Option<u64>; 5] {
    [found(view, "a", 29), found(view, "a", 19), found(view, "b", 29), found(view, "b", 19), found(view, "c", 100)]
}

const ALL: [Option<u64>; 5] = [Some(20), Some(10), Some(20), Some(10), Some(5)];
/// After everything was compacted below 25.
const BELOW_25: [Option<u64>; 5] = [Some(20), None, None, None, Some(5)];

fn old_versions_go_once_the_floor_is_durable(machine: Machine) {
    let store = filled(&machine);
    compact(&store.data);
    assert_eq!(left(&store.data.view()), ALL, "there is no floor");
    raise(&store.data, 25);
    compact(&store.data);
    assert_eq!(left(&store.data.view()), ALL, "the floor is not durable");
    store.data.flush().unwrap();
    compact(&store.data);
    assert_eq!(left(&store.data.view()), BELOW_25);
    assert_eq!(store.data.view().gc_floor(SHARD).unwrap(), Timestamp(25));
    raise(&store.data, 30);
    store.data.flush().unwrap();
    compact(&store.data);
    assert_eq!(found(&store.data.view(), "a", 29), None);
    assert_eq!(found(&store.data.view(), "a", 30), Some(30), "the newest at the floor stays");
}

fn a_crash_takes_no_floor_back_that_was_collected_by(mut machine: Machine) {
    let store = filled(&machine);
    raise(&store.data, 25);
    store.data.flush().unwrap();
    raise(&store.data, 30);
    compact(&store.data);
    let found_after = machine.crash();
    assert_eq!(left(&found_after.data.view()), BELOW_25, "collected below 25, and not below 30");
    assert_eq!(found_after.data.view().gc_floor(SHARD).unwrap(), Timestamp(25));
    // The floor that was found is durable: it counts as soon as the replica is open.
    found_after.data.collect_in(SHARD, TABLE, &KeyRange::all());
    put(&found_after.data, "a", 40, Some("4"));
    raise(&found_after.data, 30);
    found_after.data.flush().unwrap();
    compact(&found_after.data);
    assert_eq!(found(&found_after.data.view(), "a", 29), None);
    drop(store);
}

fn an_open_view_sees_what_it_saw(machine: Machine) {
    let store = filled(&machine);
    let view = store.data.view();
    raise(&store.data, 25);
    store.data.flush().unwrap();
    let later = store.data.view();
    compact(&store.data);
    assert_eq!(left(&view), ALL);
    drop(view);
    raise(&store.data, 30);
    store.data.flush().unwrap();
    compact(&store.data);
    assert_eq!(left(&store.data.view())[1..], BELOW_25[1..], "the later view holds its own floor only");
    assert_eq!((found(&later, "a", 25), found(&later, "a", 29)), (Some(20), Some(20)), "above its floor all is there");
    drop(later);
    compact(&store.data);
    assert_eq!(found(&store.data.view(), "a", 29), None);
}

fn a_snapshot_being_cut_keeps_what_it_is_made_of(machine: Machine) {
    let store = filled(&machine);
    let view = store.data.view();
    raise(&store.data, 30);
    store.data.flush().unwrap();
    compact(&store.data);
    let dir = store.snapshots_dir().join("cut");
    let manifest = view.build_snapshot(SHARD, TABLE, &KeyRange::all(), &dir).unwrap();
    assert_eq!(manifest.state.as_ref().map(|s| s.gc_floor), Some(0));
    drop(view);
    // The same node takes it in again, in the place of what it has collected meanwhile.
    compact(&store.data);
    assert_ne!(left(&store.data.view()), ALL);
    store.install_snapshot(SHARD, TABLE, &KeyRange::all(), &dir, &manifest).unwrap();
    compact(&store.data);
    assert_eq!(left(&store.data.view()), ALL);
}

fn a_protected_timestamp_is_readable_while_it_is_protected(machine: Machine) {
    let store = filled(&machine);
    let protection = store.data.protect(Some(SHARD), Timestamp(15)).unwrap();
    assert_eq!(store.data.lowest_protected(SHARD), Some(Timestamp(15)));
    raise(&store.data, 30);
    store.data.flush().unwrap();
    compact(&store.data);
    assert_eq!(left(&store.data.view()), ALL);
    assert_eq!(
        store.data.protect(None, Timestamp(29)).err(),
        Some(Collected { shard: SHARD, floor: Timestamp(30) }),
        "below the durable floor it may be gone"
    );
    drop(protection);
    compact(&store.data);
    assert_eq!(left(&store.data.view()), [None, None, None, None, Some(5)]);
}

fn a_cleared_range_is_not_collected_by_the_floor_that_it_had(machine: Machine) {
    let store = filled(&machine);
    raise(&store.data, 30);
    store.data.flush().unwrap();
    let view = store.data.view();
    store.data.clear_shard(SHARD, TABLE, &KeyRange::all()).unwrap();
    put(&store.data, "a", 10, Some("1"));
    put(&store.data, "a", 20, Some("2"));
    compact(&store.data);
    assert_eq!(found(&store.data.view(), "a", 19), Some(10));
    store.data.flush().unwrap();
    compact(&store.data);
    assert_eq!(found(&store.data.view(), "a", 19), Some(10));
    drop(view);
}

fn what_no_open_replica_covers_stays(machine: Machine) {
    let store = filled(&machine);
    drop(store);
    let store = machine.open();
    raise(&store.data, 30);
    store.data.flush().unwrap();
    compact(&store.data);
    assert_eq!(left(&store.data.view()), ALL);
}

/// RocksDB: a compaction of some files keeps the tombstone; the sweep removes it once nothing older is left.
#[test]
fn the_sweep_removes_tombstones_that_hide_nothing() {
    let machine = Machine::rocks();
    let store = filled(&machine);
    // Another table's file takes no part in the compaction: it is not one of everything.
    let mut other = DataBatch::default();
    other.put_version(TableId(9), b"x", Timestamp(1), Some("x".into()));
    store.data.write(other).unwrap();
    store.data.flush().unwrap();
    raise(&store.data, 25);
    store.data.flush().unwrap();
    assert_eq!(store.data.sweep_tombstones().unwrap(), 0, "nothing was noted");
    compact(&store.data);
    assert_eq!((found(&store.data.view(), "b", 29), found(&store.data.view(), "b", 19)), (Some(20), None));
    let before = store.data.view();
    assert_eq!(store.data.sweep_tombstones().unwrap(), 1);
    assert_eq!(found(&store.data.view(), "b", 29), None);
    assert_eq!(found(&before, "b", 29), Some(20));
    assert_eq!(found(&store.data.view(), "a", 29), Some(20));
}

fn sst_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("data")).unwrap().map(Result::unwrap);
    files.filter(|f| f.path().extension().is_some_and(|e| e == "sst")).map(|f| f.metadata().unwrap().len()).sum()
}

/// One set of keys, written twenty times: what is on disk before and after.
#[test]
fn the_space_of_old_versions_is_given_back() {
    const KEYS: u64 = 2_000;
    const ROUNDS: u64 = 20;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small_options()).unwrap();
    store.data.collect_in(SHARD, TABLE, &KeyRange::all());
    let mut noise = 1_u64;
    for round in 1..=ROUNDS {
        for n in 0..KEYS {
            let mut batch = DataBatch::default();
            let mut value = Vec::with_capacity(256);
            while value.len() < 256 {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                value.extend_from_slice(&noise.to_be_bytes());
            }
            batch.put_version(TABLE, &n.to_be_bytes(), Timestamp(round * 10), Some(value.into()));
            store.data.write(batch).unwrap();
        }
        if round == 1 {
            raise(&store.data, 0);
            store.data.flush().unwrap();
            compact(&store.data);
            println!("written once: {} bytes", sst_bytes(dir.path()));
        }
    }
    store.data.flush().unwrap();
    compact(&store.data);
    let before = sst_bytes(dir.path());
    raise(&store.data, ROUNDS * 10);
    store.data.flush().unwrap();
    compact(&store.data);
    let after = sst_bytes(dir.path());
    println!("written {ROUNDS} times, compacted: {before} bytes; below the floor collected: {after} bytes");
    assert!(after * 15 < before, "{before} -> {after}");
    let all = store.data.view().scan(TABLE, &KeyRange::all(), Timestamp::MAX, false, usize::MAX, usize::MAX).unwrap();
    assert!(all.rows.len() == KEYS as usize && all.rows.iter().all(|row| row.ts == Timestamp(ROUNDS * 10)));
}
