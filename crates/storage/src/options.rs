//! Sizes and hooks of a store.

use crate::StorageError;
use meridian_types::MemoryBudget;
use std::fmt;
use std::sync::Arc;

/// Called once, from the sync thread, when the raft log can no longer be trusted.
pub type FatalHook = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// Budget of a store that is opened without one: by tools and tests.
const MEMORY_DEFAULT: u64 = 1 << 30;

/// Memtables per column family, the active one included.
const WRITE_BUFFERS_MAX: u16 = 4;

/// Sizes in bytes, derived from a memory budget.
///
/// Memtables are charged to the block cache, so that it and they stay within its capacity together.
#[derive(Clone)]
pub struct StoreOptions {
    /// One memtable of the raft log; up to [`StoreOptions::write_buffers_max`] exist.
    pub raft_write_buffer_bytes: usize,
    /// Memtables of the raft log together, before they are flushed however full each of them is.
    pub raft_memtables_bytes: usize,
    /// One memtable of the versions.
    pub data_write_buffer_bytes: usize,
    /// One memtable of the ledgers; records are small.
    pub ledger_write_buffer_bytes: usize,
    /// One memtable of the positions; there is one per shard, overwritten all the time.
    pub shards_write_buffer_bytes: usize,
    /// Memtables of the data together, before they are flushed however full each of them is.
    pub data_memtables_bytes: usize,
    /// Memtables per column family, the active one included, before writers are made to wait for flushes.
    pub write_buffers_max: u16,
    /// Write-ahead log on disk after which RocksDB flushes the raft log's memtables.
    pub raft_wal_bytes_max: u64,
    /// Cache of uncompressed blocks, their indexes and filters, shared by both stores; memtables are charged to it.
    pub block_cache_bytes: usize,
    /// Background threads for flushes and compactions, per store.
    pub background_jobs: u16,
    /// Open files per store.
    pub open_files_max: u16,
    /// Free bytes on the disk below which writes are refused; see [`crate::DiskSpace`] for what is kept if absent.
    pub disk_reserve_bytes: Option<u64>,
    /// What to do after a failed write or sync of the raft log. Its result is unknown for every shard at once, and
    /// a later sync that succeeds proves nothing, so the default ends the process.
    pub on_fatal: FatalHook,
}

impl StoreOptions {
    /// The sizes that follow from a memory budget.
    pub fn for_budget(budget: &MemoryBudget) -> Self {
        // A 32-bit machine cannot have more than it can address anyway.
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let data = budget.data_memtables;
        Self {
            raft_write_buffer_bytes: bytes(budget.raft_memtables / u64::from(WRITE_BUFFERS_MAX)),
            raft_memtables_bytes: bytes(budget.raft_memtables),
            data_write_buffer_bytes: bytes(data / 2),
            ledger_write_buffer_bytes: bytes(data / 8),
            shards_write_buffer_bytes: bytes(data / 16),
            data_memtables_bytes: bytes(data),
            write_buffers_max: WRITE_BUFFERS_MAX,
            raft_wal_bytes_max: 256 << 20,
            block_cache_bytes: bytes(budget.cache),
            background_jobs: 2,
            open_files_max: 512,
            disk_reserve_bytes: None,
            on_fatal: Arc::new(abort),
        }
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::for_budget(&MemoryBudget::of(MEMORY_DEFAULT).expect("above the minimum"))
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("raft_write_buffer_bytes", &self.raft_write_buffer_bytes)
            .field("raft_memtables_bytes", &self.raft_memtables_bytes)
            .field("data_write_buffer_bytes", &self.data_write_buffer_bytes)
            .field("ledger_write_buffer_bytes", &self.ledger_write_buffer_bytes)
            .field("shards_write_buffer_bytes", &self.shards_write_buffer_bytes)
            .field("data_memtables_bytes", &self.data_memtables_bytes)
            .field("write_buffers_max", &self.write_buffers_max)
            .field("raft_wal_bytes_max", &self.raft_wal_bytes_max)
            .field("block_cache_bytes", &self.block_cache_bytes)
            .field("background_jobs", &self.background_jobs)
            .field("open_files_max", &self.open_files_max)
            .field("disk_reserve_bytes", &self.disk_reserve_bytes)
            .finish_non_exhaustive()
    }
}

fn abort(error: &StorageError) {
    tracing::error!(%error, "the raft log failed; ending the process, because nothing it acknowledges from here on could be trusted");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::MEMORY_MIN;

    /// Before RocksDB makes writers wait, every family may have its largest number of full memtables: even then they
    /// leave room in the cache that they are charged to.
    #[test]
    fn memtables_fit_into_the_cache_even_when_flushes_lag() {
        for total in [MEMORY_MIN, 1 << 30, 1 << 40] {
            let o = StoreOptions::for_budget(&MemoryBudget::of(total).unwrap());
            let one_of_each = o.raft_write_buffer_bytes
                + o.data_write_buffer_bytes
                + o.ledger_write_buffer_bytes
                + o.shards_write_buffer_bytes;
            let most = one_of_each * usize::from(o.write_buffers_max);
            assert!(most <= o.block_cache_bytes, "{total}: {most} of {}", o.block_cache_bytes);
        }
    }
}
