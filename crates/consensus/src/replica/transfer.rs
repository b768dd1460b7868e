//! Handing a group's leadership over (rule R4), without the round trips of an election.
//!
//! The leader ends its lease, puts a barrier above every promise into its log, votes for its successor, and calls it with
//! everything that it may lack: the end of the log and that vote (see `ballots.rs`). From then on the old leader takes no
//! part: what it has in flight becomes the successor's, and is committed with the successor's first own entry.

use super::{Replica, TRANSFER_LAG_MAX, stopped};
use crate::ballots::Ballot;
use crate::codec;
use crate::error::{ConsensusError, NotLeader};
use crate::leadership::Leadership;
use crate::network::append_to_pb;
use crate::peers::{Class, MESSAGE_BYTES_MAX};
use crate::raft_types::{RaftVote, Raftish};
use futures::future::join_all;
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::raft_client::RaftClient;
use meridian_types::NodeId;
use openraft::RaftLogReader as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::RaftLogStorage as _;
use std::sync::Arc;

impl Replica {
    /// Moves the leadership to `to`: ends the lease, puts a barrier above every promise into the log, then transfers (R4).
    pub async fn transfer_leader(self: &Arc<Self>, to: NodeId) -> Result<(), ConsensusError> {
        let leadership = self.leadership().ok_or_else(|| self.not_leader())?;
        if to == self.node() {
            return Ok(());
        }
        if let Some(to) = leadership.successor() {
            return Err(NotLeader { hint: Some(to) }.into());
        }
        if !self.is_fit_to_lead(to) {
            return Err(ConsensusError::UnfitToLead { to });
        }
        let handover = leadership.pause(to);
        // Bounded: until then nobody is served.
        let barrier = tokio::time::timeout(self.timing().promise(), leadership.sync_barrier());
        barrier.await.map_err(|_| ConsensusError::NotProven)??;
        let tail = if leadership.word(to).takes_ballots { self.tail_of(to).await } else { None };
        handover.settle();
        // On its own: whoever asked for the transfer may be gone by now, and there is no way back.
        let this = self.clone();
        let handed = tokio::spawn(async move {
            let handed = match tail {
                Some(tail) => this.hand_to(&leadership, to, tail).await?,
                None => false,
            };
            if !handed {
                // It has to ask for its votes.
                this.raft().trigger().transfer_leader(to.0).await.map_err(stopped)?;
            }
            Ok::<_, ConsensusError>(())
        });
        handed.await.map_err(stopped)??;
        let limit = self.timing().promise() * 2;
        let raft = self.raft();
        let wait = raft.wait(Some(limit));
        let moved = wait.metrics(|m| m.current_leader.is_some_and(|l| l != m.id), "another leader");
        moved.await.map(|_| ()).map_err(stopped)
    }

    /// What `to` may lack of this log; `None`: that is much.
    async fn tail_of(&self, to: NodeId) -> Option<AppendEntriesRequest<Raftish>> {
        let prev = self.raft().data_metrics().borrow_watched().replication.as_ref()?.get(&to.0).copied()??;
        let vote = self.vote();
        let mut log = self.builder.log_store.clone();
        let last = log.get_log_state().await.ok()?.last_log_id?;
        if last.index > prev.index + TRANSFER_LAG_MAX {
            return None;
        }
        let entries = log.limited_get_log_entries(prev.index + 1, last.index + 1).await.ok()?;
        let end = entries.last().map_or(prev, |e| e.log_id);
        (end == last).then_some(AppendEntriesRequest { vote, prev_log_id: Some(prev), entries, leader_commit: None })
    }

    /// Votes for the successor and calls it, with this vote and the end of this log. False: nothing was done, as the log went
    /// on, or this node may not vote.
    async fn hand_to(
        &self,
        leadership: &Leadership,
        to: NodeId,
        tail: AppendEntriesRequest<Raftish>,
    ) -> Result<bool, ConsensusError> {
        let from = tail.vote;
        if codec::leader_of(&from.leader_id) != leadership.leader() {
            return Err(self.not_leader());
        }
        let last = tail.entries.last().map(|e| e.log_id).or(tail.prev_log_id);
        let Ok(Some(ballot)) = self.vote_ahead(&from.leader_id, to, last).await else { return Ok(false) };
        let calls = self.voters().into_iter().filter(|v| *v != self.node()).map(|voter| {
            let tail = (voter == to).then(|| append_to_pb(&tail, None));
            self.call_successor(voter, from, to, &ballot, tail)
        });
        // Whoever does not hear of it is asked by the successor.
        join_all(calls).await;
        Ok(true)
    }

    async fn call_successor(
        &self,
        voter: NodeId,
        from: RaftVote,
        to: NodeId,
        ballot: &Ballot,
        tail: Option<pb::AppendRequest>,
    ) {
        let request = pb::TransferLeaderRequest {
            target: Some(self.target(voter)),
            from_leader: Some(codec::vote_to_pb(&from)),
            to_node: to.0,
            last_log_id: ballot.last.as_ref().map(codec::log_id_to_pb),
            vote: Some(codec::ballot_to_pb(ballot)),
            tail,
        };
        let Ok(channel) = self.peers.channel(voter, Class::Control) else { return };
        let mut client = RaftClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let called = tokio::time::timeout(self.timing().turn(), client.transfer_leader(request)).await;
        let why = match called {
            Ok(Ok(reply)) => match reply.into_inner().vote_changed {
                None => return,
                Some(vote) => format!("its vote is {vote:?}"),
            },
            Ok(Err(status)) => status.to_string(),
            Err(_) => "it did not answer".to_owned(),
        };
        tracing::info!(shard = %self.shard, %voter, successor = %to, "a voter does not support the transfer: {why}");
    }
}
