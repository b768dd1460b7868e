//! A monotonic clock for durations, leases and deadlines.

use meridian_probe::machine;
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::time::Duration;

/// An instant: nanoseconds of a clock that never goes back and counts time in suspension (`CLOCK_BOOTTIME`).
///
/// A lease that was measured with a clock that stops with the machine would outlive its promise (rule R5).
/// Instants of different machines, or of different boots, must not be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// This instant.
    pub fn now() -> Self {
        if let Some(simulated) = machine::mono_ns() {
            return Self(simulated);
        }
        #[cfg(target_os = "linux")]
        let id = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = ClockId::Monotonic;
        let t = clock_gettime(id);
        let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// How much later `self` is than `earlier`; zero when it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long ago `self` was; zero when it lies ahead.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// `self + d`, saturating.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(nanos(d)))
    }

    /// `self - d`, saturating at zero.
    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(d)))
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_forward_and_measures() {
        let a = Mono::now();
        std::thread::sleep(Duration::from_millis(5));
        let b = Mono::now();
        assert!(b.since(a) >= Duration::from_millis(5));
        assert_eq!(a.since(b), Duration::ZERO);
        assert_eq!(a.plus(Duration::from_millis(1)).minus(Duration::from_millis(1)), a);
    }
}
