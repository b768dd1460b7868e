//! Lead time: how far ahead of its clock the leader of a `global-reads` table closes timestamps.
//!
//! A leader that has promised at `t` to stamp nothing at or below `t + lead` any more lets every replica answer reads at
//! the reader's own `latest` from what it has, once the promise and everything below it are there. So the lead time has to
//! cover the way of a write to the farthest replica, and the clocks' uncertainty on both sides (rule K4):
//!
//! ```text
//! lead >= quorum RTT + largest one-way delay leader -> replica + publish interval + width(leader) + width(reader) + slack
//! ```
//!
//! With less, reads are not wrong: a replica that is not safe at the reader's `latest` asks the leader. Writes pay: they
//! are stamped above what was closed, and acknowledged when their timestamp is past.
//!
//! Source: the idea is that of CockroachDB's global tables ("non-blocking transactions": writes into the future, with a
//! lead of the closed timestamp over present time); the wait is Spanner's commit wait (Corbett et al., OSDI 2012).
//!
//! Not here: who may close with which lead time, and when (`lead_time.rs` of the consensus crate, rules K1 and K2).

use std::time::Duration;

/// The largest lead time. Beyond it writes would take longer than anybody waits, so where more is needed, the farthest
/// readers ask the leader instead.
pub const LEAD_TIME_MAX: Duration = Duration::from_secs(2);
/// Room for fsyncs and the work of the processes on the way.
pub const LEAD_TIME_SLACK: Duration = Duration::from_millis(15);
/// Lead times are multiples of this.
const STEP_MS: u64 = 5;
/// What a new lead time has on top of what is needed, in percent: less than that of noise changes nothing.
const MARGIN_PERCENT: u32 = 12;
/// A lead time is lowered when this part of it, in percent, would do.
const LOWER_PERCENT: u32 = 75;
/// And when it would have done in so many rounds in a row.
const LOWER_ROUNDS: u32 = 40;

/// What a lead time is made of (rule K4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeadTerms {
    /// The round trip in which the leader hears from a quorum.
    pub quorum_rtt: Duration,
    /// The longest way from the leader to a replica, one direction.
    pub one_way_max: Duration,
    /// Between two publications of closed timestamps.
    pub publish_interval: Duration,
    /// `latest - earliest` of the leader's clock.
    pub leader_width: Duration,
    /// `latest - earliest` of the widest clock of a node with a replica.
    pub reader_width: Duration,
}

impl LeadTerms {
    /// The least lead time with which every replica is safe at its node's `latest`, with slack; at most
    /// [`LEAD_TIME_MAX`].
    pub fn needed(&self) -> Duration {
        let Self { quorum_rtt, one_way_max, publish_interval, leader_width, reader_width } = *self;
        let terms = [one_way_max, publish_interval, leader_width, reader_width, LEAD_TIME_SLACK];
        terms.into_iter().fold(quorum_rtt, Duration::saturating_add).min(LEAD_TIME_MAX)
    }
}

/// Follows what is needed, without a log entry for every flutter of a round trip: raises at once, lowers late.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeadPolicy {
    /// Rounds in a row in which less would have done.
    calm: u32,
}

impl LeadPolicy {
    /// One round: the lead time to change to, if `current` is to be changed.
    pub fn next(&mut self, current: Duration, needed: Duration) -> Option<Duration> {
        let wanted = with_margin(needed);
        if current < needed {
            self.calm = 0;
            return Some(wanted);
        }
        let too_much = wanted < current * LOWER_PERCENT / 100;
        self.calm = if too_much { self.calm + 1 } else { 0 };
        if self.calm < LOWER_ROUNDS {
            return None;
        }
        self.calm = 0;
        Some(wanted)
    }
}

/// What a leader chooses where so much is needed: with a margin, in whole steps.
pub fn with_margin(needed: Duration) -> Duration {
    let ms = (needed + needed * MARGIN_PERCENT / 100).as_nanos().div_ceil(1_000_000);
    let ms = u64::try_from(ms).unwrap_or(u64::MAX / STEP_MS).div_ceil(STEP_MS) * STEP_MS;
    Duration::from_millis(ms).min(LEAD_TIME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// us-east leads, eu-west completes the quorum, ap-northeast is farthest; clocks are 2 ms wide.
    fn three() -> LeadTerms {
        LeadTerms {
            quorum_rtt: ms(70),
            one_way_max: ms(70),
            publish_interval: ms(20),
            leader_width: ms(2),
            reader_width: ms(2),
        }
    }

    #[test]
    fn every_term_counts() {
        let terms = three();
        assert_eq!(terms.needed(), ms(70 + 70 + 20 + 2 + 2) + LEAD_TIME_SLACK);
        let more = |change: fn(&mut LeadTerms)| {
            let mut terms = three();
            change(&mut terms);
            terms.needed() - three().needed()
        };
        assert_eq!(more(|t| t.quorum_rtt += ms(1)), ms(1));
        assert_eq!(more(|t| t.one_way_max += ms(1)), ms(1));
        assert_eq!(more(|t| t.publish_interval += ms(1)), ms(1));
        assert_eq!(more(|t| t.leader_width += ms(1)), ms(1));
        assert_eq!(more(|t| t.reader_width += ms(1)), ms(1));
        let endless = LeadTerms { reader_width: Duration::MAX, ..three() };
        assert_eq!(endless.needed(), LEAD_TIME_MAX);
    }

    #[test]
    fn it_is_raised_at_once_and_enough() {
        let mut policy = LeadPolicy::default();
        let needed = three().needed();
        let first = policy.next(Duration::ZERO, needed).unwrap();
        assert!(first >= needed && first <= needed * 120 / 100, "{first:?}");
        assert_eq!(first.as_millis() % u128::from(STEP_MS), 0);
        assert_eq!(policy.next(first, needed), None);
        assert_eq!(policy.next(first, first), None, "it is just enough");
        assert!(policy.next(first, first + ms(1)).unwrap() > first);
        assert_eq!(policy.next(first, LEAD_TIME_MAX), Some(LEAD_TIME_MAX));
        assert_eq!(policy.next(LEAD_TIME_MAX, LEAD_TIME_MAX), None);
    }

    #[test]
    fn it_is_lowered_late_and_not_for_a_flutter() {
        let mut policy = LeadPolicy::default();
        for _ in 1..LOWER_ROUNDS {
            assert_eq!(policy.next(ms(400), ms(180)), None);
        }
        assert_eq!(policy.next(ms(400), ms(350)), None, "once it was needed");
        for _ in 1..LOWER_ROUNDS {
            assert_eq!(policy.next(ms(400), ms(180)), None);
        }
        assert_eq!(policy.next(ms(400), ms(180)), Some(with_margin(ms(180))));
        for _ in 0..2 * LOWER_ROUNDS {
            assert_eq!(policy.next(ms(210), ms(180)), None, "close enough");
        }
    }
}
