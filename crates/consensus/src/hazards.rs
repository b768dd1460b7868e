//! Hazards of openraft that touch the storage, each with the test that would show it, on RocksDB and real files. Named
//! after what happens; the numbers are those of openraft's issues.
//!
//! Shown elsewhere:
//!
//! * *Power cut at every step of append, vote and truncation*: `tests/power`, on RocksDB and with a disk that forgets what
//!   was not synced; `crates/storage/tests/storage/power.rs` and whole clusters (`tests/src/sim`) on the simulated disk.
//! * *Acknowledged write, leader without its unflushed tail, fast restart*: a restarted leader never resumes
//!   ([`crate::config`]); the sabotage `RestoreLeader` shows what happens if it does, the invariant `surviving_log` that a
//!   node has what it had told others.
//! * *An append whose sync fails*: `crates/storage/src/raft/sync.rs`, poisoned for good; *the disk is full*:
//!   `tests/tests/full_disk.rs`.
//! * *A crash in the middle of a snapshot's installation*: `crates/storage/src/install.rs`, at every step.
//! * *A late sync that vouches for a replaced tail*: [`crate::log_cache`], without a disk; here with one.

use crate::apply::{ApplyWorker, EntryMutations, LogSide, StateMachine};
use crate::codec;
use crate::early::Acceptances;
use crate::log_store::LogStore;
use crate::memory::NodeMemory;
use crate::raft_types::{
    Member, RaftEntry, RaftLeaderId, RaftLogId, RaftMembership, RaftPayload, RaftSnapshotMeta, RaftStoredMembership,
    RaftVote, Raftish,
};
use crate::safe_time::SafeTime;
use crate::snapshot::{SnapshotBundle, SnapshotMaker, meta_of};
use futures::{FutureExt as _, StreamExt as _};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, StorageError, Store, StoreOptions};
use meridian_types::{KeyRange, MEMORY_MIN, MemoryBudget, NodeId, ShardId, TableId, Timestamp};
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftStateMachine as _, StorageHelper};
use openraft::type_config::TypeConfigExt as _;
use openraft::{RaftLogReader as _, RaftSnapshotBuilder as _};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Counts nothing and means nothing: what is looked at here is positions and memberships.
pub(crate) struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, entries: &[EntryMutations<'_>], _: &mut DataBatch) -> Result<Vec<Vec<pb::Outcome>>, StorageError> {
        Ok(entries.iter().map(|_| Vec::new()).collect())
    }

    fn applied(&self, _: Timestamp) {}

    fn replaced(&self) {}
}

/// One group on one node, as it is after a start.
pub(crate) struct Group {
    pub(crate) log: LogStore,
    pub(crate) worker: ApplyWorker,
    pub(crate) snapshots: Arc<SnapshotMaker>,
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

pub(crate) fn group(store: &Store, shard: u64) -> Group {
    let (shard, table) = (ShardId(shard), TableId(shard));
    let memory = NodeMemory::new(MemoryBudget::of(MEMORY_MIN).unwrap());
    let tell = Acceptances::new(NodeId(1));
    let log = LogStore::open(store.raft.shard(shard), Timestamp::ZERO, &memory, store.space().clone(), &tell).unwrap();
    let snapshots = SnapshotMaker::new(shard, table, KeyRange::all(), store.clone());
    let safe = Arc::new(SafeTime::new(Timestamp::ZERO));
    let (data, cache, acceptor) = (store.data.clone(), log.cache().clone(), log.acceptor().clone());
    let side = LogSide { cache, acceptor, outcomes: Arc::default(), backlog: memory.backlog };
    let worker = ApplyWorker::open(shard, data, Arc::new(Nothing), side, safe, snapshots.clone());
    Group { log, worker: worker.unwrap().0, snapshots }
}

pub(crate) fn id(term: u64, index: u64) -> RaftLogId {
    RaftLogId { leader_id: RaftLeaderId { term, node_id: 1 }, index }
}

fn blank(term: u64, index: u64) -> RaftEntry {
    RaftEntry { log_id: id(term, index), payload: RaftPayload::Blank }
}

fn voters(nodes: &[u64]) -> RaftMembership {
    let members: BTreeMap<u64, Member> = nodes.iter().map(|node| (*node, Member::default())).collect();
    RaftMembership::new(vec![nodes.iter().copied().collect::<BTreeSet<u64>>()], members).unwrap()
}

fn membership(term: u64, index: u64, nodes: &[u64]) -> RaftEntry {
    RaftEntry { log_id: id(term, index), payload: RaftPayload::Membership(voters(nodes)) }
}

/// A callback, and what it will have been called with.
fn flushed() -> (IOFlushed<Raftish>, impl Future<Output = io::Result<()>>) {
    let (sender, receiver) = Raftish::oneshot();
    (IOFlushed::signal(sender), async { receiver.await.map_err(io::Error::other)? })
}

/// Appends and waits until that is durable.
pub(crate) async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = RaftEntry>) {
    let (callback, done) = flushed();
    log.append(entries.into_iter().collect::<Vec<_>>(), callback).await.unwrap();
    done.await.unwrap();
}

/// Applies what is in the log.
pub(crate) async fn apply(group: &mut Group, range: std::ops::RangeInclusive<u64>) {
    let entries = group.log.try_get_log_entries(range).await.unwrap();
    group.worker.apply(futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await.unwrap();
}

/// A snapshot that another node cut at this position, as it is handed over after it was received.
pub(crate) async fn received(dir: &TempDir, entries: Vec<RaftEntry>) -> (RaftSnapshotMeta, SnapshotBundle) {
    let store = open(dir.path());
    let mut sender = group(&store, 1);
    let range = entries[0].log_id.index..=entries.last().unwrap().log_id.index;
    append(&mut sender.log, entries).await;
    apply(&mut sender, range).await;
    let snapshot = sender.worker.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let staged = sender.snapshots.cut().await.unwrap();
    assert_eq!(meta_of(staged.manifest.state.as_ref().unwrap()).unwrap().last_log_id, snapshot.meta.last_log_id);
    (snapshot.meta, SnapshotBundle { maker: sender.snapshots.clone(), staged: Some(Box::new(staged)) })
}

/// #1960: completions of two groups that share one log come while others are still written. None may come before what it
/// stands for, nor vouch for more.
#[tokio::test]
async fn completions_shuffled_across_groups() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut groups = [group(&store, 1), group(&store, 2)];
    let (mut next, mut waiting) = ([0_u64; 2], futures::stream::FuturesUnordered::new());
    for round in 0..300_u64 {
        let n = usize::try_from(round * 7 % 3 % 2).unwrap();
        let entries: Vec<_> = (0..1 + round % 4).map(|i| blank(1, next[n] + i)).collect();
        next[n] += entries.len() as u64;
        let (callback, done) = flushed();
        groups[n].log.append(entries, callback).await.unwrap();
        let (cache, end) = (groups[n].log.cache().clone(), next[n]);
        waiting.push(async move {
            done.await.unwrap();
            // What it stands for is synced by then, and what every earlier one stands for.
            assert!(cache.synced() >= end, "{} of {end}", cache.synced());
        });
        if round % 50 == 49 {
            let vote = RaftVote { leader_id: RaftLeaderId { term: 2 + round, node_id: 1 }, committed: false };
            groups[1 - n].log.save_vote(&vote).await.unwrap();
        }
        // Never more than was asked for.
        assert!(groups.iter().zip(next).all(|(group, next)| group.log.cache().synced() <= next));
    }
    while waiting.next().await.is_some() {}
    assert_eq!(groups.each_ref().map(|group| group.log.cache().synced()), next);
}

/// #1960: the sync of a tail that was cut off meanwhile completes late. It says nothing about what took its place.
#[tokio::test]
async fn a_late_lower_completion_after_a_truncation() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut group = group(&store, 1);
    for round in 0..50 {
        let start = round * 10;
        let (old, old_done) = flushed();
        group.log.append((start..start + 20).map(|i| blank(2 * round + 1, i)).collect::<Vec<_>>(), old).await.unwrap();
        group.log.truncate_after(Some(id(2 * round + 1, start + 4))).await.unwrap();
        assert!(group.log.cache().synced() <= start + 5);
        let (new, new_done) = flushed();
        group
            .log
            .append((start + 5..start + 10).map(|i| blank(2 * round + 2, i)).collect::<Vec<_>>(), new)
            .await
            .unwrap();
        old_done.await.unwrap();
        new_done.await.unwrap();
        assert_eq!(group.log.cache().synced(), start + 10);
        let last = group.log.get_log_state().await.unwrap().last_log_id;
        assert_eq!(last, Some(id(2 * round + 2, start + 9)));
    }
}

/// #1828: everything a leader had is purged, beyond its last entry even, and an empty learner asks from the beginning. The
/// log says where it ends, answers nothing in place of what is gone, and there is a snapshot that reaches up to there.
#[tokio::test]
async fn a_leader_with_a_fully_purged_log_and_an_empty_learner() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    {
        let mut leader = group(&store, 1);
        append(&mut leader.log, (0..20).map(|i| if i == 0 { membership(1, 0, &[1]) } else { blank(1, i) })).await;
        apply(&mut leader, 0..=19).await;
        assert!(leader.worker.get_current_snapshot().await.unwrap().is_none(), "nothing is durable yet");
        let snapshot = leader.worker.get_snapshot_builder().await.build_snapshot().await.unwrap();
        assert_eq!(snapshot.meta.last_log_id, Some(id(1, 19)));
        leader.log.purge(id(1, 19)).await.unwrap();
    }
    for life in 0..2 {
        let mut leader = group(&store, 1);
        let state = leader.log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(1, 19)), Some(id(1, 19))), "life {life}");
        assert!(leader.log.limited_get_log_entries(0, 20).await.unwrap().is_empty());
        assert!(leader.log.try_get_log_entries(0..20).await.unwrap().is_empty());
        let current = leader.worker.get_current_snapshot().await.unwrap().expect("what the purge rests on");
        assert!(current.meta.last_log_id >= state.last_purged_log_id, "never older than the purge point");
        let initial =
            StorageHelper::new(&mut leader.log, &mut leader.worker).with_id(1).get_initial_state().await.unwrap();
        assert_eq!(initial.log_ids.last(), Some(&id(1, 19)));
    }
    let mut leader = group(&store, 1);
    append(&mut leader.log, [blank(2, 20)]).await;
    // A range that begins in what is gone is not answered with the rest of it.
    assert!(leader.log.limited_get_log_entries(10, 21).await.unwrap().is_empty());
    assert_eq!(leader.log.limited_get_log_entries(20, 21).await.unwrap().len(), 1);
}

/// #1761: a node whose own appends are not synced yet is given a snapshot past its log. Their completions still come, and
/// what follows the snapshot is not held up by them nor vouched for.
#[tokio::test]
async fn an_old_leader_with_pending_writes_receives_a_snapshot_past_its_log() {
    let (dir, sender) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let entries = (0..50).map(|i| if i == 0 { membership(1, 0, &[1, 2]) } else { blank(2, i) }).collect();
    let (meta, bundle) = received(&sender, entries).await;
    let store = open(dir.path());
    let mut old = group(&store, 1);
    append(&mut old.log, (0..10).map(|i| blank(1, i))).await;
    let mut pending = Vec::new();
    for index in 10..30 {
        let (callback, done) = flushed();
        old.log.append([blank(1, index)], callback).await.unwrap();
        pending.push(done);
    }
    old.worker.install_snapshot(&meta, bundle).await.unwrap();
    old.log.purge(id(2, 49)).await.unwrap();
    let (callback, done) = flushed();
    old.log.append([blank(2, 50)], callback).await.unwrap();
    futures::future::join_all(pending).await.into_iter().for_each(|done| done.unwrap());
    done.await.unwrap();
    assert_eq!(old.log.cache().synced(), 51);
    apply(&mut old, 50..=50).await;
    drop((old, store));

    let store = open(dir.path());
    let mut again = group(&store, 1);
    let state = again.log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(2, 49)), Some(id(2, 50))));
    let (applied, _) = again.worker.applied_state().await.unwrap();
    assert_eq!(applied, Some(id(2, 50)), "a clean end flushes");
}

/// #1808: the log holds a membership that was never committed, and a snapshot comes that has another one and reaches past
/// it. Afterwards, and after a restart, the snapshot's counts.
#[tokio::test]
async fn a_snapshot_installed_over_an_uncommitted_membership() {
    let (dir, sender) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let entries = (0..10).map(|i| if i == 0 { membership(1, 0, &[1, 2, 3]) } else { blank(3, i) }).collect();
    let (meta, bundle) = received(&sender, entries).await;
    let store = open(dir.path());
    let mut node = group(&store, 1);
    append(&mut node.log, [membership(1, 0, &[1, 2, 3]), blank(1, 1), membership(2, 2, &[1, 9])]).await;
    apply(&mut node, 0..=1).await;
    let counts = |state: &openraft::RaftState<Raftish>| state.membership_state.effective().membership().clone();
    let before = StorageHelper::new(&mut node.log, &mut node.worker).with_id(1).get_initial_state().await.unwrap();
    assert_eq!(counts(&before), voters(&[1, 9]), "until then the last one in the log counts");
    node.worker.install_snapshot(&meta, bundle).await.unwrap();
    node.log.purge(id(3, 9)).await.unwrap();
    drop((node, store));

    let store = open(dir.path());
    let mut node = group(&store, 1);
    let state = StorageHelper::new(&mut node.log, &mut node.worker).with_id(1).get_initial_state().await.unwrap();
    assert_eq!(counts(&state), voters(&[1, 2, 3]));
    let expected = RaftStoredMembership::new(Some(id(1, 0)), voters(&[1, 2, 3]));
    assert_eq!(node.worker.applied_state().await.unwrap(), (Some(id(3, 9)), expected));
}

/// #1795: what cannot be read in the middle of a range is an error. It is never left out, and never taken for the end.
#[tokio::test]
async fn a_read_error_while_entries_are_streamed() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut log = group(&store, 1).log;
    append(&mut log, (0..3).map(|i| blank(1, i))).await;
    let raw = store.raft.shard(ShardId(1));
    let put = |index, entry| raw.append(&[(index, entry)], Box::new(|result| result.unwrap())).unwrap();
    let encoded = |index| bytes::Bytes::from(codec::entry_to_pb(&blank(1, index)).encode_to_vec());
    put(3, "no entry".into());
    put(4, encoded(4));
    // A place that is missing.
    put(6, encoded(6));
    for (start, end) in [(0, 4), (2, 5), (3, 4), (3, 7), (4, 7)] {
        assert!(log.limited_get_log_entries(start, end).await.is_err(), "{start} to {end}");
        assert!(log.try_get_log_entries(start..end).await.is_err(), "{start} to {end}");
    }
    assert_eq!(log.limited_get_log_entries(0, 3).await.unwrap().len(), 3);
    assert_eq!(log.limited_get_log_entries(4, 5).await.unwrap(), [blank(1, 4)]);
    assert_eq!(log.limited_get_log_entries(6, 7).await.unwrap(), [blank(1, 6)]);
}

/// `raft/mod.rs:1969`: openraft hands over what is committed even if this node has not synced it. It is applied only once
/// it is, so no restart finds the state ahead of the log.
#[tokio::test]
async fn a_follower_does_not_apply_beyond_its_flushed_log() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut node = group(&store, 1);
    append(&mut node.log, [blank(1, 0)]).await;
    // Appended to the cache alone: the disk takes its time with it.
    node.log.cache().append([(blank(1, 1), 10)]);
    let entries = futures::stream::iter([Ok((blank(1, 0), None)), Ok((blank(1, 1), None))]);
    let cache = node.log.cache().clone();
    {
        let mut applying = std::pin::pin!(node.worker.apply(entries));
        for _ in 0..10 {
            assert!(applying.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        let position = store.data.view().shard_state(ShardId(1)).unwrap().and_then(|state| state.applied);
        assert_eq!(position.map(|id| id.index), Some(0), "what is synced is applied, and no more");
        cache.synced_one();
        applying.await.unwrap();
    }
    let position = store.data.view().shard_state(ShardId(1)).unwrap().and_then(|state| state.applied);
    assert_eq!(position.map(|id| id.index), Some(1));
}
