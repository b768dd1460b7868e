//! A replica's timers: those that its group has agreed on, those that it runs with, and how it comes from these to those
//! (rule R3).
//!
//! The group agrees by an entry of its log ([`Replica::change_timing`]), which is applied by every member at its own time.
//! That binds nobody yet: a voter promises what its Raft was built with, says so with every answer, and the leader counts of
//! each voter on what that very voter says (`lease.rs`). So members may take over the new timers one by one, at any time, in
//! any order, and there is no instant at which more is counted on than is promised.
//!
//! Invariants, of one voter:
//! 1. Whatever it promises is noted durably before the first message that it promises it for can arrive.
//! 2. After its Raft was built anew it votes for nobody and stands for no election for as long as the longest promise
//!    that was in force before, or is now: what it forgot with the old Raft is over by then.
//! 3. The note is lowered only after that.

use super::Replica;
use super::running::Running;
use super::stopped;
use crate::error::ConsensusError;
use crate::lease::Word;
use meridian_clock::Mono;
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_types::{NodeId, RaftTiming};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

impl Replica {
    /// The timers that it runs with.
    pub fn timing(&self) -> RaftTiming {
        self.running.borrow().timing
    }

    /// The timers that the group has agreed on, as far as this replica has applied.
    pub fn agreed_timing(&self) -> RaftTiming {
        self.position().timing.unwrap_or(self.builder.created)
    }

    /// The timers that the group was created with.
    pub fn created_timing(&self) -> RaftTiming {
        self.builder.created
    }

    /// At the leader: proposes that the group run with other timers. Nobody is told what becomes of it.
    pub fn change_timing(&self, to: RaftTiming) -> Result<(), ConsensusError> {
        let leadership = self.leadership().ok_or_else(|| self.not_leader())?;
        if to.is_ordered() && to != self.agreed_timing() {
            leadership.set_timing(to);
        }
        Ok(())
    }

    /// At the leader: what a member has said of its promises with its last answer to this leadership.
    pub fn word(&self, node: NodeId) -> Word {
        self.leadership().map(|l| l.word(node)).unwrap_or_default()
    }

    /// Whether its Raft runs with other timers than those agreed on.
    pub fn is_outdated(&self) -> bool {
        let running = self.running();
        running.timing != self.agreed_timing() || running.closed.load(Ordering::Acquire)
    }

    /// Builds its Raft anew, with the timers agreed on. For a moment it takes no part in its group, and for as long as it has
    /// promised it votes for nobody and stands for no election. What it has applied can be read all the while. False: nothing
    /// was done, as it leads, or this is under way already.
    ///
    /// Goes on to its end when the caller gives up waiting. After an error the replica takes no part until it is tried again.
    pub async fn rebuild(self: &Arc<Self>) -> Result<bool, ConsensusError> {
        let this = self.clone();
        tokio::spawn(async move { this.rebuild_now().await }).await.map_err(stopped)?
    }

    async fn rebuild_now(self: Arc<Self>) -> Result<bool, ConsensusError> {
        // Somebody else builds it, or has stopped it.
        let Ok(for_good) = self.building.try_lock() else { return Ok(false) };
        if *for_good {
            return Err(ConsensusError::Stopped("the replica is stopped".into()));
        }
        if self.is_leader() {
            return Ok(false);
        }
        let before = self.running();
        let forget = sabotaged(Sabotage::ForgetOnRebuild);
        // Before anybody can reach the new one: whoever asks for a vote takes the Raft first, and looks at this then.
        self.holding.store(!forget, Ordering::SeqCst);
        self.electable.store(false, Ordering::SeqCst);
        self.end_tasks();
        self.set_leadership(None);
        before.closed.store(true, Ordering::Release);
        before.raft.shutdown().await.map_err(stopped)?;
        // What was committed is applied to its end: two state machines would apply it twice.
        let mut position = before.position.clone();
        while position.changed().await.is_ok() {}
        let timing = self.agreed_timing();
        let held = self.builder.noted()?.max(before.timing.promise()).max(timing.promise());
        self.builder.note(held).await?;
        let running = Arc::new(self.builder.build(timing).await?);
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Mono::now();
        self.running.send_replace(running.clone());
        emit(|| Event::Rebuilt { shard: self.shard, timing, held });
        tracing::info!(shard = %self.shard, ?timing, ?held, "running with other timers");
        self.start_tasks(&running, held);
        Ok(true)
    }

    /// The hold after this Raft's beginning is over, so nothing binds the replica for longer than this Raft promises.
    pub(super) async fn forget_longer_promise(self: Arc<Self>, running: Arc<Running>) {
        let for_good = self.building.lock().await;
        if *for_good || !Arc::ptr_eq(&running, &self.running()) {
            return;
        }
        if let Err(e) = self.builder.note(running.timing.promise()).await {
            tracing::warn!(shard = %self.shard, "a longer lease stays noted than is promised: {e}");
        }
    }
}
