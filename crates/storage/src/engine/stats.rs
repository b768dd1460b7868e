//! What an engine has written, by its own count.

/// Counts of one store since it was opened. A simulated disk counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Bytes of the batches that were written, keys and framing included: what everything else is measured against.
    pub user_bytes: u64,
    /// Bytes appended to the write-ahead log.
    pub log_bytes: u64,
    /// Syncs of the write-ahead log.
    pub log_syncs: u64,
    /// Bytes that flushes of memtables wrote.
    pub flushed_bytes: u64,
    /// Bytes that compactions read.
    pub compaction_read_bytes: u64,
    /// Bytes that compactions wrote.
    pub compaction_written_bytes: u64,
    /// How long writers were held up because flushes or compactions lagged, in microseconds.
    pub stalled_us: u64,
    /// Data blocks found in the cache.
    pub block_hits: u64,
    /// Data blocks that were not in the cache.
    pub block_misses: u64,
}

impl EngineStats {
    /// Bytes handed to the disk.
    pub fn written_bytes(&self) -> u64 {
        self.log_bytes + self.flushed_bytes + self.compaction_written_bytes
    }

    /// Bytes handed to the disk for each byte of [`EngineStats::user_bytes`]; zero before the first.
    pub fn write_amplification(&self) -> f64 {
        if self.user_bytes == 0 { 0.0 } else { self.written_bytes() as f64 / self.user_bytes as f64 }
    }
}
