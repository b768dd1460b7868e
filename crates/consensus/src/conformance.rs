//! openraft's own storage suite, run on RocksDB and on the simulated disk: on a store of its own for each case, next to a
//! second group, and for two groups at once in one instance, while a third is written to between them.

use crate::apply::{ApplyWorker, EntryMutations, LogSide, StateMachine};
use crate::early::Acceptances;
use crate::log_cache::LogCache;
use crate::log_store::LogStore;
use crate::memory::NodeMemory;
use crate::raft_types::Raftish;
use crate::safe_time::SafeTime;
use crate::snapshot::SnapshotMaker;
use bytes::Bytes;
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, SimDisk, SimDiskOptions, StorageError, Store, StoreOptions};
use meridian_types::{KeyRange, MEMORY_MIN, MemoryBudget, NodeId, ShardId, TableId, Timestamp};
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// A state machine without mutations: the suite only sees blank and membership entries.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, entries: &[EntryMutations<'_>], _: &mut DataBatch) -> Result<Vec<Vec<pb::Outcome>>, StorageError> {
        Ok(entries.iter().map(|_| Vec::new()).collect())
    }

    fn applied(&self, _: Timestamp) {}

    fn replaced(&self) {}
}

#[derive(Clone, Copy)]
enum Engine {
    Rocks,
    Simulated,
}

/// Builds a fresh store and the group `shard` in it; `neighbour` has entries and a vote of its own before that.
struct Builder {
    engine: Engine,
    shard: ShardId,
    neighbour: Option<ShardId>,
}

impl StoreBuilder<Raftish, LogStore, ApplyWorker, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, ApplyWorker), openraft::StorageError<Raftish>> {
        let dir = TempDir::new().unwrap();
        let store = match self.engine {
            Engine::Rocks => Store::open(dir.path(), StoreOptions::default()),
            Engine::Simulated => {
                let disk = SimDisk::new(1, SimDiskOptions::default());
                Store::open_simulated(&disk, Arc::new(|e| panic!("not poisoned: {e}")))
            }
        };
        let store = store.unwrap();
        if let Some(neighbour) = self.neighbour {
            let log = store.raft.shard(neighbour);
            log.append(&[(0, "a".into()), (1, "b".into())], Box::new(|r| r.unwrap())).unwrap();
            log.save_vote("vote".into()).await.unwrap();
        }
        let (log, worker) = group(&store, self.shard);
        Ok((dir, log, worker))
    }
}

/// A group's log and state machine.
fn group(store: &Store, shard: ShardId) -> (LogStore, ApplyWorker) {
    let memory = NodeMemory::new(MemoryBudget::of(MEMORY_MIN).unwrap());
    let tell = Acceptances::new(NodeId(1));
    let log = LogStore::open(store.raft.shard(shard), Timestamp::ZERO, &memory, store.space().clone(), &tell).unwrap();
    // The suite applies entries that it never appended: nothing to wait for.
    let synced = LogCache::new(u64::MAX, Timestamp::ZERO, &memory.log);
    let acceptor = log.acceptor().clone();
    let side = LogSide { cache: synced, acceptor, outcomes: Arc::default(), backlog: memory.backlog.clone() };
    let table = TableId(shard.0);
    let snapshots = SnapshotMaker::new(shard, table, KeyRange::all(), store.clone());
    let safe = Arc::new(SafeTime::new(Timestamp::ZERO));
    let worker = ApplyWorker::open(shard, store.data.clone(), Arc::new(Nothing), side, safe, snapshots);
    (log, worker.unwrap().0)
}

/// A group in stores that it shares with others, emptied for every case. There are two stores, in turn: a case that sends
/// a snapshot has the group on two nodes.
struct Sharing {
    stores: [Store; 2],
    shard: ShardId,
    built: AtomicUsize,
}

impl StoreBuilder<Raftish, LogStore, ApplyWorker, ()> for Sharing {
    async fn build(&self) -> Result<((), LogStore, ApplyWorker), openraft::StorageError<Raftish>> {
        let store = &self.stores[self.built.fetch_add(1, Ordering::SeqCst) % 2];
        store.raft.shard(self.shard).destroy().unwrap();
        store.data.clear_shard(self.shard, TableId(self.shard.0), &KeyRange::all()).unwrap();
        let (log, worker) = group(store, self.shard);
        Ok(((), log, worker))
    }
}

/// Runs the suite on a thread of its own: it brings its own runtime and wants an async function that starts it.
fn start<G: Send + Sync + 'static>(
    builder: impl StoreBuilder<Raftish, LogStore, ApplyWorker, G> + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(Suite::test_all(builder)).unwrap();
    })
}

fn run(engine: Engine, neighbour: Option<ShardId>) {
    let builder = Builder { engine, shard: ShardId(7), neighbour };
    start(builder).join().unwrap();
}

#[test]
fn the_store_passes_openrafts_suite() {
    run(Engine::Rocks, None);
}

#[test]
fn the_store_passes_it_next_to_another_group() {
    run(Engine::Rocks, Some(ShardId(6)));
}

#[test]
fn the_simulated_disk_passes_openrafts_suite() {
    run(Engine::Simulated, None);
    run(Engine::Simulated, Some(ShardId(6)));
}

/// Two suites at once in one instance of RocksDB: their groups' keys lie between one another, their writes in one log,
/// their syncs are shared. Between both, in the first of two instances, lies a group that is written to, cut, purged and voted in all the time, and has
/// to be exactly what it would be alone.
#[test]
fn two_groups_in_one_instance_pass_it_at_the_same_time() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let stores = dirs.each_ref().map(|dir| Store::open(dir.path(), StoreOptions::default()).unwrap());
    let suite = |shard| start(Sharing { stores: stores.clone(), shard: ShardId(shard), built: AtomicUsize::new(0) });
    let suites = [suite(6), suite(8)];
    let over = Arc::new(AtomicBool::new(false));
    let between = std::thread::spawn({
        let (log, over) = (stores[0].raft.shard(ShardId(7)), over.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (mut next, mut rounds) = (0_u64, 0_u64);
            while !over.load(Ordering::SeqCst) || rounds == 0 {
                let entries: Vec<_> = (next..next + 10).map(|index| (index, content(index, rounds))).collect();
                log.append(&entries, Box::new(|result| result.unwrap())).unwrap();
                // Half of it is another leader's now.
                log.truncate_from(next + 5).unwrap();
                let entries: Vec<_> = (next + 5..next + 10).map(|index| (index, content(index, rounds))).collect();
                log.append(&entries, Box::new(|result| result.unwrap())).unwrap();
                runtime.block_on(log.save_vote(content(0, rounds))).unwrap();
                assert_eq!(log.read(next..next + 20, usize::MAX).unwrap().len(), 10);
                log.purge(next + 4, content(next + 4, rounds)).unwrap();
                (next, rounds) = (next + 10, rounds + 1);
                let kept = log.read(next - 5..next, usize::MAX).unwrap();
                let expected: Vec<_> = (next - 5..next).map(|index| (index, content(index, rounds - 1))).collect();
                assert_eq!((kept, log.vote().unwrap()), (expected, Some(content(0, rounds - 1))));
            }
            rounds
        }
    });
    suites.into_iter().for_each(|suite| suite.join().unwrap());
    over.store(true, Ordering::SeqCst);
    assert!(between.join().unwrap() > 0);
}

fn content(index: u64, round: u64) -> Bytes {
    format!("entry {index} of round {round}").into()
}
