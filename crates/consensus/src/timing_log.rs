//! The agreed timers in the state (rule R3): what a replica finds after entries were applied, purged, and after restarts and
//! snapshots.

use crate::hazards::{append, apply, group, id, open, received};
use crate::raft_types::{Command, RaftEntry, RaftPayload};
use meridian_proto::internal::v1 as pb;
use meridian_storage::Store;
use meridian_types::{RaftTiming, ShardId};
use meridian_wire::timing::{decode, encode};
use openraft::RaftSnapshotBuilder as _;
use openraft::storage::{RaftLogStorage as _, RaftStateMachine as _};
use tempfile::TempDir;

const SHARD: ShardId = ShardId(1);

fn timing(election_max_ms: u64) -> RaftTiming {
    RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms }
}

/// An entry that brings timers.
fn brings(term: u64, index: u64, timing: pb::RaftTiming) -> RaftEntry {
    let body = Some(pb::command::Body::SetTiming(pb::command::SetTiming { timing: Some(timing) }));
    let command = pb::Command { ts: 100 + index, body, ..pb::Command::default() };
    RaftEntry { log_id: id(term, index), payload: RaftPayload::Normal(Command::new(command)) }
}

fn found(store: &Store) -> Option<RaftTiming> {
    let state = store.data.view().shard_state(SHARD).unwrap().unwrap_or_default();
    state.timing.as_ref().and_then(decode)
}

#[tokio::test]
async fn they_hold_once_they_are_applied_and_after_a_restart_without_the_log() {
    let dir = TempDir::new().unwrap();
    {
        let store = open(dir.path());
        let mut node = group(&store, 1);
        let entries = [600, 900].map(|ms| encode(timing(ms)));
        append(&mut node.log, [brings(1, 0, entries[0]), brings(1, 1, entries[1])]).await;
        assert_eq!(found(&store), None, "not applied yet");
        apply(&mut node, 0..=0).await;
        assert_eq!(found(&store), Some(timing(600)));
        apply(&mut node, 1..=1).await;
        node.worker.get_snapshot_builder().await.build_snapshot().await.unwrap();
        node.log.purge(id(1, 1)).await.unwrap();
    }
    let store = open(dir.path());
    assert_eq!(found(&store), Some(timing(900)));
    let mut node = group(&store, 1);
    let disordered = pb::RaftTiming { heartbeat_ms: 100, election_min_ms: 600, election_max_ms: 300 };
    append(&mut node.log, [brings(1, 2, disordered)]).await;
    apply(&mut node, 2..=2).await;
    assert_eq!(found(&store), Some(timing(900)), "what is out of order changes nothing");
}

#[tokio::test]
async fn a_snapshot_brings_them_along() {
    let (dir, sender) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let entries = (0..4).map(|i| brings(2, i, encode(timing(700 + i)))).collect();
    let (meta, bundle) = received(&sender, entries).await;
    let store = open(dir.path());
    let mut node = group(&store, 1);
    append(&mut node.log, [brings(1, 0, encode(timing(400)))]).await;
    node.worker.install_snapshot(&meta, bundle).await.unwrap();
    assert_eq!(found(&store), Some(timing(703)), "and not what an older log has said");
}
