//! A node: from its configuration to a running server, and back.
//!
//! Start: open the store; learn which cluster this is (from the store, from the configuration that forms it, or
//! from a seed); open the replica of shard 0; serve; register; then follow the catalog. A node serves before it is
//! registered, because the voters of shard 0 have to reach one another before anything can be registered.

use crate::balance;
use crate::config::{FormConfig, NodeConfig};
use crate::host::Host;
use crate::incoming::Cuttable;
use crate::join::{self, introduction};
use crate::machine::ShardMachine;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_api::{Context, Deadlines, Parts, http_routes, routes};
use meridian_catalog::{Catalog, CatalogError, Cluster, NewCluster, RttMatrix, form_cluster, timing_for};
use meridian_clock::{Clock, ClockError, Mono};
use meridian_consensus::peers::{CONNECTION_WINDOW, STREAM_WINDOW};
use meridian_consensus::{ConsensusError, Gossip, Member, PeerAddress, Peers, Replica, ReplicaOptions, Replicas};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{StorageError, Store, StoreOptions};
use meridian_txn::ShardScope;
use meridian_types::{KeyRange, Limits, NodeId, RaftTiming, ShardId, TableId, Timestamp};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

/// Largest distance between clocks while a cluster has not said otherwise.
const MAX_OFFSET_DEFAULT: Duration = Duration::from_millis(500);
/// Open requests have this long to end when the node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Whatever still uses the store after that has this long to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between looks whether the node is ready.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// HTTP/2 keepalive towards clients and peers.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used: {0}")]
    Config(String),
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

/// What a node has to know of its cluster before it can open shard 0.
#[derive(Clone)]
struct Membership {
    cluster_id: String,
    timing: RaftTiming,
    max_offset: Duration,
    members: Vec<pb::Member>,
}

/// The form configuration as a membership, and what the catalog will say of the cluster.
fn from_form(form: &FormConfig) -> (Membership, Cluster) {
    let mut rtts = RttMatrix::default();
    for r in &form.rtts {
        rtts.set(r.a.clone(), r.b.clone(), r.rtt);
    }
    let widest = rtts.pairs().map(|(_, _, rtt)| rtt).max().unwrap_or_default();
    let catalog_timing = timing_for(widest);
    let cluster =
        Cluster { id: form.cluster_id.clone(), rtts, timing: catalog_timing, max_clock_offset: form.max_clock_offset };
    let member = |v: &crate::config::FormMember| pb::Member {
        node: v.node.0,
        region: v.region.0.clone(),
        address: v.address.clone(),
    };
    let membership = Membership {
        cluster_id: form.cluster_id.clone(),
        timing: catalog_timing,
        max_offset: form.max_clock_offset,
        members: form.voters.iter().map(member).collect(),
    };
    (membership, cluster)
}

/// What the store remembers of the cluster, if the catalog in it says so.
fn from_catalog(catalog: &Catalog) -> Option<Membership> {
    let view = catalog.view();
    let cluster = &view.cluster()?.record;
    Some(Membership {
        cluster_id: cluster.id.clone(),
        timing: cluster.timing,
        max_offset: cluster.max_clock_offset,
        members: Vec::new(),
    })
}

/// Starts a node on these sockets. Returns when it serves; [`RunningNode::ready`] waits for the rest.
pub async fn start(config: NodeConfig, listeners: Listeners) -> Result<RunningNode, StartError> {
    let faults = config.validate();
    if !faults.is_empty() {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err(StartError::Config(faults.join("; ")));
    }
    let clock = Clock::open(&config.clock)?;
    let dir = config.data_dir.clone();
    let store = blocking(move || {
        let store = Store::open(&dir, StoreOptions::default())?;
        store.resume_installs()?;
        Ok::<_, StorageError>(store)
    })
    .await?;
    let catalog = Catalog::open(&store.data)?;
    let local = |l: &TcpListener| {
        l.local_addr().map_err(|source| StartError::Listen { address: config.listen.clone(), source })
    };
    let (grpc, http) = (local(&listeners.grpc)?, local(&listeners.http)?);
    let advertise = config.advertise.clone().unwrap_or_else(|| grpc.to_string());
    let peers = Peers::new(config.node, config.dial_via.clone());

    let identity = store.identity();
    let form = config.form.as_ref().map(from_form);
    let membership = match (from_catalog(&catalog), form.as_ref()) {
        (Some(known), _) => known,
        (None, Some((membership, _))) => membership.clone(),
        (None, None) => {
            let request = pb::JoinRequest {
                node: config.node.0,
                region: config.region.0.clone(),
                zone: config.zone.0.clone(),
                grpc_address: advertise.clone(),
                http_address: http.to_string(),
                incarnation: identity.incarnation,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                cluster_id: identity.cluster_id.clone(),
            };
            let joined = join::join(&peers, &config.seeds, &request).await?;
            Membership {
                cluster_id: joined.cluster_id,
                timing: joined.timing,
                max_offset: joined.max_offset,
                members: joined.members,
            }
        }
    };
    store.set_membership(&membership.cluster_id, config.node)?;
    for m in &membership.members {
        let address = PeerAddress { region: m.region.clone().into(), address: m.address.clone() };
        peers.learn_if_unknown(NodeId(m.node), address);
    }
    let replicas = Replicas::new(config.node, membership.cluster_id.as_str().into());
    let gossip = Gossip::new(replicas.clone(), peers.clone(), clock.clone());
    let stop = CancellationToken::new();
    let ctx = Context::new(Parts {
        me: config.node,
        region: config.region.clone(),
        zone: config.zone.clone(),
        grpc_address: advertise,
        http_address: http.to_string(),
        clock,
        store,
        catalog,
        replicas,
        peers,
        gossip,
        limits: Limits::default(),
        deadlines: Deadlines::default(),
        started: Mono::now(),
        stop: stop.clone(),
    });
    let (changed_tx, changed) = watch::channel(Timestamp::ZERO);
    open_catalog_replica(&ctx, &membership, changed_tx).await?;

    let mut tasks = JoinSet::new();
    serve(&ctx, listeners, &stop, &mut tasks).await?;
    let first = config.form.as_ref().map(|f| f.first);
    let gossip = ctx.gossip.clone();
    let work: [BoxFuture<'static, ()>; 5] = [
        async move { gossip.run().await }.boxed(),
        follow_catalog(ctx.clone(), changed).boxed(),
        Host::new(ctx.clone(), membership.max_offset).run().boxed(),
        balance::run(ctx.clone(), first).boxed(),
        register(ctx.clone(), config, identity.incarnation).boxed(),
    ];
    for task in work {
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(task).await.unwrap_or_default() });
    }
    Ok(RunningNode { ctx, grpc, http, stop, tasks })
}

async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// Work that blocks for an open store.
async fn blocking_on<T: Send + 'static, E: Send + 'static>(
    store: &Store,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    joined(store.run_blocking(work).await)
}

fn joined<T, E>(result: Result<Result<T, E>, JoinError>) -> Result<T, E> {
    match result {
        Ok(result) => result,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

async fn open_catalog_replica(
    ctx: &Context,
    membership: &Membership,
    changed: watch::Sender<Timestamp>,
) -> Result<(), StartError> {
    let machine = Arc::new(ShardMachine::new(ShardScope::catalog(), ctx.store.data.clone(), Some(changed)));
    let replica = Replica::open(ReplicaOptions {
        cluster: ctx.replicas.cluster().clone(),
        shard: ShardId::CATALOG,
        table: TableId::CATALOG,
        range: KeyRange::all(),
        timing: membership.timing,
        max_offset: if membership.max_offset.is_zero() { MAX_OFFSET_DEFAULT } else { membership.max_offset },
        clock: ctx.clock.clone(),
        peers: ctx.peers.clone(),
        store: ctx.store.clone(),
        machine,
    })
    .await?;
    ctx.replicas.insert(replica);
    Ok(())
}

async fn serve(
    ctx: &Context,
    listeners: Listeners,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let (grpc_routes, health) = routes(ctx).await?;
    let to_tokio = |l: TcpListener| {
        l.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(l)
    };
    let listen = |source| StartError::Listen { address: ctx.grpc_address.clone(), source };
    let cut = CancellationToken::new();
    let on_accept = cut.clone();
    let incoming = TcpIncoming::from(to_tokio(listeners.grpc).map_err(listen)?)
        .with_nodelay(Some(true))
        .map(move |io| io.map(|io| Cuttable::new(io, &on_accept)));
    let server = tonic::transport::Server::builder()
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(grpc_routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let stopping = stop.clone();
    tasks.spawn(async move {
        let drained = async {
            stopping.cancelled().await;
            tokio::time::sleep(DRAIN_LIMIT).await;
        };
        tokio::select! {
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
    let (ctx, until) = (ctx.clone(), stop.clone());
    tasks.spawn(async move {
        until
            .run_until_cancelled(async {
                wait_ready(&ctx).await;
                health.set_service_status("", tonic_health::ServingStatus::Serving).await;
            })
            .await;
    });
    Ok(())
}

/// Keeps the catalog's newest view in memory, whenever shard 0 has changed.
async fn follow_catalog(ctx: Context, mut changed: watch::Receiver<Timestamp>) {
    loop {
        let view = ctx.replicas.get(ShardId::CATALOG).and_then(|r| r.view());
        let catalog = ctx.catalog.clone();
        // Without a view the state is being replaced; that it was, is a change too.
        if let Some(view) = view
            && let Err(e) = blocking_on(&ctx.store, move || catalog.refresh(&view)).await
        {
            tracing::error!("the catalog cannot be read: {e}");
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Forms the cluster if that is this node's part, then registers until the catalog says what this node says.
async fn register(ctx: Context, config: NodeConfig, incarnation: u64) {
    // Only a voter has a part in it. The others see the catalog once they are registered, not before.
    if let Some(form) = config.form.as_ref().filter(|f| f.voters.iter().any(|v| v.node == ctx.me)) {
        form_catalog(&ctx, form).await;
    }
    let voters = config.form.iter().flat_map(|f| f.voters.iter().map(|v| v.address.clone()));
    let mut seeds: Vec<String> = voters.chain(config.seeds.iter().cloned()).collect();
    // This node itself is the nearest to ask if it knows the cluster, and cannot help if it does not.
    let own_place = if ctx.catalog.view().cluster().is_some() { 0 } else { seeds.len() };
    seeds.insert(own_place, ctx.grpc_address.clone());
    if let Err(e) = join::join(&ctx.peers, &seeds, &introduction(&ctx, incarnation)).await {
        tracing::error!("the node could not register: {e}");
    }
}

/// At a voter: brings shard 0 into being: its group, then the cluster's record. Returns when the catalog has that
/// record.
async fn form_catalog(ctx: &Context, form: &FormConfig) {
    let Some(replica) = ctx.replicas.get(ShardId::CATALOG) else { return };
    let (membership, cluster) = from_form(form);
    let patience = if form.first == ctx.me { Duration::ZERO } else { membership.timing.promise() * 2 };
    let started = Mono::now();
    let mut views = ctx.catalog.subscribe();
    while views.borrow_and_update().cluster().is_none() {
        if replica.leader().is_none() && started.elapsed() >= patience {
            let member =
                |v: &pb::Member| (NodeId(v.node), Member { region: v.region.clone(), address: v.address.clone() });
            if let Err(e) = replica.form(membership.members.iter().map(member).collect()).await {
                tracing::warn!("shard 0 could not be formed: {e}");
            }
        }
        if replica.is_leader() {
            let new = NewCluster { cluster: cluster.clone(), nodes: Vec::new() };
            let mutation = form_cluster(ctx.request_id(), new);
            let span = meridian_txn::mutation_span(&mutation);
            if let Err(e) = replica.propose(mutation, span, Timestamp::ZERO).await {
                tracing::info!("the cluster is not formed yet: {e}");
            }
        }
        // Ends by a change or by the pause; then looks again.
        let _ = tokio::time::timeout(READY_PAUSE * 5, views.changed()).await;
    }
}

/// Waits until a leader of shard 0 is known and the catalog lists this node.
async fn wait_ready(ctx: &Context) {
    loop {
        let led = ctx.replicas.get(ShardId::CATALOG).is_some_and(|r| r.leader().is_some());
        if led && ctx.catalog.view().node(ctx.me).is_some() {
            return;
        }
        tokio::time::sleep(READY_PAUSE).await;
    }
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
        for replica in self.ctx.replicas.all() {
            self.ctx.replicas.remove(replica.shard());
            replica.stop().await;
        }
        let data = self.ctx.store.data.clone();
        if let Err(e) = blocking_on(&self.ctx.store, move || data.flush()).await {
            tracing::error!("the last flush failed; the log will be replayed: {e}");
        }
        let closed = self.ctx.store.on_close();
        drop(self.ctx);
        if tokio::time::timeout(CLOSE_LIMIT, closed.wait()).await.is_err() {
            tracing::warn!("something still uses the store; it closes with the process");
        }
    }
}
