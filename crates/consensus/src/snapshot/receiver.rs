//! The receiving side of a transfer, up to files that can be installed.

use super::inbox::Place;
use super::maker::{SnapshotMaker, Staged};
use futures::{Stream, StreamExt};
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DiskFull, StagedFile, Staging, StorageError, Store};
use meridian_types::ShardId;
use pb::transfer_reply::{Part as Reply, Ready, Wanted};
use pb::transfer_request::Part;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Why a snapshot was not received. What is staged stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The connection broke.
    #[error("receiving a snapshot: {0}")]
    Call(#[from] Status),
    /// The sender has stopped in between.
    #[error("the sender of a snapshot has hung up")]
    HungUp,
    /// The sender said something that does not belong here.
    #[error("the sender of a snapshot is out of order: {0}")]
    OutOfOrder(&'static str),
    /// A chunk is not what was sent.
    #[error("a chunk of a snapshot has another checksum (file {file}, offset {offset})")]
    ChunkChecksum {
        /// Index of its file.
        file: u32,
        /// Where it begins in the file.
        offset: u64,
    },
    /// The files do not fit on the disk.
    #[error(transparent)]
    NoRoom(#[from] DiskFull),
    /// The manifest cannot be used, a file is not what it says, or the disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The work on the disk was given up.
    #[error("staging a snapshot was given up: {0}")]
    GivenUp(#[source] io::Error),
    /// A newer transfer of the same shard has begun.
    #[error("a newer transfer has begun")]
    Superseded,
}

impl From<ReceiveError> for Status {
    fn from(e: ReceiveError) -> Self {
        let text = e.to_string();
        match e {
            ReceiveError::Call(status) => status,
            ReceiveError::HungUp | ReceiveError::Superseded => Self::aborted(text),
            ReceiveError::OutOfOrder(_) | ReceiveError::Storage(StorageError::BadSnapshot { .. }) => {
                Self::invalid_argument(text)
            }
            ReceiveError::ChunkChecksum { .. } | ReceiveError::Storage(StorageError::Corrupt { .. }) => {
                Self::data_loss(text)
            }
            ReceiveError::NoRoom(_) => Self::unavailable(text),
            ReceiveError::Storage(_) | ReceiveError::GivenUp(_) => Self::internal(text),
        }
    }
}

/// Where the answers to the sender go.
pub(crate) enum Replies {
    /// To a sender that listens.
    To(mpsc::Sender<Result<pb::TransferReply, Status>>),
    /// Nowhere: the sender sends everything, unasked. What is staged already is of no use then.
    Nowhere,
}

impl Replies {
    async fn say(&self, part: Reply) -> Result<(), ReceiveError> {
        match self {
            Self::To(sender) => {
                let reply = Ok(pb::TransferReply { part: Some(part) });
                sender.send(reply).await.map_err(|_| ReceiveError::HungUp)
            }
            Self::Nowhere => Ok(()),
        }
    }
}

impl SnapshotMaker {
    /// Receives a snapshot from a sender that has said hello. Ends when a newer transfer begins.
    pub(crate) async fn receive(
        &self,
        requests: &mut (impl Stream<Item = Result<pb::TransferRequest, Status>> + Unpin),
        replies: &Replies,
    ) -> Result<Staged, ReceiveError> {
        let mut turn = self.inbox.turn();
        tokio::select! {
            biased;
            () = turn.over() => Err(ReceiveError::Superseded),
            received = self.collect(requests, replies) => received,
        }
    }

    async fn collect(
        &self,
        requests: &mut (impl Stream<Item = Result<pb::TransferRequest, Status>> + Unpin),
        replies: &Replies,
    ) -> Result<Staged, ReceiveError> {
        let place = self.inbox.enter().await;
        replies.say(Reply::Ready(Ready {})).await?;
        let Part::Manifest(manifest) = next(requests).await? else {
            return Err(ReceiveError::OutOfOrder("not the manifest"));
        };
        let anew = matches!(replies, Replies::Nowhere);
        let stage = move |store: &Store, shard| {
            if anew {
                store.discard_staged(shard)?;
            }
            store.stage(shard, &manifest)
        };
        let (place, mut staging) = self.on_disk(place, stage).await?;
        match self.fill(&mut staging, requests, replies).await {
            Ok(()) => {
                let (dir, manifest) = (staging.dir().to_owned(), staging.manifest().clone());
                Ok(Staged { dir, manifest, place: Some(Arc::new(place)) })
            }
            Err(ReceiveError::Storage(e)) if e.is_no_space() => {
                // What did not fit is not left lying there.
                self.on_disk(place, Store::discard_staged).await?;
                Err(e.into())
            }
            Err(e) => Err(e),
        }
    }

    /// Receives the files that are lacking.
    async fn fill(
        &self,
        staging: &mut Staging,
        requests: &mut (impl Stream<Item = Result<pb::TransferRequest, Status>> + Unpin),
        replies: &Replies,
    ) -> Result<(), ReceiveError> {
        // The files lie beside the state that they replace, until they have.
        self.store.space().check_room(staging.lacking_bytes())?;
        let files = staging.lacking().map(u32::try_from).collect::<Result<_, _>>();
        let files = files.map_err(|_| ReceiveError::OutOfOrder("too many files"))?;
        replies.say(Reply::Wanted(Wanted { files })).await?;
        while let Some(mut file) = staging.begin().await? {
            while !file.is_complete() {
                let Part::Chunk(chunk) = next(requests).await? else {
                    return Err(ReceiveError::OutOfOrder("not a chunk"));
                };
                check(&file, &chunk)?;
                file.write(&chunk.bytes).await?;
            }
            staging.finish(file).await?;
        }
        Ok(())
    }

    /// Blocking work on the staged files of this shard. The place is given back when it is done, also if nobody waits for
    /// that any more.
    async fn on_disk<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&Store, ShardId) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<(Place, T), ReceiveError> {
        let (store, shard) = (self.store.clone(), self.shard);
        let done = self.store.run_blocking(move || work(&store, shard).map(|done| (place, done))).await;
        Ok(done.map_err(|e| ReceiveError::GivenUp(io::Error::other(e)))??)
    }
}

/// Checks that a chunk is the next one of the file, and what was sent.
fn check(file: &StagedFile, chunk: &pb::TransferChunk) -> Result<(), ReceiveError> {
    if (chunk.file as usize, chunk.offset) != (file.index(), file.offset()) {
        return Err(ReceiveError::OutOfOrder("not the next chunk"));
    }
    if chunk.bytes.is_empty() {
        return Err(ReceiveError::OutOfOrder("a chunk of nothing"));
    }
    if crc32c::crc32c(&chunk.bytes) != chunk.crc32c && !sabotaged(Sabotage::SkipChunkChecksum) {
        return Err(ReceiveError::ChunkChecksum { file: chunk.file, offset: chunk.offset });
    }
    Ok(())
}

async fn next(
    requests: &mut (impl Stream<Item = Result<pb::TransferRequest, Status>> + Unpin),
) -> Result<Part, ReceiveError> {
    let request = requests.next().await.ok_or(ReceiveError::HungUp)??;
    request.part.ok_or(ReceiveError::OutOfOrder("nothing"))
}

/// What a sender sends that does not know hello, as the messages of one that does: the manifest, then all files.
pub(crate) fn unasked(
    manifest: pb::SnapshotManifest,
    chunks: impl Stream<Item = Result<pb::SnapshotChunk, Status>>,
) -> impl Stream<Item = Result<pb::TransferRequest, Status>> {
    let chunks = chunks.scan((0, 0), |(file, offset), chunk| {
        let converted = chunk.map(|chunk| match chunk.part {
            Some(pb::snapshot_chunk::Part::Data(data)) => {
                if data.file != *file {
                    (*file, *offset) = (data.file, 0);
                }
                let at = *offset;
                *offset += data.bytes.len() as u64;
                let pb::SnapshotData { file, bytes, crc32c } = data;
                pb::TransferRequest { part: Some(Part::Chunk(pb::TransferChunk { file, offset: at, bytes, crc32c })) }
            }
            Some(pb::snapshot_chunk::Part::Header(_)) | None => pb::TransferRequest { part: None },
        });
        std::future::ready(Some(converted))
    });
    let manifest = Ok(pb::TransferRequest { part: Some(Part::Manifest(manifest)) });
    futures::stream::iter([manifest]).chain(chunks)
}
