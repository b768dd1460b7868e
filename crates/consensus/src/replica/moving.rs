//! Who may lead a group, and changing who its members are.

use super::{Replica, TRANSFER_LAG_MAX, stopped};
use crate::error::ConsensusError;
use crate::raft_types::Member;
use meridian_clock::Mono;
use meridian_types::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Replica {
    /// Whether `to` is a voter that lacks at most a few entries.
    pub fn is_caught_up(&self, to: NodeId) -> bool {
        let metrics = self.raft().data_metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log.as_ref().map_or(0, |id| id.index);
        let matched = metrics.replication.as_ref().and_then(|r| r.get(&to.0)?.as_ref().map(|id| id.index));
        self.voters().contains(&to) && matched.is_some_and(|m| m + TRANSFER_LAG_MAX >= last)
    }

    /// Whether `to` is a voter that lacks at most a few entries, has answered lately, and may stand for election.
    pub fn is_fit_to_lead(&self, to: NodeId) -> bool {
        let may_stand = self.leadership().is_some_and(|l| !l.word(to).holding);
        may_stand && self.has_answered_within(to, self.timing().promise() * 3 / 4) && self.is_caught_up(to)
    }

    /// At the leader: whether this member has answered it lately.
    pub fn answers(&self, node: NodeId) -> bool {
        self.has_answered_within(node, self.timing().promise())
    }

    fn has_answered_within(&self, node: NodeId, lately: Duration) -> bool {
        self.acks.last_credit(node).is_some_and(|at| Mono::now().since(at.mono) < lately)
    }

    /// A voter other than this node that is fit to lead, and `wanted`.
    pub fn other_fit_voter(&self, wanted: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        self.voters().into_iter().find(|v| *v != self.node() && wanted(*v) && self.is_fit_to_lead(*v))
    }

    /// At the leader: adds those of `learners` that the group does not have yet. Returns how many were added.
    pub async fn add_learners(&self, learners: &BTreeMap<NodeId, Member>) -> Result<usize, ConsensusError> {
        let known = self.members();
        let mut added = 0;
        for (id, member) in learners.iter().filter(|(id, _)| !known.contains_key(id)) {
            self.raft().add_learner(id.0, member.clone(), false).await.map_err(stopped)?;
            added += 1;
        }
        Ok(added)
    }

    /// At the leader: makes these the group's voters; who no longer is one becomes a learner. Every new voter must be
    /// a learner already. Two commits: of the joint membership, then of the new one.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ConsensusError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|v| v.0).collect();
        self.raft().change_membership(voters, true).await.map(|_| ()).map_err(stopped)
    }
}
