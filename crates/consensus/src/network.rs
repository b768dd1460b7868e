//! The sending side of Raft traffic: openraft's network on tonic.
//!
//! * Appends are one long-lived stream per group and follower; a write never waits for another's round trip.
//! * Every request's send instant is remembered until *that* request is answered, then credited to the follower
//!   (rule R1). This is what leases and closed timestamps rest on.
//! * A stream whose oldest request stays unanswered too long is given up: heartbeats have a connection of their
//!   own and would hide a black-holed log stream for ever.
//! * Heartbeats are Meridian's own: openraft's are answered with what the follower has answered to those (see
//!   `heartbeats`). Only a node that does not know them gets openraft's.
//! * Between regions, entries are packed for a follower that can unpack them.
//! * What a new leader asks of a follower's log, and knows already from its vote, is not sent (see `granted.rs`). While the
//!   vote is asked for it sends nothing: the answer comes sooner than that to a first guess would.
//! * A vote that was given before it was asked for is not asked for (see `ballots.rs`).

use crate::ballots::Ballots;
use crate::codec;
use crate::early::acceptor::Acceptor;
use crate::granted::Granted;
use crate::heartbeats::Heartbeats;
use crate::heartbeats::pulse::{Pulse, credit};
use crate::lease::{Moment, QuorumAcks, Word};
use crate::packing::Packer;
use crate::peers::{Class, MESSAGE_BYTES_MAX, NoPeer, Peers};
use crate::raft_types::{Member, RaftVote, Raftish};
use crate::snapshot::sender::{CHUNKS_AHEAD, Offer, SendError};
use crate::snapshot::{SnapshotBundle, Transfers};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use meridian_clock::{Clock, Mono};
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::raft_client::RaftClient;
use meridian_transport::Channel;
use meridian_types::{LeaderId, NodeId, ShardId};
use openraft::OptionalSend;
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RPCTypes,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::type_config::alias::VoteOf;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

/// A stream whose oldest request is unanswered for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// What all connections of one group share.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) cluster: Arc<str>,
    pub(crate) shard: ShardId,
    pub(crate) peers: Peers,
    pub(crate) clock: Clock,
    pub(crate) acks: Arc<QuorumAcks>,
    pub(crate) transfers: Transfers,
    /// Packs entries for other regions.
    pub(crate) packer: Packer,
    /// This node's heartbeats, and what this replica's followers have answered to them.
    pub(crate) heartbeats: Heartbeats,
    pub(crate) pulse: Arc<Pulse>,
    /// What the voters held when they voted for this replica.
    pub(crate) granted: Granted,
    /// Votes that this replica has been given without asking.
    pub(crate) ballots: Ballots,
    /// Whom this replica has voted for.
    pub(crate) acceptor: Arc<Acceptor>,
}

/// One group's way to one peer, for one class of traffic.
pub(crate) struct PeerLink {
    network: Network,
    to: NodeId,
    class: Class,
}

impl RaftNetworkFactory<Raftish> for Network {
    type Network = PeerLink;

    async fn new_client(&mut self, target: u64, _: &Member) -> PeerLink {
        self.link(target, Class::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &Member) -> PeerLink {
        self.link(target, Class::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, _: &Member) -> PeerLink {
        self.link(target, Class::Bulk)
    }
}

impl Network {
    fn link(&self, target: u64, class: Class) -> PeerLink {
        PeerLink { network: self.clone(), to: NodeId(target), class }
    }
}

fn unreachable(e: &NoPeer) -> RPCError<Raftish> {
    RPCError::Unreachable(Unreachable::new(e))
}

fn network_error(status: &tonic::Status) -> RPCError<Raftish> {
    match status.code() {
        tonic::Code::Unavailable => RPCError::Unreachable(Unreachable::from_string(status)),
        _ => RPCError::Network(NetworkError::from_string(status)),
    }
}

fn bounded(client: RaftClient<Channel>) -> RaftClient<Channel> {
    client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn malformed(e: &codec::Malformed) -> RPCError<Raftish> {
    RPCError::Network(NetworkError::new(e))
}

impl PeerLink {
    fn target(&self) -> pb::Target {
        let n = &self.network;
        pb::Target { cluster_id: n.cluster.to_string(), from: n.peers.me().0, to: self.to.0, shard: n.shard.0 }
    }

    fn client(&self, class: Class) -> Result<RaftClient<Channel>, RPCError<Raftish>> {
        let channel = self.network.peers.channel(self.to, class).map_err(|e| unreachable(&e))?;
        Ok(bounded(RaftClient::new(channel)))
    }

    fn stalled(&self) -> RPCError<Raftish> {
        RPCError::Timeout(Timeout {
            action: RPCTypes::AppendEntries,
            id: self.network.peers.me().0,
            target: self.to.0,
            timeout: STALL_LIMIT,
        })
    }

    /// For the log of a follower in another region, if it is known where both nodes are. Heartbeats have nothing to pack.
    fn packer(&self) -> Option<Packer> {
        if self.class != Class::Log {
            return None;
        }
        let peers = &self.network.peers;
        let (here, there) = (peers.region(peers.me())?, peers.region(self.to)?);
        (here != there).then(|| self.network.packer.clone())
    }

    async fn ask_vote(
        &self,
        rpc: &VoteRequest<Raftish>,
        pre_vote: bool,
    ) -> Result<VoteResponse<Raftish>, RPCError<Raftish>> {
        let request = pb::VoteRequest {
            target: Some(self.target()),
            vote: Some(codec::vote_to_pb(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(codec::log_id_to_pb),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        };
        let reply = self.client(Class::Control)?.vote(request).await.map_err(|e| network_error(&e))?.into_inner();
        Ok(VoteResponse {
            vote: codec::vote_from_pb(reply.vote).map_err(|e| malformed(&e))?,
            vote_granted: reply.granted,
            last_log_id: codec::opt_log_id_from_pb(reply.last_log_id).map_err(|e| malformed(&e))?,
        })
    }
}

impl NetBackoff<Raftish> for PeerLink {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetVote<Raftish> for PeerLink {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Raftish>,
        _: RPCOption,
    ) -> Result<VoteResponse<Raftish>, RPCError<Raftish>> {
        let asked = self.network.granted.ask(self.to, rpc.vote.leader_id);
        let response = tokio::select! {
            biased;
            given = self.network.ballots.answer(self.to, &rpc) => given,
            answer = self.ask_vote(&rpc, false) => answer?,
        };
        self.network.granted.record(self.to, &rpc, &response);
        drop(asked);
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Raftish>,
        _: RPCOption,
    ) -> Result<VoteResponse<Raftish>, RPCError<Raftish>> {
        self.ask_vote(&rpc, true).await
    }
}

impl NetTransferLeader<Raftish> for PeerLink {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Raftish>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Raftish>, RPCError<Raftish>> {
        let request = pb::TransferLeaderRequest {
            target: Some(self.target()),
            from_leader: Some(codec::vote_to_pb(req.from_leader())),
            to_node: *req.to_node_id(),
            last_log_id: req.last_log_id().map(codec::log_id_to_pb),
            vote: None,
            tail: None,
        };
        let mut client = self.client(Class::Control)?;
        let reply = client.transfer_leader(request).await.map_err(|e| network_error(&e))?.into_inner();
        let Some(actual) = reply.vote_changed else { return Ok(Ok(())) };
        let actual = codec::vote_from_pb(Some(actual)).map_err(|e| malformed(&e))?;
        Ok(Err(TransferLeaderError::VoteChanged { expected: *req.from_leader(), actual }))
    }
}

/// A request that was sent and is not answered yet.
struct Sent {
    at: Moment,
    leader: LeaderId,
    prev: Option<pb::LogId>,
}

/// Requests in the order in which they were sent: answers come in the same order.
#[derive(Clone, Default)]
struct Unanswered(Arc<Mutex<Requests>>);

#[derive(Default)]
struct Requests {
    sent: VecDeque<Sent>,
    /// No more will be sent.
    ended: bool,
}

impl Unanswered {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, sent: Sent) {
        self.lock().sent.push_back(sent);
    }

    fn pop(&self) -> Option<Sent> {
        self.lock().sent.pop_front()
    }

    fn oldest(&self) -> Option<Mono> {
        self.lock().sent.front().map(|s| s.at.mono)
    }

    /// Whether everything that will ever be sent is answered. The peer need not end the stream then.
    fn is_complete(&self) -> bool {
        let requests = self.lock();
        requests.ended && requests.sent.is_empty()
    }
}

type AppendAnswer = Result<StreamAppendResult<Raftish>, RPCError<Raftish>>;

impl NetStreamAppend<Raftish> for PeerLink {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendAnswer>, RPCError<Raftish>>>
    where
        S: Stream<Item = AppendEntriesRequest<Raftish>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            if self.class == Class::Control && !self.network.heartbeats.is_older(self.to) {
                let answer = self.network.pulse.tell(self.to, codec::leader_of(&first.vote.leader_id)).await;
                return Ok(futures::stream::iter([Ok(answer)]).boxed());
            }
            self.network.granted.wait_answered(self.to, first.vote.leader_id).await;
            if let Some(answer) = self.network.granted.answer(self.to, &first) {
                return Ok(futures::stream::iter([Ok(answer)]).boxed());
            }
            // Once this node has voted for another leader, openraft must not be asked what comes next: what it would read
            // may be that one's log.
            let (leader, voted) = (first.vote.leader_id, self.network.acceptor.clone());
            let rest = futures::stream::poll_fn(move |cx| match voted.vote() {
                Some(vote) if vote != leader => Poll::Ready(None),
                Some(_) | None => input.poll_next_unpin(cx),
            });
            let input = futures::stream::iter([first]).chain(rest);
            let (granted, to) = (self.network.granted.clone(), self.to);
            let mut changed = false;
            let unanswered = Unanswered::default();
            let (sent, clock) = (unanswered.clone(), self.network.clock.clone());
            let mut target = Some(self.target());
            let packer = self.packer();
            let requests = input.map(move |request| {
                let mut message = append_to_pb(&request, target.take());
                if let Some(packer) = packer.as_ref().filter(|packer| packer.may_pack(to)) {
                    packer.pack(&mut message);
                }
                // Once is enough: all requests of a stream are of one leadership.
                if !changed && !request.entries.is_empty() {
                    granted.change(to, request.vote.leader_id);
                    changed = true;
                }
                let leader = codec::leader_of(&request.vote.leader_id);
                // Sampled before the request can reach the wire: an earlier instant claims less.
                sent.push(Sent { at: Moment::now(&clock), leader, prev: message.prev });
                message
            });
            let ended = unanswered.clone();
            let requests = requests.chain(futures::stream::poll_fn(move |_| {
                ended.lock().ended = true;
                Poll::Ready(None)
            }));
            let mut client = self.client(self.class)?;
            // The call itself only returns with the peer's first headers, so its wait is bounded too.
            let call = tokio::time::timeout(STALL_LIMIT, client.append(requests)).await;
            let replies = match call {
                Err(_) => return Err(self.stalled()),
                Ok(reply) => reply.map_err(|e| network_error(&e))?.into_inner(),
            };
            let link: &'s Self = self;
            let answers = futures::stream::unfold(Some((replies, unanswered)), move |state| async move {
                let (mut replies, unanswered) = state?;
                let answer = link.next_answer(&mut replies, &unanswered).await?;
                let go_on = matches!(answer, Ok(Ok(_))) && !unanswered.is_complete();
                if answer.is_err() {
                    link.network.packer.learn(link.to, false);
                }
                Some((answer, go_on.then_some((replies, unanswered))))
            });
            Ok(answers.boxed())
        })
    }
}

impl PeerLink {
    /// The next answer of an append stream, credited to the follower. `None`: the stream has ended.
    async fn next_answer(
        &self,
        replies: &mut tonic::Streaming<pb::AppendReply>,
        unanswered: &Unanswered,
    ) -> Option<AppendAnswer> {
        let reply = loop {
            match tokio::time::timeout(STALL_LIMIT, replies.message()).await {
                Ok(Ok(reply)) => break reply?,
                Ok(Err(status)) => return Some(Err(network_error(&status))),
                Err(_) if unanswered.is_complete() => return None,
                Err(_) => {
                    let stalled = unanswered.oldest().is_some_and(|at| Mono::now().since(at) > STALL_LIMIT);
                    if stalled {
                        return Some(Err(self.stalled()));
                    }
                }
            }
        };
        self.network.packer.learn(self.to, reply.unpacks);
        let Some(sent) = unanswered.pop() else {
            return Some(Err(RPCError::Network(NetworkError::from_string("an answer without a request"))));
        };
        let word = word_of(&reply);
        let answer = append_answer(reply, sent.prev);
        if let Ok(Ok(_) | Err(StreamAppendError::Conflict(_))) = &answer {
            credit(&self.network.acks, &self.network.clock, sent.leader, self.to, sent.at, word);
        }
        Some(answer)
    }
}

/// What a member says with its answer.
pub(crate) fn word_of(reply: &pb::AppendReply) -> Word {
    let promise = Some(reply.promise_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
    Word { promise, holding: reply.holding, takes_ballots: reply.takes_ballots }
}

pub(crate) fn append_to_pb(request: &AppendEntriesRequest<Raftish>, target: Option<pb::Target>) -> pb::AppendRequest {
    pb::AppendRequest {
        target,
        vote: Some(codec::vote_to_pb(&request.vote)),
        prev: request.prev_log_id.as_ref().map(codec::log_id_to_pb),
        entries: request.entries.iter().map(codec::entry_to_pb).collect(),
        leader_commit: request.leader_commit.as_ref().map(codec::log_id_to_pb),
        packed: Bytes::new(),
    }
}

pub(crate) fn append_answer(reply: pb::AppendReply, prev: Option<pb::LogId>) -> AppendAnswer {
    let malformed = |e: codec::Malformed| malformed(&e);
    match reply.result {
        Some(pb::append_reply::Result::Matched(m)) => Ok(Ok(codec::opt_log_id_from_pb(m.log_id).map_err(malformed)?)),
        Some(pb::append_reply::Result::Conflict(at)) => {
            // openraft wants the log id that was asked for; a follower that names none answers for `prev`.
            let at = if at.leader.is_some() { Some(at) } else { prev };
            let at = codec::opt_log_id_from_pb(at).map_err(malformed)?.ok_or(codec::Malformed("conflict"));
            Ok(Err(StreamAppendError::Conflict(at.map_err(malformed)?)))
        }
        Some(pb::append_reply::Result::HigherVote(vote)) => {
            Ok(Err(StreamAppendError::HigherVote(codec::vote_from_pb(Some(vote)).map_err(malformed)?)))
        }
        None => Err(malformed(codec::Malformed("append reply"))),
    }
}

impl NetSnapshot<Raftish> for PeerLink {
    type SnapshotData = SnapshotBundle;

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Raftish>,
        snapshot: SnapshotOf<Raftish, SnapshotBundle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Raftish>, StreamingError<Raftish>> {
        let send = self.send_snapshot(vote, snapshot);
        tokio::select! {
            biased;
            // Unreachable in any case: openraft tries again after a pause.
            reply = send => reply.map_err(|e| StreamingError::Unreachable(Unreachable::new(&e))),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}

impl PeerLink {
    async fn send_snapshot(
        &self,
        vote: RaftVote,
        snapshot: SnapshotOf<Raftish, SnapshotBundle>,
    ) -> Result<SnapshotResponse<Raftish>, SendError> {
        let n = &self.network;
        n.granted.change(self.to, vote.leader_id);
        let offer = Offer {
            target: self.target(),
            vote: codec::vote_to_pb(&vote),
            wanted: snapshot.meta.last_log_id,
            maker: snapshot.snapshot.maker,
            transfers: n.transfers.clone(),
        };
        let _slot = n.transfers.slot().await.ok_or(SendError::Stopped)?;
        let (requests, queue) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        // There is room for it.
        requests.send(offer.hello()).await.map_err(|_| SendError::HungUp)?;
        let channel = n.peers.channel(self.to, Class::Bulk)?;
        let mut client = bounded(RaftClient::new(channel));
        let replies = client.transfer_snapshot(tokio_stream::wrappers::ReceiverStream::new(queue)).await?;
        let answer = offer.transfer(requests, replies.into_inner()).await?;
        let vote = codec::vote_from_pb(Some(answer)).map_err(|_| SendError::OutOfOrder("a vote without a leader"))?;
        Ok(SnapshotResponse::new(vote))
    }
}
