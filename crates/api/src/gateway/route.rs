//! Which node is asked next, and for how long.

use crate::context::Context;
use meridian_types::{NodeId, ShardId};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pause between attempts while a shard has no leader that is known.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(400);

/// A node that did not answer gets this fraction of the usual time from then on.
const SILENT_FRACTION: u32 = 4;

/// Where to look for a shard's leader: each node at most once per round, best guess first.
pub(super) struct Route {
    ctx: Context,
    shard: ShardId,
    pub(super) hint: Option<NodeId>,
    pub(super) tried: BTreeSet<NodeId>,
    /// Nodes that let an attempt run into its limit: they may be cut off, so they get less time.
    pub(super) silent: BTreeSet<NodeId>,
    pause: Duration,
}

impl Route {
    pub(super) fn new(ctx: &Context, shard: ShardId) -> Self {
        Self {
            ctx: ctx.clone(),
            shard,
            hint: None,
            tried: BTreeSet::new(),
            silent: BTreeSet::new(),
            pause: RETRY_PAUSE,
        }
    }

    /// The next node to ask for the leader. `None`: a round is over.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        let local = self.ctx.replicas.get(self.shard);
        let known = local.as_ref().and_then(|r| r.presumed_leader());
        let view = self.ctx.catalog.view();
        let preferred = view.shard(self.shard).map(|s| s.preferred_leader);
        let members: Vec<NodeId> = match view.shard(self.shard) {
            Some(shard) => shard.voters().map(|r| r.node).collect(),
            // The catalog's own shard is in no record: its replica here knows the voters.
            None => local.map(|r| r.voters().into_iter().collect()).unwrap_or_default(),
        };
        let guesses = self.hint.take().into_iter().chain(known).chain(preferred).chain(members);
        let next = guesses.into_iter().find(|n| !self.tried.contains(n))?;
        self.tried.insert(next);
        Some(next)
    }

    /// How long an attempt at `to` may take, with `left` until the deadline.
    pub(super) fn limit(&self, to: NodeId, left: Duration) -> Duration {
        let attempt = self.ctx.deadlines.attempt;
        left.min(if self.silent.contains(&to) { attempt / SILENT_FRACTION } else { attempt })
    }

    /// Waits a little before the next round, no longer than what is `left` until the deadline, nor after this node's
    /// replica has heard of a new leader.
    pub(super) async fn pause(&mut self, left: Duration) {
        self.tried.clear();
        let local = self.ctx.replicas.get(self.shard);
        let new_leader = async {
            match &local {
                Some(replica) => replica.wait_new_leader().await,
                None => std::future::pending().await,
            }
        };
        match tokio::time::timeout(self.pause.min(left), new_leader).await {
            Ok(()) => self.pause = RETRY_PAUSE,
            Err(_) => self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX),
        }
    }
}
