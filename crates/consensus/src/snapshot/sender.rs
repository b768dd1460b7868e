//! The sending side of a transfer.

use super::cuts::Lease;
use super::maker::SnapshotMaker;
use super::transfers::Transfers;
use crate::peers::NoPeer;
use crate::raft_types::RaftLogId;
use futures::{Stream, StreamExt};
use meridian_proto::internal::v1 as pb;
use meridian_storage::StorageError;
use pb::transfer_reply::Part as Reply;
use pb::transfer_request::{Hello, Part};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Bytes of one chunk.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the network.
pub(crate) const CHUNKS_AHEAD: usize = 8;

/// Why a snapshot did not get to its receiver. It is tried again, and what arrived whole is not sent again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The receiver's node is not known.
    #[error(transparent)]
    NoPeer(#[from] NoPeer),
    /// The receiver refused, or the connection broke.
    #[error("sending a snapshot: {0}")]
    Call(#[from] Status),
    /// The receiver ended the call without an answer.
    #[error("the receiver of a snapshot has hung up")]
    HungUp,
    /// The receiver said something that does not belong here.
    #[error("the receiver of a snapshot answered out of order: {0}")]
    OutOfOrder(&'static str),
    /// The files cannot be made.
    #[error("a snapshot cannot be cut: {0}")]
    Cut(#[source] io::Error),
    /// The files cannot be read.
    #[error("a snapshot cannot be read")]
    Read(#[source] StorageError),
    /// A file is not what was written to it. The files are made again for the next attempt.
    #[error("snapshot file `{name}` has changed since it was written")]
    Damaged {
        /// The file.
        name: String,
    },
    /// The files are being replaced by newer ones.
    #[error("the files of a snapshot are given up for newer ones")]
    GivenUp,
    /// The node is being stopped.
    #[error("no more snapshots are sent")]
    Stopped,
}

/// A snapshot for one receiver.
pub(crate) struct Offer {
    pub(crate) target: pb::Target,
    /// Under which the receiver installs it.
    pub(crate) vote: pb::Vote,
    /// The position that openraft will hold the receiver to have.
    pub(crate) wanted: Option<RaftLogId>,
    pub(crate) maker: Arc<SnapshotMaker>,
    pub(crate) transfers: Transfers,
}

fn request(part: Part) -> pb::TransferRequest {
    pb::TransferRequest { part: Some(part) }
}

impl Offer {
    /// The first message of a transfer.
    pub(crate) fn hello(&self) -> pb::TransferRequest {
        request(Part::Hello(Hello { target: Some(self.target.clone()), vote: Some(self.vote) }))
    }

    /// Goes through a transfer that has said hello; returns the receiver's vote, which is higher than the offer's if it
    /// refused for that.
    pub(crate) async fn transfer(
        &self,
        requests: mpsc::Sender<pb::TransferRequest>,
        mut replies: impl Stream<Item = Result<pb::TransferReply, Status>> + Unpin,
    ) -> Result<pb::Vote, SendError> {
        match next(&mut replies).await? {
            Reply::Ready(_) => {}
            Reply::Done(vote) => return Ok(vote),
            Reply::Wanted(_) => return Err(SendError::OutOfOrder("before it was ready")),
        }
        let lease = self.maker.lease(self.wanted.as_ref(), &self.transfers).await.map_err(SendError::Cut)?;
        let manifest = &lease.staged.manifest;
        requests.send(request(Part::Manifest(manifest.clone()))).await.map_err(|_| SendError::HungUp)?;
        let wanted = match next(&mut replies).await? {
            Reply::Wanted(wanted) => wanted.files,
            Reply::Ready(_) | Reply::Done(_) => return Err(SendError::OutOfOrder("no files were asked for")),
        };
        lease.touch();
        let held = manifest.files.iter().zip(0..).filter(|(_, i)| !wanted.contains(i));
        self.transfers.resumed(held.map(|(file, _)| file.bytes).sum());
        tokio::select! {
            biased;
            // A receiver that lacks nothing is done at once.
            early = next(&mut replies) => return done(early?),
            () = lease.given_up() => return Err(SendError::GivenUp),
            sent = self.send_files(&lease, &wanted, &requests) => sent?,
        }
        // The files are not needed any more; what follows may take long.
        drop((lease, requests));
        done(next(&mut replies).await?)
    }

    async fn send_files(
        &self,
        lease: &Lease,
        wanted: &[u32],
        requests: &mpsc::Sender<pb::TransferRequest>,
    ) -> Result<(), SendError> {
        let staged = &lease.staged;
        for index in wanted {
            let file = staged.manifest.files.get(*index as usize);
            let file = file.ok_or(SendError::OutOfOrder("a file was asked for that there is not"))?;
            let path = staged.dir.join(&file.name);
            let mut content = self.maker.files().open(&path).await.map_err(SendError::Read)?;
            let (mut offset, mut whole) = (0, 0);
            while let Some(bytes) = content.chunk(CHUNK_BYTES).await.map_err(SendError::Read)? {
                let length = bytes.len() as u64;
                self.transfers.send(length).await;
                let crc32c = crc32c::crc32c(&bytes);
                whole = crc32c::crc32c_combine(whole, crc32c, bytes.len());
                let chunk = pb::TransferChunk { file: *index, offset, bytes, crc32c };
                requests.send(request(Part::Chunk(chunk))).await.map_err(|_| SendError::HungUp)?;
                offset += length;
                lease.touch();
            }
            if (offset, whole) != (file.bytes, file.crc32c) {
                lease.give_up();
                return Err(SendError::Damaged { name: file.name.clone() });
            }
        }
        Ok(())
    }
}

/// The last answer.
fn done(reply: Reply) -> Result<pb::Vote, SendError> {
    match reply {
        Reply::Done(vote) => Ok(vote),
        Reply::Ready(_) | Reply::Wanted(_) => Err(SendError::OutOfOrder("after the files were asked for")),
    }
}

async fn next(
    replies: &mut (impl Stream<Item = Result<pb::TransferReply, Status>> + Unpin),
) -> Result<Reply, SendError> {
    let reply = replies.next().await.ok_or(SendError::HungUp)??;
    reply.part.ok_or(SendError::OutOfOrder("nothing"))
}
