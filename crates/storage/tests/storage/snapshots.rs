//! Snapshots: what one node builds, another installs; damage and foreign manifests are refused.

use crate::support::{open, state};
use meridian_proto::internal::v1::SnapshotManifest;
use meridian_storage::{DataBatch, StorageError, Store, read_manifest, verify_snapshot};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use std::path::Path;

const SHARD: ShardId = ShardId(3);
const TABLE: TableId = TableId(8);

fn range() -> KeyRange {
    KeyRange::new("b".into(), Some("y".into())).unwrap()
}

fn id(n: u64) -> RequestId {
    RequestId { time: Timestamp(n), client: 2, sequence: n }
}

/// Puts one row at `ts`, with ledger and position.
fn put(store: &Store, key: &str, ts: u64) {
    let mut batch = DataBatch::default();
    batch.put_version(
        TABLE,
        key.as_bytes(),
        Timestamp(ts),
        (!ts.is_multiple_of(5)).then(|| format!("{key}@{ts}").into()),
    );
    batch.put_ledger(SHARD, &id(ts), key.as_bytes());
    batch.put_shard_state(SHARD, &state(ts, ts));
    store.data.write(batch).unwrap();
}

/// Everything that a reader can see of the shard, at some timestamps.
fn content(store: &Store) -> impl PartialEq + std::fmt::Debug + use<> {
    let view = store.data.view();
    let at = |ts| view.scan(TABLE, &KeyRange::all(), Timestamp(ts), false, usize::MAX, usize::MAX).unwrap();
    let scans: Vec<_> = [1, 7, 20, u64::MAX].map(at).into();
    let ledger: Vec<_> = (0..60).map(|n| view.ledger(SHARD, &id(n)).unwrap()).collect();
    (scans, ledger, view.shard_state(SHARD).unwrap())
}

fn build(store: &Store, dir: &Path) -> SnapshotManifest {
    store.data.build_snapshot(SHARD, TABLE, &range(), dir).unwrap()
}

fn source(dir: &Path) -> Store {
    let store = open(dir);
    (1..40).for_each(|ts| put(&store, ["c", "d\0e", "x"][ts as usize % 3], ts));
    store
}

#[test]
fn an_installed_snapshot_answers_as_its_source_and_leaves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (source(&dir.path().join("from")), open(&dir.path().join("to")));
    let staged = to.snapshots_dir().join("s");
    let manifest = build(&from, &staged);
    assert_eq!(read_manifest(&staged).unwrap(), manifest);
    assert_eq!(manifest.state, Some(state(39, 39)));

    // An old life of the shard, partly flushed, and a neighbour in the same table.
    (40..50).for_each(|ts| put(&to, "d-old", ts));
    to.data.flush().unwrap();
    put(&to, "k-old", 50);
    let mut neighbour = DataBatch::default();
    neighbour.put_version(TABLE, b"y", Timestamp(6), Some("neighbour".into()));
    to.data.write(neighbour).unwrap();

    to.install_snapshot(SHARD, TABLE, &range(), &staged, &manifest).unwrap();
    assert_eq!(to.data.durable(SHARD), Some(state(39, 39)));
    assert!(to.resume_installs().unwrap().is_empty(), "no mark is left");
    let mut same = DataBatch::default();
    same.put_version(TABLE, b"y", Timestamp(6), Some("neighbour".into()));
    from.data.write(same).unwrap();
    assert_eq!(content(&to), content(&from));

    // Durable without a further flush, and the staged files are not needed any more.
    std::fs::remove_dir_all(&staged).unwrap();
    let copy = dir.path().join("copy");
    crate::support::crash(&dir.path().join("to"), &copy);
    assert_eq!(content(&open(&copy)), content(&from));
}

#[test]
fn a_snapshot_is_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = source(&dir.path().join("from"));
    let (before, view) = (content(&store), store.data.view());
    (40..50).for_each(|ts| put(&store, "c", ts));
    let staged = dir.path().join("staged");
    let manifest = view.build_snapshot(SHARD, TABLE, &range(), &staged).unwrap();
    let to = open(&dir.path().join("to"));
    to.install_snapshot(SHARD, TABLE, &range(), &staged, &manifest).unwrap();
    assert_eq!(content(&to), before);
}

#[test]
fn empty_shards_have_snapshots_too() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (open(&dir.path().join("from")), open(&dir.path().join("to")));
    let staged = dir.path().join("staged");
    let manifest = build(&from, &staged);
    assert_eq!((manifest.files.len(), manifest.state.clone()), (0, None));
    put(&to, "c", 7);
    to.install_snapshot(SHARD, TABLE, &range(), &staged, &manifest).unwrap();
    assert_eq!(content(&to), content(&from));

    // A position without rows.
    let mut batch = DataBatch::default();
    batch.put_shard_state(SHARD, &state(2, 9));
    from.data.write(batch).unwrap();
    let manifest = build(&from, &staged);
    to.install_snapshot(SHARD, TABLE, &range(), &staged, &manifest).unwrap();
    assert_eq!((content(&to), to.data.durable(SHARD)), (content(&from), Some(state(2, 9))));
}

#[test]
fn damage_is_found_before_anything_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (source(&dir.path().join("from")), source(&dir.path().join("to")));
    put(&to, "c", 45);
    let before = content(&to);
    let staged = dir.path().join("staged");
    let manifest = build(&from, &staged);
    for file in &manifest.files {
        let path = staged.join(&file.name);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for bad in [flipped, whole[..whole.len() - 1].to_vec()] {
            std::fs::write(&path, bad).unwrap();
            let refused = to.install_snapshot(SHARD, TABLE, &range(), &staged, &manifest).unwrap_err();
            assert!(matches!(refused, StorageError::Corrupt { .. }), "{refused}");
        }
        std::fs::remove_file(&path).unwrap();
        let refused = to.install_snapshot(SHARD, TABLE, &range(), &staged, &manifest).unwrap_err();
        assert!(matches!(refused, StorageError::File { .. }), "{refused}");
        std::fs::write(&path, whole).unwrap();
    }
    verify_snapshot(&staged, &manifest).unwrap();
    assert_eq!(content(&to), before);

    let mut damaged = std::fs::read(staged.join("manifest")).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(staged.join("manifest"), damaged).unwrap();
    assert!(matches!(read_manifest(&staged), Err(StorageError::Corrupt { .. })));
}

#[test]
fn manifests_that_lead_elsewhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = source(&dir.path().join("from"));
    let staged = dir.path().join("staged");
    let good = build(&store, &staged);
    let refused = |change: &dyn Fn(&mut SnapshotManifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        let error = store.install_snapshot(SHARD, TABLE, &range(), &staged, &manifest).unwrap_err();
        assert!(matches!(error, StorageError::BadSnapshot { .. }), "{error}");
    };
    refused(&|m| m.shard += 1);
    refused(&|m| m.format += 1);
    refused(&|m| m.files[0].name = "../from/data/CURRENT".into());
    refused(&|m| m.files[0].family = "shards".into());
}
