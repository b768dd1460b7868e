//! What a client is told: gateways, its own region, time limits.

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use meridian_probe::machine;
use meridian_types::RegionId;
use std::time::Duration;

/// One node that the client may talk to. Every node is a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// `host:port` of its gRPC listener.
    pub address: String,
    /// Its region, when the caller knows it; otherwise the gateway is asked.
    pub region: Option<RegionId>,
}

impl Gateway {
    /// A gateway whose region will be asked for.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), region: None }
    }

    /// A gateway in a known region.
    pub fn in_region(address: impl Into<String>, region: impl Into<RegionId>) -> Self {
        Self { address: address.into(), region: Some(region.into()) }
    }
}

/// How failed attempts are repeated. Only what is safe is repeated at all, always under the same request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts of one operation, the first included.
    pub attempts_max: u32,
    /// Pause before the second attempt; doubles from there. Each pause is stretched by up to its own length at
    /// random, so that clients that failed together do not return together.
    pub backoff_base: Duration,
    /// Longest pause, before stretching.
    pub backoff_max: Duration,
    /// How long one attempt may take before the next gateway is tried.
    pub attempt_timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 32,
            backoff_base: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(4),
        }
    }
}

impl RetryPolicy {
    /// One attempt and no more.
    pub fn never() -> Self {
        Self { attempts_max: 1, attempt_timeout: Duration::MAX, ..Self::default() }
    }

    /// The pauses between one operation's attempts; as many as it may retry.
    pub(crate) fn pauses(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.backoff_base)
            .with_max_delay(self.backoff_max)
            .with_max_times(usize::try_from(self.attempts_max.saturating_sub(1)).unwrap_or(usize::MAX))
            .with_jitter()
            .with_jitter_seed(machine::random())
            .build()
    }
}

/// Everything that [`Client::connect`](crate::Client::connect) needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The gateways, in any order; at least one.
    pub gateways: Vec<Gateway>,
    /// The region where the client runs: gateways of this region come first, however fast the others answer.
    pub region: Option<RegionId>,
    /// How long a connection may take, and how long `connect` waits for gateways to answer.
    pub connect_timeout: Duration,
    /// How long one operation may take, retries included.
    pub request_deadline: Duration,
    /// How failed attempts are repeated.
    pub retry: RetryPolicy,
    /// Whether operations of all sessions share one stream per gateway, which costs both sides a fraction of a call for
    /// each. On unless it is switched off.
    pub pipelining: bool,
}

impl ClientConfig {
    /// The defaults, for these gateways.
    pub fn new(gateways: Vec<Gateway>) -> Self {
        Self {
            gateways,
            region: None,
            connect_timeout: Duration::from_secs(2),
            request_deadline: Duration::from_secs(10),
            retry: RetryPolicy::default(),
            pipelining: true,
        }
    }

    /// The same, with operations on one stream per gateway or with a call for each.
    #[must_use]
    pub fn pipelining(mut self, pipelining: bool) -> Self {
        self.pipelining = pipelining;
        self
    }

    /// The same, for a client in `region`.
    #[must_use]
    pub fn in_region(mut self, region: impl Into<RegionId>) -> Self {
        self.region = Some(region.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_pause_less_than_attempts() {
        let policy = RetryPolicy { attempts_max: 5, ..RetryPolicy::default() };
        assert_eq!(policy.pauses().count(), 4);
        assert_eq!(RetryPolicy::never().pauses().count(), 0);
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let policy = RetryPolicy { backoff_max: Duration::from_millis(100), ..RetryPolicy::default() };
        let pauses: Vec<_> = policy.pauses().collect();
        assert!(pauses[0] >= policy.backoff_base && pauses[0] <= 2 * policy.backoff_base, "{pauses:?}");
        assert!(pauses.iter().all(|p| *p <= 2 * policy.backoff_max), "{pauses:?}");
        assert!(pauses.last().is_some_and(|p| *p >= policy.backoff_max), "{pauses:?}");
    }
}
