//! What Linux says of a process: CPU time, memory, bytes written.

use std::fs;
use std::io;
use std::time::Duration;

/// Length of the kernel's tick in `/proc`: `USER_HZ`, 100 per second on every architecture that Debian supports.
const TICK: Duration = Duration::from_millis(10);

/// The own process.
pub(crate) const OWN: &str = "self";

/// A process since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time of all its threads, user and system, in ticks of 10 ms.
    pub(crate) cpu: Duration,
    /// Memory that is resident now.
    pub(crate) resident_bytes: u64,
    /// Bytes that it has caused to be written to a disk; `None` where the kernel does not say.
    pub(crate) written_bytes: Option<u64>,
}

/// Reads `/proc/PROCESS`; `process` is an id or [`OWN`].
pub(crate) fn usage(process: &str) -> io::Result<Usage> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}"));
    let malformed = |name| io::Error::other(format!("/proc/{process}/{name} is not as Linux writes it"));
    let status = read("status")?;
    // Some containers do not let it be read.
    let written = read("io").ok();
    Ok(Usage {
        cpu: cpu(&read("stat")?).ok_or_else(|| malformed("stat"))?,
        resident_bytes: field(&status, "VmRSS:").ok_or_else(|| malformed("status"))? * 1024,
        written_bytes: written.and_then(|io| field(&io, "write_bytes:")),
    })
}

/// `utime + stime` of `stat`. The name in the second field may hold anything, blanks and brackets included.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

/// The number after a label at the start of a line.
fn field(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194304 500 0 0 0 730 270 0 0 20 0 9 0 100 1000 200";
        assert_eq!(cpu(stat), Some(Duration::from_secs(10)));
        assert_eq!(cpu("4242 (etcd) S 1 2"), None);
        assert_eq!(cpu(""), None);
    }

    #[test]
    fn labels_are_matched_at_the_start_of_a_line() {
        let io = "rchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(io, "write_bytes:"), Some(4096));
        assert_eq!(field("VmHWM:\t  20 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(field("VmRSS:\n", "VmRSS:"), None);
    }

    #[test]
    fn the_own_process_is_there() {
        let before = usage(OWN).unwrap();
        assert!(before.resident_bytes > 0);
        // Until a tick has been used: the loop ends by work, not by time.
        let mut sum = 0_u64;
        while usage(OWN).unwrap().cpu == before.cpu {
            sum = (0..1_000_000).fold(sum, |sum, i| std::hint::black_box(sum ^ i));
        }
        assert!(usage("0").is_err());
    }
}
