//! Quorum-acknowledged instants and the leader lease (rules R1 to R6).
//!
//! For each voter the transport credits the instant at which it *sent* the append or heartbeat that was just
//! answered. `A` is the largest instant that a quorum of the effective membership has been credited with.
//!
//! * Without any clock: no higher leader had been established before `A` (R2).
//! * With the voters' promises: each answer says how long the voter that gave it refuses others its vote (R3). What a quorum
//!   has promised until some instant, less a drift margin, is when the lease ends. Promises need not be equal: while a
//!   group's timers change, the leader counts of each voter on what that very voter has confirmed, and on nothing else.
//!
//! openraft's own `last_quorum_acked` is not used: it credits requests that are not answered yet (R1).

use crate::raft_types::RaftMembership;
use meridian_clock::{Clock, Mono};
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::{LeaderId, NodeId, Timestamp, usable_lease};
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

/// What a member's last answered request is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Credit {
    /// When it was sent.
    sent: Moment,
    word: Word,
}

/// What a member says with its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// For how long, from when it took the request in, it refuses others its vote; `None`: it did not say.
    pub promise: Option<Duration>,
    /// It votes for nobody at all yet: it keeps what it has promised before.
    pub holding: bool,
    /// It takes votes that were given before they were asked for.
    pub takes_ballots: bool,
}

#[derive(Debug, Default)]
struct Inner {
    leader: LeaderId,
    credits: BTreeMap<u64, Credit>,
    /// A transfer has begun, or something else has ended the lease under `leader` for good (R4).
    revoked: bool,
}

/// Credits of the voters of one group, under one leader id at a time.
#[derive(Debug)]
pub struct QuorumAcks {
    me: NodeId,
    /// The promise of the timers that the shard was created with: that of members which do not say theirs.
    created: Duration,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl QuorumAcks {
    /// No credits yet. `created` is the promise of the timers that the shard was created with: nodes that do not say what
    /// they promise know of no others.
    pub fn new(me: NodeId, created: Duration) -> Self {
        Self { me, created, inner: Mutex::new(Inner::default()), changed: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A voter or learner answered, under `leader`, the request that was sent at `sent`, and gave its word with it.
    pub fn credit(&self, leader: LeaderId, from: NodeId, sent: Moment, word: Word) {
        let mut inner = self.lock();
        if leader < inner.leader {
            return;
        }
        if leader > inner.leader {
            *inner = Inner { leader, ..Inner::default() };
        }
        let new = Credit { sent, word };
        let credit = inner.credits.entry(from.0).or_insert(new);
        // Requests and answers of one member go two ways, and may overtake one another. The last one sent counts, with its
        // own promise: an earlier, longer one may still bind the member, but nothing rests on that.
        if sent >= credit.sent {
            *credit = new;
        }
        drop(inner);
        self.changed.send_modify(|n| *n += 1);
    }

    /// When the last request was sent that this node answered.
    pub fn last_credit(&self, node: NodeId) -> Option<Moment> {
        self.lock().credits.get(&node.0).map(|credit| credit.sent)
    }

    /// What this node has said with its last answer under `leader`.
    pub fn word(&self, leader: LeaderId, node: NodeId) -> Word {
        let inner = self.lock();
        let credit = inner.credits.get(&node.0).filter(|_| inner.leader == leader);
        credit.map(|credit| credit.word).unwrap_or_default()
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

    /// Takes a revocation back: the transfer it was made for was given up before anybody was told of it.
    pub fn restore(&self, leader: LeaderId) {
        let mut inner = self.lock();
        if leader == inner.leader {
            inner.revoked = false;
        }
    }

    /// Whether the lease under `leader` was ended for good.
    pub fn is_revoked(&self, leader: LeaderId) -> bool {
        let inner = self.lock();
        inner.leader == leader && inner.revoked
    }

    /// The largest value that a quorum of every half of `membership` has reached, of those that `of` says of each member.
    /// `None`: no quorum has any, or this node is no voter.
    fn quorum<T: Ord>(&self, inner: &Inner, membership: &RaftMembership, of: impl Fn(&u64) -> Option<T>) -> Option<T> {
        if !membership.voter_ids().any(|v| v == self.me.0) {
            return None;
        }
        let mut halves = membership.get_joint_config().iter().map(|voters| {
            let mut reached: Vec<Option<T>> = voters.iter().map(&of).collect();
            if sabotaged(Sabotage::CountLearners) {
                reached.extend(inner.credits.keys().filter(|id| !voters.contains(id)).map(&of));
            }
            reached.sort_unstable_by(|a, b| b.cmp(a));
            // The quorum-th largest: as many voters have reached it, or more.
            reached.into_iter().nth(voters.len() / 2).flatten()
        });
        let first = halves.next()??;
        halves.try_fold(first, |least, half| half.map(|h| least.min(h)))
    }

    /// `A` under `leader`: what a quorum of every half of `membership` has been credited with. `None`: no quorum
    /// yet, or this node is no voter of it.
    pub(crate) fn quorum_acked(&self, leader: LeaderId, membership: &RaftMembership, now: Moment) -> Option<Moment> {
        let inner = self.lock();
        let known = inner.leader == leader;
        self.quorum(&inner, membership, |v| {
            let credit = || inner.credits.get(v).filter(|_| known);
            if *v == self.me.0 { Some(now) } else { credit().map(|credit| credit.sent) }
        })
    }

    /// How much of the lease under `leader` is left; `None`: it is not valid.
    ///
    /// Of each voter it counts what that voter has confirmed with the answer that it is credited with, and no more than `own`,
    /// what this node's own timers promise: the smaller one while timers change (R3), for which its Raft takes proposals. A
    /// group of which it is the only voter has such a lease.
    pub(crate) fn lease_left(
        &self,
        leader: LeaderId,
        membership: &RaftMembership,
        own: Duration,
        clock: &Clock,
    ) -> Option<Duration> {
        if self.is_revoked(leader) || !clock.is_safe() {
            return None;
        }
        let now = Moment::now(clock);
        let latest = clock.now().latest;
        if sabotaged(Sabotage::ExpiredLease) {
            return self.quorum_acked(leader, membership, now).map(|_| usable_lease(own));
        }
        let left = self.promised_left(leader, membership, own, now, latest)?;
        if left == Duration::MAX { Some(usable_lease(own)) } else { Some(left) }
    }

    /// How long from `now` on a quorum keeps what it has promised to `leader`; endless, if that is this node alone. `latest`
    /// was read at `now` or after it.
    fn promised_left(
        &self,
        leader: LeaderId,
        membership: &RaftMembership,
        own: Duration,
        now: Moment,
        latest: Timestamp,
    ) -> Option<Duration> {
        let inner = self.lock();
        let known = inner.leader == leader;
        self.quorum(&inner, membership, |v| {
            if *v == self.me.0 {
                return Some(Duration::MAX);
            }
            let Credit { sent, word } = *inner.credits.get(v).filter(|_| known)?;
            let promise = match word.promise {
                _ if sabotaged(Sabotage::CountOwnPromise) => own,
                promise => promise.unwrap_or(self.created).min(own),
            };
            let usable = if sabotaged(Sabotage::OverlongLease) { promise * 2 } else { usable_lease(promise) };
            // R5: both clocks must agree that it still runs.
            let elapsed = now.mono.since(sent.mono).max(latest.since(sent.earliest));
            usable.checked_sub(elapsed).filter(|left| !left.is_zero())
        })
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

    fn acks() -> QuorumAcks {
        QuorumAcks::new(NodeId(1), ms(600))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn says(promise_ms: u64) -> Word {
        Word { promise: Some(ms(promise_ms)), ..Word::default() }
    }

    /// What is left at `now`, by clocks without width that agree, at a leader whose own timers promise 2000 ms.
    fn left(acks: &QuorumAcks, membership: &RaftMembership, now: u64) -> Option<Duration> {
        acks.promised_left(L, membership, ms(2000), at(now), at(now).earliest)
    }

    fn at(ms: u64) -> Moment {
        Moment { mono: Mono(ms * 1_000_000), earliest: Timestamp(ms * 1_000_000) }
    }

    fn members(halves: &[&[u64]]) -> RaftMembership {
        let sets: Vec<BTreeSet<u64>> = halves.iter().map(|h| h.iter().copied().collect()).collect();
        RaftMembership::new_with_defaults(sets, [])
    }

    #[test]
    fn a_is_what_a_quorum_has_reached() {
        let acks = acks();
        let three = members(&[&[1, 2, 3]]);
        assert_eq!(acks.quorum_acked(L, &three, at(100)), None);
        acks.credit(L, NodeId(2), at(10), Word::default());
        assert_eq!(acks.quorum_acked(L, &three, at(100)), Some(at(10)));
        acks.credit(L, NodeId(3), at(20), Word::default());
        assert_eq!(acks.quorum_acked(L, &three, at(100)), Some(at(20)));
        acks.credit(L, NodeId(3), at(15), Word::default());
        assert_eq!(acks.quorum_acked(L, &three, at(100)), Some(at(20)), "credits never go back");
    }

    #[test]
    fn learners_do_not_count() {
        let acks = acks();
        acks.credit(L, NodeId(9), at(10), Word::default());
        assert_eq!(acks.quorum_acked(L, &members(&[&[1, 2, 3]]), at(100)), None);
    }

    #[test]
    fn a_joint_membership_needs_both_halves() {
        let acks = acks();
        let joint = members(&[&[1, 2, 3], &[1, 4, 5]]);
        acks.credit(L, NodeId(2), at(30), Word::default());
        assert_eq!(acks.quorum_acked(L, &joint, at(100)), None);
        acks.credit(L, NodeId(4), at(20), Word::default());
        assert_eq!(acks.quorum_acked(L, &joint, at(100)), Some(at(20)));
    }

    #[test]
    fn a_leader_outside_the_membership_has_no_quorum() {
        let acks = acks();
        acks.credit(L, NodeId(2), at(10), Word::default());
        acks.credit(L, NodeId(3), at(10), Word::default());
        assert_eq!(acks.quorum_acked(L, &members(&[&[2, 3]]), at(100)), None);
    }

    #[test]
    fn another_leader_of_the_same_term_does_not_share_credits() {
        let acks = acks();
        let three = members(&[&[1, 2, 3]]);
        acks.credit(L, NodeId(2), at(10), Word::default());
        let later = LeaderId { term: 3, node: NodeId(2) };
        acks.credit(later, NodeId(3), at(20), Word::default());
        assert_eq!(acks.quorum_acked(L, &three, at(100)), None);
        acks.credit(L, NodeId(2), at(50), Word::default());
        assert_eq!(acks.quorum_acked(L, &three, at(100)), None, "an older leader's answers come too late");
    }

    #[test]
    fn a_single_voter_is_its_own_quorum() {
        let acks = acks();
        assert_eq!(acks.quorum_acked(L, &members(&[&[1]]), at(100)), Some(at(100)));
    }

    #[test]
    fn a_revoked_lease_stays_revoked_under_its_leader_only() {
        let acks = acks();
        acks.revoke(L);
        assert!(acks.is_revoked(L));
        acks.credit(L, NodeId(2), at(1), Word::default());
        assert!(acks.is_revoked(L));
        let next = LeaderId { term: 4, node: NodeId(1) };
        acks.credit(next, NodeId(2), at(2), Word::default());
        assert!(!acks.is_revoked(next));
    }

    #[test]
    fn of_each_voter_counts_what_it_has_confirmed_itself() {
        let acks = acks();
        let five = members(&[&[1, 2, 3, 4, 5]]);
        acks.credit(L, NodeId(2), at(100), says(2000));
        assert_eq!(left(&acks, &five, 110), None, "no quorum yet");
        acks.credit(L, NodeId(3), at(110), says(500));
        assert_eq!(left(&acks, &five, 110), Some(ms(450)));
        acks.credit(L, NodeId(4), at(105), says(1000));
        assert_eq!(left(&acks, &five, 110), Some(ms(895)), "the shortest of the three is not needed");
        acks.credit(L, NodeId(4), at(120), says(500));
        assert_eq!(left(&acks, &five, 120), Some(ms(450)), "the last answer counts, also if it promises less");
        acks.credit(L, NodeId(4), at(115), says(1000));
        assert_eq!(left(&acks, &five, 120), Some(ms(450)), "one that was overtaken does not");
    }

    #[test]
    fn who_does_not_say_has_promised_as_at_the_creation_or_as_its_leader_whatever_is_less() {
        let three = members(&[&[1, 2, 3]]);
        let acks = acks();
        acks.credit(L, NodeId(2), at(0), Word::default());
        assert_eq!((left(&acks, &three, 0), acks.word(L, NodeId(2)).promise), (Some(ms(540)), None));
        let own = |own| acks.promised_left(L, &three, ms(own), at(0), at(0).earliest);
        assert_eq!(own(300), Some(ms(270)));
        acks.credit(L, NodeId(2), at(1), says(800));
        assert_eq!((own(300), own(900)), (Some(ms(270)), Some(ms(720))), "whatever is less while timers change");
        assert_eq!(acks.word(L, NodeId(2)).promise, Some(ms(800)));
        assert_eq!(acks.word(LeaderId { term: 4, ..L }, NodeId(2)).promise, None, "to another leader");
    }

    #[test]
    fn both_halves_have_to_keep_their_promises() {
        let joint = members(&[&[1, 2, 3], &[1, 4, 5]]);
        let acks = acks();
        acks.credit(L, NodeId(2), at(0), says(2000));
        assert_eq!(left(&acks, &joint, 0), None);
        acks.credit(L, NodeId(4), at(0), says(400));
        assert_eq!(left(&acks, &joint, 0), Some(ms(360)));
        assert_eq!(left(&acks, &members(&[&[2, 4]]), 0), None, "this node is no voter");
        assert_eq!(left(&acks, &members(&[&[1]]), 0), Some(Duration::MAX));
    }

    #[test]
    fn both_clocks_have_to_agree_that_it_runs() {
        let three = members(&[&[1, 2, 3]]);
        let acks = acks();
        acks.credit(L, NodeId(2), at(100), says(1000));
        let left = |mono, latest| acks.promised_left(L, &three, ms(1000), at(mono), at(latest).earliest);
        assert_eq!((left(200, 200), left(200, 900)), (Some(ms(800)), Some(ms(100))));
        assert_eq!((left(900, 200), left(1000, 200), left(200, 1000)), (Some(ms(100)), None, None));
    }

    /// Whatever is credited in whatever order: some quorum that the leader's lease rests on has promised, each voter with
    /// its own last answer, until after the lease's end.
    #[test]
    fn the_lease_never_exceeds_what_a_quorum_has_confirmed() {
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..500 {
            let voters = [3, 4, 5, 7][draw(4) as usize];
            let ids: Vec<u64> = (1..=voters).collect();
            let (membership, acks) = (members(&[&ids]), acks());
            let mut last: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            for step in 0..40 {
                let (voter, sent, promise) = (2 + draw(voters - 1), draw(50 * (step + 1)), 100 + draw(1900));
                acks.credit(L, NodeId(voter), at(sent), says(promise));
                if last.get(&voter).is_none_or(|(before, _)| *before <= sent) {
                    last.insert(voter, (sent, promise));
                }
                let now = last.values().map(|(sent, _)| *sent).max().unwrap_or(0) + draw(300);
                if let Some(left) = left(&acks, &membership, now) {
                    let end = now + u64::try_from(left.as_millis()).unwrap();
                    let bound = last.values().filter(|(sent, promise)| sent + promise > end).count() as u64;
                    assert!(1 + bound > voters / 2, "{bound} of {voters} are bound until {end}: {last:?}");
                }
            }
        }
    }
}
