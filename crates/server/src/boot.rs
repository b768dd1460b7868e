//! Puts the parts of a node together, on whatever machine it is given.
//!
//! Learn which cluster this is (from the store, from the configuration that forms it, or from a seed); open the replica
//! of shard 0; register; then follow the catalog. A node must serve before it is registered, because the voters of
//! shard 0 have to reach one another before anything can be registered: whoever boots it serves its routes at once.

use crate::balance;
use crate::collect;
use crate::config::{FormConfig, NodeConfig};
use crate::host::Host;
use crate::join::{self, introduction};
use crate::lead;
use crate::machine::ShardMachine;
use crate::node::StartError;
use crate::timers;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_api::{Context, Deadlines, Parts, routes};
use meridian_catalog::{Catalog, Cluster, NewCluster, RttMatrix, form_cluster, timing_for};
use meridian_clock::{Clock, Mono};
use meridian_consensus::{
    Acceptances, BYTES_PER_SECOND_DEFAULT, Charge, Gossip, Heartbeats, Member, NodeMemory, PeerAddress, Peers, Replica,
    ReplicaOptions, Replicas, Transfers, keep_dialled,
};
use meridian_proto::internal::v1 as pb;
use meridian_storage::Store;
use meridian_transport::Connect;
use meridian_txn::ShardScope;
use meridian_types::{KeyRange, Limits, NodeId, RaftTiming, ShardId, TableId, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

/// Largest distance between clocks while a cluster has not said otherwise.
const MAX_OFFSET_DEFAULT: Duration = Duration::from_millis(500);
/// Time between two looks at the room on the disk, beside those that writing causes.
const DISK_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Pause between looks whether the node is ready.
const READY_PAUSE: Duration = Duration::from_millis(20);

/// The machine that a node is put on, and how it is known to others.
pub struct Environment {
    /// Its clock.
    pub clock: Clock,
    /// Its store, with interrupted installations resumed.
    pub store: Store,
    /// How it reaches other nodes.
    pub connect: Arc<dyn Connect>,
    /// `host:port` under which clients and nodes reach it.
    pub grpc_address: String,
    /// `host:port` of health and metrics.
    pub http_address: String,
    /// Time between two messages with closed timestamps.
    pub publish_interval: Duration,
    /// How long its gateway tries.
    pub deadlines: Deadlines,
}

/// A node that works, as soon as its routes are served.
pub struct Booted {
    /// What its services share.
    pub ctx: Context,
    /// Ends its tasks.
    pub stop: CancellationToken,
    /// Its tasks.
    pub tasks: JoinSet<()>,
    /// Its gRPC services.
    pub routes: Routes,
    /// Says whether the node is ready; "not serving" until it is told otherwise.
    pub health: HealthReporter,
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

/// Boots a node. It takes part in its groups at once; [`wait_ready`] waits until it is part of its cluster.
pub async fn boot(config: NodeConfig, environment: Environment) -> Result<Booted, StartError> {
    let Environment { clock, store, connect, grpc_address, http_address, publish_interval, deadlines } = environment;
    if let Some(shard) = store.without_members()?.first() {
        return Err(StartError::NoMembers { shard: *shard });
    }
    let catalog = Catalog::open(&store.data)?;
    let peers = Peers::new(config.node, config.dial_via.clone(), connect);
    let incarnation = store.identity().incarnation;
    let membership = match (from_catalog(&catalog), config.form.as_ref()) {
        (Some(known), _) => known,
        (None, Some(form)) => from_form(form).0,
        (None, None) => from_seeds(&config, &peers, &store, &grpc_address, &http_address).await?,
    };
    store.set_membership(&membership.cluster_id, config.node)?;
    for m in &membership.members {
        let address = PeerAddress { region: m.region.clone().into(), address: m.address.clone() };
        peers.learn_if_unknown(NodeId(m.node), address);
    }
    let replicas = Replicas::new(config.node, membership.cluster_id.as_str().into());
    let gossip = Gossip::new(replicas.clone(), peers.clone(), clock.clone(), store.space().clone(), publish_interval);
    let heartbeats = Heartbeats::new(replicas.cluster().clone(), peers.clone(), clock.clone());
    let stop = CancellationToken::new();
    let ctx = Context::new(Parts {
        me: config.node,
        region: config.region.clone(),
        zone: config.zone.clone(),
        grpc_address,
        http_address,
        clock,
        store,
        catalog,
        replicas,
        peers,
        gossip,
        memory: NodeMemory::new(config.memory()?),
        transfers: Transfers::new(config.snapshot_bytes_per_second.unwrap_or(BYTES_PER_SECOND_DEFAULT)),
        heartbeats,
        acceptances: Acceptances::new(config.node),
        limits: Limits::default(),
        deadlines,
        started: Mono::now(),
        stop: stop.clone(),
    });
    let (changed_tx, changed) = watch::channel(Timestamp::ZERO);
    open_catalog_replica(&ctx, &membership, changed_tx).await?;
    let (routes, health) = routes(&ctx).await?;
    let first = config.form.as_ref().map(|f| f.first);
    let (gossip, telling) = (ctx.gossip.clone(), ctx.clone());
    let (heartbeats, replicas) = (ctx.heartbeats.clone(), ctx.replicas.clone());
    let peers = ctx.peers.clone();
    let work: [BoxFuture<'static, ()>; 12] = [
        watch_disk(ctx.store.clone()).boxed(),
        async move { gossip.run().await }.boxed(),
        async move { heartbeats.run(&replicas).await }.boxed(),
        async move { keep_dialled(&peers).await }.boxed(),
        async move { telling.acceptances.run(telling.replicas.cluster().clone(), telling.peers.clone()).await }.boxed(),
        follow_catalog(ctx.clone(), changed).boxed(),
        Host::new(ctx.clone(), membership.max_offset).run().boxed(),
        balance::run(ctx.clone(), first).boxed(),
        collect::run(ctx.clone()).boxed(),
        lead::run(ctx.clone()).boxed(),
        timers::run(ctx.clone()).boxed(),
        register(ctx.clone(), config, incarnation).boxed(),
    ];
    let mut tasks = JoinSet::new();
    for task in work {
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(task).await.unwrap_or_default() });
    }
    Ok(Booted { ctx, stop, tasks, routes, health })
}

/// Asks the seeds.
async fn from_seeds(
    config: &NodeConfig,
    peers: &Peers,
    store: &Store,
    grpc_address: &str,
    http_address: &str,
) -> Result<Membership, StartError> {
    let identity = store.identity();
    let request = pb::JoinRequest {
        node: config.node.0,
        region: config.region.0.clone(),
        zone: config.zone.0.clone(),
        grpc_address: grpc_address.to_owned(),
        http_address: http_address.to_owned(),
        incarnation: identity.incarnation,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: identity.cluster_id,
    };
    let joined = join::join(peers, &config.seeds, &request).await?;
    Ok(Membership {
        cluster_id: joined.cluster_id,
        timing: joined.timing,
        max_offset: joined.max_offset,
        members: joined.members,
    })
}

/// Work that blocks for an open store.
async fn blocking_on<T: Send + 'static, E: Send + 'static>(
    store: &Store,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    joined(store.run_blocking(work).await)
}

/// The result of work that was done on another thread; its panic goes on here.
pub(crate) fn joined<T, E>(result: Result<Result<T, E>, JoinError>) -> Result<T, E> {
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
        memory: ctx.memory.clone(),
        transfers: ctx.transfers.clone(),
        heartbeats: ctx.heartbeats.clone(),
        acceptances: ctx.acceptances.clone(),
    })
    .await?;
    ctx.replicas.insert(replica);
    Ok(())
}

/// Looks at the disk until the future is dropped.
async fn watch_disk(store: Store) {
    loop {
        let space = store.space().clone();
        if let Err(e) = blocking_on(&store, move || space.look()).await {
            tracing::warn!("{e}");
        }
        tokio::time::sleep(DISK_LOOK_INTERVAL).await;
    }
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
            if let Err(e) = replica.propose(mutation, span, Timestamp::ZERO, None, Charge::NONE).await {
                tracing::info!("the cluster is not formed yet: {e}");
            }
        }
        // Ends by a change or by the pause; then looks again.
        let _ = tokio::time::timeout(READY_PAUSE * 5, views.changed()).await;
    }
}

/// Waits until a leader of shard 0 is known and the catalog lists this node.
pub async fn wait_ready(ctx: &Context) {
    loop {
        let led = ctx.replicas.get(ShardId::CATALOG).is_some_and(|r| r.leader().is_some());
        if led && ctx.catalog.view().node(ctx.me).is_some() {
            return;
        }
        tokio::time::sleep(READY_PAUSE).await;
    }
}
