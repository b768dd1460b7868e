//! Latencies of a few dozen operations: exact percentiles.

use std::time::Duration;

/// Durations in the order of their measurement.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    pub(super) fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// The median; of an even number, the upper of the two in the middle. Zero without samples.
    pub(super) fn p50(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The largest; zero without samples.
    pub(super) fn max(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }
}

/// `a / b` with two decimals; a dash when `b` is zero, for then there is no ratio.
pub(super) fn ratio(a: Duration, b: Duration) -> String {
    if b.is_zero() { "-".to_owned() } else { format!("{:.2}", a.as_secs_f64() / b.as_secs_f64()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_depend_on_order() {
        let mut samples = Samples::default();
        assert_eq!((samples.p50(), samples.max()), (Duration::ZERO, Duration::ZERO));
        for ms in [9, 1, 5] {
            samples.add(Duration::from_millis(ms));
        }
        assert_eq!((samples.p50(), samples.max()), (Duration::from_millis(5), Duration::from_millis(9)));
    }

    #[test]
    fn no_floor_no_ratio() {
        let ms = Duration::from_millis;
        assert_eq!((ratio(ms(141), ms(140)), ratio(ms(1), ms(0))), ("1.01".into(), "-".into()));
    }
}
