//! One direction between two endpoints of a lab: when a packet arrives, or why it does not.
//!
//! 1. Nothing arrives sooner than one delay after it left, and nothing overtakes.
//! 2. A blocked way loses everything: what leaves, and what is still on its way. Programs notice by their own timeouts,
//!    and TCP sends again.
//! 3. What is on its way is bounded, and so is the wait before a narrow place. What does not fit is lost, and counted.

use crate::Endpoint;
use meridian_clock::Mono;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most that is on its way in one direction: with 125 ms one way still 512 MiB/s.
pub(crate) const WAY_BYTES_MAX: usize = 64 << 20;

/// The least a packet counts in that: its bookkeeping takes memory too.
pub(crate) const PACKET_COST_MIN: usize = 256;

/// The longest wait before a way of limited bandwidth, as if its router had a buffer for so long.
pub(crate) const BACKLOG_MAX: Duration = Duration::from_millis(250);

/// What one direction between two places has carried and lost, and how it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayStatus {
    /// Where packets come from.
    pub from: crate::Place,
    /// Where they go.
    pub to: crate::Place,
    /// Whether everything is lost.
    pub blocked: bool,
    /// One-way delay in microseconds.
    pub delay_us: u64,
    /// Largest random lateness on top, in microseconds.
    pub jitter_us: u64,
    /// Bytes per second, if limited.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Frames delivered; one carries up to 64 KiB of a TCP stream.
    pub packets: u64,
    /// Bytes of IP packets delivered.
    pub bytes: u64,
    /// Frames lost because the way was blocked.
    pub lost_blocked: u64,
    /// Frames lost because too much was on its way, or waited for bandwidth.
    pub lost_full: u64,
    /// Frames that the receiving host's kernel did not take.
    pub lost_host: u64,
    /// Bytes on their way now.
    pub on_the_way_bytes: u64,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub packets: u64,
    pub bytes: u64,
    pub lost_blocked: u64,
    pub lost_full: u64,
    pub lost_host: u64,
}

/// One direction between two endpoints. Reads no clock.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub from: Endpoint,
    pub to: Endpoint,
    pub delay: Duration,
    pub blocked: bool,
    pub counts: Counts,
    jitter: Duration,
    bandwidth: Option<u64>,
    /// When the last byte that was sent has left the narrowest place.
    free_at: Mono,
    /// When the last packet arrives.
    last_due: Mono,
    on_the_way_bytes: usize,
}

impl Way {
    pub(crate) fn new(
        (from, to): (Endpoint, Endpoint),
        delay: Duration,
        jitter: Duration,
        bandwidth: Option<u64>,
    ) -> Self {
        let (free_at, last_due) = (Mono::default(), Mono::default());
        let (blocked, counts, on_the_way_bytes) = (false, Counts::default(), 0);
        Self { from, to, delay, blocked, counts, jitter, bandwidth, free_at, last_due, on_the_way_bytes }
    }

    /// Sends a packet of so many bytes off. Returns when it arrives; `None` if it is lost, which is counted.
    pub(crate) fn depart(&mut self, bytes: usize, now: Mono, rng: &mut ChaCha8Rng) -> Option<Mono> {
        if self.blocked {
            self.counts.lost_blocked += 1;
            return None;
        }
        let begins = if self.bandwidth.is_some() { now.max(self.free_at) } else { now };
        if self.on_the_way_bytes + cost(bytes) > WAY_BYTES_MAX || begins.since(now) > BACKLOG_MAX {
            self.counts.lost_full += 1;
            return None;
        }
        let sent = self.bandwidth.map_or(begins, |rate| begins.plus(time_to_send(bytes, rate)));
        self.free_at = sent;
        let late = if self.jitter.is_zero() { Duration::ZERO } else { self.jitter.mul_f64(rng.random::<f64>()) };
        self.last_due = self.last_due.max(sent.plus(self.delay).plus(late));
        self.on_the_way_bytes += cost(bytes);
        Some(self.last_due)
    }

    /// A packet of so many bytes is at the far end. Returns whether it may be delivered.
    pub(crate) fn arrive(&mut self, bytes: usize) -> bool {
        self.on_the_way_bytes = self.on_the_way_bytes.saturating_sub(cost(bytes));
        if self.blocked {
            self.counts.lost_blocked += 1;
            return false;
        }
        self.counts.packets += 1;
        self.counts.bytes += bytes as u64;
        true
    }

    /// A packet of so many bytes had arrived, and the host did not take it.
    pub(crate) fn refused(&mut self, bytes: usize) {
        self.counts.packets = self.counts.packets.saturating_sub(1);
        self.counts.bytes = self.counts.bytes.saturating_sub(bytes as u64);
        self.counts.lost_host += 1;
    }

    pub(crate) fn status(&self) -> WayStatus {
        let Counts { packets, bytes, lost_blocked, lost_full, lost_host } = self.counts;
        WayStatus {
            from: self.from.clone().into(),
            to: self.to.clone().into(),
            blocked: self.blocked,
            delay_us: crate::wan::micros(self.delay),
            jitter_us: crate::wan::micros(self.jitter),
            bandwidth_bytes_per_s: self.bandwidth,
            packets,
            bytes,
            lost_blocked,
            lost_full,
            lost_host,
            on_the_way_bytes: self.on_the_way_bytes as u64,
        }
    }
}

/// What a packet counts in [`WAY_BYTES_MAX`].
fn cost(bytes: usize) -> usize {
    bytes.max(PACKET_COST_MIN)
}

fn time_to_send(bytes: usize, bytes_per_s: u64) -> Duration {
    let nanos = bytes as u128 * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    const MS: Duration = Duration::from_millis(1);
    const NOW: Mono = Mono(1_000_000_000);

    fn way(jitter: Duration, bandwidth: Option<u64>) -> Way {
        let at = |region: &str| Endpoint { region: region.into(), zone: "a".into() };
        Way::new((at("us"), at("eu")), 35 * MS, jitter, bandwidth)
    }

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    #[test]
    fn packets_take_the_delay_and_nothing_overtakes() {
        let (mut way, mut rng) = (way(Duration::ZERO, None), rng());
        assert_eq!(way.depart(100, NOW, &mut rng), Some(NOW.plus(35 * MS)));
        way.delay = 5 * MS;
        assert_eq!(way.depart(100, NOW.plus(MS), &mut rng), Some(NOW.plus(35 * MS)), "behind the first");
        assert_eq!(way.depart(100, NOW.plus(40 * MS), &mut rng), Some(NOW.plus(45 * MS)));
        assert_eq!(way.status().on_the_way_bytes, 3 * PACKET_COST_MIN as u64);
    }

    #[test]
    fn jitter_only_adds_and_keeps_the_order() {
        let (mut way, mut rng) = (way(4 * MS, None), rng());
        let due: Vec<_> = (0..100).map(|_| way.depart(1, NOW, &mut rng).unwrap()).collect();
        assert!(due.is_sorted());
        assert!(due.iter().all(|d| (35 * MS..=39 * MS).contains(&d.since(NOW))));
        assert!(due.first() < due.last());
    }

    #[test]
    fn a_blocked_way_loses_what_leaves_and_what_is_on_its_way() {
        let (mut way, mut rng) = (way(Duration::ZERO, None), rng());
        way.depart(1000, NOW, &mut rng).unwrap();
        way.depart(1000, NOW, &mut rng).unwrap();
        assert!(way.arrive(1000));
        way.blocked = true;
        assert!(!way.arrive(1000));
        assert_eq!(way.depart(1000, NOW, &mut rng), None);
        let status = way.status();
        assert_eq!((status.packets, status.bytes, status.lost_blocked), (1, 1000, 2));
        assert_eq!(status.on_the_way_bytes, 0);
    }

    #[test]
    fn bandwidth_is_shared_and_its_queue_is_short() {
        let (mut way, mut rng) = (way(Duration::ZERO, Some(1_000_000)), rng());
        assert_eq!(way.depart(50_000, NOW, &mut rng), Some(NOW.plus(85 * MS)));
        assert_eq!(way.depart(50_000, NOW, &mut rng), Some(NOW.plus(135 * MS)));
        let taken = std::iter::repeat_with(|| way.depart(50_000, NOW, &mut rng)).take(100).flatten().count();
        assert_eq!(taken, 4, "until the wait exceeds 250 ms");
        assert_eq!(way.counts.lost_full, 96);
        assert!(way.depart(50_000, NOW.plus(300 * MS), &mut rng).is_some(), "it drains");
    }

    #[test]
    fn what_is_on_its_way_is_bounded() {
        let (mut way, mut rng) = (way(Duration::ZERO, None), rng());
        let taken = std::iter::repeat_with(|| way.depart(1, NOW, &mut rng)).take(300_000).flatten().count();
        assert_eq!(taken, WAY_BYTES_MAX / PACKET_COST_MIN);
        assert!(way.arrive(1));
        way.refused(1);
        assert_eq!((way.counts.packets, way.counts.bytes, way.counts.lost_host), (0, 0, 1));
        assert!(way.depart(1, NOW, &mut rng).is_some());
    }
}
