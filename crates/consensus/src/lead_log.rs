//! The lead time in the log and in the state (rules K1, K2): what a new leader finds at the end of its log after entries were
//! appended, cut off, applied, purged, and after restarts and snapshots.

use crate::hazards::{Group, append, apply, group, id, open, received};
use crate::lead_time::at_log_end;
use crate::raft_types::{Command, RaftEntry, RaftPayload};
use meridian_proto::internal::v1 as pb;
use meridian_storage::Store;
use meridian_types::ShardId;
use openraft::RaftSnapshotBuilder as _;
use openraft::storage::{RaftLogStorage as _, RaftStateMachine as _};
use std::time::Duration;
use tempfile::TempDir;

const SHARD: ShardId = ShardId(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A stamped entry that carries a lead time.
fn stamped(term: u64, index: u64, lead_ms: u64) -> RaftEntry {
    let body = Some(pb::command::Body::Barrier(pb::command::Barrier {}));
    let command = pb::Command { ts: 100 + index, body, lead_ns: lead_ms * 1_000_000, ..pb::Command::default() };
    RaftEntry { log_id: id(term, index), payload: RaftPayload::Normal(Command::new(command)) }
}

fn blank(term: u64, index: u64) -> RaftEntry {
    RaftEntry { log_id: id(term, index), payload: RaftPayload::Blank }
}

/// What a leader elected now would take.
fn found(store: &Store, group: &Group) -> Duration {
    let state = store.data.view().shard_state(SHARD).unwrap().unwrap_or_default();
    let applied = state.applied.map(|id| id.index);
    at_log_end(group.log.cache().last_lead(), applied, Duration::from_nanos(state.lead_ns))
}

#[tokio::test]
async fn the_tail_counts_before_it_is_applied_and_after_a_restart() {
    let dir = TempDir::new().unwrap();
    {
        let store = open(dir.path());
        let mut node = group(&store, 1);
        append(&mut node.log, [blank(1, 0), stamped(1, 1, 200), stamped(1, 2, 200)]).await;
        assert_eq!(found(&store, &node), ms(200), "not applied yet");
        apply(&mut node, 0..=2).await;
        append(&mut node.log, [stamped(1, 3, 800), blank(2, 4)]).await;
        assert_eq!(found(&store, &node), ms(800));
    }
    let store = open(dir.path());
    let mut node = group(&store, 1);
    assert_eq!(found(&store, &node), ms(800), "a restart forgets nothing");
    node.log.truncate_after(Some(id(1, 2))).await.unwrap();
    assert_eq!(found(&store, &node), ms(200), "the raised one was never chosen");
    append(&mut node.log, [stamped(3, 3, 300)]).await;
    node.log.truncate_after(Some(id(1, 0))).await.unwrap();
    assert_eq!(node.log.cache().last_lead(), None, "only blank entries are left");
}

#[tokio::test]
async fn the_state_says_it_when_the_log_is_gone() {
    let dir = TempDir::new().unwrap();
    {
        let store = open(dir.path());
        let mut node = group(&store, 1);
        append(&mut node.log, [blank(1, 0), stamped(1, 1, 200), stamped(1, 2, 700)]).await;
        apply(&mut node, 0..=2).await;
        node.worker.get_snapshot_builder().await.build_snapshot().await.unwrap();
        node.log.purge(id(1, 2)).await.unwrap();
    }
    let store = open(dir.path());
    let node = group(&store, 1);
    assert_eq!(node.log.cache().last_lead(), None);
    assert_eq!(found(&store, &node), ms(700));
}

#[tokio::test]
async fn a_snapshot_brings_it_along() {
    let (dir, sender) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (meta, bundle) = received(&sender, (0..20).map(|i| stamped(2, i, 650)).collect()).await;
    let store = open(dir.path());
    let mut node = group(&store, 1);
    append(&mut node.log, [stamped(1, 0, 200), stamped(1, 1, 900)]).await;
    node.worker.install_snapshot(&meta, bundle).await.unwrap();
    node.log.purge(id(2, 19)).await.unwrap();
    assert_eq!(found(&store, &node), ms(650), "and not what an older log has said");
    drop((node, store));
    let store = open(dir.path());
    let mut node = group(&store, 1);
    assert_eq!(found(&store, &node), ms(650));
    append(&mut node.log, [stamped(2, 20, 100)]).await;
    apply(&mut node, 20..=20).await;
    assert_eq!(found(&store, &node), ms(100));
}
