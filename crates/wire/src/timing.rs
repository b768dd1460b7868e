//! A Raft group's timers: in the records of the catalog, in entries of a log and in a shard's state.

use meridian_proto::internal::v1 as pb;
use meridian_types::RaftTiming;

/// To the wire.
pub fn encode(timing: RaftTiming) -> pb::RaftTiming {
    let RaftTiming { heartbeat_ms, election_min_ms, election_max_ms } = timing;
    pb::RaftTiming { heartbeat_ms, election_min_ms, election_max_ms }
}

/// From the wire; `None` if they are not in order.
pub fn decode(timing: &pb::RaftTiming) -> Option<RaftTiming> {
    let pb::RaftTiming { heartbeat_ms, election_min_ms, election_max_ms } = *timing;
    Some(RaftTiming { heartbeat_ms, election_min_ms, election_max_ms }).filter(RaftTiming::is_ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disordered_timers_are_no_timing() {
        let timing = RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 };
        assert_eq!(decode(&encode(timing)), Some(timing));
        assert_eq!(decode(&pb::RaftTiming::default()), None);
        let swapped = pb::RaftTiming { heartbeat_ms: 100, election_min_ms: 600, election_max_ms: 300 };
        assert_eq!(decode(&swapped), None);
    }
}
