//! The host: opens and closes this node's replicas as the catalog says.
//!
//! A shard that appears in the catalog with a replica here is opened; its preferred leader forms the group, and if
//! it does not, another voter does. A shard that is gone from the catalog is closed and its data removed, but only
//! after a linearizable read of the catalog has confirmed that: the local catalog may be older than the shard.

use crate::machine::ShardMachine;
use meridian_api::{Context, catalog_is_current};
use meridian_catalog::{CatalogView, Shard};
use meridian_consensus::{ConsensusError, Member, PeerAddress, Replica, ReplicaOptions};
use meridian_txn::ShardScope;
use meridian_types::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Time between looks at the catalog when nothing has changed: for groups that are not formed yet and data that
/// is to be removed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Opens and closes replicas of one node.
pub(crate) struct Host {
    ctx: Context,
    max_offset: Duration,
}

impl Host {
    pub(crate) fn new(ctx: Context, max_offset: Duration) -> Self {
        Self { ctx, max_offset }
    }

    /// Follows the catalog until the future is dropped.
    pub(crate) async fn run(self) {
        let mut views = self.ctx.catalog.subscribe();
        loop {
            let view = views.borrow_and_update().clone();
            self.reconcile(&view).await;
            // Ends by a change or by the interval; the catalog outlives the host.
            let _ = tokio::time::timeout(LOOK_INTERVAL, views.changed()).await;
        }
    }

    async fn reconcile(&self, view: &CatalogView) {
        for node in view.nodes() {
            let node = &node.record;
            let address = PeerAddress { region: node.region.clone(), address: node.grpc_address.clone() };
            self.ctx.peers.learn(node.id, address);
        }
        for shard in view.shards_on(self.ctx.me) {
            if let Err(e) = self.keep(shard).await {
                tracing::error!(shard = %shard.id, "a replica cannot be opened: {e}");
            }
        }
        self.remove_dropped(view).await;
    }

    /// Opens a shard's replica if it is not open, and sees to it that its group is formed.
    async fn keep(&self, shard: &Arc<Shard>) -> Result<(), ConsensusError> {
        let replica = match self.ctx.replicas.get(shard.id) {
            Some(replica) => replica,
            None => {
                self.ctx.store.raft.shard(shard.id).remember_scope(shard.table, &shard.range)?;
                let scope = ShardScope { shard: shard.id, table: shard.table, range: shard.range.clone() };
                let data = self.ctx.store.data.clone();
                let machine = Arc::new(ShardMachine::new(scope, data, None));
                let options = ReplicaOptions {
                    cluster: self.ctx.replicas.cluster().clone(),
                    shard: shard.id,
                    table: shard.table,
                    range: shard.range.clone(),
                    timing: shard.timing,
                    max_offset: self.max_offset,
                    clock: self.ctx.clock.clone(),
                    peers: self.ctx.peers.clone(),
                    store: self.ctx.store.clone(),
                    machine,
                    memory: self.ctx.memory.clone(),
                    transfers: self.ctx.transfers.clone(),
                    heartbeats: self.ctx.heartbeats.clone(),
                    acceptances: self.ctx.acceptances.clone(),
                };
                let replica = Replica::open(options).await?;
                self.ctx.replicas.insert(replica.clone());
                tracing::info!(shard = %shard.id, table = %shard.table, "replica opened");
                if shard.preferred_leader != self.ctx.me && shard.replica(self.ctx.me).is_some_and(|r| r.voter) {
                    let form = form_if_nobody_does(replica.clone(), shard.clone());
                    let stop = self.ctx.stop.clone();
                    tokio::spawn(async move { stop.run_until_cancelled(form).await });
                }
                replica
            }
        };
        if shard.preferred_leader == self.ctx.me {
            replica.form(voters(shard)).await?;
        }
        Ok(())
    }

    async fn remove_dropped(&self, view: &CatalogView) {
        let gone = |id: &ShardId| *id != ShardId::CATALOG && view.shard(*id).is_none();
        let open: BTreeSet<ShardId> = self.ctx.replicas.all().iter().map(|r| r.shard()).filter(gone).collect();
        let stored = self.ctx.store.raft.shards().unwrap_or_default().into_iter().filter(gone);
        let doomed: BTreeSet<ShardId> = open.into_iter().chain(stored).collect();
        if doomed.is_empty() || !catalog_is_current(&self.ctx).await {
            return;
        }
        let view = self.ctx.catalog.view();
        for shard in doomed {
            if view.shard(shard).is_none() {
                self.remove(shard).await;
            }
        }
    }

    async fn remove(&self, shard: ShardId) {
        if let Some(replica) = self.ctx.replicas.remove(shard) {
            replica.stop().await;
        }
        let store = self.ctx.store.clone();
        // The log, and the scope beside it, goes last: while it is there, a restart comes back to finish this.
        let remove = move || {
            let log = store.raft.shard(shard);
            if let Some((table, range)) = log.scope()? {
                store.data.drop_shard(shard, table, &range)?;
            }
            log.destroy()
        };
        match self.ctx.store.run_blocking(remove).await {
            Ok(Ok(())) => tracing::info!(%shard, "replica of a dropped table removed"),
            Ok(Err(e)) => tracing::error!(%shard, "a dropped table's data cannot be removed: {e}"),
            Err(e) => tracing::error!(%shard, "removing a dropped table's data failed: {e}"),
        }
    }
}

/// The voters that a shard's group starts with.
fn voters(shard: &Shard) -> BTreeMap<NodeId, Member> {
    shard.voters().map(|r| (r.node, Member { region: r.region.0.clone(), address: r.address.clone() })).collect()
}

/// Forms the group from another voter if the preferred leader has not done it in time. Safe beside it: both write
/// the same membership.
async fn form_if_nobody_does(replica: Arc<Replica>, shard: Arc<Shard>) {
    tokio::time::sleep(shard.timing.promise() * 2).await;
    if replica.leader().is_none()
        && let Err(e) = replica.form(voters(&shard)).await
    {
        tracing::warn!(shard = %shard.id, "the group could not be formed: {e}");
    }
}
