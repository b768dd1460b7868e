//! A read's latency budget, and what could be had instead where it is too small.

use crate::{CausalityToken, Consistency};
use std::fmt;
use std::time::Duration;

/// A latency budget: the strongest level that fits into it is given, from the read's own consistency down to the weakest
/// that will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Within {
    /// From the request's arrival at the gateway until its reply leaves.
    pub budget: Duration,
    /// The weakest level that will do. `None`: nothing weaker than the read's own consistency.
    pub weakest: Option<Consistency>,
    /// Whatever the level, the answer includes everything that this token has seen.
    pub token: CausalityToken,
}

impl Within {
    /// A budget with which the read has its own consistency, or fails early.
    pub fn new(budget: Duration) -> Self {
        Self { budget, weakest: None, token: CausalityToken::default() }
    }

    /// The same budget for a read that a weaker level will do for as well.
    #[must_use]
    pub fn or_weaker(mut self, weakest: Consistency) -> Self {
        self.weakest = Some(weakest);
        self
    }

    /// The same budget for a read that includes what the token has seen.
    #[must_use]
    pub fn including(mut self, token: CausalityToken) -> Self {
        self.token.merge(token);
        self
    }
}

/// What a read would get, as far as the gateway can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Achievable {
    /// At this level.
    pub level: Consistency,
    /// How long it would take. `None`: nobody is known who would answer.
    pub latency: Option<Duration>,
    /// How old the answer would be. `None`: not known.
    pub staleness: Option<Duration>,
}

/// `bounded within 12.5 ms, 60.0 ms old`.
impl fmt::Display for Achievable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.latency {
            Some(latency) => write!(f, "{} within {}", self.level, Millis(latency))?,
            None => write!(f, "{} not at all", self.level)?,
        }
        match self.staleness {
            Some(old) if self.latency.is_some() && !old.is_zero() => write!(f, ", {} old", Millis(old)),
            _ => Ok(()),
        }
    }
}

/// A duration in milliseconds, with one decimal.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn a_budget_keeps_the_newest_token() {
        let token = |ts| CausalityToken(Timestamp(ts));
        let within = Within::new(Duration::from_millis(40)).including(token(9)).including(token(4));
        assert_eq!(within.token, token(9));
        assert_eq!(within.weakest, None);
        assert_eq!(within.or_weaker(Consistency::Local).weakest, Some(Consistency::Local));
    }

    #[test]
    fn what_is_achievable_reads_as_a_clause() {
        let of = |level, latency, staleness| {
            let millis = |ms: Option<u64>| ms.map(Duration::from_millis);
            Achievable { level, latency: millis(latency), staleness: millis(staleness) }.to_string()
        };
        assert_eq!(of(Consistency::Linearizable, Some(70), Some(0)), "linearizable within 70.0 ms");
        assert_eq!(of(Consistency::Local, Some(1), Some(62)), "local within 1.0 ms, 62.0 ms old");
        assert_eq!(of(Consistency::Linearizable, None, None), "linearizable not at all");
    }
}
