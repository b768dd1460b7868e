//! Which entry a quorum has accepted (rule O2), from what the voters have said.

use crate::raft_types::{RaftLeaderId, RaftLogId, RaftMembership};
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::{LeaderId, LogId, NodeId};
use std::collections::BTreeMap;

/// The last acceptance of each other node. A later leader's replaces an earlier one's.
#[derive(Debug, Default)]
pub(crate) struct Reports(BTreeMap<NodeId, LogId>);

fn is_of(report: LogId, leader: RaftLeaderId) -> bool {
    report.leader == LeaderId { term: leader.term, node: NodeId(leader.node_id) }
}

impl Reports {
    /// A node has accepted up to `id`. Whether that says anything new.
    pub(crate) fn take(&mut self, from: NodeId, id: LogId) -> bool {
        let known = self.0.entry(from).or_insert(id);
        // By leader first: a later leader's first entry says more than an earlier one's last.
        let newer = (id.leader, id.index) > (known.leader, known.index);
        *known = if newer { id } else { *known };
        newer || *known == id
    }

    /// The last entry of `own`'s leader that a quorum has accepted, if this node, `me`, is known to have it too.
    ///
    /// * `own`: up to where this node has accepted.
    /// * `since`: the index from which `membership`, the newest of this node's log, is in force. What is before it is not
    ///   found chosen here.
    pub(crate) fn chosen(
        &self,
        me: NodeId,
        own: RaftLogId,
        since: u64,
        membership: &RaftMembership,
    ) -> Option<RaftLogId> {
        let leader_id = own.leader_id;
        let accepted = |voter: u64| {
            if voter == me.0 {
                return Some(own.index);
            }
            let report = self.0.get(&NodeId(voter)).filter(|r| is_of(**r, leader_id));
            report.map(|r| r.index)
        };
        let halves = membership.get_joint_config();
        let halves = if sabotaged(Sabotage::CountOneHalf) { &halves[..1] } else { &halves[..] };
        let mut least = own.index;
        for voters in halves {
            let mut indexes: Vec<Option<u64>> = voters.iter().map(|v| accepted(*v)).collect();
            if sabotaged(Sabotage::CountLearners) {
                let learner = |n: &&NodeId| !voters.contains(&n.0);
                indexes.extend(self.0.keys().filter(learner).map(|n| accepted(n.0)));
            }
            indexes.sort_unstable_by(|a, b| b.cmp(a));
            // The quorum-th largest: as many voters have accepted it or something later.
            let quorum = if sabotaged(Sabotage::CountMinority) { 0 } else { voters.len() / 2 };
            least = least.min(indexes.get(quorum).copied().flatten()?);
        }
        (least >= since && !halves.is_empty()).then_some(RaftLogId { leader_id, index: least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::raft_types::Member;
    use std::collections::BTreeSet;

    fn id(term: u64, node_id: u64, index: u64) -> RaftLogId {
        RaftLogId { leader_id: RaftLeaderId { term, node_id }, index }
    }

    fn membership(halves: &[&[u64]], learners: &[u64]) -> RaftMembership {
        let configs: Vec<BTreeSet<u64>> = halves.iter().map(|h| h.iter().copied().collect()).collect();
        let all = halves.iter().copied().flatten().chain(learners);
        RaftMembership::new(configs, all.map(|n| (*n, Member::default())).collect::<BTreeMap<_, _>>()).unwrap()
    }

    fn reports(of: &[(u64, RaftLogId)]) -> Reports {
        let mut reports = Reports::default();
        for (from, id) in of {
            reports.take(NodeId(*from), codec::log_id_of(id));
        }
        reports
    }

    const ME: NodeId = NodeId(3);

    #[test]
    fn a_majority_with_this_node_in_it_chooses() {
        let three = membership(&[&[1, 2, 3]], &[]);
        let chosen = |r: &[(u64, RaftLogId)]| reports(r).chosen(ME, id(1, 1, 7), 0, &three);
        assert_eq!(chosen(&[]), None, "one of three");
        assert_eq!(chosen(&[(1, id(1, 1, 9))]), Some(id(1, 1, 7)), "no further than it has the log itself");
        assert_eq!(chosen(&[(1, id(1, 1, 5))]), Some(id(1, 1, 5)));
        assert_eq!(chosen(&[(1, id(1, 1, 5)), (2, id(1, 1, 6))]), Some(id(1, 1, 6)));
    }

    #[test]
    fn only_acceptances_under_the_same_leader_count() {
        let three = membership(&[&[1, 2, 3]], &[]);
        let chosen = |own, r: &[(u64, RaftLogId)]| reports(r).chosen(ME, own, 0, &three);
        assert_eq!(chosen(id(2, 2, 7), &[(1, id(1, 1, 9))]), None, "an older leader's");
        assert_eq!(chosen(id(1, 1, 7), &[(1, id(2, 2, 9))]), None, "a later leader's");
        assert_eq!(chosen(id(1, 2, 7), &[(2, id(1, 1, 9))]), None, "of the same term (Z0)");
    }

    #[test]
    fn learners_never_count() {
        let m = membership(&[&[1, 2, 4]], &[3, 5]);
        let all = reports(&[(5, id(1, 1, 7)), (1, id(1, 1, 7))]);
        assert_eq!(all.chosen(ME, id(1, 1, 7), 0, &m), None, "this node is a learner, as n5 is");
        let more = reports(&[(5, id(1, 1, 7)), (1, id(1, 1, 7)), (4, id(1, 1, 6))]);
        assert_eq!(more.chosen(ME, id(1, 1, 7), 0, &m), Some(id(1, 1, 6)), "a learner may count voters");
    }

    #[test]
    fn both_halves_of_a_joint_membership_have_to_have_it() {
        let joint = membership(&[&[1, 2, 3], &[3, 4, 5]], &[]);
        let one = reports(&[(1, id(1, 1, 7))]);
        assert_eq!(one.chosen(ME, id(1, 1, 7), 0, &joint), None);
        let both = reports(&[(1, id(1, 1, 7)), (4, id(1, 1, 6))]);
        assert_eq!(both.chosen(ME, id(1, 1, 7), 0, &joint), Some(id(1, 1, 6)));
    }

    #[test]
    fn what_is_before_the_newest_membership_is_left_to_the_leader() {
        let three = membership(&[&[1, 2, 3]], &[]);
        let r = reports(&[(1, id(1, 1, 5))]);
        assert_eq!(r.chosen(ME, id(1, 1, 7), 6, &three), None);
        assert_eq!(r.chosen(ME, id(1, 1, 7), 5, &three), Some(id(1, 1, 5)));
    }

    #[test]
    fn late_doubled_and_reordered_reports_change_nothing() {
        let mut r = Reports::default();
        let take = |r: &mut Reports, id: RaftLogId| r.take(NodeId(1), codec::log_id_of(&id));
        assert!(take(&mut r, id(1, 1, 9)));
        assert!(take(&mut r, id(2, 2, 5)), "a later leader's");
        assert!(!take(&mut r, id(1, 1, 10)), "an earlier leader's, late");
        assert!(!take(&mut r, id(2, 2, 4)));
        let three = membership(&[&[1, 2, 3]], &[]);
        assert_eq!(r.chosen(ME, id(2, 2, 7), 0, &three), Some(id(2, 2, 5)));
    }
}
