//! Holding a whole history against the checkers that suit any of them.

use super::{History, REGIONS, TestCluster};
use crate::{exactly_once, external_consistency, linearizability, snapshots, staleness};

/// Reads a table to its end, and checks everything that was recorded, that it was the only table of: nothing acknowledged is
/// lost or applied twice, and every read has its level.
///
/// # Panics
/// When a check fails.
pub async fn nothing_lost(history: &History, cluster: &TestCluster, table: &str) {
    let mut reader = history.process(REGIONS[0], &cluster.client(REGIONS[0]).await);
    let last = reader.final_state(table).await;
    let records = history.records();
    exactly_once::check(&records, &[last]).expect("exactly once");
    external_consistency::check(&records).expect("external consistency");
    staleness::check(&records).expect("staleness");
    snapshots::check(&records).expect("snapshots");
    assert!(linearizability::check(&records).is_linearizable(), "{:?}", linearizability::check(&records));
}
