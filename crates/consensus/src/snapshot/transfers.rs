//! What the snapshots that a node sends have in common: one rate, and how many are sent at a time.
//!
//! The rate is a token bucket, kept as the instant from which on it owes nothing: it reads no clock, so it runs in a
//! simulation as it does here. It is shared by all shards, since they share the disk and the network.

use meridian_clock::{Mono, sleep_until};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of snapshots that a node sends in a second, if nobody says otherwise.
pub const BYTES_PER_SECOND_DEFAULT: NonZeroU64 = NonZeroU64::new(128 << 20).expect("it is not zero");

/// Snapshots that a node sends at a time. Each has a few chunks in memory, and a cut on the disk.
const AT_A_TIME: usize = 4;

/// What may be sent at once after a pause, as time at the rate.
const BURST: Duration = Duration::from_millis(20);

/// What a node's snapshots have come to since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferStats {
    /// Bytes of files sent.
    pub sent_bytes: u64,
    /// Bytes of files that were not sent, because their receiver held them from an earlier transfer.
    pub resumed_bytes: u64,
    /// Cuts made.
    pub cuts: u64,
}

/// A node's account of the snapshots that it sends. Clones share it.
#[derive(Clone, Debug)]
pub struct Transfers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pace: Mutex<Pace>,
    slots: Arc<Semaphore>,
    sent_bytes: AtomicU64,
    resumed_bytes: AtomicU64,
    cuts: AtomicU64,
}

impl Default for Transfers {
    fn default() -> Self {
        Self::new(BYTES_PER_SECOND_DEFAULT)
    }
}

impl Transfers {
    /// With this rate, in bytes per second.
    pub fn new(rate: NonZeroU64) -> Self {
        let inner = Inner {
            pace: Mutex::new(Pace { rate, even: Mono::default() }),
            slots: Arc::new(Semaphore::new(AT_A_TIME)),
            sent_bytes: AtomicU64::new(0),
            resumed_bytes: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What they have come to.
    pub fn stats(&self) -> TransferStats {
        TransferStats {
            sent_bytes: self.inner.sent_bytes.load(Ordering::Relaxed),
            resumed_bytes: self.inner.resumed_bytes.load(Ordering::Relaxed),
            cuts: self.inner.cuts.load(Ordering::Relaxed),
        }
    }

    /// Waits until another snapshot may be sent; it is being sent as long as the result exists. `None`: never.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.inner.slots.clone().acquire_owned().await.ok()
    }

    /// Waits until so many bytes may be sent, after all that were asked for before. They count as sent.
    pub(crate) async fn send(&self, bytes: u64) {
        let at = self.inner.pace.lock().unwrap_or_else(PoisonError::into_inner).take(Mono::now(), bytes);
        sleep_until(at).await;
        self.inner.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn resumed(&self, bytes: u64) {
        self.inner.resumed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn made_cut(&self) {
        self.inner.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Pace {
    rate: NonZeroU64,
    /// When what was taken so far is worth its time.
    even: Mono,
}

impl Pace {
    /// Takes so many bytes; returns when they may be sent, now or later.
    fn take(&mut self, now: Mono, bytes: u64) -> Mono {
        let from = self.even.max(now.minus(BURST));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        self.even = from.plus(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        from.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: u64) -> Pace {
        Pace { rate: NonZeroU64::new(rate).unwrap(), even: Mono::default() }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn in_any_second_the_rate_is_kept_up_to_a_burst() {
        let (mut pace, mut now) = (pace(1 << 20), Mono(3_600 * SECOND));
        let start = now;
        let chunk = 64 << 10;
        for sent in 0..200_u64 {
            let at = pace.take(now, chunk);
            assert!(at >= now);
            // Before this chunk so many bytes were sent.
            let most = (at.since(start) + BURST).as_secs_f64() * f64::from(1 << 20);
            assert!((sent * chunk) as f64 <= most + 1.0, "{sent}");
            now = at;
        }
        let took = now.since(start).as_secs_f64();
        assert!((12.3..12.6).contains(&took), "200 chunks are 12.5 s worth: {took}");
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_burst() {
        let (mut pace, now) = (pace(1_000), Mono(SECOND));
        pace.take(now, 1_000);
        let later = now.plus(Duration::from_secs(60));
        assert_eq!(pace.take(later, 20), later, "a burst");
        assert_eq!(pace.take(later, 500), later);
        assert_eq!(pace.take(later, 1), later.plus(Duration::from_millis(500)));
    }

    #[test]
    fn those_who_ask_together_wait_for_one_another() {
        let (mut pace, now) = (pace(1_000), Mono(SECOND));
        let due: Vec<_> = (0..4).map(|_| pace.take(now, 120).since(now)).collect();
        assert_eq!(due, [0, 100, 220, 340].map(Duration::from_millis));
    }
}
