//! Where time comes from.

use crate::ClockError;
use meridian_probe::machine;
use meridian_types::{Interval, Timestamp};
use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Something that reads true time, give or take a bound that it declares.
pub trait TimeSource: Send + Sync + Debug {
    /// An interval that contains true time at some instant of the call.
    fn read(&self) -> Result<Interval, ClockError>;

    /// The name used in configuration and status.
    fn name(&self) -> &'static str;
}

/// The wall clock, and a bound that whoever configured it vouches for.
#[derive(Clone, Copy, Debug)]
pub struct FixedSource {
    bound: Duration,
}

impl FixedSource {
    /// The wall clock, never further than `bound` from true time.
    pub fn new(bound: Duration) -> Self {
        Self { bound }
    }
}

impl TimeSource for FixedSource {
    fn read(&self) -> Result<Interval, ClockError> {
        let now = wall()?;
        Ok(Interval { earliest: now.minus(self.bound), latest: now.plus(self.bound) })
    }

    fn name(&self) -> &'static str {
        "fixed"
    }
}

/// The wall clock.
pub(crate) fn wall() -> Result<Timestamp, ClockError> {
    if let Some(simulated) = machine::true_ns() {
        return Ok(Timestamp(simulated));
    }
    #[expect(clippy::disallowed_methods, reason = "this crate is where time comes from")]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).map_err(|_| ClockError::BeforeEpoch)?;
    Ok(Timestamp::ZERO.plus(since))
}
