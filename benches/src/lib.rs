//! Criterion benchmarks of single crates, in `benches/`. Whole clusters are measured by `meridian bench`.

use meridian_storage::StoreOptions;

/// Options of a RocksDB without Meridian that a store is told beside: the filters, the cache and the compression that ours
/// has. The database is made if it is not there.
pub fn plain_options() -> rocksdb::Options {
    let mut table = rocksdb::BlockBasedOptions::default();
    table.set_block_cache(&rocksdb::Cache::new_lru_cache(StoreOptions::default().block_cache_bytes));
    table.set_bloom_filter(10.0, false);
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    options
}
