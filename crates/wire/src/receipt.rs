//! Latency receipts. Nanoseconds on both sides.

use meridian_proto::v1 as pb;
use meridian_types::{CommitPath, Receipt};

/// To the wire.
pub fn encode(r: &Receipt) -> pb::LatencyReceipt {
    pb::LatencyReceipt {
        gateway_ns: r.gateway,
        forward_ns: r.forward,
        queue_ns: r.queue,
        fsync_ns: r.fsync,
        quorum_ns: r.quorum,
        apply_ns: r.apply,
        commit_wait_ns: r.commit_wait,
        total_ns: r.total,
        floor_ns: r.floor,
        path: encode_path(r.path).into(),
    }
}

/// From the wire.
pub fn decode(r: &pb::LatencyReceipt) -> Receipt {
    Receipt {
        gateway: r.gateway_ns,
        forward: r.forward_ns,
        queue: r.queue_ns,
        fsync: r.fsync_ns,
        quorum: r.quorum_ns,
        apply: r.apply_ns,
        commit_wait: r.commit_wait_ns,
        total: r.total_ns,
        floor: r.floor_ns,
        path: match r.path() {
            pb::CommitPath::Unspecified => CommitPath::NotSaid,
            pb::CommitPath::Leader => CommitPath::Leader,
            pb::CommitPath::OneRoundTrip => CommitPath::OneRoundTrip,
        },
    }
}

fn encode_path(path: CommitPath) -> pb::CommitPath {
    match path {
        CommitPath::NotSaid => pb::CommitPath::Unspecified,
        CommitPath::Leader => pb::CommitPath::Leader,
        CommitPath::OneRoundTrip => pb::CommitPath::OneRoundTrip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_keeps_every_part_in_its_place() {
        let receipt = Receipt {
            gateway: 1,
            forward: 2,
            queue: 3,
            fsync: 4,
            quorum: 5,
            apply: 6,
            commit_wait: 7,
            total: 8,
            floor: 9,
            path: CommitPath::OneRoundTrip,
        };
        assert_eq!(decode(&encode(&receipt)), receipt);
        for path in [CommitPath::Leader, CommitPath::NotSaid] {
            assert_eq!(decode(&encode(&Receipt { path, ..receipt })).path, path);
        }
    }
}
