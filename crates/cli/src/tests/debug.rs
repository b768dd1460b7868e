//! `meridian debug` on a directory that a store has made.

use crate::args::{Cli, Command};
use crate::commands::debug;
use crate::context::Context;
use crate::exit;
use bytes::Bytes;
use clap::Parser as _;
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, Store, StoreOptions};
use meridian_types::{ShardId, TableId, Timestamp};
use prost::Message as _;
use std::path::Path;

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let log = store.raft.shard(ShardId(4));
    for index in 1..=20 {
        let log_id = Some(pb::LogId { leader: Some(pb::LeaderId { term: 1, node: 1 }), index });
        let entry = pb::Entry { log_id, payload: Some(pb::entry::Payload::Blank(pb::entry::Blank {})) };
        log.append(&[(index, Bytes::from(entry.encode_to_vec()))], Box::new(|_| {})).unwrap();
    }
    log.mark("scope", Some("x".into())).unwrap();
    let mut batch = DataBatch::default();
    batch.put_version(TableId(3), b"k", Timestamp(7), Some("v".into()));
    batch.put_version(TableId(3), b"k", Timestamp(8), None);
    store.data.write(batch).unwrap();
    store.data.flush().unwrap();
    dir
}

fn run(dir: &Path, line: &str) -> anyhow::Result<()> {
    let dir = dir.to_str().unwrap();
    let words = ["meridian", "debug"].into_iter().chain(line.split_whitespace()).chain(["--data-dir", dir]);
    let cli = Cli::try_parse_from(words).unwrap();
    let Command::Debug(args) = cli.command else { panic!("debug") };
    debug::run(&Context::new(cli.global), args)
}

#[test]
fn every_command_runs_on_a_whole_directory() {
    let dir = directory();
    for line in [
        "verify --all",
        "shards",
        "log --shard s4 --from 3 --to 9 --limit 4",
        "versions --table 3 --prefix k --at 7",
        "cut-log --power-was-lost",
    ] {
        run(dir.path(), line).unwrap_or_else(|e| panic!("{line}: {e:#}"));
        run(dir.path(), &format!("{line} --format json")).unwrap_or_else(|e| panic!("{line}: {e:#}"));
    }
}

#[test]
fn damage_has_an_exit_code_of_its_own() {
    let dir = directory();
    let table = std::fs::read_dir(dir.path().join("data")).unwrap().map(|file| file.unwrap().path());
    let table = table.filter(|path| path.extension().is_some_and(|e| e == "sst")).max().unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    for line in ["verify", "verify --format json"] {
        let found = run(dir.path(), line).unwrap_err();
        assert_eq!(exit::code(&found), exit::DAMAGED, "{found:#}");
    }
    let missing = run(&dir.path().join("nowhere"), "verify").unwrap_err();
    assert_eq!(exit::code(&missing), exit::ERROR, "{missing:#}");
}

#[test]
fn cutting_a_log_has_to_be_meant() {
    assert!(Cli::try_parse_from(["meridian", "debug", "cut-log", "--data-dir", "d"]).is_err());
}
