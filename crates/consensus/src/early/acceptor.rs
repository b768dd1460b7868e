//! What one replica's log has accepted: how far, and under which leader (rule O1).
//!
//! A log id `(l, i)` is accepted once the entry is durable here, if the vote saved last was `l` when it was appended.
//! openraft saves votes and appends entries one after the other, in one ordered log, so that is known when an entry is
//! appended. Entries that a later leader sends again have another leader's id and are not accepted in this sense.

use super::acceptances::Acceptances;
use crate::codec;
use crate::raft_types::{RaftEntry, RaftLeaderId, RaftLogId, RaftMembership, RaftPayload, RaftStoredMembership};
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::{NodeId, ShardId};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Memberships remembered: a tail that is cut off takes the newest with it.
const MEMBERSHIPS_KEPT: usize = 4;

/// An append whose sync is pending.
#[derive(Debug, Default)]
struct Pending {
    /// Its last entry, if that is the leader's own.
    last: Option<RaftLogId>,
    /// Who wants to know.
    origins: BTreeSet<NodeId>,
}

#[derive(Debug, Default)]
struct Inner {
    vote: Option<RaftLeaderId>,
    pending: VecDeque<Pending>,
    accepted: Option<RaftLogId>,
    /// Newest last, with the index from which they are in force. Without any, nothing is known.
    memberships: VecDeque<(u64, Arc<RaftMembership>)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Acceptor {
    shard: ShardId,
    tell: Acceptances,
    inner: Mutex<Inner>,
    /// Changes when this replica has accepted more.
    changed: watch::Sender<Option<RaftLogId>>,
}

impl Acceptor {
    /// For a log whose last saved vote was for `vote`.
    pub(crate) fn new(shard: ShardId, vote: Option<RaftLeaderId>, tell: Acceptances) -> Arc<Self> {
        let inner = Mutex::new(Inner { vote, ..Inner::default() });
        Arc::new(Self { shard, tell, inner, changed: watch::Sender::new(None) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom the vote saved last is for.
    pub(crate) fn vote(&self) -> Option<RaftLeaderId> {
        self.lock().vote
    }

    /// A vote is being saved; appends come after it.
    pub(crate) fn voted(&self, leader: RaftLeaderId) {
        self.lock().vote = Some(leader);
    }

    /// Entries are being appended; there is at least one.
    pub(crate) fn appended(&self, entries: &[RaftEntry]) {
        let mut inner = self.lock();
        let vote = inner.vote;
        let own = |e: &&RaftEntry| Some(e.log_id.leader_id) == vote || sabotaged(Sabotage::AcceptResent);
        let mut pending = Pending::default();
        for entry in entries.iter().filter(own) {
            pending.last = Some(entry.log_id);
            if let RaftPayload::Normal(command) = &entry.payload {
                pending.origins.extend(command.message().origins.iter().copied().map(NodeId));
            }
        }
        if let (true, Some(last), Some(leader_id)) = (sabotaged(Sabotage::AcceptResent), &mut pending.last, vote) {
            last.leader_id = leader_id;
        }
        for entry in entries {
            if let RaftPayload::Membership(m) = &entry.payload {
                inner.learn(entry.log_id.index, m.clone());
            }
        }
        if sabotaged(Sabotage::AcceptUnsynced) {
            self.accept(&mut inner, std::mem::take(&mut pending));
        }
        inner.pending.push_back(pending);
    }

    /// The oldest append that was pending is durable.
    pub(crate) fn synced(&self) {
        let mut inner = self.lock();
        if let Some(done) = inner.pending.pop_front() {
            self.accept(&mut inner, done);
        }
    }

    fn accept(&self, inner: &mut Inner, done: Pending) {
        let Some(last) = done.last.filter(|last| Some(*last) > inner.accepted) else { return };
        inner.accepted = Some(last);
        for origin in done.origins {
            self.tell.tell(origin, self.shard, codec::log_id_of(&last));
        }
        self.changed.send_replace(Some(last));
    }

    /// The log is being cut off from `from` on.
    pub(crate) fn truncated(&self, from: u64) {
        let mut inner = self.lock();
        let gone = |id: &Option<RaftLogId>| id.is_some_and(|id| id.index >= from);
        for pending in inner.pending.iter_mut().filter(|p| gone(&p.last)) {
            *pending = Pending::default();
        }
        if gone(&inner.accepted) {
            inner.accepted = None;
        }
        inner.memberships.retain(|(index, _)| *index < from);
    }

    /// A membership is in force in this log from its entry on, by a snapshot or by what the store has.
    pub(crate) fn learn_membership(&self, stored: &RaftStoredMembership) {
        let index = stored.log_id().as_ref().map_or(0, |id| id.index);
        self.lock().learn(index, stored.membership().clone());
    }

    /// The last log id that is accepted, with the membership in force there if that is the newest of this log.
    pub(crate) fn accepted(&self) -> Option<(RaftLogId, u64, Arc<RaftMembership>)> {
        let inner = self.lock();
        let (since, membership) = inner.memberships.back()?;
        Some((inner.accepted?, *since, membership.clone()))
    }

    /// Follows what is accepted.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<RaftLogId>> {
        self.changed.subscribe()
    }
}

impl Inner {
    fn learn(&mut self, index: u64, membership: RaftMembership) {
        let known = self.memberships.back().is_some_and(|(newest, _)| *newest >= index);
        // Without voters: of a group that is not formed yet.
        if known || membership.voter_ids().next().is_none() {
            return;
        }
        self.memberships.push_back((index, Arc::new(membership)));
        if self.memberships.len() > MEMBERSHIPS_KEPT {
            self.memberships.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{Command, Member};
    use meridian_proto::internal::v1 as pb;
    use std::collections::BTreeMap;

    fn leader(term: u64, node_id: u64) -> RaftLeaderId {
        RaftLeaderId { term, node_id }
    }

    fn id(term: u64, node: u64, index: u64) -> RaftLogId {
        RaftLogId { leader_id: leader(term, node), index }
    }

    fn entry(log_id: RaftLogId, origins: &[u64]) -> RaftEntry {
        let command = pb::Command { ts: log_id.index, origins: origins.to_vec(), ..Default::default() };
        RaftEntry { log_id, payload: RaftPayload::Normal(Command::new(command)) }
    }

    fn membership(index: u64) -> RaftEntry {
        let nodes = BTreeMap::from([(1, Member::default())]);
        let m = RaftMembership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        RaftEntry { log_id: id(1, 1, index), payload: RaftPayload::Membership(m) }
    }

    fn acceptor(vote: RaftLeaderId) -> (Arc<Acceptor>, Acceptances) {
        let tell = Acceptances::new(NodeId(9));
        let acceptor = Acceptor::new(ShardId(7), Some(vote), tell.clone());
        acceptor.appended(&[membership(0)]);
        acceptor.synced();
        (acceptor, tell)
    }

    fn accepted(a: &Acceptor) -> Option<RaftLogId> {
        a.accepted().map(|(id, ..)| id)
    }

    #[test]
    fn nothing_is_accepted_before_it_is_synced() {
        let (a, tell) = acceptor(leader(1, 1));
        a.appended(&[entry(id(1, 1, 1), &[3])]);
        assert_eq!((accepted(&a), tell.waiting(NodeId(3))), (Some(id(1, 1, 0)), vec![]));
        a.synced();
        assert_eq!(accepted(&a), Some(id(1, 1, 1)));
        assert_eq!(tell.waiting(NodeId(3)), [(ShardId(7), codec::log_id_of(&id(1, 1, 1)))]);
    }

    #[test]
    fn entries_that_a_later_leader_sends_again_are_not_accepted() {
        let (a, tell) = acceptor(leader(1, 1));
        a.voted(leader(2, 2));
        a.appended(&[entry(id(1, 1, 1), &[3])]);
        a.synced();
        assert_eq!((accepted(&a), tell.waiting(NodeId(3))), (Some(id(1, 1, 0)), vec![]));
        a.appended(&[entry(id(1, 1, 2), &[3]), entry(id(2, 2, 3), &[4])]);
        a.synced();
        assert_eq!(accepted(&a), Some(id(2, 2, 3)), "the later leader's own entry is");
        assert_eq!(tell.waiting(NodeId(3)), [], "and only its origins are told");
        assert_eq!(tell.waiting(NodeId(4)).len(), 1);
    }

    #[test]
    fn two_leaders_of_one_term_are_two_leaders() {
        let (a, tell) = acceptor(leader(1, 1));
        a.voted(leader(1, 2));
        a.appended(&[entry(id(1, 1, 1), &[3])]);
        a.synced();
        assert_eq!((accepted(&a), tell.waiting(NodeId(3))), (Some(id(1, 1, 0)), vec![]));
    }

    #[test]
    fn a_vote_given_after_the_append_does_not_take_the_acceptance_back() {
        let (a, _) = acceptor(leader(1, 1));
        a.appended(&[entry(id(1, 1, 1), &[])]);
        a.voted(leader(2, 2));
        a.synced();
        assert_eq!(accepted(&a), Some(id(1, 1, 1)));
    }

    #[test]
    fn what_is_cut_off_before_its_sync_is_not_accepted_by_a_late_sync() {
        let (a, tell) = acceptor(leader(1, 1));
        a.appended(&[entry(id(1, 1, 1), &[3])]);
        a.appended(&[entry(id(1, 1, 2), &[3])]);
        a.truncated(2);
        a.voted(leader(2, 2));
        a.appended(&[entry(id(2, 2, 2), &[4])]);
        a.synced();
        a.synced();
        assert_eq!(accepted(&a), Some(id(1, 1, 1)), "the second sync was of what is gone");
        assert_eq!((tell.waiting(NodeId(3)).len(), tell.waiting(NodeId(4)).len()), (1, 0));
        a.synced();
        assert_eq!(accepted(&a), Some(id(2, 2, 2)));
        a.truncated(1);
        assert_eq!(accepted(&a), None);
    }

    #[test]
    fn without_a_membership_nothing_is_known() {
        let (a, _) = acceptor(leader(1, 1));
        a.truncated(0);
        a.appended(&[entry(id(1, 1, 0), &[])]);
        a.synced();
        assert!(a.accepted().is_none());
        a.appended(&[membership(1)]);
        a.synced();
        assert_eq!(a.accepted().map(|(id, since, _)| (id.index, since)), Some((1, 1)));
    }
}
