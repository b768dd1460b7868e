//! The clock section of a node's configuration.

use crate::ClockError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Which source to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// `kernel` if it is synchronized when the node starts, else `fixed` at 250 ms, with a warning.
    #[default]
    Auto,
    /// The wall clock and `bound`.
    Fixed,
    /// The kernel's clock and its own maximum error; refuses while unsynchronized.
    Kernel,
    /// For tests: the wall clock with a chosen error, and `bound`.
    Simulated,
}

/// How a node knows the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClockConfig {
    /// Which source to read.
    pub source: SourceKind,
    /// How far from true time a `fixed` or `simulated` clock may be, e.g. `"250ms"`.
    #[serde(with = "duration_text")]
    pub bound: Duration,
    /// The largest distance from true time that the cluster lives with: a wider clock is unsafe, and a timestamp
    /// further ahead is refused.
    #[serde(with = "duration_text")]
    pub max_offset: Duration,
    /// The error of a `simulated` clock.
    pub simulated: SimulatedConfig,
}

/// The error of a `simulated` clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedConfig {
    /// Distance from true time in microseconds, either way.
    pub offset_us: i64,
    /// Microseconds gained per second.
    pub drift_ppm: f64,
    /// A file with `offset_us drift_ppm` in one line, which takes the place of both while the node runs, whenever its
    /// text changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl ClockConfig {
    /// The bound of `auto` when nothing better works: what a machine with an ordinary NTP client keeps.
    pub const BOUND_DEFAULT: Duration = Duration::from_millis(250);
    /// The default of `max_offset`.
    pub const MAX_OFFSET_DEFAULT: Duration = Duration::from_millis(500);

    /// A wall clock with this bound.
    pub fn fixed(bound: Duration) -> Self {
        Self { source: SourceKind::Fixed, bound, ..Self::default() }
    }

    /// Checks the bound against `max_offset`.
    pub fn validate(&self) -> Result<(), ClockError> {
        if self.bound.is_zero() || self.bound > self.max_offset {
            return Err(ClockError::Bound { bound: self.bound, max_offset: self.max_offset });
        }
        Ok(())
    }
}

impl Default for ClockConfig {
    fn default() -> Self {
        Self {
            source: SourceKind::Auto,
            bound: Self::BOUND_DEFAULT,
            max_offset: Self::MAX_OFFSET_DEFAULT,
            simulated: SimulatedConfig::default(),
        }
    }
}

/// Durations as text, `"250ms"` or `"1s 500us"`: for `#[serde(with = "meridian_clock::duration_text")]`.
pub mod duration_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    /// Writes e.g. `250ms`.
    pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*d))
    }

    /// Reads what [`serialize`] writes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        humantime::parse_duration(&text).map_err(|e| D::Error::custom(format!("`{text}` is no duration: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_empty_means_default() {
        assert_eq!(toml::from_str::<ClockConfig>("").unwrap(), ClockConfig::default());
        let text = "source = \"simulated\"\nbound = \"1ms\"\nsimulated = { offset_us = -300, drift_ppm = 20.0 }";
        let config: ClockConfig = toml::from_str(text).unwrap();
        assert_eq!((config.source, config.bound), (SourceKind::Simulated, Duration::from_millis(1)));
        assert_eq!(config.simulated.offset_us, -300);
        assert_eq!(toml::from_str::<ClockConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn faults_are_refused() {
        assert!(toml::from_str::<ClockConfig>("bound = \"soon\"").is_err());
        assert!(toml::from_str::<ClockConfig>("bond = \"1ms\"").is_err());
        assert!(ClockConfig::fixed(Duration::ZERO).validate().is_err());
        assert!(ClockConfig::fixed(Duration::from_secs(1)).validate().is_err());
        assert!(ClockConfig::fixed(Duration::from_millis(1)).validate().is_ok());
    }
}
