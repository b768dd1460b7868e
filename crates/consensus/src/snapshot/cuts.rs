//! Cuts: the files of a shard's state at one position, made once for all transfers that need them.
//!
//! Making a cut reads the whole shard and writes it again, so it is not done for each attempt. A cut serves any transfer as
//! long as the log after its position is still there: the follower goes on from it. It is kept while it is being sent and
//! for some time afterwards, and the log is kept with it; a cut that no transfer gets any use of is removed.

use super::maker::{SnapshotMaker, Staged, meta_of};
use super::transfers::Transfers;
use crate::log_store::decode_log_id;
use crate::raft_types::{RaftLogId, RaftSnapshotMeta};
use meridian_clock::Mono;
use meridian_probe::{Sabotage, sabotaged};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, watch};

/// A cut is kept for this long after a receiver has last taken something of it. Longer than openraft waits between two
/// attempts, and than installing what was sent takes.
pub(super) const KEPT: Duration = Duration::from_secs(60);

/// The cut of one shard, if there is one.
#[derive(Default)]
pub(super) struct Cuts {
    /// Held while a cut is being made, or removed.
    turn: Arc<tokio::sync::Mutex<()>>,
    kept: Mutex<Option<Arc<Cut>>>,
}

/// The files of a shard's state at one position.
pub(crate) struct Cut {
    pub(crate) staged: Staged,
    /// Position and membership of the state.
    pub(crate) meta: RaftSnapshotMeta,
    using: watch::Sender<Using>,
}

#[derive(Clone, Copy)]
struct Using {
    transfers: usize,
    /// When a receiver has last taken something of it, or it was made.
    useful: Mono,
    given_up: bool,
}

/// A transfer's use of a cut.
pub(crate) struct Lease {
    cut: Arc<Cut>,
}

impl Cut {
    fn lease(self: Arc<Self>) -> Lease {
        self.using.send_modify(|using| using.transfers += 1);
        Lease { cut: self }
    }

    fn is_idle_since(&self, before: Mono) -> bool {
        let using = *self.using.borrow();
        using.transfers == 0 && using.useful <= before
    }
}

impl std::ops::Deref for Lease {
    type Target = Cut;

    fn deref(&self) -> &Cut {
        &self.cut
    }
}

impl Lease {
    /// The receiver takes what it is sent.
    pub(crate) fn touch(&self) {
        self.cut.using.send_modify(|using| using.useful = Mono::now());
    }

    /// No transfer shall use it any more.
    pub(crate) fn give_up(&self) {
        self.cut.using.send_modify(|using| using.given_up = true);
    }

    /// Returns when it must not be used any more.
    pub(crate) async fn given_up(&self) {
        // The sender of the channel is in the cut, which is held here.
        let _ = self.cut.using.subscribe().wait_for(|using| using.given_up).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.cut.using.send_modify(|using| using.transfers -= 1);
    }
}

impl Cuts {
    fn kept(&self) -> Option<Arc<Cut>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self) -> Option<Arc<Cut>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_being_made(&self) -> bool {
        self.turn.try_lock().is_err()
    }
}

impl SnapshotMaker {
    /// A cut whose position is `wanted` or later, and from which a follower can go on by the log: the one that is there,
    /// or a new one.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        wanted: Option<&RaftLogId>,
        transfers: &Transfers,
    ) -> io::Result<Lease> {
        let turn = self.cuts.turn.clone().lock_owned().await;
        if let Some(cut) = self.cuts.kept()
            && (self.serves(&cut, wanted)? || sabotaged(Sabotage::ReuseStaleCut))
        {
            return Ok(cut.lease());
        }
        let (maker, transfers) = (self.clone(), transfers.clone());
        // A task of its own: should this transfer end meanwhile, the next one finds the cut.
        let made = tokio::spawn(async move { maker.cut_anew(turn, &transfers).await });
        made.await.map_err(io::Error::other)?
    }

    async fn cut_anew(self: &Arc<Self>, _turn: OwnedMutexGuard<()>, transfers: &Transfers) -> io::Result<Lease> {
        self.remove_kept().await?;
        let staged = self.cut().await?;
        let state = staged.manifest.state.clone();
        let meta = state.as_ref().map(meta_of).transpose();
        let cut = match meta {
            Ok(Some(meta)) if !self.is_retired() => {
                let using = Using { transfers: 0, useful: Mono::now(), given_up: false };
                Arc::new(Cut { staged, meta, using: watch::Sender::new(using) })
            }
            unusable => {
                self.remove_dir(&staged.dir).await?;
                let why = unusable.err().unwrap_or_else(|| io::Error::other("there is no state, or not any more"));
                return Err(why);
            }
        };
        transfers.made_cut();
        *self.cuts.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut.clone());
        Ok(cut.lease())
    }

    /// Whether a transfer that needs `wanted` may send this cut.
    fn serves(&self, cut: &Cut, wanted: Option<&RaftLogId>) -> io::Result<bool> {
        let purged = self.store.raft.shard(self.shard).purged().map_err(io::Error::other)?;
        let purged = decode_log_id(purged)?;
        let last = cut.meta.last_log_id.as_ref();
        Ok(last >= wanted && last >= purged.as_ref() && !cut.using.borrow().given_up)
    }

    /// Position and membership of the cut that the next transfer would send, if one is there.
    pub(super) fn meta_of_cut(&self) -> io::Result<Option<RaftSnapshotMeta>> {
        if sabotaged(Sabotage::ReuseStaleCut) {
            return Ok(None);
        }
        match self.cuts.kept() {
            Some(cut) if self.serves(&cut, None)? => Ok(Some(cut.meta.clone())),
            Some(_) | None => Ok(None),
        }
    }

    /// Whether a cut is being made, or was of use lately.
    pub(super) fn is_cut_in_use(&self) -> bool {
        let in_use = |cut: Arc<Cut>| !cut.is_idle_since(Mono::now().minus(KEPT));
        self.cuts.is_being_made() || self.cuts.kept().is_some_and(in_use)
    }

    /// Removes the cut if no transfer has had any use of it since `before`.
    pub(super) async fn remove_idle_cut(&self, before: Mono) -> io::Result<()> {
        let Ok(_turn) = self.cuts.turn.try_lock() else { return Ok(()) };
        match self.cuts.kept() {
            Some(cut) if cut.is_idle_since(before) => self.remove_kept().await,
            Some(_) | None => Ok(()),
        }
    }

    /// Removes the cut, whoever is sending it. One that is being made is removed by who makes it, once this is retired.
    pub(super) async fn remove_cut(&self) -> io::Result<()> {
        let Ok(_turn) = self.cuts.turn.try_lock() else { return Ok(()) };
        self.remove_kept().await
    }

    async fn remove_kept(&self) -> io::Result<()> {
        let Some(cut) = self.cuts.take() else { return Ok(()) };
        cut.using.send_modify(|using| using.given_up = true);
        self.remove_dir(&cut.staged.dir).await
    }
}
