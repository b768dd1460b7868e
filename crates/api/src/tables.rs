//! Tables: changes of the catalog as ordinary transactions on shard 0, and waiting until they are in force.

use crate::admission::charge_of;
use crate::context::Context;
use crate::failure;
use crate::gateway::{self, Arrival, ShardRead};
use crate::kv::arrival;
use futures::{StreamExt as _, TryStreamExt as _};
use meridian_catalog::{CatalogView, NewTable, Table, create_table, drop_table, placement_from_proto, table_to_proto};
use meridian_clock::Mono;
use meridian_consensus::Charge;
use meridian_proto::internal::v1 as internal;
use meridian_proto::v1 as pb;
use meridian_proto::v1::tables_server::{Tables, TablesServer};
use meridian_txn::ReadPlan;
use meridian_types::{Consistency, Error, Reason, Result, ShardId, TableId};
use meridian_wire::status::to_status;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Pause between two tries of a change that others' changes have outrun.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two looks whether a new shard has a leader.
const LEADER_PAUSE: Duration = Duration::from_millis(50);
/// Shards of a new table that are asked for at once.
const LEADERS_AT_ONCE: usize = 64;
/// A new table's shards may take this long to get their leaders.
const CREATE_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn unknown(name: &str) -> Error {
    let text = format!("there is no table `{}`; `meridian table list` shows those there are", name.escape_debug());
    Error::new(Reason::UnknownTable, text)
}

/// The catalog including every change acknowledged before this call: a linearizable read of shard 0.
pub(crate) async fn catalog_now(ctx: &Context, arrival: Arrival<'_>) -> Result<Arc<CatalogView>> {
    let view = ctx.catalog.view();
    // Reading any key waits until this node's replica has applied what the leader has.
    let plan = ReadPlan::Keys(vec![meridian_catalog::cluster_key()]);
    let read = ShardRead {
        view: &view,
        shard: ShardId::CATALOG,
        table: TableId::CATALOG,
        plan: &plan,
        consistency: &Consistency::Linearizable,
    };
    gateway::read(ctx, &read, arrival).await?;
    let Some(data) = ctx.replicas.get(ShardId::CATALOG).and_then(|r| r.view()) else {
        return Err(failure::no_quorum("the catalog is being replaced by a snapshot"));
    };
    ctx.catalog.refresh(&data).map_err(|e| {
        tracing::error!("the catalog cannot be read: {e}");
        Error::new(Reason::Internal, "the catalog cannot be read; see the node's log")
    })?;
    Ok(ctx.catalog.view())
}

/// Brings this node's view of the catalog up to date; whether that succeeded.
pub async fn catalog_is_current(ctx: &Context) -> bool {
    let charge = Charge::NONE;
    let arrival = Arrival { at: Mono::now(), deadline: ctx.deadlines.request, latest: ctx.latest(), charge: &charge };
    catalog_now(ctx, arrival).await.is_ok()
}

/// Changes the catalog: `build` plans on the newest view, and again if another change came first. `Ok(None)`:
/// nothing to change.
pub(crate) async fn change_catalog(
    ctx: &Context,
    arrival: Arrival<'_>,
    build: impl Fn(&CatalogView) -> Result<Option<internal::Mutation>>,
) -> Result<()> {
    loop {
        let view = catalog_now(ctx, arrival).await?;
        let Some(mutation) = build(&view)? else { return Ok(()) };
        match gateway::mutate(ctx, &view, ShardId::CATALOG, mutation, arrival).await {
            Ok(_) => return Ok(()),
            Err(e) if e.reason == Reason::PreconditionFailed && arrival.left().is_some() => {
                tokio::time::sleep(CONFLICT_PAUSE).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Serves tables.
#[derive(Clone)]
pub(crate) struct TablesService {
    ctx: Context,
}

impl TablesService {
    pub(crate) fn server(ctx: &Context) -> TablesServer<Self> {
        TablesServer::new(Self { ctx: ctx.clone() })
    }

    fn describe(&self, view: &CatalogView, table: &Table) -> pb::Table {
        let leader = |shard| self.ctx.replicas.get(shard).and_then(|r| r.leader());
        table_to_proto(table, view.rtts(), leader)
    }

    async fn create(&self, request: pb::CreateTableRequest, arrival: Arrival<'_>) -> Result<pb::Table> {
        let arrival = Arrival { deadline: CREATE_DEADLINE, ..arrival };
        let placement = request.placement.as_ref().and_then(placement_from_proto).ok_or_else(|| {
            Error::new(
                Reason::BadPlacement,
                "no placement; choose `global`, `global-reads`, or `regional` with its home region",
            )
        })?;
        let (name, split_keys) = (request.name, request.split_keys);
        let gc_ttl = (request.gc_ttl_ns > 0).then(|| Duration::from_nanos(request.gc_ttl_ns));
        for key in &split_keys {
            self.ctx.limits.check_key(key)?;
        }
        let build = |view: &CatalogView| {
            let (name, placement, split_keys) = (name.clone(), placement.clone(), split_keys.clone());
            let new = NewTable { name, placement, split_keys, gc_ttl, classic_commit: request.classic_commit };
            create_table(view, self.ctx.request_id(), new).map(|(mutation, _)| Some(mutation))
        };
        change_catalog(&self.ctx, arrival, build).await?;
        let view = catalog_now(&self.ctx, arrival).await?;
        let table = view.table(&name).cloned().ok_or_else(|| unknown(&name))?;
        let shards: Vec<ShardId> = table.shards.iter().map(|shard| shard.id).collect();
        let led = shards.into_iter().map(|shard| self.wait_led(&view, &table, shard, arrival));
        // Each may be an ocean away.
        futures::stream::iter(led).buffer_unordered(LEADERS_AT_ONCE).try_collect::<()>().await?;
        Ok(self.describe(&view, &table))
    }

    /// Waits until a shard serves linearizable reads: it has a leader and its barrier is applied.
    async fn wait_led(&self, view: &CatalogView, table: &Table, shard: ShardId, arrival: Arrival<'_>) -> Result<()> {
        let plan = ReadPlan::Keys(Vec::new());
        let consistency = &Consistency::Linearizable;
        let read = ShardRead { view, shard, table: table.id, plan: &plan, consistency };
        while arrival.left().is_some() {
            match gateway::read(&self.ctx, &read, arrival).await {
                Ok(_) => return Ok(()),
                Err(e) if e.reason.is_retryable() => tokio::time::sleep(LEADER_PAUSE).await,
                Err(e) => return Err(e),
            }
        }
        let text = format!("table `{}` is created, but shard {shard} has no leader yet", table.name);
        Err(failure::no_quorum(&text))
    }

    async fn drop(&self, name: &str, arrival: Arrival<'_>) -> Result<()> {
        let build = |view: &CatalogView| drop_table(view, self.ctx.request_id(), name).map(Some);
        change_catalog(&self.ctx, arrival, build).await?;
        catalog_now(&self.ctx, arrival).await.map(|_| ())
    }
}

#[tonic::async_trait]
impl Tables for TablesService {
    async fn create_table(
        &self,
        request: Request<pb::CreateTableRequest>,
    ) -> std::result::Result<Response<pb::CreateTableReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        let table = self.create(request.into_inner(), arrival).await.map_err(|e| to_status(&e))?;
        Ok(Response::new(pb::CreateTableReply { table: Some(table) }))
    }

    async fn list_tables(
        &self,
        request: Request<pb::ListTablesRequest>,
    ) -> std::result::Result<Response<pb::ListTablesReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        let view = catalog_now(&self.ctx, arrival).await.map_err(|e| to_status(&e))?;
        let tables = view.tables().map(|t| self.describe(&view, t)).collect();
        Ok(Response::new(pb::ListTablesReply { tables }))
    }

    async fn describe_table(
        &self,
        request: Request<pb::DescribeTableRequest>,
    ) -> std::result::Result<Response<pb::DescribeTableReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        let name = request.into_inner().name;
        let view = catalog_now(&self.ctx, arrival).await.map_err(|e| to_status(&e))?;
        let table = view.table(&name).ok_or_else(|| to_status(&unknown(&name)))?;
        Ok(Response::new(pb::DescribeTableReply { table: Some(self.describe(&view, table)) }))
    }

    async fn drop_table(
        &self,
        request: Request<pb::DropTableRequest>,
    ) -> std::result::Result<Response<pb::DropTableReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        let name = request.into_inner().name;
        self.drop(&name, arrival).await.map_err(|e| to_status(&e))?;
        Ok(Response::new(pb::DropTableReply {}))
    }
}
