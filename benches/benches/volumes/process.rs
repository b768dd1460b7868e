//! What the kernel says of this process.

use crate::MIB;
use meridian_storage::EngineStats;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::path::Path;

/// Bytes that this process has caused to be written to a device.
pub(crate) fn written() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

/// Calls of this process that read a file.
pub(crate) fn reads() -> u64 {
    field("/proc/self/io", "syscr:")
}

/// Makes the system forget what it keeps of the files below a folder: the next reads come from the device.
pub(crate) fn forget(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            forget(&entry);
        } else {
            // A compaction may have taken it away meanwhile.
            let Ok(file) = File::open(entry) else { continue };
            fadvise(file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

/// Most memory that was resident at any time, in bytes.
pub(crate) fn peak_resident() -> u64 {
    field("/proc/self/status", "VmHWM:") * 1024
}

/// Time of the processor that this process has used, in seconds: user and system together.
pub(crate) fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    // The kernel reports in hundredths, whatever it counts in.
    ticks as f64 / 100.0
}

/// Prints what RocksDB itself counts.
pub(crate) fn report(stats: &EngineStats) {
    let mib = |bytes: u64| bytes as f64 / MIB;
    let part = |bytes: u64| bytes as f64 / stats.user_bytes as f64;
    println!("  RocksDB's count, of {:.0} MiB in batches:", mib(stats.user_bytes));
    println!(
        "    log {:.2}, flushes {:.2}, compactions {:.2}; together {:.2} for each byte in a batch",
        part(stats.log_bytes),
        part(stats.flushed_bytes),
        part(stats.compaction_written_bytes),
        stats.write_amplification()
    );
    println!("    writers held up for {:.1} s", stats.stalled_us as f64 / 1e6);
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
