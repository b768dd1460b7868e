//! Has this node's own replica apply what was found chosen.
//!
//! openraft is handed what the leader itself could have sent: an append without entries, under the leader's own committed
//! vote, whose commit index is the chosen entry. It is never handed to the replica of the leader that it names (rule O6):
//! a leader that was restarted, and has forgotten that it led, would be talked back into leading a term whose tail it lost.

use super::acceptor::Acceptor;
use super::outcomes::{Awaited, Outcomes};
use super::quorum::Reports;
use crate::codec;
use crate::raft_types::{Raft, RaftLogId, RaftVote};
use meridian_probe::{Event, emit};
use meridian_proto::v1::RequestId;
use meridian_types::{LogId, NodeId, ShardId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// What one replica knows of its group's acceptances, and who waits for what follows from them.
#[derive(Debug)]
pub(crate) struct EarlyCommit {
    me: NodeId,
    shard: ShardId,
    acceptor: Arc<Acceptor>,
    reports: Mutex<Reports>,
    reported: Notify,
    outcomes: Arc<Outcomes>,
}

impl EarlyCommit {
    pub(crate) fn new(me: NodeId, shard: ShardId, acceptor: Arc<Acceptor>, outcomes: Arc<Outcomes>) -> Self {
        Self { me, shard, acceptor, reports: Mutex::default(), reported: Notify::new(), outcomes }
    }

    /// Another node has accepted up to `id`.
    pub(crate) fn observe(&self, from: NodeId, id: LogId) {
        let new = self.reports.lock().unwrap_or_else(PoisonError::into_inner).take(from, id);
        if new && self.outcomes.is_waited_for() {
            self.reported.notify_one();
        }
    }

    /// Waits for a request of this node's gateway.
    pub(crate) fn wait_for(&self, id: &RequestId) -> Awaited {
        self.outcomes.wait_for(id)
    }

    /// The last entry that is known to be chosen.
    fn chosen(&self) -> Option<RaftLogId> {
        let (own, since, membership) = self.acceptor.accepted()?;
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).chosen(self.me, own, since, &membership)
    }

    /// Has what is chosen applied, while anybody waits for it, until the group stops. `renew` is told before: to openraft it
    /// is a message of the leader, to which it promises anew.
    pub(crate) async fn run(&self, raft: &Raft, renew: impl Fn()) {
        let mut accepted = self.acceptor.watch();
        let mut told = None;
        loop {
            tokio::select! {
                () = self.reported.notified() => {}
                changed = accepted.changed() => if changed.is_err() { return },
            }
            if !self.outcomes.is_waited_for() {
                continue;
            }
            let Some(id) = self.chosen().filter(|id| Some(*id) > told && self.is_news(raft, *id)) else { continue };
            told = Some(id);
            emit(|| Event::Committed { shard: self.shard, id: codec::log_id_of(&id) });
            let learn = learn_committed(id);
            renew();
            let raft = raft.clone();
            // The answer comes when everything before it is synced; nobody needs it.
            tokio::spawn(async move {
                if let Err(e) = raft.append_entries(learn).await {
                    tracing::debug!("an early commit was not taken in: {e}");
                }
            });
        }
    }

    /// Whether the replica may be told of it, and does not know it yet.
    fn is_news(&self, raft: &Raft, id: RaftLogId) -> bool {
        is_of_another(self.me, id) && raft.data_metrics().borrow_watched().local_committed < Some(id)
    }
}

/// Rule O6: whether the entry's leader is another node than this one.
fn is_of_another(me: NodeId, id: RaftLogId) -> bool {
    id.leader_id.node_id != me.0
}

/// What a leader sends when nothing but its commit index is new.
fn learn_committed(id: RaftLogId) -> AppendEntriesRequest<crate::raft_types::Raftish> {
    let vote = RaftVote { leader_id: id.leader_id, committed: true };
    AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: Some(id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::raft_types::RaftLeaderId;
    use crate::service::append_from_pb;
    use meridian_proto::internal::v1 as pb;

    fn id(term: u64, node_id: u64, index: u64) -> RaftLogId {
        RaftLogId { leader_id: RaftLeaderId { term, node_id }, index }
    }

    #[test]
    fn a_leader_is_never_told_of_its_own_commit() {
        assert!(is_of_another(NodeId(2), id(3, 1, 9)));
        assert!(!is_of_another(NodeId(1), id(3, 1, 9)), "whether it still leads or not");
        // Nor by another node: the peer port refuses it.
        let learn = learn_committed(id(3, 1, 9));
        let message = pb::AppendRequest {
            vote: Some(codec::vote_to_pb(&learn.vote)),
            leader_commit: learn.leader_commit.as_ref().map(codec::log_id_to_pb),
            ..pb::AppendRequest::default()
        };
        assert!(append_from_pb(message.clone(), 1).is_err());
        let taken = append_from_pb(message, 2).unwrap();
        assert_eq!((taken.leader_commit, taken.prev_log_id, taken.entries.len()), (Some(id(3, 1, 9)), None, 0));
    }
}
