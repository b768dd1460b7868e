//! Transfers between two stores over a wire that breaks, changes and loses what a test tells it to.

use super::cuts;
use super::maker::{SnapshotMaker, Staged};
use super::receiver::{ReceiveError, Replies, unasked};
use super::sender::{CHUNK_BYTES, CHUNKS_AHEAD, Offer, SendError};
use super::transfers::Transfers;
use crate::codec;
use futures::{FutureExt, StreamExt};
use meridian_clock::Mono;
use meridian_probe::{Sabotage, set_sabotages};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, DiskLevel, SimDisk, SimDiskOptions, StorageError, Store};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use pb::transfer_reply::{Part as Reply, Ready, Wanted};
use pb::transfer_request::Part;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const SHARD: ShardId = ShardId(3);
const TABLE: TableId = TableId(8);
const VOTE: pb::Vote = pb::Vote { leader: Some(pb::LeaderId { term: 1, node: 1 }), committed: true };

/// One node's part of the group.
struct Node {
    disk: SimDisk,
    store: Store,
    maker: Arc<SnapshotMaker>,
}

fn node(seed: u64, snapshot_file_bytes: u64) -> Node {
    let disk = SimDisk::new(seed, SimDiskOptions { snapshot_file_bytes, ..SimDiskOptions::default() });
    let store = Store::open_simulated(&disk, Arc::new(|e| panic!("not poisoned: {e}"))).unwrap();
    let maker = SnapshotMaker::new(SHARD, TABLE, KeyRange::all(), store.clone());
    Node { disk, store, maker }
}

fn log_id(index: u64) -> pb::LogId {
    pb::LogId { leader: Some(pb::LeaderId { term: 1, node: 1 }), index }
}

impl Node {
    /// Writes rows of so many bytes, and applies up to `index`.
    fn apply(&self, index: u64, rows: u64, bytes: usize) {
        let mut batch = DataBatch::default();
        for row in 0..rows {
            let value: Vec<u8> = (0..bytes).map(|i| (i as u64 * 31 + row * 7 + index) as u8).collect();
            batch.put_version(TABLE, format!("k{row:04}").as_bytes(), Timestamp(index), Some(value.into()));
        }
        let state = pb::ShardState { applied: Some(log_id(index)), last_ts: index, ..pb::ShardState::default() };
        batch.put_shard_state(SHARD, &state);
        self.store.data.write(batch).unwrap();
    }

    fn purge(&self, upto: u64) {
        self.store.raft.shard(SHARD).purge(upto, log_id(upto).encode_to_vec().into()).unwrap();
    }

    /// Folders of snapshots that have something in them.
    fn folders(&self) -> Vec<String> {
        let names = self.disk.file_names().into_iter();
        let inside = names.filter_map(|f| Some(f.strip_prefix(self.store.snapshots_dir()).ok()?.to_owned()));
        let mut folders: Vec<_> = inside.map(|f| f.iter().next().unwrap().to_string_lossy().into_owned()).collect();
        folders.dedup();
        folders
    }
}

fn offer(from: &Node, wanted: u64, transfers: &Transfers) -> Offer {
    Offer {
        target: pb::Target::default(),
        vote: VOTE,
        wanted: Some(codec::log_id_from_pb(log_id(wanted)).unwrap()),
        maker: from.maker.clone(),
        transfers: transfers.clone(),
    }
}

/// What happens to chunks on their way; chunks are counted from 0.
#[derive(Clone, Copy, Default)]
struct Wire {
    /// The connection breaks instead of carrying this one.
    breaks_at: Option<u64>,
    /// One byte of this one is changed.
    changes: Option<u64>,
    /// This one is lost, and those after it arrive.
    loses: Option<u64>,
}

const SOUND: Wire = Wire { breaks_at: None, changes: None, loses: None };

/// What came of a transfer.
struct Done {
    sent: Result<pb::Vote, SendError>,
    received: Result<Staged, ReceiveError>,
    /// Bytes of chunks that arrived.
    arrived: u64,
}

impl Wire {
    fn carry(self, n: u64, mut request: pb::TransferRequest) -> Option<Result<pb::TransferRequest, Status>> {
        let Some(Part::Chunk(chunk)) = &mut request.part else { return Some(Ok(request)) };
        if self.breaks_at.is_some_and(|at| n >= at) {
            return Some(Err(Status::unavailable("the connection broke")));
        }
        if self.changes == Some(n) {
            let mut bytes = chunk.bytes.to_vec();
            bytes[3] ^= 1;
            chunk.bytes = bytes.into();
        }
        (self.loses != Some(n)).then_some(Ok(request))
    }
}

async fn transfer(offer: &Offer, to: &Node, wire: Wire) -> Done {
    let (requests, queue) = mpsc::channel(CHUNKS_AHEAD);
    let (replies, said) = mpsc::channel(1);
    requests.send(offer.hello()).await.unwrap();
    let (arrived, mut chunks) = (AtomicU64::new(0), 0);
    let incoming = ReceiverStream::new(queue).skip(1).filter_map(|request| {
        let carried = wire.carry(chunks, request);
        chunks += u64::from(matches!(&carried, None | Some(Ok(pb::TransferRequest { part: Some(Part::Chunk(_)) }))));
        if let Some(Ok(pb::TransferRequest { part: Some(Part::Chunk(chunk)) })) = &carried {
            arrived.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
        }
        std::future::ready(carried)
    });
    let receiving = async {
        let mut incoming = Box::pin(incoming);
        let received = to.maker.receive(&mut incoming, &Replies::To(replies.clone())).await;
        let last = match &received {
            Ok(_) => Ok(pb::TransferReply { part: Some(Reply::Done(VOTE)) }),
            Err(e) => Err(Status::aborted(e.to_string())),
        };
        let _ = replies.send(last).await;
        received
    };
    let (sent, received) = tokio::join!(offer.transfer(requests, ReceiverStream::new(said)), receiving);
    Done { sent, received, arrived: arrived.load(Ordering::Relaxed) }
}

fn install(to: &Node, staged: Staged) {
    to.store.install_snapshot(SHARD, TABLE, &KeyRange::all(), &staged.dir, &staged.manifest).unwrap();
}

fn rows(of: &Node) -> impl PartialEq + std::fmt::Debug + use<> {
    let view = of.store.data.view();
    let rows = view.scan(TABLE, &KeyRange::all(), Timestamp::MAX, false, usize::MAX, usize::MAX).unwrap();
    (rows, view.shard_state(SHARD).unwrap())
}

#[tokio::test]
async fn after_a_break_only_what_is_lacking_is_sent() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    let offer = offer(&from, 10, &transfers);
    let broken = transfer(&offer, &to, Wire { breaks_at: Some(3), ..SOUND }).await;
    assert!(matches!(broken.received, Err(ReceiveError::Call(_))) && broken.sent.is_err());

    let done = transfer(&offer, &to, SOUND).await;
    assert_eq!(done.sent.unwrap(), VOTE);
    let staged = done.received.unwrap_or_else(|e| panic!("{e}"));
    let sizes: Vec<u64> = staged.manifest.files.iter().map(|file| file.bytes).collect();
    assert!(sizes.len() > 8, "many files: {sizes:?}");
    assert_eq!(broken.arrived, sizes[..3].iter().sum::<u64>());
    assert_eq!(done.arrived, sizes[3..].iter().sum::<u64>());
    let stats = transfers.stats();
    assert_eq!((stats.resumed_bytes, stats.cuts), (broken.arrived, 1));
    install(&to, staged);
    assert_eq!(rows(&to), rows(&from));
}

/// The receiver is done before the sender can have looked at what it wants.
#[tokio::test]
async fn a_receiver_that_lacks_nothing_is_done_at_once() {
    let (from, transfers) = (node(1, 512), Transfers::default());
    from.apply(10, 0, 0);
    let (requests, _queue) = mpsc::channel(CHUNKS_AHEAD);
    let parts = [Reply::Ready(Ready {}), Reply::Wanted(Wanted::default()), Reply::Done(VOTE)];
    let said = futures::stream::iter(parts.map(|part| Ok(pb::TransferReply { part: Some(part) })));
    assert_eq!(offer(&from, 10, &transfers).transfer(requests, said).await.unwrap(), VOTE);
    assert_eq!((transfers.stats().cuts, transfers.stats().sent_bytes), (1, 0));
}

#[tokio::test]
async fn a_file_that_broke_off_in_the_middle_is_sent_from_its_beginning() {
    let (from, to, transfers) = (node(1, 4 * CHUNK_BYTES as u64), node(2, 1), Transfers::default());
    from.apply(10, 40, 64 << 10);
    let offer = offer(&from, 10, &transfers);
    // Files of five chunks; the second one breaks off at its third.
    let broken = transfer(&offer, &to, Wire { breaks_at: Some(7), ..SOUND }).await;
    assert!(broken.received.is_err());
    let done = transfer(&offer, &to, SOUND).await;
    let staged = done.received.unwrap_or_else(|e| panic!("{e}"));
    let sizes: Vec<u64> = staged.manifest.files.iter().map(|file| file.bytes).collect();
    assert_eq!(sizes[0].div_ceil(CHUNK_BYTES as u64), 5);
    assert_eq!(done.arrived, sizes[1..].iter().sum::<u64>());
    install(&to, staged);
    assert_eq!(rows(&to), rows(&from));
}

#[tokio::test]
async fn a_receiver_that_was_started_again_goes_on() {
    let (from, mut to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    let offer = offer(&from, 10, &transfers);
    let broken = transfer(&offer, &to, Wire { breaks_at: Some(5), ..SOUND }).await;
    assert!(broken.received.is_err());
    to.store.raft.shard(SHARD).save_vote("vote".into()).await.unwrap();
    to.disk.crash();
    to.store = Store::open_simulated(&to.disk, Arc::new(|e| panic!("not poisoned: {e}"))).unwrap();
    to.store.remove_leftovers().unwrap();
    to.maker = SnapshotMaker::new(SHARD, TABLE, KeyRange::all(), to.store.clone());
    let done = transfer(&offer, &to, SOUND).await;
    assert_eq!(transfers.stats().resumed_bytes, broken.arrived);
    install(&to, done.received.unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(rows(&to), rows(&from));
}

#[tokio::test]
async fn a_changed_chunk_ends_the_transfer_before_it_is_written() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    let offer = offer(&from, 10, &transfers);
    let changed = Wire { changes: Some(2), ..SOUND };
    let refused = transfer(&offer, &to, changed).await;
    assert!(matches!(refused.received, Err(ReceiveError::ChunkChecksum { file: 2, offset: 0 })));
    assert!(matches!(refused.sent, Err(SendError::Call(_) | SendError::HungUp)));
    let status = Status::from(ReceiveError::ChunkChecksum { file: 2, offset: 0 });
    assert_eq!(status.code(), tonic::Code::DataLoss);

    // Without a look at it, the file's own checksum still finds it.
    set_sabotages(&[Sabotage::SkipChunkChecksum]);
    let refused = transfer(&offer, &to, Wire { changes: Some(0), ..SOUND }).await;
    set_sabotages(&[]);
    assert!(matches!(refused.received, Err(ReceiveError::Storage(StorageError::Corrupt { .. }))));

    let done = transfer(&offer, &to, SOUND).await;
    assert!(transfers.stats().resumed_bytes > 0, "the files before it are kept");
    install(&to, done.received.unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(rows(&to), rows(&from));
}

#[tokio::test]
async fn a_lost_chunk_is_noticed_by_the_next_one() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    let refused = transfer(&offer(&from, 10, &transfers), &to, Wire { loses: Some(2), ..SOUND }).await;
    assert!(matches!(refused.received, Err(ReceiveError::OutOfOrder("not the next chunk"))));
}

#[tokio::test]
async fn one_cut_serves_all_who_can_go_on_from_it() {
    let (from, a, b, transfers) = (node(1, 512), node(2, 512), node(3, 512), Transfers::default());
    from.apply(10, 60, 100);
    assert!(transfer(&offer(&from, 10, &transfers), &a, SOUND).await.sent.is_ok());
    from.apply(12, 5, 100);
    // The log after the cut is there: what it brings is told to openraft, not what was applied since.
    from.store.data.flush().unwrap();
    let position = |from: &Node| from.maker.current().unwrap().unwrap().meta.last_log_id.unwrap().index;
    assert_eq!(position(&from), 10);
    assert!(transfer(&offer(&from, 10, &transfers), &b, SOUND).await.sent.is_ok());
    assert_eq!(transfers.stats().cuts, 1);

    // Up to its position the log may be gone, and not any further.
    from.purge(10);
    assert_eq!(position(&from), 10);
    from.purge(11);
    assert_eq!(position(&from), 12);
    let done = transfer(&offer(&from, 12, &transfers), &b, SOUND).await;
    assert_eq!(done.received.unwrap_or_else(|e| panic!("{e}")).manifest.state.unwrap().last_ts, 12);
    assert_eq!((transfers.stats().cuts, from.folders().len()), (2, 1), "one at a time");
}

#[tokio::test]
async fn a_cut_is_not_sent_for_more_than_it_holds() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    assert!(transfer(&offer(&from, 10, &transfers), &to, SOUND).await.sent.is_ok());
    from.apply(12, 5, 100);
    let sent = async |wanted| {
        let done = transfer(&offer(&from, wanted, &transfers), &to, SOUND).await;
        done.received.unwrap_or_else(|e| panic!("{e}")).manifest.state.unwrap().last_ts
    };
    set_sabotages(&[Sabotage::ReuseStaleCut]);
    assert_eq!(sent(12).await, 10, "this is what the switch breaks");
    set_sabotages(&[]);
    assert_eq!(sent(12).await, 12);
}

#[tokio::test]
async fn a_cut_that_has_changed_on_the_disk_is_made_again() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    let offer = offer(&from, 10, &transfers);
    assert!(transfer(&offer, &to, Wire { breaks_at: Some(0), ..SOUND }).await.sent.is_err());
    let file = from.disk.file_names().into_iter().find(|f| f.ends_with("versions-000001.sst")).unwrap();
    let mut bytes = from.disk.file(&file).unwrap().to_vec();
    bytes[5] ^= 1;
    from.disk.tamper(&file, Some(bytes.into()));
    let done = transfer(&offer, &to, SOUND).await;
    // The receiver may be the first to notice.
    assert!(done.sent.is_err() && done.received.is_err());
    let again = transfer(&offer, &to, SOUND).await;
    assert_eq!((again.sent.unwrap(), transfers.stats().cuts), (VOTE, 2));
}

#[tokio::test]
async fn a_newer_transfer_ends_an_older_one_and_waits_for_an_installation() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    // One that says nothing after its manifest.
    let manifest = from.maker.lease(None, &transfers).await.unwrap().staged.manifest.clone();
    let silent = futures::stream::iter([Ok(pb::TransferRequest { part: Some(Part::Manifest(manifest)) })]);
    let mut silent = silent.chain(futures::stream::pending()).boxed();
    let (replies, _said) = mpsc::channel(4);
    let older = tokio::spawn({
        let maker = to.maker.clone();
        async move { maker.receive(&mut silent, &Replies::To(replies)).await }
    });
    tokio::task::yield_now().await;
    assert!(!older.is_finished());
    let done = transfer(&offer(&from, 10, &transfers), &to, SOUND).await;
    assert!(matches!(older.await.unwrap(), Err(ReceiveError::Superseded)));

    // As long as its files may be installed nobody else gets at the folder.
    let installing = done.received.unwrap_or_else(|e| panic!("{e}"));
    let offer = offer(&from, 10, &transfers);
    let mut next = Box::pin(transfer(&offer, &to, SOUND));
    for _ in 0..20 {
        assert!((&mut next).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    to.maker.tidy(Mono::now().plus(Duration::from_secs(7_200))).await.unwrap();
    install(&to, installing);
    assert!(next.await.sent.is_ok());
}

#[tokio::test]
async fn files_that_nobody_needs_are_removed_and_the_log_is_not_kept_for_them() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    assert!(!from.maker.keeps_log());
    let offer = offer(&from, 10, &transfers);
    assert!(transfer(&offer, &to, Wire { breaks_at: Some(3), ..SOUND }).await.sent.is_err());
    assert_eq!((from.folders().len(), to.folders().len()), (1, 1));

    // What was applied since has to be there when the follower is done.
    assert!(from.maker.keeps_log());
    from.disk.space().set_level(DiskLevel::NearlyFull);
    assert!(!from.maker.keeps_log(), "the disk comes first");
    from.disk.space().set_level(DiskLevel::Enough);
    from.maker.want_flush();
    assert!(!from.maker.keeps_log(), "somebody wants it purged");
    assert!(from.maker.is_flush_due(10) && from.maker.keeps_log());

    let now = Mono::now();
    for node in [&from, &to] {
        node.maker.tidy(now).await.unwrap();
    }
    assert_eq!((from.folders().len(), to.folders().len()), (1, 1), "not yet");
    let lease = from.maker.lease(None, &transfers).await.unwrap();
    for node in [&from, &to] {
        node.maker.tidy(now.plus(Duration::from_secs(3_600))).await.unwrap();
    }
    assert_eq!((from.folders().len(), to.folders().len()), (1, 0), "the cut is in use");
    drop(lease);
    from.maker.tidy(now.plus(cuts::KEPT * 2)).await.unwrap();
    assert_eq!(from.folders().len(), 0);
    assert!(!from.maker.keeps_log());
}

#[tokio::test]
async fn a_replica_that_is_stopped_leaves_no_files() {
    let (from, transfers) = (node(1, 512), Transfers::default());
    from.apply(10, 60, 100);
    let lease = from.maker.lease(None, &transfers).await.unwrap();
    from.maker.retire();
    from.maker.clear().await.unwrap();
    assert!(lease.given_up().now_or_never().is_some(), "whoever sends it stops");
    assert!(from.maker.lease(None, &transfers).await.is_err());
    assert_eq!(from.folders().len(), 0);
}

#[tokio::test]
async fn a_sender_of_the_older_kind_is_served() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    assert!(transfer(&offer(&from, 10, &transfers), &to, Wire { breaks_at: Some(3), ..SOUND }).await.sent.is_err());
    let lease = from.maker.lease(None, &transfers).await.unwrap();
    let mut chunks = Vec::new();
    for (file, listed) in lease.staged.manifest.files.iter().enumerate() {
        let mut content = from.store.files().open(&lease.staged.dir.join(&listed.name)).await.unwrap();
        while let Some(bytes) = content.chunk(100).await.unwrap() {
            let data = pb::SnapshotData { file: file as u32, crc32c: crc32c::crc32c(&bytes), bytes };
            chunks.push(Ok(pb::SnapshotChunk { part: Some(pb::snapshot_chunk::Part::Data(data)) }));
        }
    }
    let mut requests = unasked(lease.staged.manifest.clone(), futures::stream::iter(chunks)).boxed();
    let staged = to.maker.receive(&mut requests, &Replies::Nowhere).await.unwrap_or_else(|e| panic!("{e}"));
    install(&to, staged);
    assert_eq!(rows(&to), rows(&from));
}

#[tokio::test]
async fn a_receiver_without_room_refuses() {
    let (from, to, transfers) = (node(1, 512), node(2, 512), Transfers::default());
    from.apply(10, 60, 100);
    to.disk.space().set_level(DiskLevel::NearlyFull);
    let refused = transfer(&offer(&from, 10, &transfers), &to, SOUND).await;
    assert!(matches!(refused.received, Err(ReceiveError::NoRoom(_))));
    assert_eq!(refused.arrived, 0);
}
