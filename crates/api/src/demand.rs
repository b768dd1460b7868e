//! Where the requests of the shards that this node leads come from.
//!
//! Counts fade: a request counts half after [`HALF_LIFE`]. What moves a leader is thus what was asked in the last minutes,
//! not what was asked ever.

use meridian_catalog::Origin;
use meridian_clock::Mono;
use meridian_types::{NodeId, ShardId};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// After this time a request counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// What is asked of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A mutation.
    Write,
    /// A linearizable read, or how far another replica has to be for one.
    Read,
}

/// A fading count.
#[derive(Clone, Copy, Debug)]
struct Fading {
    count: f64,
    at: Mono,
}

impl Fading {
    fn at(&self, now: Mono) -> f64 {
        self.count * (-LN_2 * now.since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64()).exp()
    }

    fn add(&mut self, now: Mono) {
        *self = Self { count: self.at(now) + 1.0, at: now };
    }

    /// Requests for each second, had they always come as in the last half-lives.
    fn rate(&self, now: Mono) -> f64 {
        self.at(now) * LN_2 / HALF_LIFE.as_secs_f64()
    }
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    writes: Fading,
    reads: Fading,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Demand {
    shards: Mutex<BTreeMap<ShardId, BTreeMap<NodeId, Counts>>>,
}

impl Demand {
    /// The gateway of node `from` has asked something of the leader of a shard here.
    pub(crate) fn record(&self, shard: ShardId, from: NodeId, asked: Asked, now: Mono) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Fading { count: 0.0, at: now };
        let counts = shards.entry(shard).or_default().entry(from);
        let counts = counts.or_insert(Counts { writes: none, reads: none });
        match asked {
            Asked::Write => counts.writes.add(now),
            Asked::Read => counts.reads.add(now),
        }
    }

    /// What each gateway asks of a shard's leader here.
    pub fn of(&self, shard: ShardId, now: Mono) -> Vec<Origin> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = |(node, c): (&NodeId, &Counts)| Origin {
            node: *node,
            writes: c.writes.rate(now),
            reads: c.reads.rate(now),
        };
        shards.get(&shard).map(|nodes| nodes.iter().map(origin).collect()).unwrap_or_default()
    }

    /// This node does not lead the shard any more: what it was asked is old by the time that it does again.
    pub fn forget(&self, shard: ShardId) {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(4);

    #[test]
    fn a_steady_rate_is_found_and_fades_when_it_ends() {
        let demand = Demand::default();
        let start = Mono::now();
        // Ten writes a second from one node for five minutes, one read a second from another.
        for i in 0..3_000 {
            let now = start.plus(Duration::from_millis(100 * i));
            demand.record(SHARD, NodeId(2), Asked::Write, now);
            if i % 10 == 0 {
                demand.record(SHARD, NodeId(3), Asked::Read, now);
            }
        }
        let end = start.plus(Duration::from_secs(300));
        let rates = |now| demand.of(SHARD, now).into_iter().map(|o| (o.node.0, o.writes, o.reads)).collect::<Vec<_>>();
        let close = |is: f64, wanted: f64| (is - wanted).abs() < wanted / 20.0;
        let [(2, writes, 0.0), (3, 0.0, reads)] = rates(end)[..] else { panic!("{:?}", rates(end)) };
        assert!(close(writes, 10.0) && close(reads, 1.0), "{writes} {reads}");
        let later = rates(end.plus(HALF_LIFE))[0].1;
        assert!(close(later, 5.0), "{later}");
        assert!(demand.of(ShardId(5), end).is_empty());
        demand.forget(SHARD);
        assert!(demand.of(SHARD, end).is_empty());
    }
}
