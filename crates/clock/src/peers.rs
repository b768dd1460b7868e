//! Comparing clocks: is this node's clock the odd one out?
//!
//! Every exchange with a peer brackets one reading of the peer's clock between two of ours: true time at the peer's
//! reading was at or after our `sent.earliest` and at or before our `received.latest`. If the peer's interval lies
//! outside that, one of the two clocks breaks its bound. Which one, a majority decides.

use crate::Mono;
use meridian_types::{Interval, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// One comparison with a peer. All intervals are bare readings ([`crate::Clock::reading`]), not ratcheted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Our interval before the request left.
    pub sent: Interval,
    /// The peer's interval, read while it answered.
    pub theirs: Interval,
    /// Our interval after the answer came.
    pub received: Interval,
    /// When the request left.
    pub begun: Mono,
    /// When the answer came.
    pub at: Mono,
}

impl Exchange {
    /// Whether the two clocks cannot both be right.
    pub fn is_disjoint(&self) -> bool {
        self.theirs.latest < self.sent.earliest || self.theirs.earliest > self.received.latest
    }

    /// How far the peer's clock seems to be ahead of ours, in nanoseconds: middle against middle, so it is off by up to
    /// half the exchange's duration.
    pub fn offset_ns(&self) -> i64 {
        let ours = i128::from(self.sent.earliest.0) + i128::from(self.received.latest.0);
        let theirs = i128::from(self.theirs.earliest.0) + i128::from(self.theirs.latest.0);
        i64::try_from((theirs - ours) / 2).unwrap_or(if theirs > ours { i64::MAX } else { i64::MIN })
    }
}

/// How this node's clock compares with the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerVerdict {
    /// Too few recent exchanges to tell, or opinions are split.
    Unknown,
    /// A majority of the nodes, this one included, overlaps this node's interval.
    Agrees,
    /// A majority of the nodes does not.
    Disjoint {
        /// The nodes whose intervals do not overlap.
        from: Vec<NodeId>,
    },
}

/// The latest exchange with every peer.
#[derive(Clone, Debug, Default)]
pub struct PeerClocks {
    latest: BTreeMap<NodeId, Exchange>,
}

impl PeerClocks {
    /// Exchanges older than this say nothing any more.
    pub const FRESH: Duration = Duration::from_secs(10);

    /// Nothing compared yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in an exchange; one that is older than what is known is ignored.
    pub fn record(&mut self, peer: NodeId, exchange: Exchange) {
        let known = self.latest.entry(peer).or_insert(exchange);
        if exchange.at >= known.at {
            *known = exchange;
        }
    }

    /// Forgets a node that has left.
    pub fn forget(&mut self, peer: NodeId) {
        self.latest.remove(&peer);
    }

    /// The latest exchange with every peer.
    pub fn exchanges(&self) -> impl Iterator<Item = (NodeId, &Exchange)> {
        self.latest.iter().map(|(peer, exchange)| (*peer, exchange))
    }

    /// Judges this node's clock in a cluster of `nodes` nodes, this one included, by what was compared from `since` on:
    /// an exchange says nothing of a source that has moved since then ([`crate::Clock::moved_at`]).
    pub fn judge(&self, nodes: usize, now: Mono, since: Mono) -> PeerVerdict {
        let majority = nodes / 2 + 1;
        let (mut agree, mut from) = (1, Vec::new());
        for (peer, exchange) in self.exchanges().filter(|(_, e)| e.begun >= since && now.since(e.at) <= Self::FRESH) {
            if exchange.is_disjoint() {
                from.push(peer);
            } else {
                agree += 1;
            }
        }
        if from.len() >= majority {
            PeerVerdict::Disjoint { from }
        } else if agree >= majority {
            PeerVerdict::Agrees
        } else {
            PeerVerdict::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::Timestamp;

    fn interval(earliest: u64, latest: u64) -> Interval {
        Interval { earliest: Timestamp(earliest), latest: Timestamp(latest) }
    }

    /// Ours is [100, 120] when sent, [200, 220] when received.
    fn exchange(earliest: u64, latest: u64) -> Exchange {
        let theirs = interval(earliest, latest);
        Exchange { sent: interval(100, 120), theirs, received: interval(200, 220), begun: Mono(0), at: Mono(0) }
    }

    #[test]
    fn an_exchange_is_disjoint_only_if_no_instant_of_it_fits() {
        for (earliest, latest, disjoint, why) in [
            (150, 170, false, "inside"),
            (90, 100, false, "touches the earliest instant"),
            (90, 99, true, "ended before the request left"),
            (220, 230, false, "touches the latest instant"),
            (221, 230, true, "begins after the answer came"),
            (0, 1_000, false, "wide enough for anything"),
        ] {
            assert_eq!(exchange(earliest, latest).is_disjoint(), disjoint, "{why}");
        }
        assert_eq!(exchange(150, 170).offset_ns(), 0);
        assert_eq!(exchange(1_150, 1_170).offset_ns(), 1_000);
        assert_eq!(exchange(50, 70).offset_ns(), -100);
    }

    #[test]
    fn a_majority_decides() {
        use PeerVerdict::{Agrees, Disjoint, Unknown};
        let good = exchange(150, 170);
        let bad = exchange(1_000, 1_001);
        let from = |ids: &[u64]| Disjoint { from: ids.iter().copied().map(NodeId).collect() };
        for (nodes, peers, verdict, why) in [
            (1, vec![], Agrees, "alone, a node is its own majority"),
            (2, vec![bad], Unknown, "one against one decides nothing"),
            (2, vec![good], Agrees, "both agree"),
            (3, vec![bad], Unknown, "one of three is no majority, and nobody agrees"),
            (3, vec![bad, bad], from(&[0, 1]), "two of three"),
            (3, vec![bad, good], Agrees, "the peer is the odd one"),
            (5, vec![bad, bad, good], Unknown, "two to two, one unheard"),
            (5, vec![bad, bad, bad, good], from(&[0, 1, 2]), "three of five"),
            (5, vec![bad, bad, good, good], Agrees, "three of five with ours"),
        ] {
            let mut clocks = PeerClocks::new();
            for (id, e) in (0..).zip(peers) {
                clocks.record(NodeId(id), e);
            }
            assert_eq!(clocks.judge(nodes, Mono(1), Mono(0)), verdict, "{why}");
        }
    }

    #[test]
    fn what_was_compared_before_the_source_moved_does_not_vouch_for_it() {
        let mut clocks = PeerClocks::new();
        for id in [1, 2] {
            clocks.record(NodeId(id), Exchange { begun: Mono(5), at: Mono(20), ..exchange(150, 170) });
        }
        assert_eq!(clocks.judge(3, Mono(20), Mono(5)), PeerVerdict::Agrees);
        assert_eq!(clocks.judge(3, Mono(20), Mono(6)), PeerVerdict::Unknown, "asked before, answered after");
    }

    #[test]
    fn old_exchanges_say_nothing_and_late_ones_do_not_replace_newer() {
        let mut clocks = PeerClocks::new();
        let at = |e: Exchange, at| Exchange { at: Mono(at), ..e };
        clocks.record(NodeId(1), at(exchange(1_000, 1_001), 10));
        clocks.record(NodeId(2), at(exchange(1_000, 1_001), 10));
        clocks.record(NodeId(2), at(exchange(150, 170), 9));
        assert!(matches!(clocks.judge(3, Mono(10), Mono(0)), PeerVerdict::Disjoint { .. }));
        let later = Mono(10).plus(PeerClocks::FRESH).plus(Duration::from_nanos(1));
        assert_eq!(clocks.judge(3, later, Mono(0)), PeerVerdict::Unknown);
        clocks.forget(NodeId(1));
        assert_eq!(clocks.judge(3, Mono(10), Mono(0)), PeerVerdict::Unknown);
    }
}
