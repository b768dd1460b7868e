//! The replica as a voter: votes that it is asked for, votes that it gives before that, who leads therefore, and waiting to
//! be elected.

use super::{Replica, stopped};
use crate::ballots::Ballot;
use crate::codec;
use crate::error::ConsensusError;
use crate::peers::Class;
use crate::raft_types::{RaftLeaderId, RaftLogId, RaftVote, Raftish};
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::raft_client::RaftClient;
use meridian_storage::DiskLevel;
use meridian_types::NodeId;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::{VoteRequest, VoteResponse};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Why a voter says nothing at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoVote {
    /// It may have promised a lease before it was restarted, or its Raft rebuilt (rule R3).
    #[error("this voter waits out the lease that it may have promised")]
    Holding,
    /// A vote is a write too.
    #[error(transparent)]
    DiskFull(#[from] meridian_storage::DiskFull),
    #[error(transparent)]
    Stopped(#[from] ConsensusError),
}

/// The candidacy of `to` that follows at once after this leader: a leader id is (term, node), and who is called stands for
/// election in the next term.
fn succession(from: &RaftLeaderId, to: NodeId) -> RaftLeaderId {
    RaftLeaderId { term: from.term.saturating_add(1), node_id: to.0 }
}

fn presumed(metrics: &RaftServerMetrics<Raftish>) -> Option<NodeId> {
    let vote = &metrics.vote;
    // The term before the first has no votes.
    let voted = (!vote.committed && vote.leader_id.term > 0).then_some(vote.leader_id.node_id);
    metrics.current_leader.or(voted).map(NodeId)
}

impl Replica {
    /// The leader as this replica knows it.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft().server_metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Who leads as far as this replica knows, or whom it has voted for since: who asks that one early waits there
    /// ([`await_leadership`](Self::await_leadership)).
    pub fn presumed_leader(&self) -> Option<NodeId> {
        presumed(&self.raft().server_metrics().borrow_watched())
    }

    /// Waits until somebody else is presumed to lead than now, or whoever is presumed to is known to.
    pub async fn wait_new_leader(&self) {
        let mut running = self.running.subscribe();
        let before = self.raft().server_metrics().borrow_watched().vote;
        loop {
            let raft = running.borrow_and_update().raft.clone();
            let mut metrics = raft.server_metrics();
            loop {
                {
                    let metrics = metrics.borrow_watched();
                    if presumed(&metrics).is_some() && metrics.vote != before {
                        return;
                    }
                }
                if metrics.changed().await.is_err() {
                    break;
                }
            }
            // This one has stopped: there will be none before another one runs. The sender lives in this replica.
            if running.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Answers a request for its vote, or for what it would vote.
    pub(crate) async fn answer_vote(
        &self,
        request: VoteRequest<Raftish>,
        pre_vote: bool,
    ) -> Result<VoteResponse<Raftish>, NoVote> {
        // In this order: the next Raft, if there is one, is asked after the hold has begun.
        let raft = self.raft();
        if !self.may_vote() {
            return Err(NoVote::Holding);
        }
        self.disk().check(DiskLevel::Full)?;
        let answer = if pre_vote { raft.pre_vote(request).await } else { raft.vote(request).await };
        Ok(answer.map_err(stopped)?)
    }

    /// Votes for the successor that the leader `from` has chosen, and whose log will reach to `last` at least, before it
    /// asks. `None`: it would not have the vote if it did. Durable on return.
    pub(crate) async fn vote_ahead(
        &self,
        from: &RaftLeaderId,
        to: NodeId,
        last: Option<RaftLogId>,
    ) -> Result<Option<Ballot>, NoVote> {
        let vote = RaftVote { leader_id: succession(from, to), committed: false };
        let mut request = VoteRequest::new(vote, last);
        request.leadership_transfer = true;
        let answer = self.answer_vote(request, false).await?;
        let given = answer.vote_granted && answer.vote.leader_id == vote.leader_id;
        Ok(given.then_some(Ballot { leader: vote.leader_id, last: answer.last_log_id }))
    }

    /// A leader calls `to` to take over: votes for it, and tells it so. Nothing is lost if that fails: it asks too.
    pub(crate) async fn support(self: Arc<Self>, from: RaftLeaderId, to: NodeId, last: Option<RaftLogId>) {
        match self.vote_ahead(&from, to, last).await {
            Ok(Some(ballot)) => {
                let target = self.target(to);
                let request = pb::VotedRequest { target: Some(target), vote: Some(codec::ballot_to_pb(&ballot)) };
                let Ok(channel) = self.peers.channel(to, Class::Control) else { return };
                if let Err(e) = RaftClient::new(channel).voted(request).await {
                    tracing::debug!(shard = %self.shard, %to, "a vote that was given could not be told: {e}");
                }
            }
            Ok(None) => {}
            Err(e) => tracing::debug!(shard = %self.shard, %to, "no vote for a successor: {e}"),
        }
    }

    /// Another voter has given its vote to this replica.
    pub(crate) fn voted(&self, voter: NodeId, ballot: Ballot) {
        // Nodes knew how to unpack before they knew ballots.
        self.builder.memory.packer.learn(voter, true);
        self.running().ballots.cast(voter, ballot);
    }

    /// It is being called to lead: for a turn, or until it leads, it is about to.
    pub(crate) fn call(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        let this = self.clone();
        tokio::spawn(async move {
            this.wait_elected().await;
            this.called.store(false, Ordering::Release);
        });
    }

    async fn wait_elected(&self) {
        let mut leadership = self.leadership.subscribe();
        let elected = leadership.wait_for(Option::is_some);
        // Longer than a request for votes takes. In vain as well as elected: the caller looks for himself.
        let _ = tokio::time::timeout(self.timing().turn(), elected).await;
    }

    /// Waits while this replica does not lead but is about to, as far as is known: it stands for election, was called to
    /// lead, or is asked by the very node that leads (`from`), which knows better. Requests come here on the way to a new
    /// leader while it is being elected; sent away, they would look for it round trip after round trip.
    pub async fn await_leadership(&self, from: NodeId) {
        if self.is_leader() {
            return;
        }
        let metrics = self.raft().server_metrics();
        let (state, leader) = {
            let metrics = metrics.borrow_watched();
            (metrics.state, metrics.current_leader)
        };
        let standing = matches!(state, ServerState::Candidate | ServerState::Leader);
        let handed = from != self.node() && leader == Some(from.0);
        if standing || handed || self.called.load(Ordering::Acquire) {
            self.wait_elected().await;
        }
    }

    pub(super) fn target(&self, to: NodeId) -> pb::Target {
        pb::Target { cluster_id: self.builder.cluster.to_string(), from: self.node().0, to: to.0, shard: self.shard.0 }
    }
}
