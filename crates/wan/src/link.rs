//! A link: a TCP proxy whose bytes take the time that the two paths between its ends ask for.
//!
//! Each chunk read is stamped with its arrival at the far end and waits in a queue, so any number of chunks are on
//! the way at once and throughput does not depend on the delay. A new connection first makes the round trip of TCP's
//! handshake: the target is dialled when the SYN arrives, the client's bytes are let in when the SYN-ACK is back, the
//! target's bytes when the ACK has arrived. (The client's own `connect` returns at once: the kernel answers it.) The end
//! of a stream travels like a byte; when a side breaks, the other side learns of it one delay later.

use crate::path::{Path, Severed, Trip};
use bytes::{Bytes, BytesMut};
use meridian_clock::Mono;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

/// The most that one read takes, and travels as one.
const CHUNK_BYTES: usize = 64 << 10;

/// The most on the way in one direction of one connection, like a TCP window: with 125 ms one way it still carries
/// 128 MiB/s. The reader stops until something arrives.
const WINDOW_BYTES: usize = 16 << 20;

/// The least a chunk counts in the window: its bookkeeping takes memory too.
const CHUNK_COST_MIN: usize = 256;

/// The most connections of one link; more are refused.
const CONNECTIONS_MAX: usize = 1_024;

const _: () = assert!(CHUNK_BYTES <= WINDOW_BYTES && CHUNK_COST_MIN <= CHUNK_BYTES);

/// A running proxy; dropping it closes its connections.
#[derive(Debug)]
pub(crate) struct Link {
    pub listen: SocketAddr,
    pub target: SocketAddr,
    pub counts: Arc<Counts>,
    task: AbortHandle,
}

/// What one link has carried.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Open connections.
    pub open: AtomicUsize,
    /// Connections there ever were.
    pub total: AtomicU64,
    /// Bytes delivered to the target.
    pub out_bytes: AtomicU64,
    /// Bytes delivered to the clients.
    pub back_bytes: AtomicU64,
}

/// What the connections of a link have in common.
#[derive(Debug)]
struct Route {
    target: SocketAddr,
    out: Arc<Path>,
    back: Arc<Path>,
    counts: Arc<Counts>,
    seed: u64,
}

impl Link {
    /// Relays what `listener` accepts to `target`. Has to be called inside a tokio runtime.
    pub(crate) fn start(
        listener: std::net::TcpListener,
        target: SocketAddr,
        (out, back): (Arc<Path>, Arc<Path>),
        seed: u64,
    ) -> std::io::Result<Self> {
        let listen = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let counts = Arc::<Counts>::default();
        let route = Arc::new(Route { target, out, back, counts: counts.clone(), seed });
        let task = tokio::spawn(accept(listener, route)).abort_handle();
        Ok(Self { listen, target, counts, task })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, route: Arc<Route>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve(client, route.clone()));
                }
                Ok(_) => tracing::warn!(target = %route.target, CONNECTIONS_MAX, "link refuses a connection"),
                Err(error) => {
                    // Out of file descriptors, most likely: accepting again at once would spin.
                    tracing::warn!(target = %route.target, %error, "link cannot accept");
                    meridian_clock::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a Counts);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(mut client: TcpStream, route: Arc<Route>) {
    let number = route.counts.total.fetch_add(1, Ordering::Relaxed);
    route.counts.open.fetch_add(1, Ordering::Relaxed);
    let _open = Open(&route.counts);
    if let Err(Severed) = relay(&mut client, &route, number).await {
        tracing::debug!(target = %route.target, "a connection was blocked for too long and is reset");
        // Fails only if the socket is dead already.
        let _ = client.set_zero_linger();
    }
}

async fn relay(client: &mut TcpStream, route: &Route, number: u64) -> Result<(), Severed> {
    let Route { out, back, counts, .. } = route;
    let stream = |direction: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(route.seed);
        rng.set_stream(2 * number + direction);
        rng
    };
    let (mut out_rng, mut back_rng) = (stream(0), stream(1));
    // A socket that refuses its options is closing; the first read will say so.
    let _ = client.set_nodelay(true);

    out.arrive(out.depart(0, &mut out_rng)).await?; // SYN
    let dialled = TcpStream::connect(route.target).await;
    back.arrive(back.depart(0, &mut back_rng)).await?; // SYN-ACK, or the refusal
    let Ok(mut server) = dialled else {
        let _ = client.set_zero_linger();
        return Ok(());
    };
    let _ = server.set_nodelay(true);

    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let ack = out.depart(0, &mut out_rng);
    let outward = pump(client_read, server_write, out, &counts.out_bytes, out_rng);
    let backward = async {
        out.arrive(ack).await?;
        pump(server_read, client_write, back, &counts.back_bytes, back_rng).await
    };
    let done = tokio::try_join!(outward, backward).map(|_| ());
    if done.is_err() {
        let _ = server.set_zero_linger();
    }
    done
}

/// What is on the way; an empty one is the end of the stream.
struct Chunk {
    bytes: Bytes,
    trip: Trip,
    _window: OwnedSemaphorePermit,
}

/// Carries one direction of one connection until its end has arrived.
async fn pump(
    read: ReadHalf<'_>,
    write: WriteHalf<'_>,
    path: &Path,
    delivered: &AtomicU64,
    rng: ChaCha8Rng,
) -> Result<(), Severed> {
    let (sender, receiver) = mpsc::unbounded_channel(); // Bounded by the window.
    tokio::try_join!(send(read, path, sender, rng), receive(write, path, delivered, receiver)).map(|_| ())
}

async fn send(
    mut read: ReadHalf<'_>,
    path: &Path,
    on_the_way: mpsc::UnboundedSender<Chunk>,
    mut rng: ChaCha8Rng,
) -> Result<(), Severed> {
    let window = Arc::new(Semaphore::new(WINDOW_BYTES));
    let mut buffer = BytesMut::new();
    let mut last_due = Mono::default();
    loop {
        buffer.reserve(CHUNK_BYTES);
        // A side that breaks is, to the other side, a side that ends.
        let bytes = read.read_buf(&mut buffer).await.unwrap_or(0);
        let cost = u32::try_from(bytes.clamp(CHUNK_COST_MIN, WINDOW_BYTES)).unwrap_or(u32::MAX);
        let Ok(permit) = window.clone().acquire_many_owned(cost).await else { return Ok(()) };
        let mut trip = path.depart(bytes, &mut rng);
        trip.due = trip.due.max(last_due);
        last_due = trip.due;
        let chunk = Chunk { bytes: buffer.split().freeze(), trip, _window: permit };
        let receiver_gone = on_the_way.send(chunk).is_err();
        if bytes == 0 || receiver_gone {
            return Ok(());
        }
    }
}

async fn receive(
    mut write: WriteHalf<'_>,
    path: &Path,
    delivered: &AtomicU64,
    mut on_the_way: mpsc::UnboundedReceiver<Chunk>,
) -> Result<(), Severed> {
    while let Some(chunk) = on_the_way.recv().await {
        path.arrive(chunk.trip).await?;
        if chunk.bytes.is_empty() {
            let _ = write.shutdown().await; // Fails if the socket is gone, which is what it asks for.
            return Ok(());
        }
        if write.write_all(&chunk.bytes).await.is_err() {
            // The socket is gone: the other direction reads that and carries the news back.
            return Ok(());
        }
        path.count_delivered(chunk.bytes.len());
        delivered.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}
