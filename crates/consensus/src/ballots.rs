//! Votes that were given before they were asked for.
//!
//! A planned transfer need not pay for an election. The leader that hands over votes for its successor first and sends that
//! vote with the message that calls it; it tells the other voters too, and each of them gives its vote at once and tells the
//! successor so. Where the old leader and the successor are a quorum, the successor leads as soon as it is called; and by the
//! time at which its own request for votes would have come back from the farthest voter, it has known that one's log for as
//! long as the detour takes.
//!
//! **Why such a vote counts.** A vote says: this voter has durably given its vote to leader id *l*, its log ended with *a*
//! then, and it takes nothing any more from leaders before *l*. That is so whether *l* had asked for it or not. Raft's
//! election rule wants besides that the candidate's log is not before *a*; in an election that was asked for, the voter
//! compares, here the candidate does. A leader id is used for one candidacy only, so what was given for one never counts for
//! another. That no lease is in the way, as in every transfer, the old leader has seen to (rule R4).

use crate::raft_types::{RaftLeaderId, RaftLogId, Raftish};
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::NodeId;
use openraft::raft::{VoteRequest, VoteResponse};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A vote that was given: durably, before anybody was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ballot {
    /// The candidate, and the term that it was given for.
    pub(crate) leader: RaftLeaderId,
    /// Where the voter's log ended.
    pub(crate) last: Option<RaftLogId>,
}

impl Ballot {
    /// What the voter would have answered to this request for its vote; `None`: it has to be asked.
    fn answer(&self, request: &VoteRequest<Raftish>) -> Option<VoteResponse<Raftish>> {
        let same = self.leader == request.vote.leader_id || sabotaged(Sabotage::CountOldBallots);
        let behind = self.last > request.last_log_id && !sabotaged(Sabotage::CountLongerLogs);
        (same && !behind).then(|| VoteResponse::new(request.vote, self.last, true))
    }
}

/// The last of each voter that this replica was told of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ballots(Arc<watch::Sender<BTreeMap<NodeId, Ballot>>>);

impl Ballots {
    /// A voter has given its vote to this replica.
    pub(crate) fn cast(&self, voter: NodeId, ballot: Ballot) {
        self.0.send_if_modified(|cast| {
            let news = cast.get(&voter).is_none_or(|known| known.leader < ballot.leader);
            if news {
                cast.insert(voter, ballot);
            }
            news
        });
    }

    /// The voter's answer to this request, once it is known without asking. Cancel-safe.
    pub(crate) async fn answer(&self, voter: NodeId, request: &VoteRequest<Raftish>) -> VoteResponse<Raftish> {
        let mut cast = self.0.subscribe();
        loop {
            let ballot = cast.borrow_and_update().get(&voter).copied();
            if let Some(answer) = ballot.and_then(|ballot| ballot.answer(request)) {
                return answer;
            }
            if cast.changed().await.is_err() {
                // The sender is this one's own.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::RaftVote;
    use futures::FutureExt as _;

    const OLD: RaftLeaderId = RaftLeaderId { term: 3, node_id: 1 };
    const NEW: RaftLeaderId = RaftLeaderId { term: 4, node_id: 2 };
    const VOTER: NodeId = NodeId(3);

    fn id(leader_id: RaftLeaderId, index: u64) -> Option<RaftLogId> {
        Some(RaftLogId { leader_id, index })
    }

    fn request(leader_id: RaftLeaderId, last: Option<RaftLogId>) -> VoteRequest<Raftish> {
        VoteRequest::new(RaftVote { leader_id, committed: false }, last)
    }

    fn answer(ballots: &Ballots, request: &VoteRequest<Raftish>) -> Option<VoteResponse<Raftish>> {
        ballots.answer(VOTER, request).now_or_never()
    }

    #[tokio::test]
    async fn a_vote_that_was_given_is_not_asked_for() {
        let ballots = Ballots::default();
        let request = request(NEW, id(OLD, 10));
        assert_eq!(answer(&ballots, &request), None);
        let (waiting, other) = (ballots.clone(), ballots.clone());
        let asked = request.clone();
        let waits = tokio::spawn(async move { waiting.answer(VOTER, &asked).await });
        tokio::task::yield_now().await;
        other.cast(VOTER, Ballot { leader: NEW, last: id(OLD, 9) });
        let given = waits.await.unwrap();
        assert_eq!((given.vote_granted, given.last_log_id, given.vote), (true, id(OLD, 9), request.vote));
        assert_eq!(ballots.answer(NodeId(4), &request).now_or_never(), None, "another voter");
    }

    #[test]
    fn a_vote_given_for_one_candidacy_never_counts_for_another() {
        let ballots = Ballots::default();
        ballots.cast(VOTER, Ballot { leader: NEW, last: id(OLD, 9) });
        let later = RaftLeaderId { term: 5, ..NEW };
        assert_eq!(answer(&ballots, &request(later, id(OLD, 10))), None);
        ballots.cast(VOTER, Ballot { leader: OLD, last: id(OLD, 9) });
        assert!(
            answer(&ballots, &request(NEW, id(OLD, 10))).is_some(),
            "an earlier one that comes late changes nothing"
        );
    }

    /// The candidate may have stood for election by itself in that term, before it had everything.
    #[test]
    fn a_candidate_whose_log_is_behind_the_voters_has_no_vote() {
        let ballots = Ballots::default();
        ballots.cast(VOTER, Ballot { leader: NEW, last: id(OLD, 9) });
        assert_eq!(answer(&ballots, &request(NEW, id(OLD, 8))), None);
        assert_eq!(answer(&ballots, &request(NEW, None)), None);
        assert!(answer(&ballots, &request(NEW, id(OLD, 9))).is_some());
    }
}
