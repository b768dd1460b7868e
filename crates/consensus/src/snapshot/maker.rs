//! Snapshots of one group: flushing what lets the log be purged, cutting files for a follower that is too far
//! behind, installing what was received.

use crate::codec;
use crate::raft_types::{RaftSnapshotMeta, Raftish};
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataView, DiskLevel, Files, StorageError, Store};
use meridian_types::{KeyRange, ShardId, TableId};
use openraft::Snapshot;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes in memtables from which on a flush is worth its file: smaller ones cost more in compactions than they save in
/// replay after a crash.
const FLUSH_BYTES: u64 = 16 << 20;
/// Entries after which a flush is due however little they hold: a new leader searches the log that is kept, and a
/// restarted replica replays it.
const FLUSH_ENTRIES: u64 = 16_000;

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Raftish, SnapshotBundle>;

/// A snapshot as openraft passes it around: on the sender a promise to cut the files when they are needed, on
/// the receiver the staged files.
#[derive(Clone)]
pub(crate) struct SnapshotBundle {
    pub(crate) maker: Arc<SnapshotMaker>,
    pub(crate) staged: Option<Staged>,
}

/// Complete, verified files of a snapshot in a folder of their own.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: pb::SnapshotManifest,
}

/// Makes and installs the snapshots of one group.
pub(crate) struct SnapshotMaker {
    pub(crate) shard: ShardId,
    pub(crate) table: TableId,
    pub(crate) range: KeyRange,
    pub(crate) store: Store,
    next: AtomicU64,
    /// The next snapshot has to hold everything that is applied.
    wanted: AtomicBool,
    /// Odd while a snapshot is being installed; even, and another number, afterwards.
    replaced: AtomicU64,
    /// The replica is stopped; its data may be removed.
    retired: AtomicBool,
}

impl SnapshotMaker {
    pub(crate) fn new(shard: ShardId, table: TableId, range: KeyRange, store: Store) -> Arc<Self> {
        let (next, replaced) = (AtomicU64::new(0), AtomicU64::new(0));
        let (wanted, retired) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { shard, table, range, store, next, wanted, replaced, retired })
    }

    /// No more views: a request that still holds the replica must not take what is left of its data for all of it.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    /// The durable state as a snapshot; `None` while nothing is durable.
    pub(crate) fn current(self: &Arc<Self>) -> io::Result<Option<RaftSnapshot>> {
        let Some(state) = self.durable()? else { return Ok(None) };
        let meta = meta_of(&state)?;
        if meta.last_log_id.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot { meta, snapshot: self.bundle() }))
    }

    fn durable(&self) -> io::Result<Option<pb::ShardState>> {
        if sabotaged(Sabotage::PurgeUnflushed) {
            return self.store.data.view().shard_state(self.shard).map_err(io::Error::other);
        }
        Ok(self.store.data.durable(self.shard))
    }

    /// The last entry of a shard of this node whose effects are durable, 0 when none is known to be.
    pub(crate) fn durable_index(&self, shard: ShardId) -> u64 {
        self.store.data.durable(shard).and_then(|state| state.applied).map_or(0, |id| id.index)
    }

    fn bundle(self: &Arc<Self>) -> SnapshotBundle {
        SnapshotBundle { maker: self.clone(), staged: None }
    }

    /// The next snapshot has to hold everything that is applied, however little that is.
    pub(crate) fn want_flush(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Whether a flush is worth it, with entries up to `applied` applied, or wanted.
    pub(crate) fn is_flush_due(&self, applied: u64) -> bool {
        let durable = self.durable_index(self.shard);
        let bytes = || self.store.data.memtable_bytes().is_ok_and(|bytes| bytes >= FLUSH_BYTES);
        self.wanted.swap(false, Ordering::SeqCst) || applied.saturating_sub(durable) >= FLUSH_ENTRIES || bytes()
    }

    /// Flushes the data if that is asked for, then returns the durable state.
    pub(crate) async fn make_current(self: &Arc<Self>, flush: bool) -> io::Result<RaftSnapshot> {
        let data = self.store.data.clone();
        if flush && !sabotaged(Sabotage::PurgeUnflushed) {
            self.blocking(move || data.flush()).await?;
        }
        let nothing = || Snapshot { meta: RaftSnapshotMeta::default(), snapshot: self.bundle() };
        Ok(self.current()?.unwrap_or_else(nothing))
    }

    /// A new folder for the files of one snapshot. Unique while this process lives; leftovers of an earlier
    /// process are removed first.
    pub(crate) fn new_dir(&self, purpose: &str) -> io::Result<PathBuf> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.store.snapshots_dir().join(format!("{}-{purpose}-{n}", self.shard));
        self.remove_dir(&dir)?;
        self.files().create_dir(&dir).map_err(io::Error::other)?;
        Ok(dir)
    }

    /// Where the files of snapshots lie.
    pub(crate) fn files(&self) -> Files {
        self.store.files()
    }

    /// Removes a folder; one that is not there is fine.
    pub(crate) fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.files().remove_dir(dir).map_err(io::Error::other)
    }

    /// Cuts the files of the state as it is now.
    pub(crate) async fn cut(self: &Arc<Self>) -> io::Result<Staged> {
        self.store.space().check(DiskLevel::NearlyFull).map_err(io::Error::other)?;
        self.cut_into(self.new_dir("out")?).await
    }

    async fn cut_into(self: &Arc<Self>, dir: PathBuf) -> io::Result<Staged> {
        let maker = self.clone();
        let into = dir.clone();
        let build = move || maker.store.data.build_snapshot(maker.shard, maker.table, &maker.range, &into);
        let mut manifest = self.blocking(build).await?;
        if sabotaged(Sabotage::SnapshotWithoutLedger) {
            manifest.files.retain(|f| f.family != "ledger");
        }
        if sabotaged(Sabotage::SnapshotWithoutStamp) {
            manifest.state.iter_mut().for_each(|s| s.last_ts = 0);
        }
        Ok(Staged { dir, manifest })
    }

    /// Replaces the shard's state by a received snapshot. Crash-safe at every step (rule D2).
    pub(crate) async fn install(self: &Arc<Self>, bundle: SnapshotBundle) -> io::Result<()> {
        let staged = match bundle.staged {
            Some(staged) => staged,
            // Handed over inside one process: its files are cut here.
            None => bundle.maker.cut_into(self.new_dir("in")?).await?,
        };
        let maker = self.clone();
        let Staged { dir, manifest } = staged.clone();
        self.replaced.fetch_add(1, Ordering::SeqCst);
        // A failed installation leaves the state half replaced, and the number odd: it is not served any more.
        let install = move || maker.store.install_snapshot(maker.shard, maker.table, &maker.range, &dir, &manifest);
        self.blocking(install).await?;
        self.replaced.fetch_add(1, Ordering::SeqCst);
        self.remove_dir(&staged.dir)
    }

    /// A consistent view of the state, unless it is being replaced right now or the replica is stopped.
    pub(crate) fn view(&self) -> Option<DataView> {
        let before = self.replaced.load(Ordering::SeqCst);
        let view = self.store.data.view();
        let whole = before.is_multiple_of(2) && before == self.replaced.load(Ordering::SeqCst);
        (whole && !self.retired.load(Ordering::SeqCst)).then_some(view)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> io::Result<T> {
        self.store.run_blocking(work).await.map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

/// Position and membership of a state, as openraft wants them.
pub(crate) fn meta_of(state: &pb::ShardState) -> io::Result<RaftSnapshotMeta> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    Ok(RaftSnapshotMeta {
        last_log_id: codec::opt_log_id_from_pb(state.applied).map_err(invalid)?,
        last_membership: codec::stored_membership_from_pb(state.membership.clone()).map_err(invalid)?,
    })
}
