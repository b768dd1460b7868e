//! The kernel's own idea of its error: `maxerror`, which an NTP client keeps and the kernel ages.

use crate::timex::{self, STA_NANO, STA_UNSYNC, TIME_ERROR, Timex};
use crate::{ClockError, TimeSource};
use meridian_types::{Interval, Timestamp};
use std::time::Duration;

/// The kernel adds this much to `maxerror` once a second (500 ppm, `MAXFREQ` in `kernel/time/ntp.c`); between two
/// such steps the true error may have grown by as much.
const MAXERROR_STEP: Duration = Duration::from_micros(500);

/// Reads time and maximum error from the kernel; refuses while the kernel says that it is not synchronized.
#[derive(Clone, Copy, Debug)]
pub struct KernelSource {
    read: fn() -> std::io::Result<Timex>,
}

impl Default for KernelSource {
    fn default() -> Self {
        Self { read: timex::read }
    }
}

impl KernelSource {
    #[cfg(test)]
    pub(crate) fn with_reader(read: fn() -> std::io::Result<Timex>) -> Self {
        Self { read }
    }
}

impl TimeSource for KernelSource {
    fn read(&self) -> Result<Interval, ClockError> {
        interval((self.read)()?)
    }

    fn name(&self) -> &'static str {
        "kernel"
    }
}

/// The interval that a reading of the kernel's clock stands for.
fn interval(t: Timex) -> Result<Interval, ClockError> {
    if t.state == TIME_ERROR || t.status & STA_UNSYNC != 0 {
        return Err(ClockError::Unsynchronized { status: t.status, state: t.state });
    }
    let nonsense = ClockError::Nonsense { seconds: t.seconds, fraction: t.fraction, maxerror_us: t.maxerror_us };
    let (Ok(seconds), Ok(fraction), Ok(maxerror)) =
        (u64::try_from(t.seconds), u64::try_from(t.fraction), u64::try_from(t.maxerror_us))
    else {
        return Err(nonsense);
    };
    let fraction =
        if t.status & STA_NANO != 0 { Duration::from_nanos(fraction) } else { Duration::from_micros(fraction) };
    if fraction >= Duration::from_secs(1) {
        return Err(nonsense);
    }
    let now = Timestamp::ZERO.plus(Duration::from_secs(seconds)).plus(fraction);
    let bound = Duration::from_micros(maxerror) + MAXERROR_STEP;
    Ok(Interval { earliest: now.minus(bound), latest: now.plus(bound) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const GOOD: Timex = Timex { state: 0, status: STA_NANO, seconds: 100, fraction: 7, maxerror_us: 1_500 };

    pub(crate) fn unsynchronized() -> std::io::Result<Timex> {
        Ok(Timex { state: TIME_ERROR, status: STA_UNSYNC, ..GOOD })
    }

    #[test]
    fn maxerror_and_its_next_step_bound_the_interval() {
        let i = interval(GOOD).unwrap();
        assert_eq!(i.earliest, Timestamp(100_000_000_007 - 2_000_000));
        assert_eq!(i.latest, Timestamp(100_000_000_007 + 2_000_000));
    }

    #[test]
    fn without_the_nano_bit_the_fraction_is_in_microseconds() {
        let i = interval(Timex { status: 0, ..GOOD }).unwrap();
        assert_eq!(i.latest, Timestamp(100_000_007_000 + 2_000_000));
    }

    #[test]
    fn refuses_what_is_not_synchronized_or_makes_no_sense() {
        for t in [Timex { state: TIME_ERROR, ..GOOD }, Timex { status: STA_UNSYNC, ..GOOD }] {
            assert!(matches!(interval(t), Err(ClockError::Unsynchronized { .. })), "{t:?}");
        }
        for t in [
            Timex { seconds: -1, ..GOOD },
            Timex { fraction: -1, ..GOOD },
            Timex { fraction: 1_000_000_000, ..GOOD },
            Timex { maxerror_us: -1, ..GOOD },
        ] {
            assert!(matches!(interval(t), Err(ClockError::Nonsense { .. })), "{t:?}");
        }
    }
}
