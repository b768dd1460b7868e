//! The Raft of a replica, and what it is built of.
//!
//! openraft's timers cannot be changed while it runs, so a replica whose group has agreed on others gets another Raft, on the
//! same log and the same state. Whoever holds the replica does not notice: what was applied and what was closed stays true
//! (rule C4), and those who wait for either wait on.

use super::stopped;
use crate::apply::{ApplyWorker, LogSide, Position, StateMachine};
use crate::ballots::Ballots;
use crate::config::raft_config;
use crate::early::outcomes::Outcomes;
use crate::error::ConsensusError;
use crate::granted::Granted;
use crate::heartbeats::pulse::Pulse;
use crate::heartbeats::{Beater, Heartbeats};
use crate::lease::QuorumAcks;
use crate::log_store::LogStore;
use crate::memory::NodeMemory;
use crate::network::Network;
use crate::peers::Peers;
use crate::raft_types::Raft;
use crate::safe_time::SafeTime;
use crate::snapshot::{SnapshotMaker, Transfers};
use meridian_clock::Clock;
use meridian_storage::Store;
use meridian_types::{RaftTiming, ShardId};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;

/// A Raft, and the timers that it was built with.
pub(crate) struct Running {
    pub(crate) timing: RaftTiming,
    pub(crate) raft: Raft,
    /// What beats for it while it leads.
    pub(crate) beater: Beater,
    /// Votes that it has been given without asking.
    pub(crate) ballots: Ballots,
    /// Where its state machine stands. Ends with the state machine.
    pub(crate) position: watch::Receiver<Position>,
    /// It was shut down, so that another one can be built.
    pub(super) closed: AtomicBool,
}

/// What a replica's Raft is built of, as often as that has to be done.
pub(super) struct Builder {
    pub(super) shard: ShardId,
    /// The timers that the group was created with.
    pub(super) created: RaftTiming,
    pub(super) cluster: Arc<str>,
    pub(super) peers: Peers,
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) machine: Arc<dyn StateMachine>,
    pub(super) memory: NodeMemory,
    pub(super) transfers: Transfers,
    pub(super) heartbeats: Heartbeats,
    pub(super) log_store: LogStore,
    pub(super) safe: Arc<SafeTime>,
    pub(super) acks: Arc<QuorumAcks>,
    pub(super) snapshots: Arc<SnapshotMaker>,
    pub(super) outcomes: Arc<Outcomes>,
}

impl Builder {
    /// The timers to run with, as the state has them.
    pub(super) fn agreed(&self) -> Result<RaftTiming, ConsensusError> {
        let state = self.store.data.view().shard_state(self.shard)?;
        let agreed = state.and_then(|state| state.timing);
        Ok(agreed.as_ref().and_then(meridian_wire::timing::decode).unwrap_or(self.created))
    }

    /// The longest lease that the replica may have promised before.
    pub(super) fn noted(&self) -> Result<Duration, ConsensusError> {
        Ok(self.store.raft.shard(self.shard).promise()?.unwrap_or(self.created.promise()))
    }

    /// Notes it; durable on return, and with it everything that was appended to the log.
    pub(super) async fn note(&self, promise: Duration) -> Result<(), ConsensusError> {
        let log = self.store.raft.shard(self.shard);
        let noted = self.store.run_blocking(move || log.note_promise(promise)).await;
        noted.map_err(stopped)?.map_err(Into::into)
    }

    /// Builds a Raft that goes on where the log and the state are. There must be no other one, and everything that the log
    /// has must be durable: openraft takes what it finds for that.
    pub(super) async fn build(&self, timing: RaftTiming) -> Result<Running, ConsensusError> {
        let acceptor = self.log_store.acceptor().clone();
        let side = LogSide {
            cache: self.log_store.cache().clone(),
            acceptor: acceptor.clone(),
            outcomes: self.outcomes.clone(),
            backlog: self.memory.backlog.clone(),
        };
        let (worker, position) = ApplyWorker::open(
            self.shard,
            self.store.data.clone(),
            self.machine.clone(),
            side,
            self.safe.clone(),
            self.snapshots.clone(),
        )
        .map_err(stopped)?;
        let pulse = Arc::new(Pulse::new(self.shard, self.clock.clone(), self.acks.clone(), &timing));
        let ballots = Ballots::default();
        let network = Network {
            cluster: self.cluster.clone(),
            shard: self.shard,
            peers: self.peers.clone(),
            clock: self.clock.clone(),
            acks: self.acks.clone(),
            transfers: self.transfers.clone(),
            packer: self.memory.packer.clone(),
            heartbeats: self.heartbeats.clone(),
            pulse: pulse.clone(),
            granted: Granted::default(),
            ballots: ballots.clone(),
            acceptor: acceptor.clone(),
        };
        let config = raft_config(&timing, &self.cluster).map_err(stopped)?;
        let raft = Raft::new(self.peers.me().0, config, network, self.log_store.clone(), worker).await;
        let raft = raft.map_err(stopped)?;
        // Nothing is appended yet: nobody knows this Raft.
        let membership = raft.with_raft_state(|state| state.membership_state.effective().clone()).await;
        let membership = membership.map_err(stopped)?;
        acceptor.learn_membership(&membership);
        let beater = Beater::new(self.heartbeats.clone(), pulse, raft.clone());
        Ok(Running { timing, raft, beater, ballots, position, closed: AtomicBool::new(false) })
    }
}
