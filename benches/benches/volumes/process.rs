//! What the kernel says of this process.

use std::fs;

/// Bytes that this process has caused to be written to a device.
pub(crate) fn written() -> u64 {
    field("/proc/self/io", "write_bytes:")
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

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
