//! Restoring backups: into an empty directory only, whole or not at all.
//!
//! `fixtures/backup-1` is a backup as the build wrote it that introduced format 1 of backups. It is never written
//! again: a backup has to be restorable as long as somebody keeps it. When the format number is raised, add a fixture
//! beside it:
//!
//! ```text
//! MERIDIAN_FIXTURE=crates/storage/tests/fixtures/backup-2 cargo test -p meridian-storage --test storage \
//!     -- --ignored write_a_backup
//! ```

use crate::backup::{AT, backed_up, carry, content, decided, directory, fill, key, place, request, restore, shards};
use crate::support::{Machine, crash, try_open};
use meridian_proto::internal::v1 as pb;
use meridian_storage::backup::{self, BIRTH, BackupError};
use meridian_storage::inspect::StoppedNode;
use meridian_storage::{Files, StorageError};
use meridian_types::{ShardId, Timestamp};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[test]
fn backups_of_every_format_are_restored() {
    for name in ["backup-1"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let found = backup::verify(&Files::real(), &from, |_| {}).unwrap();
        assert!(found.damage.is_empty(), "{name}: {:?}", found.damage);
        assert_eq!((found.manifest.at, found.files, found.rows), (1_000, 6, 183));
        let target = Machine::rocks();
        restore(&target, &from, |_| {}).unwrap();
        let store = target.open();
        let view = store.data.view();
        for scope in shards() {
            let value = |n| view.get(scope.table, key(&scope, n).as_bytes(), AT).unwrap().and_then(|found| found.value);
            assert_eq!(value(7).as_deref(), Some(b"last".as_slice()), "{name}");
            assert_eq!((value(8).as_deref(), value(3)), (Some(b"value 2 of 8".as_slice()), None), "{name}");
            assert_eq!(view.ledger(scope.shard, &request(900)).unwrap().as_deref(), Some(&decided(900)[..]), "{name}");
        }
    }
}

#[test]
#[ignore = "writes the fixture of a new format"]
fn write_a_backup() {
    let to = std::env::var_os("MERIDIAN_FIXTURE").expect("names the folder");
    let machine = Machine::rocks();
    let store = machine.open();
    fill(&store);
    // Relative to the workspace, as the command is.
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(to);
    store.back_up(&shards(), AT, &to, |_| {}).unwrap();
}

#[test]
fn a_crash_while_restoring_leaves_nothing_that_opens_or_everything() {
    let source = Machine::rocks();
    let (backup, _, expected) = backed_up(&source, AT);
    let target = Machine::rocks();
    let dir = directory(&target);
    let mut copies = Vec::new();
    restore(&target, &backup, |_| {
        if dir.exists() {
            let copy = place(&target, &format!("copy-{}", copies.len()));
            crash(&dir, &copy);
            copies.push(copy);
        }
    })
    .unwrap();
    assert!(copies.len() > 9, "{}", copies.len());
    let last = copies.len() - 1;
    for (n, copy) in copies.into_iter().enumerate() {
        match try_open(&copy) {
            Ok(store) => {
                assert_eq!(n, last, "only the last step lets it be opened");
                assert_eq!(content(&store.data, AT), expected);
                continue;
            }
            Err(StorageError::RestoreUnfinished { path }) => assert_eq!(Path::new(&path), copy),
            Err(other) => panic!("{other}"),
        }
        assert!(matches!(StoppedNode::open(&copy), Err(StorageError::RestoreUnfinished { .. })));
        assert!(backup::restore(&backup, &copy, |_| None, |_| {}).unwrap().resumed);
        let store = try_open(&copy).unwrap();
        assert_eq!(content(&store.data, Timestamp::MAX), expected, "after step {n}");
        assert_eq!(store.raft.shards().unwrap().len(), 3);
    }
}

#[test]
fn a_power_loss_while_restoring_leaves_nothing_that_opens_or_everything() {
    let source = Machine::simulated();
    let (backup, _, expected) = backed_up(&source, AT);
    let mut outcomes = BTreeMap::new();
    for step in 0.. {
        let target = Machine::simulated();
        carry(&source, &target, &backup);
        let Machine::Simulated(disk) = &target else { panic!("simulated") };
        let mut n = 0;
        let done = restore(&target, &backup, |_| {
            if n == step {
                disk.crash();
            }
            n += 1;
        });
        disk.crash();
        let found = match target.try_open() {
            Ok(store) if store.raft.shards().unwrap().is_empty() => "empty",
            Ok(store) => {
                assert_eq!(content(&store.data, Timestamp::MAX), expected, "after step {step}");
                "whole"
            }
            Err(StorageError::RestoreUnfinished { .. }) => "refused",
            Err(other) => panic!("{other}"),
        };
        *outcomes.entry(found).or_insert(0) += 1;
        if found != "whole" {
            assert_eq!(restore(&target, &backup, |_| {}).unwrap().resumed, found == "refused");
            assert_eq!(content(&target.open().data, Timestamp::MAX), expected, "after step {step}");
        }
        if done.is_ok() {
            break;
        }
    }
    assert!(outcomes.len() == 3 && outcomes["refused"] > 5, "{outcomes:?}");
}

/// Paths below a folder with their contents.
pub(crate) fn listing(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path.clone(), std::fs::read(&path).ok());
        }
    }
    found
}

#[test]
fn nothing_is_restored_over_anything() {
    let source = Machine::rocks();
    let (backup, ..) = backed_up(&source, AT);
    let parent = tempfile::tempdir().unwrap();
    let with_file = parent.path().join("file");
    std::fs::create_dir(&with_file).unwrap();
    std::fs::write(with_file.join("notes"), "mine").unwrap();
    let with_node = parent.path().join("node");
    fill(&try_open(&with_node).unwrap());
    for dir in [with_file, with_node, directory(&source)] {
        let before = listing(&dir);
        let refused = backup::restore(&backup, &dir, |_| None, |_| {}).unwrap_err();
        assert!(matches!(&refused, BackupError::NotEmpty { path, .. } if *path == dir), "{refused}");
        assert_eq!(listing(&dir), before);
    }
    // A file system's own folder does not count.
    let mounted = parent.path().join("mounted");
    std::fs::create_dir_all(mounted.join("lost+found")).unwrap();
    backup::restore(&backup, &mounted, |_| None, |_| {}).unwrap();

    let simulated = Machine::simulated();
    fill(&simulated.open());
    let to = place(&simulated, "backup");
    simulated.open().back_up(&shards(), AT, &to, |_| {}).unwrap();
    let refused = restore(&simulated, &to, |_| {}).unwrap_err();
    assert!(matches!(refused, BackupError::NotEmpty { .. }), "{refused}");
}

#[test]
fn a_restored_shard_has_the_members_that_are_named() {
    let source = Machine::rocks();
    let (backup, ..) = backed_up(&source, AT);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("node");
    let member = pb::Member { node: 3, region: "eu".into(), address: "host:1".into() };
    let voters = vec![pb::membership::VoterSet { nodes: vec![3] }];
    let members = pb::Membership { configs: voters, members: vec![member] };
    let named = |shard| (shard != ShardId(5)).then(|| members.clone());
    backup::restore(&backup, &to, named, |_| {}).unwrap();
    let store = try_open(&to).unwrap();
    assert_eq!(store.without_members().unwrap(), [ShardId(5)]);
    let position = store.data.view().shard_state(ShardId(4)).unwrap().unwrap();
    let stored = pb::StoredMembership { log_id: Some(BIRTH), membership: Some(members) };
    assert_eq!(position.membership, Some(stored));
}
