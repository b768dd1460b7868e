//! Figures of the storage that are no durations of one call: bytes written to the device for a byte of user data,
//! memory, and what large volumes take. Each part runs once and prints what it found:
//!
//! ```text
//! cargo bench -p meridian-benches --bench volumes -- raft-log --gib 2
//! cargo bench -p meridian-benches --bench volumes -- recovery --gib 1
//! cargo bench -p meridian-benches --bench volumes -- import --gib 10
//! cargo bench -p meridian-benches --bench volumes -- import --gib 10 --into DIR
//! cargo bench -p meridian-benches --bench volumes -- gets --gib 10 --from DIR
//! ```
//!
//! The files lie in the temporary folder (`TMPDIR`) and are removed afterwards, those of `--into` excepted. "Written to
//! the device" is what the kernel counts for this process (`/proc/self/io`).
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot write has nothing to report")]

mod import;
mod process;
mod raft_log;
mod recovery;

use meridian_types::TableId;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const TABLE: TableId = TableId(1);

/// Bytes of an entry's payload and of a value.
const PAYLOAD_BYTES: usize = 256;

const SEED: u64 = 42;

const GIB: u64 = 1 << 30;
const MIB: f64 = (1 << 20) as f64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["raft-log", "--gib", gib] => raft_log::run(bytes(gib)),
        ["recovery", "--gib", gib] => recovery::run(bytes(gib)),
        ["recovery", "--fill", dir, gib] => recovery::fill(dir.as_ref(), bytes(gib)),
        ["import", "--gib", gib] => import::run(bytes(gib)),
        ["import", "--gib", gib, "--into", dir] => import::fill(dir.as_ref(), bytes(gib)),
        ["gets", "--gib", gib, "--from", dir] => import::read(dir.as_ref(), bytes(gib)),
        // Also how every bench is called together.
        _ => eprintln!(
            "say what to measure: raft-log --gib N | recovery --gib N | import --gib N [--into DIR] | gets --gib N --from DIR"
        ),
    }
}

fn bytes(gib: &str) -> u64 {
    let gib: f64 = gib.parse().unwrap();
    (gib * GIB as f64) as u64
}
