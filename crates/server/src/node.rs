//! A node: from its configuration to a running server, and back.
//!
//! The parts that make a node what it is are put together in `boot.rs`; here they get sockets, a clock and a store of
//! the real machine, and are taken apart again.

use crate::boot::{Booted, Environment, boot, joined, wait_ready};
use crate::config::NodeConfig;
use crate::incoming::Cuttable;
use meridian_api::{Context, Deadlines, http_routes};
use meridian_catalog::CatalogError;
use meridian_clock::{Clock, ClockError};
use meridian_consensus::ConsensusError;
use meridian_consensus::gossip::PUBLISH_INTERVAL;
use meridian_consensus::peers::{CONNECTION_WINDOW, STREAM_WINDOW};
use meridian_storage::{StorageError, Store, StoreOptions};
use meridian_types::{MemoryBudget, MemoryTooSmall, NodeId, ShardId, Timestamp};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

/// Open requests have this long to end when the node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Whatever still uses the store after that has this long to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// How many connections may have their windows full of unread bytes before these are as much as all requests may be.
const WINDOWS: u64 = 4;
/// HTTP/2 keepalive towards clients and peers.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used: {0}")]
    Config(String),
    /// The memory budget is too small.
    #[error("the memory budget is too small: {0}")]
    Memory(#[from] MemoryTooSmall),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The clock cannot be read.
    #[error("the clock cannot be used")]
    Clock(#[from] ClockError),
    /// The store cannot be opened.
    #[error("the data directory cannot be used")]
    Store(#[from] StorageError),
    /// The catalog cannot be read.
    #[error("the catalog cannot be read")]
    Catalog(#[from] CatalogError),
    /// Shard 0's replica cannot be opened.
    #[error("the replica of shard 0 cannot be opened")]
    Consensus(#[from] ConsensusError),
    /// A node without data, without seeds, and without a cluster to form.
    #[error("the data directory is new, and the configuration has neither seeds to join nor a cluster to form")]
    NoSeeds,
    /// A backup was restored into the data directory, and its shards have no members yet.
    #[error(
        "the data directory holds {shard} as it was restored from a backup, and nobody has said which nodes it is on now; \
         look into it with `meridian debug`, or give the node an empty directory"
    )]
    NoMembers {
        /// The first of its shards.
        shard: ShardId,
    },
    /// gRPC reflection cannot be set up.
    #[error("the gRPC services cannot be set up")]
    Services(#[from] tonic_reflection::server::Error),
}

/// The sockets that a node serves on.
pub struct Listeners {
    /// gRPC, for clients and peers.
    pub grpc: TcpListener,
    /// Health and metrics.
    pub http: TcpListener,
}

impl Listeners {
    /// Binds what the configuration names.
    pub fn bind(config: &NodeConfig) -> Result<Self, StartError> {
        let bind = |address: &str| {
            TcpListener::bind(address).map_err(|source| StartError::Listen { address: address.to_owned(), source })
        };
        let http = config.http_listen.as_deref().unwrap_or("127.0.0.1:0");
        Ok(Self { grpc: bind(&config.listen)?, http: bind(http)? })
    }
}

/// A node that serves.
pub struct RunningNode {
    ctx: Context,
    grpc: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Starts a node on these sockets. Returns when it serves; [`RunningNode::ready`] waits for the rest.
pub async fn start(config: NodeConfig, listeners: Listeners) -> Result<RunningNode, StartError> {
    let faults = config.validate();
    if !faults.is_empty() {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err(StartError::Config(faults.join("; ")));
    }
    let clock = Clock::open(&config.clock)?;
    let (dir, memory, disk_reserve_bytes) = (config.data_dir.clone(), config.memory()?, config.disk_reserve_bytes);
    let opening = tokio::task::spawn_blocking(move || {
        let options = StoreOptions { disk_reserve_bytes, ..StoreOptions::for_budget(&memory) };
        let store = Store::open(&dir, options)?;
        store.resume_installs()?;
        store.remove_leftovers()?;
        Ok::<_, StorageError>(store)
    });
    let store = joined(opening.await)?;
    let local = |l: &TcpListener| {
        l.local_addr().map_err(|source| StartError::Listen { address: config.listen.clone(), source })
    };
    let (grpc, http) = (local(&listeners.grpc)?, local(&listeners.http)?);
    let environment = Environment {
        clock,
        store,
        connect: meridian_transport::tcp(),
        grpc_address: config.advertise.clone().unwrap_or_else(|| grpc.to_string()),
        http_address: http.to_string(),
        publish_interval: PUBLISH_INTERVAL,
        deadlines: Deadlines::default(),
    };
    let Booted { ctx, stop, mut tasks, routes, health } = boot(config, environment).await?;
    serve(&ctx, listeners, routes, &stop, &mut tasks)?;
    let (ready, until) = (ctx.clone(), stop.clone());
    tasks.spawn(async move {
        until
            .run_until_cancelled(async {
                wait_ready(&ready).await;
                health.set_service_status("", tonic_health::ServingStatus::Serving).await;
            })
            .await;
    });
    Ok(RunningNode { ctx, grpc, http, stop, tasks })
}

/// Serves over TCP.
fn serve(
    ctx: &Context,
    listeners: Listeners,
    routes: Routes,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let to_tokio = |l: TcpListener| {
        l.set_nonblocking(true)?;
        if let Err(e) = meridian_transport::keep_steady(&l) {
            // It works all the same.
            tracing::warn!("connections keep the system's congestion control: {e}");
        }
        tokio::net::TcpListener::from_std(l)
    };
    let listen = |source| StartError::Listen { address: ctx.grpc_address.clone(), source };
    let cut = CancellationToken::new();
    let on_accept = cut.clone();
    let incoming = TcpIncoming::from(to_tokio(listeners.grpc).map_err(listen)?)
        .with_nodelay(Some(true))
        .map(move |io| io.map(|io| Cuttable::new(io, &on_accept)));
    let window = connection_window(&ctx.memory.budget);
    let server = tonic::transport::Server::builder()
        .initial_connection_window_size(window)
        .initial_stream_window_size(window.min(STREAM_WINDOW))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let stopping = stop.clone();
    tasks.spawn(async move {
        let drained = async {
            stopping.cancelled().await;
            tokio::time::sleep(DRAIN_LIMIT).await;
        };
        tokio::select! {
            biased;
            ended = server => if let Err(e) = ended { tracing::error!("the gRPC server has ended: {e}") },
            () = drained => {}
        }
        cut.cancel();
    });
    let http = to_tokio(listeners.http).map_err(listen)?;
    let (router, until) = (http_routes(ctx.clone()), stop.clone());
    tasks.spawn(async move {
        let server = axum::serve(http, router);
        until
            .run_until_cancelled(async {
                if let Err(e) = server.await {
                    tracing::error!("HTTP: {e}")
                }
            })
            .await;
    });
    Ok(())
}

/// What one connection may send before it is read: memory that nobody has charged yet.
fn connection_window(budget: &MemoryBudget) -> u32 {
    u32::try_from(budget.in_flight / WINDOWS).unwrap_or(u32::MAX).min(CONNECTION_WINDOW)
}

impl RunningNode {
    /// The node's number.
    pub fn node(&self) -> NodeId {
        self.ctx.me
    }

    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where health and metrics are served.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// What the node's services share.
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    /// Waits until the node is part of a formed cluster: it is registered and knows a leader of shard 0.
    pub async fn ready(&self) {
        wait_ready(&self.ctx).await;
    }

    /// Stops serving, then the replicas, then flushes the data and closes the store: the data directory may be
    /// opened again afterwards, also by this process.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let mut closed = Vec::new();
        for replica in self.ctx.replicas.all() {
            self.ctx.replicas.remove(replica.shard());
            replica.stop().await;
            // Read in this order: what is safe at the applied stamp is safe at a later one.
            let safe = replica.safe_time().safe();
            closed.push((replica.shard(), safe, replica.safe_time().applied()));
        }
        let store = self.ctx.store.clone();
        if let Err(e) = joined(tokio::task::spawn_blocking(move || settle(&store, &closed)).await) {
            tracing::error!("the data could not be made durable at the end; the log will be replayed: {e}");
        }
        let closed = self.ctx.store.on_close();
        drop(self.ctx);
        if tokio::time::timeout(CLOSE_LIMIT, closed.wait()).await.is_err() {
            tracing::warn!("something still uses the store; it closes with the process");
        }
    }
}

/// Makes everything durable that replicas have applied, and then, of each, up to where it surely has everything: a
/// backup of the stopped node may be as new as that, however long nothing has been written.
fn settle(store: &Store, closed: &[(ShardId, Timestamp, Timestamp)]) -> Result<(), StorageError> {
    store.data.flush()?;
    for (shard, closed, applied) in closed {
        if closed > applied {
            store.raft.shard(*shard).note_closed(*closed, *applied)?;
        }
    }
    Ok(())
}
