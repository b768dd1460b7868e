//! Snapshots: what one node builds, another installs; damage and foreign manifests are refused.

use crate::support::{Machine, folder, on_both_engines, ship, state};
use meridian_proto::internal::v1::SnapshotManifest;
use meridian_storage::{DataBatch, StorageError, Store, read_manifest, verify_snapshot};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use std::path::{Path, PathBuf};

const SHARD: ShardId = ShardId(3);
const TABLE: TableId = TableId(8);

on_both_engines!(
    an_installed_snapshot_answers_as_its_source_and_leaves_the_rest,
    a_snapshot_is_of_one_moment,
    empty_shards_have_snapshots_too,
    damage_is_found_before_anything_is_changed,
    manifests_that_lead_elsewhere_are_refused,
);

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

/// Builds a snapshot of `from` and brings it to `to`; returns where its files are there.
fn send(from: &Store, to: &Store) -> (PathBuf, SnapshotManifest) {
    let (built, staged) = (folder(from, "out"), folder(to, "in"));
    let manifest = build(from, &built);
    ship((from, &built), (to, &staged), manifest.files.iter().map(|file| &file.name));
    (staged, manifest)
}

fn source(machine: &Machine) -> Store {
    let store = machine.open();
    (1..40).for_each(|ts| put(&store, ["c", "d\0e", "x"][ts as usize % 3], ts));
    store
}

fn install(store: &Store, staged: &Path, manifest: &SnapshotManifest) -> Result<(), StorageError> {
    store.install_snapshot(SHARD, TABLE, &range(), staged, manifest)
}

fn an_installed_snapshot_answers_as_its_source_and_leaves_the_rest(there: Machine) {
    let mut here = there.another();
    let (from, to) = (source(&there), here.open());
    let (staged, manifest) = send(&from, &to);
    assert_eq!(read_manifest(&from.files(), &folder(&from, "out")).unwrap(), manifest);
    assert_eq!(manifest.state, Some(state(39, 39)));

    // An old life of the shard, partly flushed, and a neighbour in the same table.
    (40..50).for_each(|ts| put(&to, "d-old", ts));
    to.data.flush().unwrap();
    put(&to, "k-old", 50);
    let mut neighbour = DataBatch::default();
    neighbour.put_version(TABLE, b"y", Timestamp(6), Some("neighbour".into()));
    to.data.write(neighbour).unwrap();

    install(&to, &staged, &manifest).unwrap();
    assert_eq!(to.data.durable(SHARD), Some(state(39, 39)));
    assert!(to.resume_installs().unwrap().is_empty(), "no mark is left");
    let mut same = DataBatch::default();
    same.put_version(TABLE, b"y", Timestamp(6), Some("neighbour".into()));
    from.data.write(same).unwrap();
    assert_eq!(content(&to), content(&from));

    // Durable without a further flush, and the staged files are not needed any more.
    to.files().remove_dir(&staged).unwrap();
    assert_eq!(content(&here.crash()), content(&from));
}

fn a_snapshot_is_of_one_moment(there: Machine) {
    let here = there.another();
    let (from, to) = (source(&there), here.open());
    let (before, view) = (content(&from), from.data.view());
    (40..50).for_each(|ts| put(&from, "c", ts));
    let (built, staged) = (folder(&from, "out"), folder(&to, "in"));
    let manifest = view.build_snapshot(SHARD, TABLE, &range(), &built).unwrap();
    ship((&from, &built), (&to, &staged), manifest.files.iter().map(|file| &file.name));
    install(&to, &staged, &manifest).unwrap();
    assert_eq!(content(&to), before);
}

fn empty_shards_have_snapshots_too(there: Machine) {
    let here = there.another();
    let (from, to) = (there.open(), here.open());
    let (staged, manifest) = send(&from, &to);
    assert_eq!((manifest.files.len(), manifest.state.clone()), (0, None));
    put(&to, "c", 7);
    install(&to, &staged, &manifest).unwrap();
    assert_eq!(content(&to), content(&from));

    // A position without rows.
    let mut batch = DataBatch::default();
    batch.put_shard_state(SHARD, &state(2, 9));
    from.data.write(batch).unwrap();
    let (staged, manifest) = send(&from, &to);
    install(&to, &staged, &manifest).unwrap();
    assert_eq!((content(&to), to.data.durable(SHARD)), (content(&from), Some(state(2, 9))));
}

fn damage_is_found_before_anything_is_changed(there: Machine) {
    let here = there.another();
    let (from, to) = (source(&there), source(&here));
    put(&to, "c", 45);
    let before = content(&to);
    let (staged, manifest) = send(&from, &to);
    for file in &manifest.files {
        let path = staged.join(&file.name);
        let whole = here.read(&path);
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 1;
        for bad in [flipped.into(), whole.slice(..whole.len() - 1)] {
            here.tamper(&path, Some(bad));
            let refused = install(&to, &staged, &manifest).unwrap_err();
            assert!(matches!(refused, StorageError::Corrupt { .. }), "{refused}");
        }
        here.tamper(&path, None);
        let refused = install(&to, &staged, &manifest).unwrap_err();
        assert!(matches!(refused, StorageError::File { .. }), "{refused}");
        here.tamper(&path, Some(whole));
    }
    verify_snapshot(&to.files(), &staged, &manifest).unwrap();
    assert_eq!(content(&to), before);

    let path = folder(&from, "out").join("manifest");
    let mut damaged = there.read(&path).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    there.tamper(&path, Some(damaged.into()));
    assert!(matches!(read_manifest(&from.files(), &folder(&from, "out")), Err(StorageError::Corrupt { .. })));
}

fn manifests_that_lead_elsewhere_are_refused(machine: Machine) {
    let store = source(&machine);
    let staged = folder(&store, "staged");
    let good = build(&store, &staged);
    let refused = |change: &dyn Fn(&mut SnapshotManifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        let error = install(&store, &staged, &manifest).unwrap_err();
        assert!(matches!(error, StorageError::BadSnapshot { .. }), "{error}");
    };
    refused(&|m| m.shard += 1);
    refused(&|m| m.format += 1);
    refused(&|m| m.files[0].name = "../from/data/CURRENT".into());
    refused(&|m| m.files[0].family = "shards".into());
}
