//! The receiving side of heartbeats: each is handed to its replica's Raft, and answered when that has answered.

use crate::codec;
use crate::raft_types::{RaftLeaderId, RaftVote};
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::service::append_reply;
use futures::{Stream, StreamExt as _};
use meridian_proto::internal::v1 as pb;
use meridian_transport::{Answers, Begun, Done, Limits};
use meridian_types::ShardId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Status, Streaming};

/// An answer's size in a message, about.
const ANSWER_BYTES: usize = 16;
/// A node leads at most so many shards whose beats are under way at once.
const LIMITS: Limits =
    Limits { requests: 64 << 10, bytes: 4 << 20, message_answers: 16 << 10, message_bytes: 256 << 10 };

/// The answers to one stream of heartbeats.
pub(crate) fn answers(
    replicas: &Replicas,
    batches: Streaming<pb::BeatBatch>,
) -> impl Stream<Item = Result<pb::BeatReplies, Status>> + Send + use<> {
    let (checked, replicas) = (replicas.clone(), replicas.clone());
    let mut is_meant = false;
    let batches = batches.map(move |batch| {
        let batch = batch?;
        if batch.target.is_some() || !is_meant {
            checked.check_node(batch.target.as_ref())?;
            is_meant = true;
        }
        Ok(batch)
    });
    let mut said: BTreeMap<u64, Said> = BTreeMap::new();
    let begin = move |batch: pb::BeatBatch| {
        let work = batch.beats.into_iter().map(|beat| {
            let said = said.entry(beat.shard).or_default();
            said.leader = beat.leader.or(said.leader);
            said.committed = beat.committed.or(said.committed);
            let Said { leader, committed } = *said;
            let replica = replicas.get(ShardId(beat.shard));
            let answer = async move {
                let reply = match (replica, leader) {
                    (Some(replica), Some(leader)) => take(&replica, leader, committed).await,
                    (None, _) | (_, None) => None,
                };
                Done { number: beat.number, bytes: ANSWER_BYTES, answer: pb::BeatReply { number: beat.number, reply } }
            };
            (beat.number, ANSWER_BYTES, answer)
        });
        Begun { work: work.collect(), dropped: batch.dropped }
    };
    let encode = |replies| pb::BeatReplies { replies };
    // Part of the call: it ends with the connection.
    Answers::new(batches, LIMITS, begin, encode, Box::pin(std::future::pending()))
}

/// What was said last of a shard.
#[derive(Clone, Copy, Default)]
struct Said {
    leader: Option<pb::LeaderId>,
    committed: Option<pb::LogId>,
}

/// Hands one beat to the replica. `None`: it has no answer.
///
/// The leader tells of a commit once, on the log's stream. Where that message was lost, and nobody writes any more, the
/// replica learns of it here.
async fn take(replica: &Arc<Replica>, leader: pb::LeaderId, committed: Option<pb::LogId>) -> Option<pb::AppendReply> {
    if leader.node == replica.node().0 {
        // Rule O6: no node is talked back into a leadership of its own.
        return None;
    }
    let leader_id = RaftLeaderId { term: leader.term, node_id: leader.node };
    let vote = RaftVote { leader_id, committed: true };
    replica.hear_under(&vote);
    use pb::append_reply::{Matched, Result as Reply};
    let running = replica.running();
    let committed = codec::opt_log_id_from_pb(committed).ok()?;
    let news = committed.filter(|id| running.raft.data_metrics().borrow_watched().local_committed < Some(*id));
    let beat = AppendEntriesRequest { vote, prev_log_id: news, leader_commit: news, entries: Vec::new() };
    let result = match running.raft.append_entries(beat).await.ok()? {
        // It lacks what is committed: the log's stream sees to that.
        AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) | AppendEntriesResponse::Conflict => {
            Reply::Matched(Matched { log_id: None })
        }
        AppendEntriesResponse::HigherVote(vote) => Reply::HigherVote(codec::vote_to_pb(&vote)),
    };
    Some(append_reply(replica, &running, result))
}
