//! The column families of the data store and how each is laid out on disk.

use super::gc::{FilterFactory, Registry};
use super::key;
use crate::StoreOptions;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options, SliceTransform};
use std::sync::Arc;

/// Bits per stem of the bloom filter: about 1 % false positives.
const BLOOM_BITS: f64 = 10.0;

/// Part of a versions memtable that its bloom filter takes.
const MEMTABLE_BLOOM_RATIO: f64 = 0.05;

/// Seconds after which a file of versions is compacted whether or not anything is written beside it, so that what is
/// old in it goes: a week.
const VERSIONS_FILE_AGE_MAX: u64 = 7 * 24 * 3600;

/// A column family with data of shards. The default family holds only the store's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Versions of keys.
    Versions,
    /// Request ledgers.
    Ledger,
    /// Positions of shards.
    Shards,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::Versions, Self::Ledger, Self::Shards];

    /// Its name on disk and in manifests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Versions => "versions",
            Self::Ledger => "ledger",
            Self::Shards => "shards",
        }
    }

    /// The family with this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// RocksDB's options for one family, snapshot files for it included.
pub(crate) fn options(family: Family, store: &StoreOptions, cache: &Cache, registry: &Arc<Registry>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Else the indexes of all open files would be memory that nothing bounds.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(BLOOM_BITS, false);
    let mut options = Options::default();
    options.set_max_write_buffer_number(i32::from(store.write_buffers_max));
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    match family {
        Family::Versions => {
            // Filter the stem, not the whole key: nobody looks for a version by its exact timestamp.
            table.set_whole_key_filtering(false);
            let stem = SliceTransform::create("meridian.stem.1", key::stem_of, Some(key::has_stem));
            options.set_prefix_extractor(stem);
            options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
            options.set_write_buffer_size(store.data_write_buffer_bytes);
            options.set_compaction_filter_factory(FilterFactory(registry.clone()));
            options.set_periodic_compaction_seconds(VERSIONS_FILE_AGE_MAX);
        }
        Family::Ledger => options.set_write_buffer_size(store.ledger_write_buffer_bytes),
        Family::Shards => options.set_write_buffer_size(store.shards_write_buffer_bytes),
    }
    options.set_block_based_table_factory(&table);
    options
}
