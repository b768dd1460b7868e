//! A data directory belongs to one node of one cluster, and its two stores belong together (rule D4).

use crate::support::{Machine, crash, on_both_engines, open, try_open};
use meridian_storage::{StorageError, StoreName};
use meridian_types::NodeId;

on_both_engines!(the_identity_stays_and_the_membership_is_given_once);

fn the_identity_stays_and_the_membership_is_given_once(mut machine: Machine) {
    let store = machine.open();
    let drawn = store.identity();
    assert!(drawn.cluster_id.is_empty());
    store.set_membership("earth", NodeId(3)).unwrap();
    store.set_membership("earth", NodeId(3)).unwrap();
    let other =
        |r| matches!(r, Err(StorageError::OtherMember { cluster_id, node: NodeId(3) }) if cluster_id == "earth");
    assert!(other(store.set_membership("earth", NodeId(4))));
    assert!(other(store.set_membership("mars", NodeId(3))));
    drop(store);
    drop(machine.open());
    let again = machine.crash().identity();
    assert_eq!((again.incarnation, again.cluster_id.as_str(), again.node), (drawn.incarnation, "earth", 3));
}

#[test]
fn a_lost_store_is_named_and_not_made_again() {
    for missing in [StoreName::Raft, StoreName::Data] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        std::fs::remove_dir_all(dir.path().join(missing.folder())).unwrap();
        for _ in 0..2 {
            let refused = try_open(dir.path()).err().expect("refused");
            assert!(matches!(refused, StorageError::IdentityMissing { missing: m } if m == missing), "{refused}");
        }
    }
}

#[test]
fn stores_of_two_directories_do_not_mix() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(open(a.path()));
    drop(open(b.path()));
    std::fs::remove_dir_all(a.path().join("data")).unwrap();
    crash(&b.path().join("data"), &a.path().join("data"));
    assert!(matches!(try_open(a.path()), Err(StorageError::IdentityMismatch { .. })));
}

#[test]
fn a_creation_that_was_cut_short_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).identity().incarnation;
    // As a crash after the first store was made would leave it.
    std::fs::write(dir.path().join("CREATING"), b"").unwrap();
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let second = open(dir.path()).identity().incarnation;
    assert_ne!(first, second);
    assert_eq!(open(dir.path()).identity().incarnation, second);
}
