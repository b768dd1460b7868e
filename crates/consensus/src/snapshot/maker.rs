//! One group's snapshots: what is durable, and so lets the log be purged; making the files of a state; installing those of
//! another.

use super::cuts::{self, Cuts};
use super::inbox::{Inbox, Place};
use crate::codec;
use crate::raft_types::{RaftSnapshotMeta, Raftish};
use meridian_clock::Mono;
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataView, DiskLevel, Files, StorageError, Store};
use meridian_types::{KeyRange, ShardId, TableId};
use openraft::Snapshot;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes in memtables from which on a flush is worth its file: smaller ones cost more in compactions than they save in
/// replay after a crash.
const FLUSH_BYTES: u64 = 16 << 20;
/// Entries after which a flush is due however little they hold: a new leader searches the log that is kept, and a
/// restarted replica replays it.
const FLUSH_ENTRIES: u64 = 16_000;
/// Staged files of a transfer that broke are kept for this long; the sender's own are not kept any longer.
const STAGED_KEPT: Duration = Duration::from_secs(600);

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Raftish, SnapshotBundle>;

/// A snapshot as openraft passes it around: on the sender a promise to cut the files when they are needed, on
/// the receiver the staged files.
#[derive(Clone)]
pub(crate) struct SnapshotBundle {
    pub(crate) maker: Arc<SnapshotMaker>,
    // Boxed: openraft keeps thousands of slots for commands in each replica, each as large as a snapshot can be.
    pub(crate) staged: Option<Box<Staged>>,
}

/// Complete files of a snapshot in a folder of their own.
#[derive(Clone)]
pub(crate) struct Staged {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: pb::SnapshotManifest,
    /// Of received ones: keeps others from the folder.
    #[expect(dead_code, reason = "it is held, and given back when it is dropped")]
    pub(crate) place: Option<Arc<Place>>,
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
    pub(super) cuts: Cuts,
    pub(super) inbox: Inbox,
}

impl SnapshotMaker {
    pub(crate) fn new(shard: ShardId, table: TableId, range: KeyRange, store: Store) -> Arc<Self> {
        let (next, replaced) = (AtomicU64::new(0), AtomicU64::new(0));
        let (wanted, retired) = (AtomicBool::new(false), AtomicBool::new(false));
        let (cuts, inbox) = (Cuts::default(), Inbox::new());
        Arc::new(Self { shard, table, range, store, next, wanted, replaced, retired, cuts, inbox })
    }

    /// No more views: a request that still holds the replica must not take what is left of its data for all of it.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// What a transfer that begins now will bring its receiver to, or a bit more: the position of the cut that it finds,
    /// else the durable state; `None` while nothing is durable.
    pub(crate) fn current(self: &Arc<Self>) -> io::Result<Option<RaftSnapshot>> {
        if let Some(meta) = self.meta_of_cut()? {
            return Ok(Some(Snapshot { meta, snapshot: self.bundle() }));
        }
        self.durable_snapshot()
    }

    fn durable_snapshot(self: &Arc<Self>) -> io::Result<Option<RaftSnapshot>> {
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

    /// Whether the log has to stay as it is, for a follower that is being sent a snapshot and will need what comes after it.
    /// Not when the disk has no room for it, nor once somebody wants a flush.
    pub(crate) fn keeps_log(&self) -> bool {
        !self.wanted.load(Ordering::SeqCst)
            && self.is_cut_in_use()
            && self.store.space().check(DiskLevel::Enough).is_ok()
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
        Ok(self.durable_snapshot()?.unwrap_or_else(nothing))
    }

    /// The folder for the next files that are made here. Unique while this process lives; what an earlier one has left is
    /// removed when the store is opened.
    fn next_dir(&self) -> PathBuf {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.store.snapshots_dir().join(format!("{}-out-{n}", self.shard))
    }

    /// Where the files of snapshots lie.
    pub(crate) fn files(&self) -> Files {
        self.store.files()
    }

    /// Removes a folder; one that is not there is fine.
    pub(crate) async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let (files, dir) = (self.files(), dir.to_owned());
        self.blocking(move || files.remove_dir(&dir)).await
    }

    /// Removes files that nobody needs any more.
    pub(crate) async fn tidy(&self, now: Mono) -> io::Result<()> {
        self.remove_idle_cut(now.minus(cuts::KEPT)).await?;
        if let Some(place) = self.inbox.enter_if_left(now.minus(STAGED_KEPT)) {
            let (store, shard) = (self.store.clone(), self.shard);
            self.blocking(move || store.discard_staged(shard).map(|()| place.emptied())).await?;
        }
        Ok(())
    }

    /// Removes files that were received, if they are still there. Their place is given back when that is done.
    pub(crate) async fn discard(&self, staged: Staged) -> io::Result<()> {
        let files = self.files();
        self.blocking(move || files.remove_dir(&staged.dir)).await
    }

    /// After it was retired: removes the files made here.
    pub(crate) async fn clear(&self) -> io::Result<()> {
        self.remove_cut().await
    }

    /// Makes the files of the state as it is now.
    pub(crate) async fn cut(self: &Arc<Self>) -> io::Result<Staged> {
        self.store.space().check(DiskLevel::NearlyFull).map_err(io::Error::other)?;
        self.cut_into(self.next_dir()).await
    }

    async fn cut_into(self: &Arc<Self>, dir: PathBuf) -> io::Result<Staged> {
        let maker = self.clone();
        let into = dir.clone();
        let build = move || maker.store.data.build_snapshot(maker.shard, maker.table, &maker.range, &into);
        let mut manifest = match self.blocking(build).await {
            Ok(manifest) => manifest,
            Err(e) => {
                // Half of it is of no use.
                self.remove_dir(&dir).await?;
                return Err(e);
            }
        };
        if sabotaged(Sabotage::SnapshotWithoutLedger) {
            manifest.files.retain(|f| f.family != "ledger");
        }
        if sabotaged(Sabotage::SnapshotWithoutStamp) {
            manifest.state.iter_mut().for_each(|s| s.last_ts = 0);
        }
        Ok(Staged { dir, manifest, place: None })
    }

    /// Replaces the shard's state by a received snapshot. Crash-safe at every step (rule D2).
    pub(crate) async fn install(self: &Arc<Self>, bundle: SnapshotBundle) -> io::Result<()> {
        let staged = match bundle.staged {
            Some(staged) => *staged,
            // Handed over inside one process: its files are cut here.
            None => {
                let dir = self.next_dir();
                self.files().create_dir(&dir).map_err(io::Error::other)?;
                bundle.maker.cut_into(dir).await?
            }
        };
        let maker = self.clone();
        let Staged { dir, manifest, .. } = staged.clone();
        self.replaced.fetch_add(1, Ordering::SeqCst);
        // A failed installation leaves the state half replaced, and the number odd: it is not served any more.
        let install = move || maker.store.install_snapshot(maker.shard, maker.table, &maker.range, &dir, &manifest);
        self.blocking(install).await?;
        self.replaced.fetch_add(1, Ordering::SeqCst);
        self.discard(staged).await
    }

    /// A consistent view of the state, unless it is being replaced right now or the replica is stopped.
    pub(crate) fn view(&self) -> Option<DataView> {
        let before = self.replaced.load(Ordering::SeqCst);
        let view = self.store.data.view();
        let whole = before.is_multiple_of(2) && before == self.replaced.load(Ordering::SeqCst);
        (whole && !self.is_retired()).then_some(view)
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
