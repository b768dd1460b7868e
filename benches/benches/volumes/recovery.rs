//! Opening a store whose process was killed with a large log, and reading all of that log.

use crate::{MIB, PAYLOAD_BYTES, process};
use bytes::Bytes;
use meridian_clock::Mono;
use meridian_storage::{Store, StoreOptions};
use meridian_types::ShardId;
use rand::{RngExt as _, SeedableRng as _};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

const SHARDS: u64 = 16;

/// Entries of one append.
const APPEND: u64 = 64;

/// Bytes of one read, as replication reads.
const READ_BYTES: usize = 1 << 20;

pub(crate) fn run(bytes: u64) {
    let dir = tempfile::tempdir().unwrap();
    // The log is written by a process of its own, which ends without closing anything.
    let gib = (bytes as f64 / crate::GIB as f64).to_string();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["recovery", "--fill", dir.path().to_str().unwrap(), &gib])
        .status()
        .unwrap();
    assert!(!status.success(), "it was to be killed");
    let begun = Mono::now();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let opened = begun.elapsed().as_secs_f64();
    let (mut entries, mut payload) = (0_u64, 0_u64);
    for shard in store.raft.shards().unwrap() {
        let log = store.raft.shard(shard);
        let mut next = log.first_index().unwrap().unwrap();
        let end = log.last_index().unwrap().unwrap() + 1;
        while next < end {
            let read = log.read(next..end, READ_BYTES).unwrap();
            payload += read.iter().map(|(_, entry)| entry.len() as u64).sum::<u64>();
            entries += read.len() as u64;
            next = read.last().unwrap().0 + 1;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("recovery of {:.0} MiB in {entries} entries of {SHARDS} shards", payload as f64 / MIB);
    println!(
        "  open {opened:.2} s, and everything read {took:.2} s; peak resident {:.0} MiB",
        process::peak_resident() as f64 / MIB
    );
}

/// Writes the log and ends as a killed process does.
pub(crate) fn fill(dir: &Path, bytes: u64) {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    let mut entry = vec![0; PAYLOAD_BYTES];
    rand_chacha::ChaCha8Rng::seed_from_u64(crate::SEED).fill(&mut entry[..]);
    let entry = Bytes::from(entry);
    let rounds = bytes / (SHARDS * APPEND * PAYLOAD_BYTES as u64);
    for round in 0..rounds {
        let (done, durable) = mpsc::channel();
        for shard in 0..SHARDS {
            let entries: Vec<_> = (0..APPEND).map(|i| (round * APPEND + i, entry.clone())).collect();
            let done = done.clone();
            let tell = move |result: Result<(), _>| drop(done.send(result));
            store.raft.shard(ShardId(shard)).append(&entries, Box::new(tell)).unwrap();
        }
        (0..SHARDS).for_each(|_| durable.recv().unwrap().unwrap());
    }
    std::process::abort();
}
