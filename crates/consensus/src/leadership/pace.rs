//! How far apart a leadership hands over its entries.
//!
//! An entry costs the same whatever is in it: turns of openraft, a message to each follower and an answer, a sync, a wake-up
//! of whoever waits. Near by, what arrives while an entry is under way is enough to share that cost. Far away there is no
//! such pressure: with a thousand clients and 70 ms a new entry would leave for every two or three writes. So an entry
//! waits for company, but no longer than a small part of what it takes to commit anyway, and not at all unless another one
//! has just left: a lone write never waits.
//!
//! The same idea as Nagle's (RFC 896), with a bound.

use meridian_clock::Mono;
use std::time::Duration;

/// Entries are at least this part of a commit apart: a write waits for a hundredth of what it takes, on average less.
const PART: u32 = 64;
/// Waits shorter than this are not worth a timer: commits of less than 16 ms do not wait.
const WAIT_MIN: Duration = Duration::from_micros(250);
/// And never longer than this.
const WAIT_MAX: Duration = Duration::from_millis(2);
/// Of a commit that took longer than usual, this part of the difference counts.
const SMOOTHING: u32 = 64;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When an entry was handed over last.
    last: Option<Mono>,
    /// What a commit takes at best, lately.
    commit: Duration,
}

impl Pace {
    /// An entry that was handed over so long ago is committed.
    pub(super) fn committed(&mut self, took: Duration) {
        self.commit = match took.checked_sub(self.commit) {
            Some(more) if !self.commit.is_zero() => self.commit + more / SMOOTHING,
            _ => took,
        };
    }

    /// An entry is handed over.
    pub(super) fn handed(&mut self, now: Mono) {
        self.last = Some(now);
    }

    /// How long the next entry waits for company; zero: not at all.
    pub(super) fn wait(&self, now: Mono) -> Duration {
        let apart = (self.commit / PART).min(WAIT_MAX);
        let since = self.last.map_or(Duration::MAX, |last| now.since(last));
        if apart < WAIT_MIN { Duration::ZERO } else { apart.saturating_sub(since) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Mono {
        Mono(us * 1_000)
    }

    fn pace(commit_ms: u64) -> Pace {
        let mut pace = Pace::default();
        pace.committed(Duration::from_millis(commit_ms));
        pace
    }

    #[test]
    fn a_lone_write_never_waits() {
        let mut pace = pace(64);
        assert_eq!(pace.wait(at(0)), Duration::ZERO, "the first");
        pace.handed(at(0));
        assert_eq!(pace.wait(at(1_000)), Duration::ZERO);
        assert_eq!(pace.wait(at(300)), Duration::from_micros(700));
    }

    #[test]
    fn nobody_waits_near_by_or_long() {
        for (commit_ms, apart_us) in [(0, 0), (3, 0), (15, 0), (16, 250), (70, 1_093), (300, 2_000), (5_000, 2_000)] {
            let mut pace = pace(commit_ms);
            pace.handed(at(0));
            assert_eq!(pace.wait(at(0)).as_micros(), apart_us, "{commit_ms} ms");
        }
    }

    #[test]
    fn a_slow_commit_counts_little_and_a_fast_one_at_once() {
        let mut pace = pace(64);
        pace.committed(Duration::from_millis(128));
        assert_eq!(pace.commit, Duration::from_millis(65));
        pace.committed(Duration::from_millis(20));
        assert_eq!(pace.commit, Duration::from_millis(20));
    }
}
