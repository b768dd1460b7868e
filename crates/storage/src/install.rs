//! Installs a snapshot so that a crash at any step leaves either the old state or the new one (invariants, rule D2).
//!
//! 1. The received files are checked against the manifest, and their names made durable.
//! 2. An "installing" mark is synced into `raft/`.
//! 3. The shard is cleared, the files are ingested, the position is put, everything is flushed. Ingested files are
//!    durable at once, the position only with the flush: between the two the disk holds new data under an old or
//!    no position, which is why a mark found at start means "do it again". The database takes the files by a second name
//!    that each of them gets: no byte is written again, and the staged name stays for doing it again.
//! 4. The mark is removed; only then may the caller purge the log or drop the staged files.
//!
//! Repeating is harmless: step 3 begins by clearing.

use crate::data::{DataBatch, Family};
use crate::raft::RaftLog;
use crate::{StorageError, Store, verify_snapshot};
use bytes::Bytes;
use meridian_proto::internal::v1::{InstallMark, SnapshotManifest};
use meridian_types::{KeyRange, ShardId, TableId};
use prost::Message as _;
use std::path::{Path, PathBuf};

/// Name of the mark that is in `raft/` while a snapshot is being installed.
pub(crate) const MARK: &str = "install";

/// Folder, beside the staged files, of the names that the database takes.
const LINKS: &str = "links";

impl Store {
    /// Replaces everything that this node has of a shard by a snapshot whose files are in `dir`.
    ///
    /// On return the new state is durable and the files may be removed. Until then they must stay, also over a
    /// crash; [`Store::snapshots_dir`] is the place for them. Nobody else writes the shard meanwhile, and whoever
    /// reads it may see it half replaced. Blocks for the disk.
    ///
    /// * Errors: as [`verify_snapshot`], and [`StorageError::BadSnapshot`] for another shard's; then nothing was
    ///   changed. Any other error leaves the mark: the shard must not be served until it is installed again.
    pub fn install_snapshot(
        &self,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
        dir: &Path,
        manifest: &SnapshotManifest,
    ) -> Result<(), StorageError> {
        if manifest.shard != shard.0 {
            let (snapshot_id, why) = (manifest.snapshot_id.clone(), format!("it is of {}", ShardId(manifest.shard)));
            return Err(StorageError::BadSnapshot { shard, snapshot_id, why });
        }
        self.announce(shard, table, range, dir, manifest)?;
        self.replace(shard, table, range, dir, manifest)?;
        self.raft.shard(shard).mark(MARK, None)
    }

    /// Finishes the installations that a crash has interrupted; returns their shards. Called after opening, before
    /// any shard is served.
    ///
    /// * Errors: as [`Store::install_snapshot`]; a shard whose staged files are lost has to be given up.
    pub fn resume_installs(&self) -> Result<Vec<ShardId>, StorageError> {
        let mut resumed = Vec::new();
        for shard in self.raft.shards()? {
            let log = self.raft.shard(shard);
            if let Some(mark) = log.get_mark(MARK)? {
                self.resume(&log, mark)?;
                resumed.push(shard);
            }
        }
        Ok(resumed)
    }

    fn resume(&self, log: &RaftLog, mark: Bytes) -> Result<(), StorageError> {
        let bad = || StorageError::corrupt(format!("the mark of a snapshot being installed for {}", log.shard()));
        let mark = InstallMark::decode(mark).map_err(|_| bad())?;
        let manifest = mark.manifest.ok_or_else(bad)?;
        let range = KeyRange { start: mark.start, end: mark.end };
        let dir = self.dir().join(&mark.dir);
        tracing::warn!(shard = %log.shard(), snapshot = manifest.snapshot_id, "installing an interrupted snapshot again");
        verify_snapshot(&self.files(), &dir, &manifest)?;
        self.replace(log.shard(), TableId(mark.table), &range, &dir, &manifest)?;
        log.mark(MARK, None)
    }

    /// Steps 1 and 2: after a crash from here on the snapshot is installed, from files that are surely there.
    fn announce(
        &self,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
        dir: &Path,
        manifest: &SnapshotManifest,
    ) -> Result<(), StorageError> {
        verify_snapshot(&self.files(), dir, manifest)?;
        // The names of the staged files, and their folder's: their content is durable, whoever wrote them.
        self.files().sync_dir_and_name(dir)?;
        let mark = InstallMark {
            dir: self.relative(dir)?,
            manifest: Some(manifest.clone()),
            table: table.0,
            start: range.start.clone(),
            end: range.end.clone(),
        };
        self.raft.shard(shard).mark(MARK, Some(mark.encode_to_vec().into()))
    }

    /// Step 3: durable on return, and in no consistent state before.
    fn replace(
        &self,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
        dir: &Path,
        manifest: &SnapshotManifest,
    ) -> Result<(), StorageError> {
        self.data.clear_shard(shard, table, range)?;
        self.ingest(Family::Versions, dir, manifest)?;
        self.ingest(Family::Ledger, dir, manifest)?;
        if let Some(state) = &manifest.state {
            let mut position = DataBatch::default();
            position.put_shard_state(shard, state);
            self.data.write(position)?;
        }
        self.data.flush()
    }

    /// Adds the family's files. The staged names stay: a repeated installation needs them.
    fn ingest(&self, family: Family, dir: &Path, manifest: &SnapshotManifest) -> Result<(), StorageError> {
        let of_family = manifest.files.iter().filter(|file| file.family == family.name());
        let names: Vec<&str> = of_family.map(|file| file.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        match self.link(dir, &names) {
            Ok(second) => self.data.ingest(family, second, true),
            Err(why) => {
                tracing::warn!("the files of a snapshot are copied, not linked: {why}");
                self.data.ingest(family, names.iter().map(|name| dir.join(name)).collect(), false)
            }
        }
    }

    /// Gives files of a folder second names, which the database may take.
    fn link(&self, dir: &Path, names: &[&str]) -> Result<Vec<PathBuf>, StorageError> {
        let (files, links) = (self.files(), dir.join(LINKS));
        // A crash may have left some; the first of them may even be the database's already.
        files.remove_dir(&links)?;
        files.create_dir(&links)?;
        let link = |name: &&str| files.link(&dir.join(name), &links.join(name)).map(|()| links.join(name));
        names.iter().map(link).collect()
    }

    /// How the mark names a folder: relative inside the data directory, which may be moved between two starts.
    fn relative(&self, dir: &Path) -> Result<String, StorageError> {
        let path = match dir.strip_prefix(self.dir()) {
            Ok(inside) => inside.to_owned(),
            Err(_) => std::path::absolute(dir).map_err(StorageError::file("locate", dir))?,
        };
        path.into_os_string().into_string().map_err(|path| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8");
            StorageError::file("name", Path::new(&path))(source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::crash;
    use crate::{ScanResult, SimDisk, SimDiskOptions, StoreOptions};
    use meridian_proto::internal::v1::ShardState;
    use meridian_types::{RequestId, Timestamp};
    use std::sync::Arc;
    use tempfile::TempDir;

    const SHARD: ShardId = ShardId(2);
    const TABLE: TableId = TableId(5);

    fn put(store: &Store, key: &str, ts: u64) {
        let mut batch = DataBatch::default();
        batch.put_version(TABLE, key.as_bytes(), Timestamp(ts), Some(key.to_owned().into()));
        batch.put_ledger(SHARD, &RequestId { time: Timestamp(ts), client: 0, sequence: 0 }, key.as_bytes());
        batch.put_shard_state(SHARD, &ShardState { last_ts: ts, ..ShardState::default() });
        store.data.write(batch).unwrap();
    }

    /// Rows, ledger and position.
    type Content = (ScanResult, Vec<Option<Bytes>>, Option<ShardState>);

    fn content(store: &Store) -> Content {
        let view = store.data.view();
        let rows = view.scan(TABLE, &KeyRange::all(), Timestamp::MAX, false, usize::MAX, usize::MAX).unwrap();
        let id = |ts| RequestId { time: Timestamp(ts), client: 0, sequence: 0 };
        let ledger = (0..100).map(|ts| view.ledger(SHARD, &id(ts)).unwrap()).collect();
        (rows, ledger, view.shard_state(SHARD).unwrap())
    }

    /// A machine that can crash, on either engine.
    enum Machine {
        Rocks { dir: TempDir, life: u32 },
        Simulated(SimDisk),
    }

    impl Machine {
        /// One on each engine.
        fn all() -> [Self; 2] {
            let rocks = Self::Rocks { dir: tempfile::tempdir().unwrap(), life: 0 };
            [rocks, Self::Simulated(SimDisk::new(1, SimDiskOptions::default()))]
        }

        fn open(&self) -> Store {
            match self {
                Self::Rocks { dir, life } => {
                    Store::open(&dir.path().join(life.to_string()), StoreOptions::default()).unwrap()
                }
                Self::Simulated(disk) => Store::open_simulated(disk, Arc::new(|_| {})).unwrap(),
            }
        }

        fn crash(&mut self) -> Store {
            match self {
                Self::Rocks { dir, life } => {
                    crash(&dir.path().join(life.to_string()), &dir.path().join((*life + 1).to_string()));
                    *life += 1;
                }
                Self::Simulated(disk) => disk.crash(),
            }
            self.open()
        }

        /// Replaces a file by what `change` makes of it.
        fn tamper(&self, path: &Path, change: impl FnOnce(Bytes) -> Bytes) {
            match self {
                Self::Rocks { .. } => std::fs::write(path, change(std::fs::read(path).unwrap().into())).unwrap(),
                Self::Simulated(disk) => disk.tamper(path, Some(change(disk.file(path).unwrap()))),
            }
        }
    }

    /// A node with an old life of the shard, half of it flushed, and a staged and announced snapshot of a new one.
    fn begin(machine: &Machine) -> (Store, PathBuf, SnapshotManifest, Content) {
        let store = machine.open();
        (50..60).for_each(|ts| put(&store, &format!("new {ts}"), ts));
        let (expected, staged) = (content(&store), store.snapshots_dir().join("staged"));
        let manifest = store.data.build_snapshot(SHARD, TABLE, &KeyRange::all(), &staged).unwrap();
        store.data.clear_shard(SHARD, TABLE, &KeyRange::all()).unwrap();
        (1..10).for_each(|ts| put(&store, &format!("old {ts}"), ts));
        store.data.flush().unwrap();
        (10..20).for_each(|ts| put(&store, &format!("old {ts}"), ts));
        store.announce(SHARD, TABLE, &KeyRange::all(), &staged, &manifest).unwrap();
        (store, staged, manifest, expected)
    }

    #[test]
    fn a_crash_after_any_step_is_made_good_at_start() {
        const STEPS: usize = 7;
        for (steps, mut machine) in (0..=STEPS).flat_map(|steps| Machine::all().map(|machine| (steps, machine))) {
            let (store, staged, manifest, expected) = begin(&machine);
            let mut position = DataBatch::default();
            position.put_shard_state(SHARD, manifest.state.as_ref().unwrap());
            let all: [&mut dyn FnMut(); STEPS] = [
                &mut || store.data.clear_shard(SHARD, TABLE, &KeyRange::all()).unwrap(),
                &mut || drop(store.link(&staged, &[&manifest.files[0].name]).unwrap()),
                &mut || store.ingest(Family::Versions, &staged, &manifest).unwrap(),
                &mut || drop(store.link(&staged, &[&manifest.files.last().unwrap().name]).unwrap()),
                &mut || store.ingest(Family::Ledger, &staged, &manifest).unwrap(),
                &mut || store.data.write(std::mem::take(&mut position)).unwrap(),
                &mut || store.data.flush().unwrap(),
            ];
            all.into_iter().take(steps).for_each(|step| step());

            let found = machine.crash();
            // Only the flush brings the new state; in between it may be a mix that only the mark tells of.
            assert_eq!(content(&found) == expected, steps == STEPS, "after {steps} steps");
            assert_eq!(found.resume_installs().unwrap(), [SHARD]);
            assert_eq!(content(&found), expected, "after {steps} steps");
            assert_eq!(found.data.durable(SHARD), manifest.state);
            assert!(found.resume_installs().unwrap().is_empty());
            assert_eq!(content(&machine.crash()), expected, "durable after {steps} steps");
        }
    }

    #[test]
    fn an_installation_whose_files_are_damaged_stays_marked() {
        for machine in Machine::all() {
            let (store, staged, manifest, _) = begin(&machine);
            let path = staged.join(&manifest.files[0].name);
            let mut whole = Bytes::new();
            machine.tamper(&path, |content| {
                whole = content;
                whole.slice(1..)
            });
            for _ in 0..2 {
                assert!(matches!(store.resume_installs(), Err(StorageError::Corrupt { .. })));
            }
            machine.tamper(&path, |_| whole);
            assert_eq!(store.resume_installs().unwrap(), [SHARD]);
        }
    }

    #[test]
    fn the_mark_names_folders_so_that_the_data_directory_can_move() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.relative(&store.snapshots_dir().join("x")).unwrap(), "snapshots/x");
        assert_eq!(store.relative(Path::new("/elsewhere")).unwrap(), "/elsewhere");
    }

    #[test]
    fn the_database_takes_the_staged_files_themselves() {
        use std::os::unix::fs::MetadataExt as _;
        let [machine, _] = Machine::all();
        let (store, staged, manifest, _) = begin(&machine);
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        let staged_inodes: Vec<u64> = manifest.files.iter().map(|file| inode(&staged.join(&file.name))).collect();
        store.replace(SHARD, TABLE, &KeyRange::all(), &staged, &manifest).unwrap();
        let tables = std::fs::read_dir(store.dir().join("data")).unwrap().map(|entry| inode(&entry.unwrap().path()));
        let tables: Vec<u64> = tables.collect();
        assert!(staged_inodes.iter().all(|inode| tables.contains(inode)), "one file with two names, written once");
        verify_snapshot(&store.files(), &staged, &manifest).unwrap();
    }

    #[test]
    fn files_that_cannot_be_linked_are_copied() {
        let [machine, _] = Machine::all();
        let (store, staged, manifest, expected) = begin(&machine);
        // What is in the way of the links' folder stands for a file system without links.
        std::fs::write(staged.join(LINKS), "").unwrap();
        assert!(store.link(&staged, &[&manifest.files[0].name]).is_err());
        store.replace(SHARD, TABLE, &KeyRange::all(), &staged, &manifest).unwrap();
        assert_eq!(content(&store), expected);
        verify_snapshot(&store.files(), &staged, &manifest).unwrap();
    }
}
