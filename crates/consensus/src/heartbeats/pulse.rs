//! What the followers of one replica have answered to its heartbeats: credits for its lease, and what openraft is told.

use crate::lease::{Moment, QuorumAcks, Word};
use crate::network::{append_answer, word_of};
use crate::raft_types::{RaftVote, Raftish};
use meridian_clock::{Clock, Mono};
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_types::{LeaderId, NodeId, RaftTiming, ShardId};
use openraft::raft::{StreamAppendError, StreamAppendResult};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A follower's last answer.
struct Answer {
    /// To whom.
    leader: LeaderId,
    /// The vote that the follower has given instead.
    higher: Option<RaftVote>,
    /// When it came.
    at: Mono,
    /// When openraft was told last that this follower answers.
    told: Option<Mono>,
}

/// See the module's documentation.
pub(crate) struct Pulse {
    shard: ShardId,
    clock: Clock,
    acks: Arc<QuorumAcks>,
    /// How long an answer is news to openraft: it is to hear of each follower three times while it believes what it heard.
    lately: Duration,
    last: Mutex<BTreeMap<NodeId, Answer>>,
    /// Changes with every answer.
    news: watch::Sender<()>,
}

impl Pulse {
    /// No answers yet.
    pub(crate) fn new(shard: ShardId, clock: Clock, acks: Arc<QuorumAcks>, timing: &RaftTiming) -> Self {
        let lately = timing.promise() / 3;
        Self { shard, clock, acks, lately, last: Mutex::default(), news: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Answer>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard.
    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// `from` has answered the beat that `leader`, which is this replica, sent at `sent`. True: openraft should ask, as it
    /// has not heard of that follower lately.
    pub(crate) fn answered(&self, from: NodeId, leader: LeaderId, sent: Moment, reply: pb::AppendReply) -> bool {
        let word = word_of(&reply);
        let Ok(answer) = append_answer(reply, None) else { return false };
        let higher = match answer {
            Ok(_) => None,
            Err(StreamAppendError::HigherVote(vote)) => Some(vote),
            // There is no position in a beat that could conflict.
            Err(StreamAppendError::Conflict(_)) => return false,
        };
        if higher.is_none() {
            credit(&self.acks, &self.clock, leader, from, sent, word);
        }
        let at = Mono::now();
        let mut last = self.lock();
        let known = last.get(&from);
        // Under an earlier leadership it said nothing about this one.
        if known.is_some_and(|known| known.leader > leader) {
            return false;
        }
        let told = known.filter(|known| known.leader == leader).and_then(|known| known.told);
        last.insert(from, Answer { leader, higher, at, told });
        drop(last);
        self.news.send_replace(());
        told.is_none_or(|told| at.since(told) >= self.lately)
    }

    /// What `from` has answered to this replica as `leader`, lately or next, or that it has given another vote. Cancel-safe.
    pub(crate) async fn tell(&self, from: NodeId, leader: LeaderId) -> StreamAppendResult<Raftish> {
        let mut news = self.news.subscribe();
        loop {
            news.mark_unchanged();
            if let Some(answer) = self.lock().get_mut(&from).filter(|answer| answer.leader == leader) {
                if let Some(vote) = answer.higher {
                    return Err(StreamAppendError::HigherVote(vote));
                }
                let now = Mono::now();
                if now.since(answer.at) < self.lately {
                    answer.told = Some(now);
                    return Ok(None);
                }
            }
            if news.changed().await.is_err() {
                // The sender is this one's own.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The follower took the message under this leader's vote, so it had promised no higher one when the request was sent.
pub(crate) fn credit(acks: &QuorumAcks, clock: &Clock, leader: LeaderId, from: NodeId, sent: Moment, word: Word) {
    let late = sabotaged(Sabotage::CreditOnArrival);
    acks.credit(leader, from, if late { Moment::now(clock) } else { sent }, word);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::raft_types::RaftLeaderId;
    use futures::FutureExt as _;
    use meridian_clock::FixedSource;
    use meridian_types::Timestamp;
    use pb::append_reply::{Matched, Result as Reply};

    const L: LeaderId = LeaderId { term: 3, node: NodeId(1) };
    const FOLLOWER: NodeId = NodeId(2);

    /// Answers are news for a third of `promise_ms`.
    fn pulse(promise_ms: u64) -> Pulse {
        let clock = Clock::with_source(Arc::new(FixedSource::new(Duration::from_millis(1))));
        let timing = RaftTiming { heartbeat_ms: 1, election_min_ms: 2, election_max_ms: promise_ms };
        Pulse::new(ShardId(7), clock, Arc::new(QuorumAcks::new(NodeId(1), timing.promise())), &timing)
    }

    fn at(ms: u64) -> Moment {
        Moment { mono: Mono(ms * 1_000_000), earliest: Timestamp(ms * 1_000_000) }
    }

    fn reply(result: Reply) -> pb::AppendReply {
        pb::AppendReply { result: Some(result), unpacks: true, ..pb::AppendReply::default() }
    }

    fn taken() -> pb::AppendReply {
        reply(Reply::Matched(Matched { log_id: None }))
    }

    fn refused(term: u64) -> (RaftVote, pb::AppendReply) {
        let vote = RaftVote { leader_id: RaftLeaderId { term, node_id: 3 }, committed: false };
        (vote, reply(Reply::HigherVote(codec::vote_to_pb(&vote))))
    }

    #[test]
    fn answers_are_credited_with_their_own_send_instants_in_any_order() {
        let pulse = pulse(600);
        pulse.answered(FOLLOWER, L, at(200), taken());
        pulse.answered(FOLLOWER, L, at(100), taken());
        assert_eq!(pulse.acks.last_credit(FOLLOWER), Some(at(200)));
        pulse.answered(FOLLOWER, L, at(300), refused(4).1);
        assert_eq!(pulse.acks.last_credit(FOLLOWER), Some(at(200)), "that was no promise");
    }

    #[tokio::test]
    async fn openraft_asks_for_what_it_has_not_heard_and_is_told_at_once() {
        let pulse = pulse(3_600_000);
        let mut told = Box::pin(pulse.tell(FOLLOWER, L));
        assert_eq!((&mut told).now_or_never(), None, "nobody has answered");
        assert!(pulse.answered(NodeId(3), L, at(200), taken()));
        assert_eq!((&mut told).now_or_never(), None, "that was another follower");
        assert!(pulse.answered(FOLLOWER, L, at(200), taken()));
        assert_eq!(told.now_or_never(), Some(Ok(None)));
        assert!(!pulse.answered(FOLLOWER, L, at(300), taken()), "it was told just now");
        assert!(pulse.answered(NodeId(3), L, at(300), taken()), "of that one it was not");
    }

    #[tokio::test]
    async fn what_was_long_ago_is_waited_for_again() {
        let pulse = pulse(0);
        assert!(pulse.answered(FOLLOWER, L, at(100), taken()));
        assert_eq!(pulse.tell(FOLLOWER, L).now_or_never(), None);
    }

    #[tokio::test]
    async fn a_higher_vote_is_told_at_once_and_to_that_leadership_only() {
        let pulse = pulse(3_600_000);
        let (vote, refusal) = refused(5);
        assert!(pulse.answered(FOLLOWER, L, at(100), refusal));
        let told = pulse.tell(FOLLOWER, L).now_or_never();
        assert_eq!(told, Some(Err(StreamAppendError::HigherVote(vote))));
        let later = LeaderId { term: 6, node: NodeId(1) };
        assert_eq!(pulse.tell(FOLLOWER, later).now_or_never(), None);
        assert!(pulse.answered(FOLLOWER, later, at(200), taken()), "to this one it is news");
        assert!(!pulse.answered(FOLLOWER, L, at(100), refusal), "an earlier leadership says nothing");
        assert_eq!(pulse.tell(FOLLOWER, later).now_or_never(), Some(Ok(None)));
    }
}
