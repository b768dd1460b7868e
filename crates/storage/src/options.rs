//! Sizes and hooks of a store.

use crate::StorageError;
use std::fmt;
use std::sync::Arc;

/// Called once, from the sync thread, when the raft log can no longer be trusted.
pub type FatalHook = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// Sizes in bytes. The defaults suit a machine with 4 GiB of memory: about half a gigabyte when busy.
#[derive(Clone)]
pub struct StoreOptions {
    /// One memtable of the raft log; up to [`StoreOptions::write_buffers_max`] exist.
    pub raft_write_buffer_bytes: usize,
    /// One memtable of the versions.
    pub data_write_buffer_bytes: usize,
    /// Memtables per column family, the active one included, before writers are made to wait for flushes.
    pub write_buffers_max: u16,
    /// Write-ahead log on disk after which RocksDB flushes the raft log's memtables.
    pub raft_wal_bytes_max: u64,
    /// Cache of uncompressed blocks, shared by both stores.
    pub block_cache_bytes: usize,
    /// Background threads for flushes and compactions, per store.
    pub background_jobs: u16,
    /// Open files per store.
    pub open_files_max: u16,
    /// What to do after a failed write or sync of the raft log. Its result is unknown for every shard at once, and
    /// a later sync that succeeds proves nothing, so the default ends the process.
    pub on_fatal: FatalHook,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            raft_write_buffer_bytes: 32 << 20,
            data_write_buffer_bytes: 64 << 20,
            write_buffers_max: 4,
            raft_wal_bytes_max: 256 << 20,
            block_cache_bytes: 256 << 20,
            background_jobs: 2,
            open_files_max: 512,
            on_fatal: Arc::new(abort),
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("raft_write_buffer_bytes", &self.raft_write_buffer_bytes)
            .field("data_write_buffer_bytes", &self.data_write_buffer_bytes)
            .field("write_buffers_max", &self.write_buffers_max)
            .field("raft_wal_bytes_max", &self.raft_wal_bytes_max)
            .field("block_cache_bytes", &self.block_cache_bytes)
            .field("background_jobs", &self.background_jobs)
            .field("open_files_max", &self.open_files_max)
            .finish_non_exhaustive()
    }
}

fn abort(error: &StorageError) {
    tracing::error!(%error, "the raft log failed; ending the process, because nothing it acknowledges from here on could be trusted");
    std::process::abort();
}
