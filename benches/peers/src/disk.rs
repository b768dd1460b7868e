//! The disk by itself: what a sync costs without any database, so that the others' figures can be judged.

use anyhow::Context as _;
use meridian_clock::Mono;
use serde::Serialize;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

/// Bytes written before each sync.
const BLOCK: [u8; 4096] = [0x5a; 4096];
/// Syncs of each kind.
pub(crate) const SYNCS: usize = 200;

/// Medians of `fdatasync` after 4 KiB, in microseconds, the write included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct SyncTimes {
    /// The file grows by each block: its new length has to be made durable as well.
    pub(crate) append_us: f64,
    /// The blocks were written before: as in a log whose space is allocated in advance.
    pub(crate) overwrite_us: f64,
}

/// Measures in a file of its own in `dir`, which is removed.
pub(crate) fn sync_times(dir: &Path) -> anyhow::Result<SyncTimes> {
    let mut file = tempfile::tempfile_in(dir).with_context(|| format!("cannot write in {}", dir.display()))?;
    let append_us = median_us(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    let overwrite_us = median_us(&mut file)?;
    Ok(SyncTimes { append_us, overwrite_us })
}

fn median_us(file: &mut File) -> anyhow::Result<f64> {
    let mut times = [0.0; SYNCS];
    for time in &mut times {
        let start = Mono::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        *time = micros(start.elapsed());
    }
    Ok(crate::statistics::median(&times).unwrap_or_default())
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The type of the file system that a folder lies on, such as `ext4`; `None` if the kernel does not say.
pub(crate) fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    of_mounts(&std::fs::read_to_string("/proc/self/mounts").ok()?, &dir)
}

/// Whether files there are in memory, and a sync does nothing.
pub(crate) fn is_in_memory(file_system: &str) -> bool {
    matches!(file_system, "tmpfs" | "ramfs")
}

/// The file system of the innermost mount above `dir`; of several at one place the last is on top.
fn of_mounts(mounts: &str, dir: &Path) -> Option<String> {
    let mut found: Option<(&str, &str)> = None;
    for line in mounts.lines() {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(point), Some(kind)) = (fields.next(), fields.next()) else { continue };
        if dir.starts_with(point) && found.is_none_or(|(best, _)| point.len() >= best.len()) {
            found = Some((point, kind));
        }
    }
    found.map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts_and_the_last_one_there() {
        let mounts = "\
/dev/root / ext4 rw 0 0
tmpfs /data tmpfs rw 0 0
/dev/vdb /data xfs rw 0 0
tmpfs /database tmpfs rw 0 0
";
        let of = |dir: &str| of_mounts(mounts, Path::new(dir));
        assert_eq!(of("/data/x").as_deref(), Some("xfs"));
        assert_eq!(of("/home/me").as_deref(), Some("ext4"));
        // A longer name is another folder.
        assert_eq!(of("/database").as_deref(), Some("tmpfs"));
        assert_eq!(of_mounts("", Path::new("/")), None);
    }

    #[test]
    fn both_kinds_of_sync_are_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let times = sync_times(dir.path()).unwrap();
        assert!(times.append_us > 0.0 && times.overwrite_us > 0.0, "{times:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(sync_times(&dir.path().join("absent")).is_err());
    }
}
