//! When a shard's timers are changed, and to which: they follow what is measured while the cluster runs.
//!
//! Timers that are too short cost elections: they are raised as soon as that has shown in a few rounds on end. Timers that are
//! too long only make a failover last longer: they are lowered when shorter ones would have done for a long time, and not for
//! a little. A change costs a transfer of the leadership and, on each member in turn, a moment outside its group.
//!
//! While a change goes through a group, members run with old and new timers at once. A leader with the old ones must not be
//! silent for longer than a member with the new ones waits: so timers are lowered in steps, each of them to no less than half
//! of the promise and no less than two of the old leader's heartbeats.
//!
//! Not here: how members take a change over without a moment of unequal promises (rule R3; `replica/timers.rs` of the
//! consensus crate), and who measures (`timers.rs` of the server crate).

use crate::timing::timing_for;
use meridian_types::RaftTiming;
use std::time::Duration;

/// Rounds on end in which timers have to be too short before they are raised.
pub const RAISE_ROUNDS: u32 = 3;
/// Rounds on end in which much shorter ones have to be enough before they are lowered.
pub const LOWER_ROUNDS: u32 = 60;
/// The shortest election timeout is too short if it is not this part of the round trip, in percent: votes would be given up
/// before they can be answered.
const VOTE_PERCENT: u64 = 105;
/// New timers are for a round trip that is so much longer than the measured one, in percent: less than that of noise
/// changes nothing.
const MARGIN_PERCENT: u32 = 10;
/// Timers are also too short if they are not this part of those wanted, in percent.
const RAISE_PERCENT: u64 = 80;
/// They are lowered to a promise that is at most this part of the one in force, in percent.
const LOWER_PERCENT: u64 = 75;
/// What a sync may take before timers have to know of it: that much room is in all of them.
const FSYNC_ROOM: Duration = Duration::from_millis(150);
/// Longest sync that timers follow. A disk that is slower than that is no disk to vote with.
const FSYNC_MAX: Duration = Duration::from_secs(2);
/// Longest round trip that timers follow.
const RTT_MAX: Duration = Duration::from_secs(5);

/// What timers follow from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The largest round trip among the members of which half are shorter.
    pub rtt_median: Duration,
    /// The largest of which nine of ten are shorter.
    pub rtt_usual: Duration,
    /// How long a sync of the log takes when it takes long.
    pub fsync: Duration,
}

/// The timers for members that are at most `rtt` apart, on disks whose syncs take up to `fsync`: what exceeds the usual
/// room for a sync comes on top of both election timeouts.
pub fn timing_of(rtt: Duration, fsync: Duration) -> RaftTiming {
    let timing = timing_for(rtt.min(RTT_MAX));
    let more = fsync.min(FSYNC_MAX).saturating_sub(FSYNC_ROOM);
    let more_ms = u64::try_from(more.as_millis()).unwrap_or_default();
    RaftTiming {
        election_min_ms: timing.election_min_ms + more_ms,
        election_max_ms: timing.election_max_ms + more_ms,
        ..timing
    }
}

/// The timers that would be chosen for what is measured: with a margin.
pub fn timing_wanted(rtt: Duration, fsync: Duration) -> RaftTiming {
    timing_of(rtt + rtt * MARGIN_PERCENT / 100, fsync)
}

/// Whether timers are too short for what is measured.
fn is_too_short(present: RaftTiming, measured: Measured) -> bool {
    let rtt_ms = u64::try_from(measured.rtt_median.as_millis()).unwrap_or(u64::MAX / 100);
    let needed = timing_of(measured.rtt_median, measured.fsync);
    present.election_min_ms * 100 < rtt_ms * VOTE_PERCENT
        || present.election_max_ms * 100 < needed.election_max_ms * RAISE_PERCENT
}

/// The shortest promise that members may change to while `present` are in force, in milliseconds.
fn lowest_promise(present: RaftTiming) -> u64 {
    present.election_max_ms.div_ceil(2).max(2 * present.heartbeat_ms)
}

/// Follows what is measured of one shard, by each of its members, in rounds. Every member counts, so that a leader which has
/// only just begun, perhaps because timers are too short for any leader to last, need not count for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimingPolicy {
    /// Rounds on end in which the timers were too short.
    short: u32,
    /// Rounds on end in which much shorter ones would have done.
    long: u32,
}

impl TimingPolicy {
    /// One round of a member that runs with `present`: the timers to change to, if they are to be changed. Only a leader all
    /// of whose members run with them `may` change them; what the others have counted stays counted.
    pub fn next(&mut self, present: RaftTiming, measured: Measured, may: bool) -> Option<RaftTiming> {
        if is_too_short(present, measured) {
            self.long = 0;
            self.short = (self.short + 1).min(RAISE_ROUNDS);
            if self.short < RAISE_ROUNDS || !may {
                return None;
            }
            self.short = 0;
            return Some(timing_wanted(measured.rtt_median, measured.fsync)).filter(|to| *to != present);
        }
        self.short = 0;
        // As long as they may be for a bad round trip.
        let wanted = timing_wanted(measured.rtt_usual.max(measured.rtt_median), measured.fsync);
        let too_long = wanted.election_max_ms * 100 <= present.election_max_ms * LOWER_PERCENT;
        self.long = if too_long { (self.long + 1).min(LOWER_ROUNDS) } else { 0 };
        if self.long < LOWER_ROUNDS || !may {
            return None;
        }
        let to = step_down(present, wanted, measured)?;
        // The rest of the way needs no more rounds than it takes the members to follow.
        self.long = if to == wanted { 0 } else { LOWER_ROUNDS };
        Some(to)
    }
}

/// Towards `wanted` as far as one step may go; `None`: no step would be one.
fn step_down(present: RaftTiming, wanted: RaftTiming, measured: Measured) -> Option<RaftTiming> {
    let lowest = lowest_promise(present);
    if wanted.election_max_ms >= lowest {
        return Some(wanted);
    }
    let between = (0..RTT_MAX.as_millis()).map(|ms| timing_of(Duration::from_millis(ms as u64), measured.fsync));
    between.into_iter().find(|t| t.election_max_ms >= lowest).filter(|t| t.election_max_ms < present.election_max_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn rtt(rtt: u64) -> Measured {
        Measured { rtt_median: ms(rtt), rtt_usual: ms(rtt), fsync: Duration::ZERO }
    }

    /// Rounds until something is changed, and to what.
    fn rounds(policy: &mut TimingPolicy, present: RaftTiming, measured: Measured) -> Option<(u32, RaftTiming)> {
        (1..=LOWER_ROUNDS * 2).find_map(|round| Some((round, policy.next(present, measured, true)?)))
    }

    #[test]
    fn what_follows_from_the_same_round_trip_stays() {
        for rtt_ms in 0..1000 {
            for present in [timing_for(ms(rtt_ms)), timing_wanted(ms(rtt_ms), ms(150))] {
                let mut policy = TimingPolicy::default();
                assert_eq!(rounds(&mut policy, present, rtt(rtt_ms)), None, "{rtt_ms} {present:?}");
            }
        }
    }

    #[test]
    fn timers_that_are_too_short_are_raised_after_a_few_rounds() {
        let mut policy = TimingPolicy::default();
        let (round, to) = rounds(&mut policy, timing_for(ms(70)), rtt(200)).unwrap();
        assert_eq!((round, to), (RAISE_ROUNDS, timing_wanted(ms(200), Duration::ZERO)));
        assert!(!is_too_short(to, rtt(200)));
        assert_eq!(rounds(&mut policy, to, rtt(200)), None);
        assert_eq!(rounds(&mut policy, to, rtt(215)), None, "the margin is there to be used");
    }

    #[test]
    fn one_good_round_begins_the_count_anew() {
        let mut policy = TimingPolicy::default();
        let present = timing_for(ms(70));
        for _ in 0..10 {
            assert_eq!(policy.next(present, rtt(200), true), None);
            assert_eq!(policy.next(present, rtt(200), true), None);
            assert_eq!(policy.next(present, rtt(70), true), None);
        }
    }

    #[test]
    fn a_leader_that_has_only_just_begun_need_not_count_again() {
        let mut policy = TimingPolicy::default();
        let present = timing_for(ms(70));
        for _ in 0..10 {
            assert_eq!(policy.next(present, rtt(200), false), None);
        }
        assert!(policy.next(present, rtt(200), true).is_some());
        assert_eq!(policy.next(present, rtt(200), true), None, "once is enough");
    }

    #[test]
    fn a_few_long_round_trips_raise_nothing_and_keep_from_lowering() {
        let mut policy = TimingPolicy::default();
        let wide = Measured { rtt_median: ms(70), rtt_usual: ms(300), fsync: Duration::ZERO };
        assert_eq!(rounds(&mut policy, timing_for(ms(70)), wide), None);
        assert_eq!(rounds(&mut policy, timing_for(ms(300)), wide), None);
    }

    #[test]
    fn timers_are_lowered_late_and_for_much_only() {
        let mut policy = TimingPolicy::default();
        let present = timing_for(ms(300));
        assert_eq!(rounds(&mut policy, present, rtt(250)), None);
        let (round, to) = rounds(&mut policy, present, rtt(120)).unwrap();
        assert_eq!(round, LOWER_ROUNDS);
        assert!(to.election_max_ms >= lowest_promise(present) && to.election_max_ms < present.election_max_ms);
    }

    #[test]
    fn a_long_way_down_goes_in_steps_that_the_old_heartbeats_allow() {
        for (from, to) in [(300, 1), (300, 70), (1000, 1), (2000, 30), (900, 200)] {
            let mut policy = TimingPolicy::default();
            let (mut present, wanted) = (timing_for(ms(from)), timing_wanted(ms(to), Duration::ZERO));
            let mut steps = 0;
            while let Some((_, next)) = rounds(&mut policy, present, rtt(to)) {
                assert!(next.is_ordered() && next.election_max_ms < present.election_max_ms);
                assert!(2 * next.election_max_ms >= present.election_max_ms, "{present:?} {next:?}");
                assert!(next.election_max_ms >= 2 * present.heartbeat_ms, "{present:?} {next:?}");
                (present, steps) = (next, steps + 1);
                assert!(steps < 20);
            }
            assert!(present.election_max_ms * LOWER_PERCENT < wanted.election_max_ms * 100, "{from} {to} {present:?}");
        }
    }

    #[test]
    fn slow_disks_get_longer_promises_and_no_longer_heartbeats() {
        let slow = timing_of(ms(70), ms(400));
        let fast = timing_of(ms(70), ms(100));
        assert_eq!(fast, timing_for(ms(70)));
        assert_eq!(slow.heartbeat_ms, fast.heartbeat_ms);
        assert_eq!(slow.election_max_ms, fast.election_max_ms + 250);
        assert!(slow.is_ordered());
        let mut policy = TimingPolicy::default();
        let measured = Measured { fsync: ms(400), ..rtt(70) };
        assert_eq!(policy.next(slow, measured, true), None);
        assert!(rounds(&mut policy, fast, measured).is_some_and(|(round, _)| round == RAISE_ROUNDS));
        assert_eq!(timing_of(ms(1_000_000), ms(1_000_000)), timing_of(RTT_MAX, FSYNC_MAX));
    }
}
