//! openraft's own storage suite, run on RocksDB and on the simulated disk; once more for a second group in the same
//! store.

use crate::apply::{ApplyWorker, EntryMutations, StateMachine};
use crate::backlog::Backlog;
use crate::log_cache::{LogCache, LogMemory};
use crate::log_store::LogStore;
use crate::raft_types::Raftish;
use crate::safe_time::SafeTime;
use crate::snapshot::SnapshotMaker;
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, SimDisk, SimDiskOptions, StorageError, Store, StoreOptions};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
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
        let log = LogStore::open(
            store.raft.shard(self.shard),
            Timestamp::ZERO,
            &LogMemory::new(1 << 20),
            &Backlog::new(1 << 30),
            store.space().clone(),
        )
        .unwrap();
        // The suite applies entries that it never appended: nothing to wait for.
        let synced = LogCache::new(u64::MAX, Timestamp::ZERO, &LogMemory::new(1 << 20));
        let snapshots = SnapshotMaker::new(self.shard, TableId(1), KeyRange::all(), store.clone());
        let safe = Arc::new(SafeTime::new(Timestamp::ZERO));
        let (worker, _) = ApplyWorker::open(
            self.shard,
            store.data,
            Arc::new(Nothing),
            synced,
            safe,
            snapshots,
            Backlog::new(1 << 30),
        )
        .unwrap();
        Ok((dir, log, worker))
    }
}

fn run(engine: Engine, neighbour: Option<ShardId>) {
    let builder = Builder { engine, shard: ShardId(7), neighbour };
    // The suite brings its own runtime and wants an async function that starts it.
    let suite = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(Suite::test_all(builder)).unwrap();
    });
    suite.join().unwrap();
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
