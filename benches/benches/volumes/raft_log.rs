//! The raft log in its steady state: shards append, and purge what the data has flushed.

use crate::{MIB, PAYLOAD_BYTES, process};
use bytes::Bytes;
use meridian_clock::Mono;
use meridian_storage::{RaftLog, Store, StoreOptions};
use meridian_types::ShardId;
use std::sync::mpsc;

const SHARDS: u64 = 16;

/// Entries of one append, as a busy leader packs them.
const APPEND: u64 = 8;

/// As the consensus layer does it: purge in steps of this many entries, and keep at least and at most so many.
const PURGE_STEP: u64 = 256;
const KEPT: u64 = 500;
const SNAPSHOT_EVERY: u64 = 2_000;

struct Writer {
    log: RaftLog,
    next: u64,
    purged: u64,
    flushed: u64,
}

pub(crate) fn run(bytes: u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let mut writers: Vec<Writer> =
        (0..SHARDS).map(|s| Writer { log: store.raft.shard(ShardId(s)), next: 0, purged: 0, flushed: 0 }).collect();
    let entry = Bytes::from(noise());
    let (before, begun, processor) = (process::written(), Mono::now(), process::processor_seconds());
    let appends = bytes / (APPEND * PAYLOAD_BYTES as u64);
    let (done, durable) = mpsc::channel();
    for n in 0..appends {
        // One append of every shard is on its way at any time.
        let writer = if n < SHARDS { n as usize } else { durable.recv().unwrap() };
        let w = &mut writers[writer];
        let entries: Vec<_> = (w.next..w.next + APPEND).map(|index| (index, entry.clone())).collect();
        let done = done.clone();
        let tell = move |result: Result<(), _>| {
            result.unwrap();
            let _ = done.send(writer);
        };
        w.log.append(&entries, Box::new(tell)).unwrap();
        w.next += APPEND;
        if w.next >= w.flushed + SNAPSHOT_EVERY {
            w.flushed = w.next;
        }
        let upto = w.flushed.saturating_sub(KEPT);
        if upto >= w.purged + PURGE_STEP {
            w.log.purge(upto - 1, Bytes::from_static(b"id")).unwrap();
            w.purged = upto;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let stats = store.raft.sync_stats();
    let processor = process::processor_seconds() - processor;
    let payload = (appends * APPEND * PAYLOAD_BYTES as u64) as f64;
    println!("raft log, {SHARDS} shards, appends of {APPEND} entries of {PAYLOAD_BYTES} bytes");
    println!("  {:.0} MiB in {took:.1} s, {:.0} entries/s", payload / MIB, (appends * APPEND) as f64 / took);
    println!("  processor {:.2} us for each entry", processor * 1e6 / (appends * APPEND) as f64);
    println!(
        "  syncs {}, {:.1} appends in each, {:?} each",
        stats.syncs,
        stats.writes as f64 / stats.syncs as f64,
        stats.mean()
    );
    let device = (process::written() - before) as f64;
    println!("  written to the device: {:.0} MiB, {:.2} for each byte of user data", device / MIB, device / payload);
    process::report(&store.raft.stats());
    let log_dir = dir.path().join("raft");
    let on_disk: u64 = std::fs::read_dir(log_dir).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    println!(
        "  files now: {:.0} MiB; peak resident {:.0} MiB",
        on_disk as f64 / MIB,
        process::peak_resident() as f64 / MIB
    );
}

/// Bytes that do not compress.
fn noise() -> Vec<u8> {
    use rand::{RngExt as _, SeedableRng as _};
    let mut bytes = vec![0; PAYLOAD_BYTES];
    rand_chacha::ChaCha8Rng::seed_from_u64(crate::SEED).fill(&mut bytes[..]);
    bytes
}
