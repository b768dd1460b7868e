//! Standing for election as soon as the promised lease is over.
//!
//! openraft waits for the lease and then for a random time between the election timeouts, so that candidates do not get in
//! each other's way. An order among the voters does the same without the wait: when the lease runs out, the first of them
//! asks for votes at once, the next one a turn later (more than a round trip), and so on, until one leads. openraft's own
//! timer is off.
//!
//! Nothing rests on the order, or on when somebody campaigns: a pre-vote is refused by every voter whose promise still
//! runs, the candidate itself included (R3, R6), and by every voter whose log is ahead.

use crate::replica::Replica;
use meridian_clock::{Mono, sleep};
use meridian_probe::machine::random;
use meridian_types::{NodeId, RaftTiming};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Added to the promise before it counts as over: openraft counts from when it took a message in, this from when it came. A
/// campaign that comes too early is refused by the candidate itself, and the next one is most of a lease later.
const SLACK: Duration = Duration::from_millis(50);

/// How many of the others are ahead of a voter, in the order of their numbers: the one that leads, or has been silent, does not
/// count.
pub fn place(me: NodeId, led: Option<NodeId>, voters: &BTreeSet<NodeId>) -> u32 {
    let ahead = voters.iter().filter(|v| Some(**v) != led && **v < me).count();
    u32::try_from(ahead).unwrap_or(u32::MAX)
}

/// How long after it last heard from a leader this voter stands for election.
fn patience(timing: &RaftTiming, place: u32) -> Duration {
    timing.promise() + SLACK + timing.turn() * place
}

/// Before a voter that was not elected tries again: at least until its votes were answered, and spread.
fn pause(timing: &RaftTiming) -> Duration {
    let spread = timing.election_max_ms.saturating_sub(timing.election_min_ms).max(1);
    Duration::from_millis(timing.election_min_ms + random() % spread)
}

/// Campaigns whenever no leader has been heard from for as long as one was promised, until the replica stops.
pub(crate) async fn run(replica: Arc<Replica>) {
    let timing = replica.timing();
    loop {
        let voters = replica.voters();
        let place = place(replica.node(), replica.leader(), &voters);
        let due = replica.heard().plus(patience(&timing, place));
        let now = Mono::now();
        if due > now {
            sleep(due.since(now)).await;
            continue;
        }
        if !voters.contains(&replica.node()) || !replica.is_electable() || replica.is_leader() {
            sleep(timing.promise()).await;
            continue;
        }
        if let Err(e) = replica.raft().trigger().elect(true).await {
            tracing::debug!(shard = %replica.shard(), "no election: {e}");
            return;
        }
        sleep(pause(&timing)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_stand_one_after_the_other_and_the_silent_leader_is_not_waited_for() {
        let voters: BTreeSet<NodeId> = [1, 2, 3, 4, 5].map(NodeId).into();
        let places = |led| voters.iter().map(|v| place(*v, led, &voters)).collect::<Vec<_>>();
        assert_eq!(places(Some(NodeId(1)))[1..], [0, 1, 2, 3]);
        assert_eq!(places(Some(NodeId(3))), [0, 1, 2, 2, 3]);
        assert_eq!(places(None), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn nobody_stands_within_the_promise() {
        let timing = RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 };
        assert!(patience(&timing, 0) > timing.promise());
        assert_eq!(patience(&timing, 2) - patience(&timing, 0), Duration::from_millis(400));
        assert!(pause(&timing) >= Duration::from_millis(300));
    }
}
