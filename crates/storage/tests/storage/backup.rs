//! Backups: what is in them, what is refused, and what a crash leaves of one that is being made.

use crate::restoring::listing;
use crate::support::{Machine, crash, on_both_engines, state};
use bytes::Bytes;
use meridian_proto::internal::v1 as pb;
use meridian_storage::backup::{self, BIRTH, BackedUp, BackupError, Restored, ShardScope, Verified};
use meridian_storage::inspect::StoppedNode;
use meridian_storage::{DataBatch, DataStore, DiskLevel, Files, ScanResult, Store};
use meridian_types::{KeyRange, NodeId, RequestId, ShardId, TableId, Timestamp};
use prost::Message as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The timestamp of most backups here: the last of every shard.
pub(crate) const AT: Timestamp = Timestamp(1_000);

fn range(start: &'static str, end: Option<&'static str>) -> KeyRange {
    KeyRange::new(start.into(), end.map(Into::into)).unwrap()
}

/// The catalog, and the two halves of a table.
pub(crate) fn shards() -> Vec<ShardScope> {
    let scope = |shard, table, range| ShardScope {
        shard: ShardId(shard),
        table: TableId(table),
        range,
        closed: Timestamp::ZERO,
    };
    vec![scope(0, 0, KeyRange::all()), scope(4, 7, range("", Some("m"))), scope(5, 7, range("m", None))]
}

pub(crate) fn request(n: u64) -> RequestId {
    RequestId { time: Timestamp(n), client: 1, sequence: n }
}

/// What the ledger says of a request that was decided at `ts`.
pub(crate) fn decided(ts: u64) -> Vec<u8> {
    let committed = pb::outcome::Result::Committed(pb::outcome::Committed { reads: Vec::new() });
    pb::LedgerRecord { fingerprint: ts, outcome: Some(pb::Outcome { ts, result: Some(committed) }) }.encode_to_vec()
}

fn write(store: &Store, scope: &ShardScope, key: &str, ts: u64, value: Option<&str>) {
    let mut batch = DataBatch::default();
    batch.put_version(scope.table, key.as_bytes(), Timestamp(ts), value.map(|v| Bytes::from(v.to_owned())));
    batch.put_ledger(scope.shard, &request(ts), &decided(ts));
    let before = store.data.view().shard_state(scope.shard).unwrap().unwrap_or_default();
    let next = before.applied.map_or(1, |id| id.index + 1);
    batch.put_shard_state(
        scope.shard,
        &pb::ShardState { gc_floor: before.gc_floor, ..state(next, ts.max(before.last_ts)) },
    );
    store.data.write(batch).unwrap();
}

/// A key that is in the shard's range.
pub(crate) fn key(scope: &ShardScope, n: u64) -> String {
    let half = if scope.range.start.is_empty() { "a" } else { "x" };
    format!("{half}\0{n:03}")
}

/// Keys with versions at several timestamps, the last removed again; an old key that is gone by `AT`.
pub(crate) fn fill(store: &Store) {
    store.set_membership("cluster-1", NodeId(9)).unwrap();
    for scope in shards() {
        if scope.shard != ShardId::CATALOG {
            store.raft.shard(scope.shard).remember_scope(scope.table, &scope.range).unwrap();
        }
        for (round, ts) in [(1, 100), (2, 500)] {
            for n in 0..20 {
                write(store, &scope, &key(&scope, n), ts + n, Some(&format!("value {round} of {n}")));
            }
        }
        write(store, &scope, &key(&scope, 3), 900, None);
        write(store, &scope, &key(&scope, 7), AT.0, Some("last"));
    }
    store.data.flush().unwrap();
}

/// What reads at a timestamp see of every shard: rows and ledger.
pub(crate) type Content = BTreeMap<ShardId, (ScanResult, Vec<Option<Bytes>>)>;

pub(crate) fn content(data: &DataStore, at: Timestamp) -> Content {
    let view = data.view();
    let of = |scope: ShardScope| {
        let mut rows = view.scan(scope.table, &scope.range, at, false, usize::MAX, usize::MAX).unwrap();
        // Tombstones are not restored.
        rows.reveals = Timestamp::ZERO;
        let decided_by = |record: &Bytes| pb::LedgerRecord::decode(record.clone()).unwrap().outcome.unwrap().ts <= at.0;
        let record = |n| view.ledger(scope.shard, &request(n)).unwrap().filter(decided_by);
        (scope.shard, (rows, (0..=1_200).map(record).collect()))
    };
    shards().into_iter().map(of).collect()
}

/// A folder beside the data directory, or on a simulated disk in it.
pub(crate) fn place(machine: &Machine, name: &str) -> PathBuf {
    match machine {
        Machine::Rocks { dir, .. } => dir.path().join(name),
        Machine::Simulated(_) => machine.open().dir().join(name),
    }
}

pub(crate) fn directory(machine: &Machine) -> PathBuf {
    match machine {
        Machine::Rocks { dir, life } => dir.path().join(life.to_string()),
        Machine::Simulated(_) => PathBuf::from("/"),
    }
}

/// A machine with a filled store, and a backup of it; both are closed.
pub(crate) fn backed_up(machine: &Machine, at: Timestamp) -> (PathBuf, BackedUp, Content) {
    let to = place(machine, "backup");
    let store = machine.open();
    fill(&store);
    let made = store.back_up(&shards(), at, &to, |_| {}).unwrap();
    (to, made, content(&store.data, at))
}

fn verified(machine: &Machine, from: &Path) -> Result<Verified, BackupError> {
    match machine {
        Machine::Rocks { .. } => backup::verify(&Files::real(), from, |_| {}),
        Machine::Simulated(_) => backup::verify(&machine.open().files(), from, |_| {}),
    }
}

/// Copies a simulated backup onto another simulated disk; on the file system it is in reach of all.
pub(crate) fn carry(from: &Machine, to: &Machine, backup: &Path) {
    if let (Machine::Simulated(from), Machine::Simulated(to)) = (from, to) {
        for name in from.file_names().into_iter().filter(|name| name.starts_with(backup)) {
            to.tamper(&name, from.file(&name));
        }
    }
}

pub(crate) fn restore(
    to: &Machine,
    backup: &Path,
    progress: impl FnMut(backup::Progress<'_>),
) -> Result<Restored, BackupError> {
    match to {
        Machine::Rocks { .. } => backup::restore(backup, &directory(to), |_| None, progress),
        Machine::Simulated(disk) => backup::restore_simulated(backup, disk, |_| None, progress),
    }
}

fn what_is_restored_is_what_was_there(machine: Machine) {
    let (backup, made, expected) = backed_up(&machine, AT);
    assert!(expected.values().all(|(rows, ledger)| rows.rows.len() == 19 && ledger.iter().flatten().count() == 42));
    assert_eq!(made.newer, [0, 0, 0]);
    let manifest = &made.manifest;
    assert_eq!((manifest.cluster_id.as_str(), manifest.node, manifest.at), ("cluster-1", 9, AT.0));
    let checked = verified(&machine, &backup).unwrap();
    assert!(checked.damage.is_empty(), "{:?}", checked.damage);
    assert_eq!((&checked.manifest, checked.files, checked.rows), (manifest, 6, 3 * (19 + 42)));

    let target = machine.another();
    carry(&machine, &target, &backup);
    let restored = restore(&target, &backup, |_| {}).unwrap();
    assert_eq!((&restored.manifest, restored.rows, restored.resumed), (manifest, 3 * (19 + 42), false));
    let store = target.open();
    assert_eq!(content(&store.data, AT), expected);
    assert_eq!(content(&store.data, Timestamp::MAX), expected);
    assert_eq!(store.identity().cluster_id, "", "it belongs to nobody");
    if let Machine::Rocks { .. } = &target {
        // Simulated disks of one seed draw the same.
        assert_ne!(store.identity().incarnation, manifest.incarnation);
    }
    let all: Vec<ShardId> = shards().iter().map(|scope| scope.shard).collect();
    assert_eq!(store.without_members().unwrap(), all);
    for scope in shards() {
        let position =
            pb::ShardState { applied: Some(BIRTH), last_ts: AT.0, gc_floor: AT.0, ..pb::ShardState::default() };
        assert_eq!(store.data.view().shard_state(scope.shard).unwrap(), Some(position.clone()));
        assert_eq!(store.data.durable(scope.shard), Some(position));
        let log = store.raft.shard(scope.shard);
        assert_eq!(pb::LogId::decode(log.purged().unwrap().unwrap()).unwrap(), BIRTH);
        assert_eq!((log.first_index().unwrap(), log.vote().unwrap()), (None, None));
        let catalog = scope.shard == ShardId::CATALOG;
        assert_eq!(log.scope().unwrap(), (!catalog).then_some((scope.table, scope.range)));
    }
    // It can be written to and backed up again.
    write(&store, &shards()[1], "new", AT.0 + 1, Some("after"));
    drop(store);
    let again = place(&target, "again");
    target.open().back_up(&shards()[1..2], Timestamp(AT.0 + 1), &again, |_| {}).unwrap();
    assert!(verified(&target, &again).unwrap().damage.is_empty());
}

fn an_old_timestamp_leaves_out_what_is_newer(machine: Machine) {
    let at = Timestamp(505);
    let (backup, made, expected) = backed_up(&machine, at);
    // Of 20 keys the last 14 have a newer version; two more rows are above; the ledger has as many.
    assert_eq!(made.newer, [2 * (14 + 2); 3]);
    assert!(expected.values().all(|(rows, ledger)| rows.rows.len() == 20 && ledger.iter().flatten().count() == 26));
    let target = machine.another();
    carry(&machine, &target, &backup);
    restore(&target, &backup, |_| {}).unwrap();
    let store = target.open();
    assert_eq!(content(&store.data, Timestamp::MAX), expected, "nothing newer came with it");
    let value = store.data.view().get(TableId(7), key(&shards()[1], 5).as_bytes(), at).unwrap().unwrap().value;
    assert_eq!(value.as_deref(), Some(b"value 2 of 5".as_slice()));
}

fn timestamps_that_cannot_be_kept_are_refused(machine: Machine) {
    let to = place(&machine, "backup");
    let store = machine.open();
    fill(&store);
    let back_up = |shards: &[ShardScope], at| store.back_up(shards, Timestamp(at), &to, |_| {});
    let refused = back_up(&shards(), AT.0 + 1).unwrap_err();
    assert!(
        matches!(refused, BackupError::NotClosed { shard: ShardId(0), at: Timestamp(1_001), has: AT }),
        "{refused}"
    );
    // One shard has been told that more is closed, the others have not.
    let mut told = shards();
    told[0].closed = Timestamp(2_000);
    let refused = back_up(&told, 1_500).unwrap_err();
    assert!(matches!(refused, BackupError::NotClosed { shard: ShardId(4), has: AT, .. }), "{refused}");
    told.iter_mut().for_each(|scope| scope.closed = Timestamp(2_000));
    let refused = back_up(&told, 2_001).unwrap_err();
    assert!(matches!(refused, BackupError::NotClosed { has: Timestamp(2_000), .. }), "{refused}");

    // A floor that is applied, and then one that is durable.
    let mut batch = DataBatch::default();
    batch.put_shard_state(ShardId(5), &pb::ShardState { gc_floor: 600, ..state(50, AT.0) });
    store.data.write(batch).unwrap();
    for durable in [false, true] {
        if durable {
            store.data.flush().unwrap();
        }
        let refused = back_up(&shards(), 599).unwrap_err();
        let BackupError::Collected { at: Timestamp(599), collected } = &refused else { panic!("{refused}") };
        assert_eq!((collected.shard, collected.floor), (ShardId(5), Timestamp(600)));
    }
    let mut absent = shards()[1].clone();
    (absent.shard, absent.range) = (ShardId(6), range("zz", None));
    assert!(matches!(back_up(&[absent], 10), Err(BackupError::NoPosition { shard: ShardId(6) })));
    assert!(matches!(back_up(&[], 10), Err(BackupError::NoShards)));
    let overlapping = [shards()[1].clone(), ShardScope { range: KeyRange::all(), ..shards()[2].clone() }];
    assert!(matches!(back_up(&overlapping, 700), Err(BackupError::BadManifest { .. })));
    store.raft.shard(ShardId(4)).mark("install", Some("x".into())).unwrap();
    assert!(matches!(back_up(&shards(), 700), Err(BackupError::Installing { shard: ShardId(4) })));
    store.raft.shard(ShardId(4)).mark("install", None).unwrap();

    // None of that has left anything, and what is right is made; but not twice.
    let made = back_up(&told, 2_000).unwrap();
    assert_eq!(made.manifest.at, 2_000);
    assert!(matches!(back_up(&told, 2_000), Err(BackupError::Exists { path }) if path == to));
    drop(store);
    assert!(verified(&machine, &to).unwrap().damage.is_empty());
}

fn all_shards_are_of_one_moment_and_nothing_is_collected_meanwhile(machine: Machine) {
    let to = place(&machine, "backup");
    let store = machine.open();
    fill(&store);
    let (at, scopes) = (Timestamp(505), shards());
    let expected = content(&store.data, at);
    for scope in &scopes {
        store.data.collect_in(scope.shard, scope.table, &scope.range);
    }
    let mut begun = 0;
    let made = store.back_up(&scopes, at, &to, |_| {
        begun += 1;
        for scope in &scopes {
            assert_eq!(store.data.lowest_protected(scope.shard), Some(at));
            // What no leader would do: below what is closed. Only a view of its own moment does not see it.
            write(&store, scope, &key(scope, 80 + begun), 50, Some("late"));
            let mut batch = DataBatch::default();
            batch.put_shard_state(scope.shard, &pb::ShardState { gc_floor: 990, ..state(60 + begun, AT.0) });
            store.data.write(batch).unwrap();
        }
        store.data.flush().unwrap();
        scopes.iter().for_each(|scope| store.data.compact(scope.table, &scope.range).unwrap());
    });
    made.unwrap();
    assert!(begun > 6, "one for each file");
    assert_eq!(store.data.lowest_protected(ShardId(4)), None);
    drop(store);
    let target = machine.another();
    carry(&machine, &target, &to);
    restore(&target, &to, |_| {}).unwrap();
    assert_eq!(content(&target.open().data, Timestamp::MAX), expected);
}

fn damage_to_any_file_is_found_and_named_and_nothing_is_restored(machine: Machine) {
    let (backup, made, _) = backed_up(&machine, AT);
    let of = |shard: &pb::BackupShard| shard.files.iter().map(|f| backup.join(&shard.dir).join(&f.name)).collect();
    let files: Vec<PathBuf> = made.manifest.shards.iter().flat_map(|shard| -> Vec<PathBuf> { of(shard) }).collect();
    assert_eq!(files.len(), 6);
    for file in files.iter().chain([&backup.join("manifest")]) {
        let whole = machine.read(file);
        let flipped = |at: usize| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0x10;
            Some(Bytes::from(bytes))
        };
        let places = [0, 1, whole.len() / 3, whole.len() / 2, whole.len() * 3 / 4, whole.len() - 1];
        let cut = [Some(whole.slice(..whole.len() - 1)), Some(Bytes::new()), Some([&whole[..], b"x"].concat().into())];
        for damaged in places.map(flipped).into_iter().chain(cut).chain([None]) {
            let missing = damaged.is_none();
            machine.tamper(file, damaged);
            let is_manifest = file.ends_with("manifest");
            match verified(&machine, &backup) {
                Ok(checked) => {
                    assert!(!is_manifest);
                    assert!(
                        !checked.damage.is_empty() && checked.damage.iter().all(|d| d.file == *file),
                        "{checked:?}"
                    );
                }
                Err(BackupError::Damaged(damage)) => assert!(is_manifest && damage.file == *file, "{damage}"),
                Err(BackupError::NoBackup { path }) => assert!(is_manifest && missing && path == backup),
                Err(other) => panic!("{other}"),
            }
            let target = machine.another();
            carry(&machine, &target, &backup);
            assert!(restore(&target, &backup, |_| {}).is_err());
            if let Machine::Rocks { .. } = &target {
                assert!(!directory(&target).exists());
            } else {
                assert!(target.open().raft.shards().unwrap().is_empty());
            }
            machine.tamper(file, Some(whole.clone()));
        }
    }
    assert!(verified(&machine, &backup).unwrap().damage.is_empty());
}

/// The file system's turn: a copy of the folder is what a crash would leave.
#[test]
fn a_backup_that_was_not_finished_is_none() {
    let machine = Machine::rocks();
    let to = place(&machine, "backup");
    let store = machine.open();
    fill(&store);
    let mut copies = Vec::new();
    store
        .back_up(&shards(), AT, &to, |_| {
            let copy = place(&machine, &format!("copy-{}", copies.len()));
            std::fs::create_dir(&copy).unwrap();
            crash(&to, &copy);
            copies.push(copy);
        })
        .unwrap();
    assert_eq!(copies.len(), 7);
    for copy in copies {
        let refused = backup::verify(&Files::real(), &copy, |_| {}).unwrap_err();
        assert!(matches!(&refused, BackupError::NoBackup { path } if *path == copy), "{refused}");
        let again = store.back_up(&shards(), AT, &copy, |_| {});
        assert!(matches!(again, Err(BackupError::Exists { .. })), "it has to be removed by whoever knows what it is");
    }
}

/// The simulated disk's turn: it loses what is not synced.
#[test]
fn a_backup_is_one_exactly_when_it_survives_a_power_loss_whole() {
    for step in 0..=7 {
        let machine = Machine::simulated();
        let Machine::Simulated(disk) = &machine else { panic!("simulated") };
        let to = place(&machine, "backup");
        let store = machine.open();
        fill(&store);
        let mut n = 0;
        let made = store.back_up(&shards(), AT, &to, |_| {
            if n == step {
                disk.crash();
            }
            n += 1;
        });
        assert_eq!(made.is_ok(), step == 7);
        disk.crash();
        match verified(&machine, &to) {
            Ok(checked) => assert!(step == 7 && checked.damage.is_empty(), "{:?}", checked.damage),
            Err(BackupError::NoBackup { .. }) => assert!(step < 7),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_left_alone() {
    let machine = Machine::simulated();
    let (backup, ..) = backed_up(&machine, AT);
    let Machine::Simulated(disk) = &machine else { panic!("simulated") };
    disk.space().set_level(DiskLevel::NearlyFull);
    let other = place(&machine, "other");
    let before = disk.file_names();
    assert!(matches!(machine.open().back_up(&shards(), AT, &other, |_| {}), Err(BackupError::DiskFull(_))));
    assert_eq!(disk.file_names(), before);
    let target = machine.another();
    carry(&machine, &target, &backup);
    let Machine::Simulated(disk) = &target else { panic!("simulated") };
    disk.space().set_level(DiskLevel::NearlyFull);
    assert!(matches!(restore(&target, &backup, |_| {}), Err(BackupError::DiskFull(_))));
    disk.space().set_level(DiskLevel::Enough);
    assert!(!restore(&target, &backup, |_| {}).unwrap().resumed, "nothing was begun");
}

#[test]
fn a_stopped_node_is_backed_up_as_new_as_it_surely_is() {
    let machine = Machine::rocks();
    let store = machine.open();
    fill(&store);
    // The first half is older than the rest, but for what its leader had closed.
    let halves = shards();
    write(&store, &halves[0], "k", 1_100, Some("newer"));
    write(&store, &halves[2], &key(&halves[2], 9), 1_100, Some("newer"));
    store.data.flush().unwrap();
    drop(store);
    let newest = || {
        let node = StoppedNode::open(&directory(&machine)).unwrap();
        let scopes = node.shard_scopes().unwrap();
        (node.newest_closed(&scopes).unwrap(), scopes)
    };
    let (least, scopes) = newest();
    assert_eq!((least, &scopes), ((AT, ShardId(4)), &shards()));
    machine.open().raft.shard(ShardId(4)).note_closed(Timestamp(5_000), AT).unwrap();
    let (least, scopes) = newest();
    assert_eq!((least, scopes[1].closed), ((Timestamp(1_100), ShardId(0)), Timestamp(5_000)));
    let node = StoppedNode::open(&directory(&machine)).unwrap();
    let inside = directory(&machine).join("backup");
    assert!(matches!(node.back_up(&scopes, least.0, &inside, |_| {}), Err(BackupError::Inside { .. })));
    let before = listing(&directory(&machine));
    let made = node.back_up(&scopes, least.0, &place(&machine, "backup"), |_| {}).unwrap();
    assert_eq!((made.manifest.at, made.newer), (1_100, vec![0; 3]));
    drop(node);
    assert_eq!(listing(&directory(&machine)), before, "nothing of the node is changed");
    assert!(verified(&machine, &place(&machine, "backup")).unwrap().damage.is_empty());
    // A shard of which nothing says what it is.
    machine.open().raft.shard(ShardId(8)).mark("m", Some("x".into())).unwrap();
    let refused = StoppedNode::open(&directory(&machine)).unwrap().shard_scopes().unwrap_err();
    assert!(matches!(refused, BackupError::NoScope { shard: ShardId(8) }), "{refused}");
}

on_both_engines!(
    what_is_restored_is_what_was_there,
    an_old_timestamp_leaves_out_what_is_newer,
    timestamps_that_cannot_be_kept_are_refused,
    all_shards_are_of_one_moment_and_nothing_is_collected_meanwhile,
    damage_to_any_file_is_found_and_named_and_nothing_is_restored,
);
