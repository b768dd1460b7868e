//! One open database on the disk, and views of it.

use super::disk::{Compaction, SimDisk, dead};
use super::files::SimFiles;
use super::instance::{Change, Records};
use super::iter::SimIter;
use super::sst;
use crate::engine::{FamilyName, Rows, Scan};
use crate::{StorageError, StoreName};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// A database that one generation has open.
pub(crate) struct SimDb {
    disk: SimDisk,
    store: StoreName,
    generation: u64,
    // Dropped last: the database is closed by then.
    open: watch::Sender<()>,
}

impl SimDb {
    /// Opens `raft/` or `data/` of the disk.
    ///
    /// * Errors: [`StorageError::File`] while a living handle has it open.
    pub(crate) fn open(disk: &SimDisk, store: StoreName) -> Result<Arc<Self>, StorageError> {
        let generation = disk.lock().open(store)?;
        Ok(Arc::new(Self { disk: disk.clone(), store, generation, open: watch::Sender::new(()) }))
    }

    pub(crate) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    pub(crate) fn watch_open(&self) -> watch::Receiver<()> {
        self.open.subscribe()
    }

    /// Fails once the process that opened it is dead.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.disk.alive(self.generation).map(drop)
    }

    pub(crate) fn write(&self, batch: Vec<Change>) -> Result<(), StorageError> {
        self.disk.alive(self.generation)?.write(self.store, batch);
        Ok(())
    }

    /// How many batches were written so far, for [`SimDb::sync`].
    pub(crate) fn written(&self) -> u64 {
        self.disk.lock().instance(self.store).written()
    }

    /// Syncs the log up to that many batches.
    pub(crate) fn sync(&self, upto: u64) -> Result<(), StorageError> {
        self.disk.alive(self.generation)?.sync(upto)
    }

    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        self.disk.alive(self.generation)?.flush(self.store);
        Ok(())
    }

    /// Whether a compaction comes now.
    pub(crate) fn draw_compaction(&self) -> Result<Option<Compaction>, StorageError> {
        Ok(self.disk.alive(self.generation)?.draw_compaction())
    }

    /// Passes what is durable of a family, as far as the compaction takes it, to `goes`, and removes what goes.
    pub(crate) fn compact(
        &self,
        family: FamilyName,
        compaction: Compaction,
        goes: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        self.disk.alive(self.generation)?.instance(self.store).compact(family, compaction, goes);
        Ok(())
    }

    pub(crate) fn put_flushed(&self, family: FamilyName, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.disk.alive(self.generation)?.instance(self.store).put_stable(family, key, value);
        Ok(())
    }

    pub(crate) fn get_flushed(&self, family: FamilyName, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let mut disk = self.disk.alive(self.generation)?;
        Ok(disk.instance(self.store).stable(family).and_then(|records| records.get(key)).map(|value| value.to_vec()))
    }

    pub(crate) fn memtable_bytes(&self, family: FamilyName) -> Result<u64, StorageError> {
        Ok(self.disk.alive(self.generation)?.instance(self.store).pending_bytes(family))
    }

    /// As RocksDB does it: unflushed changes that the files overlap are flushed first, then the files' records are
    /// durable at once. Taken files lose their names.
    pub(crate) fn ingest(&self, family: FamilyName, paths: &[PathBuf], take: bool) -> Result<(), StorageError> {
        let files = self.files();
        let read = |path: &PathBuf| sst::decode(&files.read(path)?).ok_or_else(|| sst::broken(path));
        let contents = paths.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut disk = self.disk.alive(self.generation)?;
        let instance = disk.instance(self.store);
        for records in contents {
            if let (Some((first, _)), Some((last, _))) = (records.first(), records.last())
                && instance.pending_touches(family, first, last)
            {
                instance.settle_all();
            }
            records.into_iter().for_each(|(key, value)| instance.put_stable(family, key, value));
        }
        drop(disk);
        paths.iter().filter(|_| take).try_for_each(|path| files.remove(path))
    }

    pub(crate) fn files(&self) -> SimFiles {
        SimFiles::new(self.disk.clone(), self.generation)
    }

    /// The records as they are now.
    pub(crate) fn view(self: &Arc<Self>) -> Result<SimView, StorageError> {
        let families = self.disk.alive(self.generation)?.instance(self.store).now().clone();
        Ok(SimView { db: Arc::clone(self), families })
    }
}

impl Drop for SimDb {
    fn drop(&mut self) {
        if let Ok(mut disk) = self.disk.alive(self.generation) {
            disk.close(self.store);
        }
    }
}

/// One moment of a database.
pub(crate) struct SimView {
    db: Arc<SimDb>,
    families: BTreeMap<FamilyName, Records>,
}

impl SimView {
    /// This moment of the database; of a dead one a view that answers nothing but errors.
    pub(crate) fn of(db: &Arc<SimDb>) -> Self {
        db.view().unwrap_or_else(|_| Self { db: Arc::clone(db), families: BTreeMap::new() })
    }

    pub(crate) fn db(&self) -> &SimDb {
        &self.db
    }

    pub(crate) fn get(&self, family: FamilyName, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.db.check()?;
        Ok(self.families.get(family).and_then(|records| records.get(key)).cloned())
    }

    pub(crate) fn iter(&self, family: FamilyName, scan: Scan) -> SimIter {
        let records = self.families.get(family).cloned().unwrap_or_default();
        SimIter::new(self.db.check().map(|()| records).map_err(|_| dead()), scan)
    }

    /// A snapshot file of records, up to about `bytes_max`, or what the disk says.
    pub(crate) fn write_file(&self, rows: &mut impl Rows, path: &Path, bytes_max: u64) -> Result<(), StorageError> {
        let files = self.db.files();
        let bytes_max = bytes_max.min(self.db.disk().snapshot_file_bytes());
        let mut writer = sst::Writer::default();
        while let Some((key, value)) = rows.row() {
            writer.put(key, value);
            rows.advance();
            if writer.bytes() >= bytes_max {
                break;
            }
        }
        files.create(path)?;
        files.append(path, &writer.finish())
    }
}
