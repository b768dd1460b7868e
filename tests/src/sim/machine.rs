//! A simulated machine: the time that its programs see, and their randomness.
//!
//! Time advances with the paused clock of the host's tokio runtime, in steps of a millisecond; computing takes none.
//! The monotonic clock runs at a rate of its own. A machine that is suspended stands still; afterwards its runtime's
//! timers either catch up (a stopped process) or go on as if nothing had happened (a paused virtual machine, whose
//! `CLOCK_MONOTONIC` stood still), while [`Machine::mono_ns`], which counts suspension, never loses time.

use meridian_probe::machine::Machine;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::cell::{Cell, RefCell};
use tokio::time::Instant;

/// See the module's documentation. All times are in nanoseconds.
pub(crate) struct SimMachine {
    /// True time when the runtime's clock showed `zero`.
    base: Cell<u64>,
    zero: Cell<Option<Instant>>,
    /// True time while no code of the machine runs.
    outside: Cell<u64>,
    running: Cell<bool>,
    /// When the machine was switched on.
    boot: u64,
    /// How much faster its monotonic clock runs than true time, in parts per million.
    rate_ppm: i64,
    rng: RefCell<ChaCha8Rng>,
}

impl SimMachine {
    /// A machine that is switched on at `now`.
    pub(crate) fn new(now: u64, rate_ppm: i64, seed: u64) -> Self {
        Self {
            base: Cell::new(now),
            zero: Cell::new(None),
            outside: Cell::new(now),
            running: Cell::new(false),
            boot: now,
            rate_ppm,
            rng: RefCell::new(ChaCha8Rng::seed_from_u64(seed)),
        }
    }

    /// The runtime's clock shows this instant now, and true time is `now`.
    pub(crate) fn align(&self, now: u64, shown: Instant) {
        self.base.set(now);
        self.zero.set(Some(shown));
    }

    /// Code of the machine begins to run, or has stopped running at `now`.
    pub(crate) fn set_running(&self, running: bool, now: u64) {
        self.running.set(running);
        self.outside.set(now);
    }
}

impl Machine for SimMachine {
    fn mono_ns(&self) -> u64 {
        let elapsed = i128::from(self.true_ns() - self.boot);
        let drifted = elapsed + elapsed * i128::from(self.rate_ppm) / 1_000_000;
        // An uptime of an hour at boot, so that nothing depends on starting near zero.
        u64::try_from(drifted).unwrap_or(0) + 3_600_000_000_000
    }

    fn true_ns(&self) -> u64 {
        match self.zero.get() {
            Some(zero) if self.running.get() => {
                let passed = Instant::now().saturating_duration_since(zero).as_nanos();
                self.base.get() + u64::try_from(passed).unwrap_or(u64::MAX)
            }
            _ => self.outside.get(),
        }
    }

    fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }
}
