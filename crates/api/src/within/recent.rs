//! What reads with a latency budget took lately, beyond the round trips that are known: queues, disks, writes in flight.

use crate::within::plan::Way;
use meridian_clock::Mono;
use meridian_types::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Times remembered of each shard and way.
const KEPT: usize = 16;
/// Older ones say nothing about now.
const LATELY: Duration = Duration::from_secs(10);
/// Shards and ways remembered before those without a recent time are forgotten.
const WAYS_MAX: usize = 4_096;
/// What is assumed until something was seen.
const UNSEEN: Duration = Duration::from_millis(2);

type Times = VecDeque<(Mono, Duration)>;

/// Recent service times. Shared by all requests of a node.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    ways: Mutex<BTreeMap<(ShardId, Way), Times>>,
}

impl Recent {
    /// Takes in that a read took so long beyond its round trips, or, if it has not ended, at least so long.
    pub(crate) fn took(&self, shard: ShardId, way: Way, now: Mono, time: Duration) {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if ways.len() >= WAYS_MAX {
            ways.retain(|_, times| times.back().is_some_and(|(at, _)| now.since(*at) <= LATELY));
        }
        let times = ways.entry((shard, way)).or_default();
        times.push_back((now, time));
        if times.len() > KEPT {
            times.pop_front();
        }
    }

    /// What the next such read will probably take: three of four did not take longer.
    pub(crate) fn expected(&self, shard: ShardId, way: Way, now: Mono) -> Duration {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let times = ways.get(&(shard, way)).into_iter().flatten();
        let mut lately: Vec<_> = times.filter(|(at, _)| now.since(*at) <= LATELY).map(|(_, time)| *time).collect();
        lately.sort_unstable();
        lately.get((lately.len() * 3).div_ceil(4).saturating_sub(1)).copied().unwrap_or(UNSEEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(4);

    fn at(ms: u64) -> Mono {
        Mono(0).plus(Duration::from_millis(ms))
    }

    fn expected(times: &[u64], now: u64) -> u128 {
        let recent = Recent::default();
        for (second, time) in times.iter().enumerate() {
            recent.took(SHARD, Way::Leader, at(second as u64 * 100), Duration::from_millis(*time));
        }
        assert_eq!(recent.expected(SHARD, Way::Replica, at(now)), UNSEEN, "ways are apart");
        assert_eq!(recent.expected(ShardId(5), Way::Leader, at(now)), UNSEEN, "shards are apart");
        recent.expected(SHARD, Way::Leader, at(now)).as_millis()
    }

    #[test]
    fn three_of_four_do_not_take_longer() {
        assert_eq!(expected(&[], 0), UNSEEN.as_millis());
        assert_eq!(expected(&[9], 0), 9);
        assert_eq!(expected(&[1, 90], 100), 90);
        assert_eq!(expected(&[5, 1, 90, 3], 300), 5, "one stall in four is not expected again");
        assert_eq!(expected(&[90, 1, 90, 3], 300), 90, "two are");
    }

    #[test]
    fn only_the_last_ones_count_and_not_for_ever() {
        let many: Vec<u64> = (0..40).map(|i| if i < 24 { 500 } else { 7 }).collect();
        assert_eq!(expected(&many, 4_000), 7);
        assert_eq!(expected(&[90; 16], 10_000), 90, "some of them are recent");
        assert_eq!(expected(&[90; 16], 12_000), UNSEEN.as_millis());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let recent = Recent::default();
        let many = u64::try_from(WAYS_MAX).unwrap();
        for shard in 0..many {
            recent.took(ShardId(shard), Way::Replica, at(0), UNSEEN);
        }
        recent.took(ShardId(many), Way::Replica, at(60_000), UNSEEN);
        assert_eq!(recent.ways.lock().unwrap().len(), 1);
    }
}
