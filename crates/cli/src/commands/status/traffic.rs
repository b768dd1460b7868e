//! What travelled between regions, and what for.

use super::size;
use crate::output::{self, number};
use comfy_table::Cell;
use meridian_proto::v1 as pb;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The causes in the order of their columns.
const CAUSES: [&str; 4] = ["heartbeat", "log", "snapshot", "forward"];

/// Bytes from one region to another by cause, both directions of the connections told apart.
fn ledger(status: &pb::GetStatusReply) -> BTreeMap<(&str, &str), BTreeMap<&str, u64>> {
    let mut ledger: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
    for node in &status.nodes {
        for t in &node.traffic {
            let (here, there) = (node.region.as_str(), t.peer_region.as_str());
            for (pair, bytes) in [((here, there), t.sent), ((there, here), t.received)] {
                *ledger.entry(pair).or_default().entry(t.cause.as_str()).or_default() += bytes;
            }
        }
    }
    ledger
}

/// A line for each pair of regions between which anything travelled.
pub(super) fn table(status: &pb::GetStatusReply) -> String {
    let mut t = output::table(["from", "to"].into_iter().chain(CAUSES));
    for ((from, to), bytes) in ledger(status) {
        let mut row = vec![Cell::new(from), Cell::new(to)];
        row.extend(CAUSES.iter().map(|cause| number(size(bytes.get(cause).copied().unwrap_or(0)))));
        t.add_row(row);
    }
    t.to_string()
}

pub(super) fn json(t: &pb::Traffic) -> Value {
    json!({
        "peer": t.peer,
        "peer_region": t.peer_region,
        "cause": t.cause,
        "sent": t.sent,
        "received": t.received,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_sums_requests_one_way_and_answers_the_other() {
        let node = |node, region: &str, traffic| pb::NodeStatus {
            node,
            region: region.into(),
            traffic,
            ..pb::NodeStatus::default()
        };
        let row = |peer, region: &str, cause: &str, sent, received| pb::Traffic {
            peer,
            peer_region: region.into(),
            cause: cause.into(),
            sent,
            received,
        };
        let status = pb::GetStatusReply {
            nodes: vec![
                node(1, "us", vec![row(2, "eu", "log", 1000, 10), row(3, "us", "log", 7, 7)]),
                node(2, "eu", vec![row(1, "us", "log", 500, 5), row(1, "us", "heartbeat", 40, 30)]),
            ],
            ..pb::GetStatusReply::default()
        };
        let ledger = ledger(&status);
        assert_eq!(ledger[&("us", "eu")], BTreeMap::from([("log", 1005), ("heartbeat", 30)]));
        assert_eq!(ledger[&("eu", "us")], BTreeMap::from([("log", 510), ("heartbeat", 40)]));
        assert_eq!(ledger[&("us", "us")], BTreeMap::from([("log", 14)]));
        let text = table(&status);
        assert!(text.lines().any(|l| l.contains("us") && l.contains("eu") && l.contains("1005 B")), "{text}");
    }
}
