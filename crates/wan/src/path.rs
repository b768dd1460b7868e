//! One direction between two endpoints: its delay, its bandwidth, and whether anything gets through.
//!
//! All connections from one endpoint to the other share a path, and with it its state and its bandwidth.
//!
//! 1. Nothing arrives sooner than one delay after it left, and nothing overtakes within a connection.
//! 2. A blocked path delivers nothing and loses nothing: what is on the way, or leaves meanwhile, is held, as TCP
//!    would send it again. A heal restarts its trip, so it arrives one delay later.
//! 3. What has been held for [`BLOCKED_MAX`] severs its connection.

use meridian_clock::{Mono, sleep_until};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a connection survives with something to deliver on a blocked path: about what servers set as TCP user
/// timeout.
pub(crate) const BLOCKED_MAX: Duration = Duration::from_secs(60);

/// The connection has been blocked for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Severed;

/// One direction between two endpoints.
#[derive(Debug)]
pub(crate) struct Path {
    state: watch::Sender<State>,
    /// When the last byte that was sent has left the narrowest place.
    free_at: Mutex<Mono>,
    delivered_bytes: AtomicU64,
}

/// What can be changed while connections run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// One-way delay.
    pub delay: Duration,
    /// Random lateness on top of it, from zero to this.
    pub jitter: Duration,
    /// Bytes per second.
    pub bandwidth: Option<u64>,
    /// Since when nothing gets through.
    pub blocked_since: Option<Mono>,
    /// When it last opened again.
    healed_at: Mono,
}

/// When something left, and when it arrives at the soonest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trip {
    pub left: Mono,
    pub due: Mono,
}

impl Path {
    pub(crate) fn new(delay: Duration, jitter: Duration, bandwidth: Option<u64>) -> Self {
        let state = State { delay, jitter, bandwidth, blocked_since: None, healed_at: Mono::default() };
        Self {
            state: watch::Sender::new(state),
            free_at: Mutex::new(Mono::default()),
            delivered_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn block(&self) {
        self.state.send_modify(|s| s.blocked_since = s.blocked_since.or(Some(Mono::now())));
    }

    pub(crate) fn heal(&self) {
        self.state.send_modify(|s| {
            if s.blocked_since.take().is_some() {
                s.healed_at = Mono::now();
            }
        });
    }

    /// Changes the delay of what leaves from now on.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.state.send_modify(|s| s.delay = delay);
    }

    pub(crate) fn count_delivered(&self, bytes: usize) {
        self.delivered_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes.load(Ordering::Relaxed)
    }

    /// Sends so many bytes off now, behind all others of this path.
    pub(crate) fn depart(&self, bytes: usize, rng: &mut ChaCha8Rng) -> Trip {
        let state = self.state();
        let left = Mono::now();
        let sent = state.bandwidth.map_or(left, |rate| {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = left.max(*free_at).plus(time_to_send(bytes, rate));
            *free_at
        });
        let late = if state.jitter.is_zero() { Duration::ZERO } else { state.jitter.mul_f64(rng.random::<f64>()) };
        Trip { left, due: sent.plus(state.delay).plus(late) }
    }

    /// Returns when the trip is over.
    pub(crate) async fn arrive(&self, trip: Trip) -> Result<(), Severed> {
        let mut state = self.state.subscribe();
        loop {
            let now = *state.borrow_and_update();
            let (wake_at, blocked) = match now.blocked_since {
                Some(since) => (since.max(trip.left).plus(BLOCKED_MAX), true),
                None if now.healed_at > trip.left => (trip.due.max(now.healed_at.plus(now.delay)), false),
                None => (trip.due, false),
            };
            if Mono::now() >= wake_at {
                return if blocked { Err(Severed) } else { Ok(()) };
            }
            tokio::select! {
                () = sleep_until(wake_at) => {}
                // The sender lives as long as `self`: it cannot be closed.
                _ = state.changed() => {}
            }
        }
    }
}

fn time_to_send(bytes: usize, bytes_per_s: u64) -> Duration {
    let nanos = bytes as u128 * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const MS: Duration = Duration::from_millis(1);

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    #[tokio::test]
    async fn arrives_after_the_delay() {
        let path = Path::new(10 * MS, Duration::ZERO, None);
        let trip = path.depart(1, &mut rng());
        path.arrive(trip).await.unwrap();
        assert!(trip.left.elapsed() >= 10 * MS);
    }

    #[test]
    fn jitter_only_adds_and_depends_on_the_seed() {
        let path = Path::new(10 * MS, 4 * MS, None);
        let lateness = |mut rng: ChaCha8Rng| -> Vec<Duration> {
            let trips = std::iter::repeat_with(|| path.depart(1, &mut rng));
            trips.take(100).map(|t| t.due.since(t.left)).collect()
        };
        let first = lateness(rng());
        assert!(first.iter().all(|d| (10 * MS..=14 * MS).contains(d)));
        assert!(first.iter().max() > first.iter().min());
        assert_eq!(lateness(rng()), first);
        assert_ne!(lateness(ChaCha8Rng::seed_from_u64(2)), first);
    }

    #[test]
    fn bandwidth_is_shared_by_everything_on_the_path() {
        let path = Path::new(10 * MS, Duration::ZERO, Some(1_000_000));
        let first = path.depart(50_000, &mut rng());
        let second = path.depart(50_000, &mut rng());
        assert_eq!(first.due.since(first.left), 60 * MS);
        assert_eq!(second.due.since(first.left), 110 * MS);
    }

    #[tokio::test]
    async fn a_heal_restarts_the_trip() {
        let path = Path::new(20 * MS, Duration::ZERO, None);
        let trip = path.depart(1, &mut rng());
        path.block();
        assert!(tokio::time::timeout(60 * MS, path.arrive(trip)).await.is_err(), "a blocked path delivered");
        let healed = Mono::now();
        path.heal();
        path.arrive(trip).await.unwrap();
        assert!(healed.elapsed() >= 20 * MS);
    }

    #[tokio::test]
    async fn blocked_for_too_long_severs() {
        let path = Path::new(MS, Duration::ZERO, None);
        path.block();
        let longest = BLOCKED_MAX + MS;
        let long_ago = Mono::now().minus(longest);
        path.state.send_modify(|s| s.blocked_since = Some(long_ago));
        assert_eq!(path.arrive(Trip { left: long_ago, due: long_ago }).await, Err(Severed));
        let fresh = path.depart(1, &mut rng());
        assert!(
            tokio::time::timeout(20 * MS, path.arrive(fresh)).await.is_err(),
            "what left just now has its own time"
        );
    }
}
