//! Garbage collection, one node's part: leaders raise the GC floors of their shards, and every node sees to it that
//! raised floors become durable, which is when old versions may really go.

use meridian_api::Context;
use meridian_catalog::{CatalogView, GC_TTL_DEFAULT};
use meridian_consensus::Replica;
use meridian_types::{ShardId, Timestamp};
use std::time::Duration;

/// A floor is raised when it can rise by this part of the time that versions are kept; as often it becomes durable.
const STEPS_PER_TTL: u32 = 8;
/// The shortest pause between two rounds.
const ROUND_MIN: Duration = Duration::from_millis(50);
/// The longest: new tables may keep versions for a shorter time than those before.
const ROUND_MAX: Duration = Duration::from_secs(10);

/// Works until the future is dropped.
pub(crate) async fn run(ctx: Context) {
    loop {
        let view = ctx.catalog.view();
        let mut pause = ROUND_MAX;
        let mut flush = false;
        for replica in ctx.replicas.all() {
            let Some(ttl) = ttl(&view, &replica) else { continue };
            let step = ttl / STEPS_PER_TTL;
            pause = pause.min(step);
            raise(&ctx, &replica, ttl, step);
            flush |= replica.durable_gc_floor().plus(step) < replica.gc_floor();
        }
        if flush {
            make_durable(&ctx).await;
        }
        tokio::time::sleep(pause.max(ROUND_MIN)).await;
    }
}

/// How long the versions of a replica's table are kept; `None`: for ever, or the table is gone.
fn ttl(view: &CatalogView, replica: &Replica) -> Option<Duration> {
    let ttl = match replica.shard() {
        ShardId::CATALOG => GC_TTL_DEFAULT,
        _ => view.table_by_id(replica.table())?.gc_ttl,
    };
    Some(ttl).filter(|ttl| !ttl.is_zero())
}

/// Raises a floor that this node leads, if that is worth an entry.
fn raise(ctx: &Context, replica: &Replica, ttl: Duration, step: Duration) {
    let to: Timestamp = ctx.clock.now().earliest.minus(ttl);
    if replica.is_leader()
        && to > replica.gc_floor().plus(step)
        && let Err(e) = replica.raise_floor(to)
    {
        tracing::debug!(shard = %replica.shard(), "the GC floor is not raised: {e}");
    }
}

/// Flushes, then removes the tombstones that compactions have noted.
async fn make_durable(ctx: &Context) {
    let data = ctx.store.data.clone();
    let work = move || {
        data.flush()?;
        data.sweep_tombstones()
    };
    match ctx.store.run_blocking(work).await {
        Ok(Ok(0)) => {}
        Ok(Ok(removed)) => tracing::debug!(removed, "tombstones removed"),
        Ok(Err(e)) => tracing::error!("the data cannot be flushed for garbage collection: {e}"),
        Err(e) => tracing::error!("flushing for garbage collection failed: {e}"),
    }
}
