//! Quorum-acknowledged instants and the leader lease (rules R1 to R6).
//!
//! For each voter the transport credits the instant at which it *sent* the append or heartbeat that was just
//! answered. `A` is the largest instant that a quorum of the effective membership has been credited with.
//!
//! * Without any clock: no higher leader had been established before `A` (R2).
//! * With the voters' promise: no other leader before `A + M`, where `M` is the promise less a drift margin.
//!
//! openraft's own `last_quorum_acked` is not used: it credits requests that are not answered yet (R1).

use crate::raft_types::RaftMembership;
use meridian_clock::{Clock, Mono};
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::{LeaderId, NodeId, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// One instant on both clocks of a node: the monotonic one and the earliest bound of the interval clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Monotonic time, suspension included.
    pub mono: Mono,
    /// `earliest` at that instant or before.
    pub earliest: Timestamp,
}

impl Moment {
    /// Now. `earliest` is read first, so it belongs to an instant not after `mono`.
    pub fn now(clock: &Clock) -> Self {
        let earliest = clock.now().earliest;
        Self { mono: Mono::now(), earliest }
    }
}

#[derive(Debug, Default)]
struct Inner {
    leader: LeaderId,
    credits: BTreeMap<u64, Moment>,
    /// A transfer has begun, or something else has ended the lease under `leader` for good (R4).
    revoked: bool,
}

/// Credits of the voters of one group, under one leader id at a time.
#[derive(Debug)]
pub struct QuorumAcks {
    me: NodeId,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl QuorumAcks {
    /// No credits yet.
    pub fn new(me: NodeId) -> Self {
        Self { me, inner: Mutex::new(Inner::default()), changed: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A voter or learner answered, under `leader`, the request that was sent at `sent`.
    pub fn credit(&self, leader: LeaderId, from: NodeId, sent: Moment) {
        let mut inner = self.lock();
        if leader < inner.leader {
            return;
        }
        if leader > inner.leader {
            *inner = Inner { leader, ..Inner::default() };
        }
        let credit = inner.credits.entry(from.0).or_insert(sent);
        *credit = (*credit).max(sent);
        drop(inner);
        self.changed.send_modify(|n| *n += 1);
    }

    /// When the last request was sent that this node answered.
    pub fn last_credit(&self, node: NodeId) -> Option<Moment> {
        self.lock().credits.get(&node.0).copied()
    }

    /// Ends the lease under `leader` for good.
    pub fn revoke(&self, leader: LeaderId) {
        let mut inner = self.lock();
        if leader > inner.leader {
            *inner = Inner { leader, ..Inner::default() };
        }
        if leader == inner.leader {
            inner.revoked = true;
        }
    }

    /// Whether the lease under `leader` was ended for good.
    pub fn is_revoked(&self, leader: LeaderId) -> bool {
        let inner = self.lock();
        inner.leader == leader && inner.revoked
    }

    /// `A` under `leader`: what a quorum of every half of `membership` has been credited with. `None`: no quorum
    /// yet, or this node is no voter of it.
    pub(crate) fn quorum_acked(&self, leader: LeaderId, membership: &RaftMembership, now: Moment) -> Option<Moment> {
        let inner = self.lock();
        let known = inner.leader == leader;
        let mut halves = membership.get_joint_config().iter().map(|voters| {
            let credit = |v: &u64| {
                if *v == self.me.0 { Some(now) } else { inner.credits.get(v).copied().filter(|_| known) }
            };
            let mut credits: Vec<Option<Moment>> = voters.iter().map(credit).collect();
            if sabotaged(Sabotage::CountLearners) {
                credits.extend(inner.credits.keys().filter(|id| !voters.contains(id)).map(credit));
            }
            credits.sort_unstable_by(|a, b| b.cmp(a));
            // The quorum-th largest: as many voters have been credited with it or with something later.
            credits.get(voters.len() / 2).copied().flatten()
        });
        if !membership.voter_ids().any(|v| v == self.me.0) {
            return None;
        }
        let first = halves.next()??;
        halves.try_fold(first, |least, half| half.map(|h| least.min(h)))
    }

    /// How much of the lease under `leader` is left; `None`: it is not valid.
    pub(crate) fn lease_left(
        &self,
        leader: LeaderId,
        membership: &RaftMembership,
        lease: Duration,
        clock: &Clock,
    ) -> Option<Duration> {
        if self.is_revoked(leader) || !clock.is_safe() {
            return None;
        }
        let now = Moment::now(clock);
        let acked = self.quorum_acked(leader, membership, now)?;
        if sabotaged(Sabotage::ExpiredLease) {
            return Some(lease);
        }
        // R5: both clocks must agree that the lease still runs.
        let by_interval = clock.now().latest.since(acked.earliest);
        let elapsed = now.mono.since(acked.mono).max(if acked == now { Duration::ZERO } else { by_interval });
        lease.checked_sub(elapsed).filter(|left| !left.is_zero())
    }

    /// Counts credits; changes when one arrives.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const L: LeaderId = LeaderId { term: 3, node: NodeId(1) };

    fn at(ms: u64) -> Moment {
        Moment { mono: Mono(ms * 1_000_000), earliest: Timestamp(ms * 1_000_000) }
    }

    fn members(halves: &[&[u64]]) -> RaftMembership {
        let sets: Vec<BTreeSet<u64>> = halves.iter().map(|h| h.iter().copied().collect()).collect();
        RaftMembership::new_with_defaults(sets, [])
    }

    #[test]
    fn a_is_what_a_quorum_has_reached() {
        let acks = QuorumAcks::new(NodeId(1));
        let three = members(&[&[1, 2, 3]]);
        assert_eq!(acks.quorum_acked(L, &three, at(100)), None);
        acks.credit(L, NodeId(2), at(10));
        assert_eq!(acks.quorum_acked(L, &three, at(100)), Some(at(10)));
        acks.credit(L, NodeId(3), at(20));
        assert_eq!(acks.quorum_acked(L, &three, at(100)), Some(at(20)));
        acks.credit(L, NodeId(3), at(15));
        assert_eq!(acks.quorum_acked(L, &three, at(100)), Some(at(20)), "credits never go back");
    }

    #[test]
    fn learners_do_not_count() {
        let acks = QuorumAcks::new(NodeId(1));
        acks.credit(L, NodeId(9), at(10));
        assert_eq!(acks.quorum_acked(L, &members(&[&[1, 2, 3]]), at(100)), None);
    }

    #[test]
    fn a_joint_membership_needs_both_halves() {
        let acks = QuorumAcks::new(NodeId(1));
        let joint = members(&[&[1, 2, 3], &[1, 4, 5]]);
        acks.credit(L, NodeId(2), at(30));
        assert_eq!(acks.quorum_acked(L, &joint, at(100)), None);
        acks.credit(L, NodeId(4), at(20));
        assert_eq!(acks.quorum_acked(L, &joint, at(100)), Some(at(20)));
    }

    #[test]
    fn a_leader_outside_the_membership_has_no_quorum() {
        let acks = QuorumAcks::new(NodeId(1));
        acks.credit(L, NodeId(2), at(10));
        acks.credit(L, NodeId(3), at(10));
        assert_eq!(acks.quorum_acked(L, &members(&[&[2, 3]]), at(100)), None);
    }

    #[test]
    fn another_leader_of_the_same_term_does_not_share_credits() {
        let acks = QuorumAcks::new(NodeId(1));
        let three = members(&[&[1, 2, 3]]);
        acks.credit(L, NodeId(2), at(10));
        let later = LeaderId { term: 3, node: NodeId(2) };
        acks.credit(later, NodeId(3), at(20));
        assert_eq!(acks.quorum_acked(L, &three, at(100)), None);
        acks.credit(L, NodeId(2), at(50));
        assert_eq!(acks.quorum_acked(L, &three, at(100)), None, "an older leader's answers come too late");
    }

    #[test]
    fn a_single_voter_is_its_own_quorum() {
        let acks = QuorumAcks::new(NodeId(1));
        assert_eq!(acks.quorum_acked(L, &members(&[&[1]]), at(100)), Some(at(100)));
    }

    #[test]
    fn a_revoked_lease_stays_revoked_under_its_leader_only() {
        let acks = QuorumAcks::new(NodeId(1));
        acks.revoke(L);
        assert!(acks.is_revoked(L));
        acks.credit(L, NodeId(2), at(1));
        assert!(acks.is_revoked(L));
        let next = LeaderId { term: 4, node: NodeId(1) };
        acks.credit(next, NodeId(2), at(2));
        assert!(!acks.is_revoked(next));
    }
}
