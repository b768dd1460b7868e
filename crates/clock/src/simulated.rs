//! A clock for tests: the wall clock plus an error that the test chooses.

use crate::source::wall;
use crate::{ClockError, Mono, TimeSource};
use meridian_types::{Interval, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A source whose error is known: it reads `true time + offset + drift`, and declares `bound` whatever they are,
/// so a test can put it inside its bound or outside. Clones share their settings.
///
/// The machine's wall clock stands for true time, so the nodes of one machine share it.
#[derive(Clone, Debug)]
pub struct SimulatedSource {
    settings: Arc<Mutex<Settings>>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    offset_ns: i64,
    drift_ppm: f64,
    drifting_since: Mono,
    bound: Duration,
    fails: bool,
}

impl SimulatedSource {
    /// A clock that is right, and declares this bound.
    pub fn new(bound: Duration) -> Self {
        let settings = Settings { offset_ns: 0, drift_ppm: 0.0, drifting_since: Mono::now(), bound, fails: false };
        Self { settings: Arc::new(Mutex::new(settings)) }
    }

    /// Sets the distance from true time; what drift has added so far is forgotten.
    pub fn set_offset_ns(&self, offset_ns: i64) {
        self.change(|s| (s.offset_ns, s.drifting_since) = (offset_ns, Mono::now()));
    }

    /// Moves the clock by so much, at once.
    pub fn jump_ns(&self, by_ns: i64) {
        self.change(|s| s.offset_ns = s.offset_ns.saturating_add(by_ns));
    }

    /// From now on gains (or loses) so many microseconds a second; what was gained so far is kept.
    pub fn set_drift_ppm(&self, drift_ppm: f64) {
        self.change(|s| {
            s.offset_ns = s.offset_now();
            (s.drift_ppm, s.drifting_since) = (drift_ppm, Mono::now());
        });
    }

    /// Sets the bound that the clock declares.
    pub fn set_bound(&self, bound: Duration) {
        self.change(|s| s.bound = bound);
    }

    /// Makes every reading fail, or none.
    pub fn set_fails(&self, fails: bool) {
        self.change(|s| s.fails = fails);
    }

    /// The present distance from true time in nanoseconds.
    pub fn offset_ns(&self) -> i64 {
        self.get().offset_now()
    }

    fn change(&self, f: impl FnOnce(&mut Settings)) {
        f(&mut self.settings.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    fn offset_now(&self) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "a float to integer cast saturates, which will do here")]
        let drifted = (self.drifting_since.elapsed().as_nanos() as f64 * self.drift_ppm / 1e6) as i64;
        self.offset_ns.saturating_add(drifted)
    }
}

impl TimeSource for SimulatedSource {
    fn read(&self) -> Result<Interval, ClockError> {
        let s = self.get();
        if s.fails {
            return Err(ClockError::Simulated);
        }
        let now = Timestamp(wall()?.0.saturating_add_signed(s.offset_now()));
        Ok(Interval { earliest: now.minus(s.bound), latest: now.plus(s.bound) })
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_decides_whether_the_interval_holds_true_time() {
        let source = SimulatedSource::new(Duration::from_millis(10));
        let holds = || {
            let before = wall().unwrap();
            let i = source.read().unwrap();
            i.earliest <= wall().unwrap() && before <= i.latest
        };
        assert!(holds());
        source.set_offset_ns(9_000_000);
        assert!(holds());
        source.jump_ns(5_000_000_000);
        assert!(!holds());
        source.set_offset_ns(-5_000_000_000);
        assert!(!holds());
    }

    #[test]
    fn drift_adds_up_and_is_kept() {
        let source = SimulatedSource::new(Duration::ZERO);
        source.set_drift_ppm(1e6); // Twice the speed.
        std::thread::sleep(Duration::from_millis(5));
        source.set_drift_ppm(0.0);
        let gained = source.offset_ns();
        assert!(gained >= 5_000_000, "{gained}");
        assert_eq!(source.offset_ns(), gained);
    }
}
