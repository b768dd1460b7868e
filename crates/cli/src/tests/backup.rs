//! `meridian debug backup`, `verify-backup` and `restore`, from a directory that a store has made to another.

use crate::args::{Cli, Command};
use crate::commands::debug;
use crate::context::Context;
use crate::exit;
use clap::Parser as _;
use meridian_proto::internal::v1 as pb;
use meridian_storage::inspect::StoppedNode;
use meridian_storage::{DataBatch, Store, StoreOptions};
use meridian_types::{KeyRange, NodeId, ShardId, TableId, Timestamp};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const TABLE: TableId = TableId(3);

/// A stopped node with the catalog and one table; the catalog's last stamp is 100, the table's 120.
fn node() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n1");
    let store = Store::open(&path, StoreOptions::default()).unwrap();
    store.set_membership("c", NodeId(1)).unwrap();
    store.raft.shard(ShardId(4)).remember_scope(TABLE, &KeyRange::all()).unwrap();
    let mut batch = DataBatch::default();
    for (shard, last_ts) in [(ShardId::CATALOG, 100), (ShardId(4), 120)] {
        let applied = Some(pb::LogId { leader: Some(pb::LeaderId { term: 1, node: 1 }), index: 9 });
        batch.put_shard_state(shard, &pb::ShardState { applied, last_ts, ..pb::ShardState::default() });
    }
    batch.put_version(TableId::CATALOG, b"cluster", Timestamp(100), Some("c".into()));
    batch.put_version(TABLE, b"k", Timestamp(90), Some("old".into()));
    batch.put_version(TABLE, b"k", Timestamp(120), Some("new".into()));
    store.data.write(batch).unwrap();
    store.data.flush().unwrap();
    (dir, path)
}

/// The exit code and the message of `meridian debug ..`.
fn run(words: &[&str]) -> (u8, String) {
    let cli =
        Cli::try_parse_from(["meridian", "debug"].iter().chain(words)).unwrap_or_else(|e| panic!("{words:?}: {e}"));
    let Command::Debug(args) = cli.command else { panic!("debug") };
    match debug::run(&Context::new(cli.global), args) {
        Ok(()) => (0, String::new()),
        Err(error) => (exit::code(&error), exit::message(&error)),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The value of `k` that is in a stopped node.
fn value(dir: &Path) -> Option<String> {
    let node = StoppedNode::open(dir).unwrap();
    let found = node.data.view().get(TABLE, b"k", Timestamp::MAX).unwrap().unwrap();
    found.value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn a_node_comes_back_out_of_its_backup() {
    for format in ["human", "json"] {
        let (dir, n1) = node();
        let (to, again) = (dir.path().join("backup"), dir.path().join("again"));
        let (to, form) = (text(&to), ["--format", format]);
        let with_form = |words: &[&str]| run(&[words, &form].concat());
        assert_eq!(with_form(&["backup", "--data-dir", text(&n1), "--to", to]), (0, String::new()));
        assert_eq!(with_form(&["verify-backup", to]), (0, String::new()));
        assert_eq!(with_form(&["restore", "--from", to, "--store", text(&again)]), (0, String::new()));
        // As of the catalog's last stamp, which is the older one.
        assert_eq!((value(&again).as_deref(), value(&n1).as_deref()), (Some("old"), Some("new")));
        for command in ["verify", "shards"] {
            assert_eq!(with_form(&[command, "--data-dir", text(&again)]), (0, String::new()), "{command}");
        }
        let only = dir.path().join("only");
        let words = ["backup", "--data-dir", text(&n1), "--to", text(&only), "--shard", "s4", "--at", "120"];
        assert_eq!(with_form(&words), (0, String::new()));
        let other = dir.path().join("other");
        assert_eq!(with_form(&["restore", "--from", text(&only), "--data-dir", text(&other)]), (0, String::new()));
        assert_eq!(value(&other).as_deref(), Some("new"));
    }
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_nothing() {
    let (dir, n1) = node();
    let to = dir.path().join("backup");
    let backup = ["backup", "--data-dir", text(&n1), "--to", text(&to)];
    for (more, told) in [
        (vec!["--at", "121"], "s0 surely has everything only up to"),
        (vec!["--at", "101"], "s0 surely has everything only up to"),
        (vec!["--at", "121", "--shard", "4"], "s4 surely has everything only up to"),
        (vec!["--shard", "s9"], "the node has no s9"),
    ] {
        let (code, message) = run(&[&backup[..], &more].concat());
        assert_eq!(code, exit::ERROR);
        assert!(message.contains(told), "{message}");
        assert!(!to.exists());
    }
    assert_eq!(run(&backup).0, 0);
    let (code, message) = run(&backup);
    assert!(code == exit::ERROR && message.contains("exists"), "{message}");
    let (code, message) = run(&["restore", "--from", text(&to), "--data-dir", text(&n1)]);
    assert!(code == exit::ERROR && message.contains("not empty"), "{message}");
    assert_eq!(value(&n1).as_deref(), Some("new"));
    let (code, message) = run(&["verify-backup", text(dir.path())]);
    assert!(code == exit::ERROR && message.contains("no backup"), "{message}");
    let running = Store::open(&dir.path().join("n2"), StoreOptions::default()).unwrap();
    let (code, _) = run(&["backup", "--data-dir", text(running.dir()), "--to", text(&dir.path().join("b2"))]);
    assert_eq!(code, exit::ERROR, "a node without shards");
}

#[test]
fn a_damaged_backup_has_an_exit_code_of_its_own_and_is_not_restored() {
    let (dir, n1) = node();
    let (to, again) = (dir.path().join("backup"), dir.path().join("again"));
    assert_eq!(run(&["backup", "--data-dir", text(&n1), "--to", text(&to)]).0, 0);
    for file in ["s4/versions-000000.sst", "manifest"] {
        let path = to.join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        for format in ["human", "json"] {
            let (code, message) = run(&["verify-backup", text(&to), "--format", format]);
            assert_eq!(code, exit::DAMAGED, "{message}");
            let (code, message) =
                run(&["restore", "--from", text(&to), "--data-dir", text(&again), "--format", format]);
            assert_eq!(code, exit::DAMAGED, "{message}");
            assert!(message.contains(text(&path)), "{message}");
            assert!(!again.exists());
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert_eq!(run(&["verify-backup", text(&to)]).0, 0);
}
