//! Timestamps and the uncertainty interval.

use std::fmt;
use std::time::Duration;

/// Nanoseconds since the Unix epoch. A commit timestamp, a read timestamp or a bound of the clock's interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Before everything: no version has it.
    pub const ZERO: Self = Self(0);
    /// After everything: "the newest version".
    pub const MAX: Self = Self(u64::MAX);

    /// The next timestamp; saturates at [`Timestamp::MAX`].
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The previous timestamp; saturates at zero.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
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

    /// How much later `self` is than `earlier`; zero when it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The uncertainty interval `[earliest, latest]`: true time at the reading lies inside, both ends included,
/// as long as the clock keeps its declared bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// True time is not before this.
    pub earliest: Timestamp,
    /// True time is not after this.
    pub latest: Timestamp,
}

impl Interval {
    /// `latest - earliest`.
    pub fn width(&self) -> Duration {
        self.latest.since(self.earliest)
    }
}
