//! What a replica does by itself for as long as it is open.

use super::Replica;
use super::running::Running;
use crate::codec;
use crate::leadership::Leadership;
use crate::peers::PeerAddress;
use crate::raft_types::{RaftLeaderId, Raftish};
use crate::snapshot::SnapshotMaker;
use meridian_clock::Mono;
use meridian_types::RegionId;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time between two looks for files of snapshots that nobody needs any more.
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// The leader id under which this replica leads, if it does.
fn led_as(metrics: &RaftServerMetrics<Raftish>) -> Option<RaftLeaderId> {
    let vote = &metrics.vote;
    let leads = vote.committed && vote.leader_id.node_id == metrics.id && metrics.state == ServerState::Leader;
    leads.then_some(vote.leader_id)
}

/// Starts and ends leaderships as openraft reports them, and learns the addresses of the group's members.
pub(super) async fn follow_leadership(this: Arc<Replica>, running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    loop {
        for (id, member) in this.members() {
            let region = RegionId::from(member.region);
            this.peers.learn_if_unknown(id, PeerAddress { region, address: member.address });
        }
        match led_as(&metrics.borrow_watched()) {
            Some(id) if this.leadership().is_none_or(|l| l.leader() != codec::leader_of(&id)) => {
                tracing::info!(shard = %this.shard, leader = %codec::leader_of(&id), "leading");
                // The one before ends before the next one begins.
                this.set_leadership(None);
                this.set_leadership(Some(Leadership::start(this.leader_parts(&running), id)));
            }
            None if this.leadership().is_some() => {
                tracing::info!(shard = %this.shard, "no longer leading");
                this.set_leadership(None);
            }
            Some(_) | None => {}
        }
        if metrics.changed().await.is_err() {
            tracing::error!(shard = %this.shard, "the group has stopped");
            this.set_leadership(None);
            return;
        }
    }
}

/// Flushes the data whenever so much log waits for it that it is worth it for that alone.
pub(super) async fn flush_for_the_log(this: Arc<Replica>, running: Arc<Running>) {
    loop {
        this.flush_due.notified().await;
        this.snapshots.want_flush();
        if running.raft.trigger().snapshot().await.is_err() {
            // The group has stopped.
            return;
        }
    }
}

/// Has this replica apply what was found chosen, for requests of this node's gateway.
pub(super) async fn commit_early(this: Arc<Replica>, running: Arc<Running>) {
    this.early.run(&running.raft, || this.hear()).await;
}

/// Removes files of snapshots that nobody needs any more.
pub(super) async fn tidy(snapshots: Arc<SnapshotMaker>) {
    loop {
        meridian_clock::sleep(TIDY_INTERVAL).await;
        if let Err(e) = snapshots.tidy(Mono::now()).await {
            tracing::warn!(shard = %snapshots.shard, "the files of a snapshot could not be removed: {e}");
        }
    }
}

/// Lets the replica vote and stand for election, after the longest lease that it may have promised: `held` from now. Then it
/// need not be known any more.
pub(super) async fn release_hold(this: Arc<Replica>, running: Arc<Running>, held: Duration) {
    if this.holding.load(Ordering::Acquire) {
        tokio::time::sleep(held).await;
        this.holding.store(false, Ordering::Release);
    }
    this.set_electable(this.clock.is_safe());
    if held > running.timing.promise() {
        // A task of its own: writing cannot be given up half way, and must not go on beside another Raft's beginning.
        tokio::spawn(this.forget_longer_promise(running));
    }
}
