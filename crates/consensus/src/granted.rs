//! What a new leader knows of its voters' logs from the votes that they gave it.
//!
//! openraft begins a leadership without knowing what its followers hold and looks for it by bisection, a round trip for
//! each step: between continents that is longer than the election. But the answer to the request for a vote has the voter's
//! last log id. From it the first steps are answered here, and only what the voter may lack goes over the wire.
//!
//! A voter *v* that granted leader *l* its vote with last log id *a* holds the leader's entries up to *a*, durably, if *l*'s
//! own last entry was made by the leader that made *a* and is not before it:
//!
//! * Both logs have entries of that leader, so both agree with its log up to there (Raft's log matching property); *l*'s log
//!   reaches at least as far as *a*.
//! * What *v* appended before its vote was synced before it: both go through one log in order, and a vote is answered when
//!   it is synced (rule O1 rests on the same order).
//! * Once it has voted, *v* takes entries from *l* or a later leader only, so nothing but *l* changes its log while *l*
//!   leads. With the first entries or the snapshot that *l* really sends, what was known is forgotten, and a vote that
//!   comes after them says nothing any more.
//!
//! An election does not wait for the votes of the farthest. The first entries for such a voter do, as long as its vote is
//! being asked for: it was asked before anything could be sent, so its answer comes before that to a first guess would.
//!
//! Such an answer is no message of the follower: it is credited to no lease (rule R1).

use crate::raft_types::{RaftEntry, RaftLeaderId, RaftLogId, Raftish};
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::NodeId;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A voter's log when it voted: it agrees with the log of `leader` up to `last`, and ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    leader: RaftLeaderId,
    last: RaftLogId,
}

impl Grant {
    /// What `response` to `request` says of the voter's log, if it says anything of use.
    fn of(request: &VoteRequest<Raftish>, response: &VoteResponse<Raftish>) -> Option<Self> {
        let (mine, theirs) = (request.last_log_id?, response.last_log_id?);
        let granted = response.vote_granted && response.vote.leader_id == request.vote.leader_id;
        let agree = (mine.leader_id == theirs.leader_id && mine.index >= theirs.index)
            || sabotaged(Sabotage::MatchOtherLeaders);
        (granted && agree).then_some(Self { leader: request.vote.leader_id, last: theirs })
    }

    /// What the voter has said already about an append of these entries, if that is any news. Without entries it is a
    /// question, or tells of a commit: the entries that follow tell of it too, for the leader's own are still to come.
    fn answer(&self, prev: Option<RaftLogId>, entries: &[RaftEntry]) -> Option<StreamAppendResult<Raftish>> {
        let Some(end) = entries.last().map(|e| e.log_id) else {
            let known = prev?.index <= self.last.index;
            return Some(if known { Ok(prev) } else { Err(StreamAppendError::Conflict(prev?)) });
        };
        match prev {
            _ if end.index <= self.last.index => Some(Ok(Some(end))),
            Some(prev) if prev.index > self.last.index => Some(Err(StreamAppendError::Conflict(prev))),
            Some(prev) if prev.index == self.last.index => None,
            _ => Some(Ok(Some(self.last))),
        }
    }
}

/// What is known of a voter's log under one leadership of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// As it was when it voted.
    Voted(Grant),
    /// Not any more: entries were sent, or a snapshot.
    Changed(RaftLeaderId),
}

impl Known {
    fn leader(&self) -> RaftLeaderId {
        match self {
            Self::Voted(grant) => grant.leader,
            Self::Changed(leader) => *leader,
        }
    }
}

/// The votes that this replica's last candidacies were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Granted {
    known: Arc<Mutex<BTreeMap<NodeId, Known>>>,
    /// Who is being asked for a vote, and for whom.
    asked: Arc<watch::Sender<BTreeMap<NodeId, RaftLeaderId>>>,
}

/// A voter is being asked, until this is dropped.
#[derive(Debug)]
pub(crate) struct Asked {
    of: Granted,
    voter: NodeId,
    leader: RaftLeaderId,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.of.asked.send_if_modified(|asked| {
            // A later candidacy's request is another one's to take back.
            let mine = asked.get(&self.voter) == Some(&self.leader);
            if mine {
                asked.remove(&self.voter);
            }
            mine
        });
    }
}

impl Granted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `voter` is about to be asked for its vote for `leader`, which is this replica.
    pub(crate) fn ask(&self, voter: NodeId, leader: RaftLeaderId) -> Asked {
        self.asked.send_modify(|asked| {
            asked.insert(voter, leader);
        });
        Asked { of: self.clone(), voter, leader }
    }

    /// Waits while `voter` is being asked for its vote for `leader`. Cancel-safe.
    pub(crate) async fn wait_answered(&self, voter: NodeId, leader: RaftLeaderId) {
        let mut asked = self.asked.subscribe();
        // The sender is this one's own.
        let _ = asked.wait_for(|asked| asked.get(&voter) != Some(&leader)).await;
    }

    /// `voter` has answered a request for its vote (not a pre-vote: that one promises nothing).
    pub(crate) fn record(&self, voter: NodeId, request: &VoteRequest<Raftish>, response: &VoteResponse<Raftish>) {
        let Some(grant) = Grant::of(request, response) else { return };
        let mut known = self.lock();
        let news = known.get(&voter).is_none_or(|known| known.leader() < grant.leader);
        if news || sabotaged(Sabotage::BelieveLateVotes) {
            known.insert(voter, Known::Voted(grant));
        }
    }

    /// How far `to` matches, of what `request` has, if that is known; else the request has to be sent.
    pub(crate) fn answer(
        &self,
        to: NodeId,
        request: &AppendEntriesRequest<Raftish>,
    ) -> Option<StreamAppendResult<Raftish>> {
        match self.lock().get(&to) {
            Some(Known::Voted(grant)) if grant.leader == request.vote.leader_id => {
                grant.answer(request.prev_log_id, &request.entries)
            }
            Some(_) | None => None,
        }
    }

    /// Entries or a snapshot are about to be sent to `to` by `leader`, which is this replica: its log is not any more what
    /// it was when it voted.
    pub(crate) fn change(&self, to: NodeId, leader: RaftLeaderId) {
        let mut known = self.lock();
        // What is left of an earlier leadership may still send.
        if known.get(&to).is_none_or(|known| known.leader() <= leader) {
            known.insert(to, Known::Changed(leader));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{RaftPayload, RaftVote};

    const OLD: RaftLeaderId = RaftLeaderId { term: 3, node_id: 1 };
    const OLDER: RaftLeaderId = RaftLeaderId { term: 2, node_id: 3 };
    const NEW: RaftLeaderId = RaftLeaderId { term: 4, node_id: 2 };
    const VOTER: NodeId = NodeId(3);

    fn id(leader_id: RaftLeaderId, index: u64) -> RaftLogId {
        RaftLogId { leader_id, index }
    }

    /// After a vote of [`VOTER`] for [`NEW`], whose log ends with `mine`.
    fn after_vote(mine: RaftLogId, theirs: Option<RaftLogId>, granted: bool) -> Granted {
        let votes = Granted::default();
        record(&votes, mine, theirs, granted);
        votes
    }

    fn record(votes: &Granted, mine: RaftLogId, theirs: Option<RaftLogId>, granted: bool) {
        let vote = RaftVote { leader_id: NEW, committed: false };
        let request = VoteRequest::new(vote, Some(mine));
        votes.record(VOTER, &request, &VoteResponse::new(vote, theirs, granted));
    }

    /// An append under `leader` of the entries `start..=end` of [`OLD`].
    fn append(leader: RaftLeaderId, start: u64, end: u64) -> AppendEntriesRequest<Raftish> {
        let entry = |index| RaftEntry { log_id: id(OLD, index), payload: RaftPayload::Blank };
        AppendEntriesRequest {
            vote: RaftVote { leader_id: leader, committed: true },
            prev_log_id: start.checked_sub(1).map(|i| id(OLD, i)),
            entries: (start..=end).map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn what_the_voter_held_is_matched_and_what_lies_behind_conflicts() {
        let votes = after_vote(id(OLD, 100), Some(id(OLD, 90)), true);
        for (start, end, matched) in [(0, 9, 9), (50, 80, 80), (81, 90, 90), (85, 100, 90), (0, 95, 90)] {
            assert_eq!(votes.answer(VOTER, &append(NEW, start, end)), Some(Ok(Some(id(OLD, matched)))));
        }
        let conflict = votes.answer(VOTER, &append(NEW, 95, 100));
        assert_eq!(conflict, Some(Err(StreamAppendError::Conflict(id(OLD, 94)))));
    }

    #[test]
    fn what_it_may_lack_is_sent_and_nothing_is_known_afterwards() {
        let votes = after_vote(id(OLD, 100), Some(id(OLD, 90)), true);
        assert_eq!(votes.answer(VOTER, &append(NEW, 91, 100)), None, "it has none of them");
        votes.change(VOTER, NEW);
        assert_eq!(votes.answer(VOTER, &append(NEW, 85, 90)), None, "by now it may have more");
    }

    /// Two of three voters elect the leader, and it has sent the third one entries when its vote comes.
    #[test]
    fn a_vote_that_comes_after_entries_were_sent_says_nothing() {
        let votes = Granted::default();
        assert_eq!(votes.answer(VOTER, &append(NEW, 80, 101)), None);
        votes.change(VOTER, NEW);
        record(&votes, id(OLD, 100), Some(id(OLD, 90)), true);
        assert_eq!(votes.answer(VOTER, &append(NEW, 102, 102)), None, "it may have 101 by now");
        votes.change(VOTER, RaftLeaderId { term: 2, ..NEW });
        record(&votes, id(OLD, 100), Some(id(OLD, 90)), true);
        assert_eq!(votes.answer(VOTER, &append(NEW, 102, 102)), None, "an earlier leadership's task does not matter");
    }

    #[tokio::test]
    async fn entries_wait_while_the_vote_is_asked_for() {
        use futures::FutureExt as _;
        let votes = Granted::default();
        votes.wait_answered(VOTER, NEW).await;
        let asked = votes.ask(VOTER, NEW);
        assert_eq!(votes.wait_answered(VOTER, NEW).now_or_never(), None);
        votes.wait_answered(NodeId(4), NEW).await;
        votes.wait_answered(VOTER, OLD).await;
        let again = votes.ask(VOTER, RaftLeaderId { term: 5, ..NEW });
        votes.wait_answered(VOTER, NEW).await;
        drop(asked);
        assert_eq!(votes.wait_answered(VOTER, again.leader).now_or_never(), None, "another candidacy's");
        drop(again);
        votes.wait_answered(VOTER, RaftLeaderId { term: 5, ..NEW }).await;
    }

    #[test]
    fn questions_without_entries_are_answered_too() {
        let votes = after_vote(id(OLD, 100), Some(id(OLD, 90)), true);
        let question = |next| AppendEntriesRequest { entries: Vec::new(), ..append(NEW, next, next) };
        for prev in [49, 90] {
            assert_eq!(votes.answer(VOTER, &question(prev + 1)), Some(Ok(Some(id(OLD, prev)))));
        }
        let conflict = Some(Err(StreamAppendError::Conflict(id(OLD, 91))));
        assert_eq!(votes.answer(VOTER, &question(92)), conflict);
        assert_eq!(votes.answer(VOTER, &question(0)), None, "nothing is asked");
        votes.change(VOTER, NEW);
        assert_eq!(votes.answer(VOTER, &question(50)), None, "it is sent once anything else was");
    }

    #[test]
    fn only_a_vote_for_this_leadership_says_anything() {
        let refused = after_vote(id(OLD, 100), Some(id(OLD, 90)), false);
        assert_eq!(refused.answer(VOTER, &append(NEW, 1, 5)), None);
        let granted = after_vote(id(OLD, 100), Some(id(OLD, 90)), true);
        assert_eq!(granted.answer(NodeId(4), &append(NEW, 1, 5)), None, "another voter");
        assert_eq!(granted.answer(VOTER, &append(RaftLeaderId { term: 5, ..NEW }, 1, 5)), None, "a later leadership");
    }

    /// The voter's last entry may be of a leader whose entry at that index nobody else has: a log that ends with a later
    /// leader's entry says nothing of it.
    #[test]
    fn a_last_entry_of_another_leader_says_nothing() {
        let other = after_vote(id(OLD, 100), Some(id(OLDER, 90)), true);
        assert_eq!(other.answer(VOTER, &append(NEW, 80, 85)), None);
        let longer = after_vote(id(OLD, 80), Some(id(OLD, 90)), true);
        assert_eq!(longer.answer(VOTER, &append(NEW, 70, 75)), None, "the candidate's own log is shorter");
        let empty = after_vote(id(OLD, 100), None, true);
        assert_eq!(empty.answer(VOTER, &append(NEW, 1, 5)), None);
    }
}
