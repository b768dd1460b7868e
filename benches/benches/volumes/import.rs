//! Filling one table, then reading it by keys: a table that the caches do not hold.

use crate::{MIB, PAYLOAD_BYTES, SEED, TABLE, process};
use meridian_clock::Mono;
use meridian_proto::internal::v1::{LeaderId, LogId, ShardState};
use meridian_storage::{DataBatch, Store, StoreOptions};
use meridian_types::{ShardId, Timestamp};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::hint::black_box;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SHARD: ShardId = ShardId(1);

/// Rows of one batch.
const BATCH: u64 = 256;

/// Progress lines.
const STEPS: u64 = 10;

/// Point reads of each round; ours and those of RocksDB alone take turns.
const GETS: u64 = 20_000;
const ROUNDS: u64 = 3;

/// Rows that are read again and again for the cached figure.
const HOT_ROWS: u64 = 10_000;

/// No compaction for this long: none is left to do.
const SETTLE_LOOK: Duration = Duration::from_secs(5);

/// Bytes of a row: key and value.
const ROW_BYTES: u64 = 20 + PAYLOAD_BYTES as u64;

/// Random order: neighbours in time are none on disk.
fn key(row: u64) -> String {
    format!("key-{:016x}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Bytes that do not compress.
fn value(random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut value = vec![0; PAYLOAD_BYTES];
    random.fill(&mut value[..]);
    value
}

/// Where the two tables lie below a folder.
struct Places {
    ours: PathBuf,
    plain: PathBuf,
}

impl Places {
    fn below(dir: &Path) -> Self {
        Self { ours: dir.join("store"), plain: dir.join("plain") }
    }
}

/// Fills both tables, in a folder that is removed afterwards, and reads them.
pub(crate) fn run(bytes: u64) {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), bytes);
    read(dir.path(), bytes);
}

/// Fills both tables in `dir`, which stays for [`read`].
pub(crate) fn fill(dir: &Path, bytes: u64) {
    let (rows, places) = (bytes / ROW_BYTES, Places::below(dir));
    fill_ours(&places.ours, rows);
    fill_plain(&places.plain, rows);
}

/// Reads both tables that [`fill`] has left for as many bytes.
pub(crate) fn read(dir: &Path, bytes: u64) {
    let (rows, places) = (bytes / ROW_BYTES, Places::below(dir));
    let store = Store::open(&places.ours, StoreOptions::default()).unwrap();
    let plain = open_plain(&places.plain);
    settle(&store);
    let ours = |row| {
        // A view for each read, as a request takes it.
        let view = store.data.view();
        view.get(TABLE, key(row).as_bytes(), Timestamp::MAX).unwrap().unwrap().value.unwrap().len()
    };
    let theirs = |row| plain.get(key(row)).unwrap().unwrap().len();
    println!(
        "point gets, one thread; the block caches hold {:.0} MiB each",
        StoreOptions::default().block_cache_bytes as f64 / MIB
    );
    // Each round has other rows: what was read before is in the cache.
    let mut seed = SEED;
    let mut turns = |what: &str, rows: Range<u64>, forget: bool| {
        for _ in 0..ROUNDS {
            seed += 2;
            let prepare = |dir: &Path| {
                if forget {
                    process::forget(dir)
                }
            };
            prepare(&places.ours);
            let meridian = gets(seed, rows.clone(), ours);
            prepare(&places.plain);
            let rocksdb = gets(seed + 1, rows.clone(), theirs);
            println!(
                "  {what}: Meridian {meridian}; RocksDB alone {rocksdb}; {:.2} times as long, {:.2} of the processor",
                rocksdb.rate / meridian.rate,
                meridian.processor / rocksdb.processor
            );
        }
    };
    turns("from the device", 0..rows, true);
    turns("whole table", 0..rows, false);
    for row in 0..HOT_ROWS.min(rows) {
        black_box((ours(row), theirs(row)));
    }
    turns("cached", 0..HOT_ROWS.min(rows), false);
    println!("peak resident {:.0} MiB", process::peak_resident() as f64 / MIB);
}

/// Waits until the compactions that filling has left to do are done: the reads would be told their processor time.
fn settle(store: &Store) {
    let compacted = || {
        let stats = store.data.stats();
        stats.compaction_read_bytes + stats.compaction_written_bytes
    };
    let mut before = None;
    while before != Some(compacted()) {
        before = Some(compacted());
        std::thread::sleep(SETTLE_LOOK);
    }
}

/// What a round of point reads took.
struct Gets {
    rate: f64,
    /// Processor time of each, in microseconds.
    processor: f64,
    /// Reads of a file for each.
    reads: f64,
}

impl fmt::Display for Gets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/s ({:.1} us of processor, {:.2} file reads each)", self.rate, self.processor, self.reads)
    }
}

fn gets(seed: u64, rows: Range<u64>, get: impl Fn(u64) -> usize) -> Gets {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (begun, processor, reads) = (Mono::now(), process::processor_seconds(), process::reads());
    for _ in 0..GETS {
        black_box(get(random.random_range(rows.clone())));
    }
    let each = |n: f64| n / GETS as f64;
    Gets {
        rate: GETS as f64 / begun.elapsed().as_secs_f64(),
        processor: each((process::processor_seconds() - processor) * 1e6),
        reads: each((process::reads() - reads) as f64),
    }
}

/// The table in Meridian's data store, as entries that are applied leave it.
fn fill_ours(dir: &Path, rows: u64) {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let (written, begun, processor) = (process::written(), Mono::now(), process::processor_seconds());
    for first in (0..rows).step_by(BATCH as usize) {
        let mut batch = DataBatch::default();
        let end = (first + BATCH).min(rows);
        for row in first..end {
            batch.put_version(TABLE, key(row).as_bytes(), Timestamp(1 + row), Some(value(&mut random).into()));
        }
        let applied = LogId { leader: Some(LeaderId { term: 1, node: 1 }), index: first };
        batch.put_shard_state(SHARD, &ShardState { applied: Some(applied), last_ts: end, ..ShardState::default() });
        store.data.write(batch).unwrap();
        if first * STEPS / rows != end * STEPS / rows {
            let (part, seconds) = (100 * end / rows, begun.elapsed().as_secs_f64());
            eprintln!("  {part} %, {seconds:.0} s, peak resident {:.0} MiB", process::peak_resident() as f64 / MIB);
        }
    }
    store.data.flush().unwrap();
    let (took, user) = (begun.elapsed().as_secs_f64(), (rows * ROW_BYTES) as f64);
    let device = (process::written() - written) as f64;
    println!(
        "import of {rows} rows, {:.0} MiB: {took:.0} s, {:.1} MiB/s, {:.0} rows/s",
        user / MIB,
        user / MIB / took,
        rows as f64 / took
    );
    println!("  processor {:.2} us for each row", (process::processor_seconds() - processor) * 1e6 / rows as f64);
    println!(
        "  written to the device {:.2} for each byte of user data; peak resident {:.0} MiB",
        device / user,
        process::peak_resident() as f64 / MIB
    );
    process::report(&store.data.stats());
}

fn open_plain(dir: &Path) -> rocksdb::DB {
    let mut options = meridian_benches::plain_options();
    options.set_bottommost_compression_type(rocksdb::DBCompressionType::Zstd);
    options.set_max_background_jobs(i32::from(StoreOptions::default().background_jobs));
    options.set_max_open_files(i32::from(StoreOptions::default().open_files_max));
    rocksdb::DB::open(&options, dir).unwrap()
}

/// The same table in RocksDB alone, with filters and a cache as ours.
fn fill_plain(dir: &Path, rows: u64) {
    let db = open_plain(dir);
    let mut unlogged = rocksdb::WriteOptions::default();
    unlogged.disable_wal(true);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let begun = Mono::now();
    for first in (0..rows).step_by(BATCH as usize) {
        let mut batch = rocksdb::WriteBatch::default();
        (first..(first + BATCH).min(rows)).for_each(|row| batch.put(key(row), value(&mut random)));
        db.write_opt(batch, &unlogged).unwrap();
    }
    db.flush().unwrap();
    println!("RocksDB alone took {:.0} s for the same rows", begun.elapsed().as_secs_f64());
}
