//! Gives the space of a range back.
//!
//! A range deletion hides what it covers and leaves it on the disk until compactions come by. Dropping whole files is
//! cheap, but knows neither views nor what a file hides in others, and is durable at once, before anything in memory is.

use super::families::Family;
use super::key::Span;
use super::records;
use super::store::UNBOUNDED;
use crate::{DataStore, StorageError};
#[cfg(feature = "simulation")]
use crate::{engine::Db, sim::Compaction};
use meridian_types::{KeyRange, ShardId, TableId};

impl DataStore {
    /// Removes a shard of which nothing is left to come, durably, and gives its space back. The caller must have a mark in
    /// `raft/`, its log for example, that brings it back here after a crash.
    ///
    /// 1. Clear and flush. From here on no crash brings the position back, without which nobody serves what is left.
    /// 2. Unless a view is open that may see it: drop the files that hold nothing else. That is durable at once, and may
    ///    take a file with the clearing in it while one below stays that it had hidden. Hence:
    /// 3. Clear and flush again, and compact what is left.
    ///
    /// A crash between 2 and 3 leaves versions of a shard without a position; repeating this removes them. Blocks for the
    /// disk.
    pub fn drop_shard(&self, shard: ShardId, table: TableId, range: &KeyRange) -> Result<(), StorageError> {
        let cleared = self.clear(shard, table, range)?;
        self.flush()?;
        if self.registry().has_views_before(&cleared) {
            // Compactions give the space back once the views are gone.
            return Ok(());
        }
        drop(cleared);
        let spans = [(Family::Versions, Span::of(table, range)), (Family::Ledger, records::ledger_span(shard))];
        for (family, span) in &spans {
            self.drop_files(*family, span)?;
        }
        self.clear_shard(shard, table, range)?;
        self.flush()?;
        for (family, Span { start, end }) in &spans {
            self.db().compact(family.name(), start, end.as_deref().unwrap_or(&UNBOUNDED))?;
        }
        Ok(())
    }

    /// Compacts the versions in a range of keys now, down to the last level. Blocks for the disk, and reads and writes
    /// everything that shares a file with the range.
    pub fn compact(&self, table: TableId, range: &KeyRange) -> Result<(), StorageError> {
        #[cfg(feature = "simulation")]
        if let Db::Simulated(simulated) = &self.db() {
            return self.compact_simulated(simulated, Compaction::WHOLE);
        }
        let Span { start, end } = Span::of(table, range);
        self.db().compact(Family::Versions.name(), &start, end.as_deref().unwrap_or(&UNBOUNDED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::crash;
    use crate::{DataBatch, Store, StoreOptions};
    use meridian_proto::internal::v1::ShardState;
    use meridian_types::{RequestId, Timestamp};
    use std::path::Path;

    const DOOMED: (ShardId, TableId) = (ShardId(2), TableId(5));
    /// Shards whose keys lie around it, in the same files where they meet.
    const OTHERS: [(ShardId, TableId); 2] = [(ShardId(1), TableId(4)), (ShardId(3), TableId(6))];
    const ROWS: u64 = 2_000;

    fn options() -> StoreOptions {
        StoreOptions { data_write_buffer_bytes: 1 << 20, block_cache_bytes: 1 << 20, ..StoreOptions::default() }
    }

    /// Rows with values that do not compress, newest stamp `round`.
    fn fill(store: &Store, (shard, table): (ShardId, TableId), round: u64) {
        for n in 0..ROWS {
            let mut batch = DataBatch::default();
            let value: Vec<u8> = (0..50)
                .flat_map(|i| (n * 1_000_003 + i * 7_919 + round).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
                .collect();
            batch.put_version(table, &n.to_be_bytes(), Timestamp(round), Some(value.into()));
            batch.put_ledger(shard, &RequestId { time: Timestamp(round), client: 0, sequence: n }, b"record");
            batch.put_shard_state(shard, &ShardState { last_ts: round, ..ShardState::default() });
            store.data.write(batch).unwrap();
        }
        store.data.flush().unwrap();
    }

    fn rows(store: &Store, (shard, table): (ShardId, TableId)) -> (usize, bool) {
        let view = store.data.view();
        let found = view.scan(table, &KeyRange::all(), Timestamp::MAX, false, usize::MAX, usize::MAX).unwrap();
        (found.rows.len(), view.shard_state(shard).unwrap().is_some())
    }

    fn sst_bytes(dir: &Path) -> u64 {
        let files = std::fs::read_dir(dir.join("data")).unwrap().map(Result::unwrap);
        let tables = files.filter(|f| f.path().extension().is_some_and(|e| e == "sst"));
        // A table that the database has removed since it was listed takes no space.
        let length = |result: std::io::Result<std::fs::Metadata>| match result {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            found => found.unwrap().len(),
        };
        tables.map(|f| length(f.metadata())).sum()
    }

    /// Three shards, each written twice, in files on several levels.
    fn filled(dir: &Path) -> Store {
        let store = Store::open(dir, options()).unwrap();
        for round in [10, 20] {
            for of in [OTHERS[0], DOOMED, OTHERS[1]] {
                fill(&store, of, round);
            }
            if round == 10 {
                OTHERS.iter().chain([&DOOMED]).for_each(|(_, t)| store.data.compact(*t, &KeyRange::all()).unwrap());
            }
        }
        store
    }

    #[test]
    fn a_dropped_shard_gives_its_space_back_and_leaves_its_neighbours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path());
        let before = sst_bytes(dir.path());
        store.data.drop_shard(DOOMED.0, DOOMED.1, &KeyRange::all()).unwrap();
        let after = sst_bytes(dir.path());
        println!("{before} bytes of three shards, {after} of two");
        assert!(after * 10 < before * 8, "{before} -> {after}");
        assert_eq!(rows(&store, DOOMED), (0, false));
        OTHERS.iter().for_each(|of| assert_eq!(rows(&store, *of), (ROWS as usize, true)));
    }

    #[test]
    fn no_files_are_dropped_under_a_view_that_may_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path());
        let view = store.data.view();
        store.data.drop_shard(DOOMED.0, DOOMED.1, &KeyRange::all()).unwrap();
        let seen = view.scan(DOOMED.1, &KeyRange::all(), Timestamp::MAX, false, usize::MAX, usize::MAX).unwrap();
        assert_eq!(seen.rows.len(), ROWS as usize);
        assert_eq!(rows(&store, DOOMED), (0, false));
    }

    #[test]
    fn dropping_is_finished_after_a_crash_at_any_step() {
        for steps in 0..=4 {
            let dir = tempfile::tempdir().unwrap();
            let life = |n: u32| dir.path().join(n.to_string());
            let store = filled(&life(0));
            let span = Span::of(DOOMED.1, &KeyRange::all());
            let all: [&dyn Fn() -> Result<(), StorageError>; 4] = [
                &|| store.data.clear_shard(DOOMED.0, DOOMED.1, &KeyRange::all()),
                &|| store.data.flush(),
                &|| store.data.drop_files(Family::Versions, &span),
                &|| store.data.clear_shard(DOOMED.0, DOOMED.1, &KeyRange::all()),
            ];
            all.iter().take(steps).for_each(|step| step().unwrap());
            crash(&life(0), &life(1));
            let found = Store::open(&life(1), options()).unwrap();
            // Whatever came back, nobody serves it: from the flush on there is no position.
            assert_eq!(rows(&found, DOOMED).1, steps < 2, "after {steps} steps");
            found.data.drop_shard(DOOMED.0, DOOMED.1, &KeyRange::all()).unwrap();
            drop(found);
            let again = Store::open(&life(1), options()).unwrap();
            assert_eq!(rows(&again, DOOMED), (0, false), "after {steps} steps");
            OTHERS.iter().for_each(|of| assert_eq!(rows(&again, *of), (ROWS as usize, true)));
        }
    }
}
