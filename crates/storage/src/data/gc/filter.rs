//! The collector as a compaction filter of RocksDB.
//!
//! RocksDB turns what a filter removes into a deletion of that version's key, at its place in the order of writes, or
//! leaves it out where nothing lies below: nothing that was under the same key comes back. The outputs of a compaction
//! appear together. Filters do not keep to RocksDB's snapshots, which is why views hold floors (see the module above).

use super::decide::{Collector, Verdict};
use super::registry::Registry;
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use std::ffi::CStr;
use std::sync::Arc;

/// Tombstones that one compaction notes for the sweep.
const NOTED_MAX: usize = 1_024;

/// Makes one filter for every compaction.
pub(crate) struct FilterFactory(pub(crate) Arc<Registry>);

impl CompactionFilterFactory for FilterFactory {
    type Filter = Filter;

    // Called on RocksDB's threads, maybe on several at once: nothing here is changed without a lock.
    fn create(&mut self, context: CompactionFilterContext) -> Filter {
        let collector = Collector::new(self.0.for_compaction(), context.is_full_compaction);
        Filter { registry: self.0.clone(), collector, lonely: Vec::new() }
    }

    fn name(&self) -> &CStr {
        c"meridian.versions.1"
    }
}

/// One compaction's filter.
pub(crate) struct Filter {
    registry: Arc<Registry>,
    collector: Collector,
    lonely: Vec<Vec<u8>>,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        match self.collector.pass(key, value) {
            Verdict::Go => return CompactionDecision::Remove,
            Verdict::Lonely if self.lonely.len() < NOTED_MAX => self.lonely.push(key.to_vec()),
            Verdict::Lonely | Verdict::Stay => {}
        }
        CompactionDecision::Keep
    }

    fn name(&self) -> &CStr {
        c"meridian.versions.1"
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.registry.note_lonely(std::mem::take(&mut self.lonely));
    }
}
