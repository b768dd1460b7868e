//! Changing the lead time: an entry that brings another one, and what becomes of it (rules K1, K2).

use super::Leadership;
use crate::raft_types::{Applied, Completion};
use meridian_types::Timestamp;
use openraft::errors::ClientWriteError;
use std::sync::Arc;
use std::time::Duration;

impl Leadership {
    /// The lead time that is closed with.
    pub(crate) fn lead(&self) -> Duration {
        self.sequencer().lead()
    }

    /// The lead time that entries carry: the one in force, or the one that is on its way.
    pub(crate) fn carried_lead(&self) -> Duration {
        self.sequencer().carried_lead()
    }

    /// Queues an entry that brings another lead time, unless one waits already, a change is on its way, or a transfer has
    /// begun.
    pub(crate) fn change_lead(&self, to: Duration) {
        if self.successor().is_none() && !self.sequencer().is_lead_changing() {
            // Full, or the leadership is over: the next round finds that out.
            let _ = self.leads.try_send(to);
        }
    }
}

/// Stamps an entry that brings another lead time, and hands it over. Closed with it is at once if it is smaller, and once
/// the entry is known to be committed if it is larger (K1).
pub(super) async fn change(this: &Arc<Leadership>, to: Duration) {
    // Only the stamping task begins a change.
    if !this.parts.clock.is_safe() || this.sequencer().is_lead_changing() {
        return;
    }
    let latest = this.parts.clock.now().latest;
    let stamp = this.stamp(|s| s.stamp_lead(latest, to));
    tracing::info!(shard = %this.parts.shard, ?to, "changing the lead time");
    let Ok(done) = this.hand_over_empty(stamp).await else { return settle(this, stamp.ts, false) };
    let this = this.clone();
    tokio::spawn(async move {
        let committed = match done.await {
            Ok(Completion { result: Ok(response), .. }) => matches!(response.data, Applied::Nothing),
            Ok(Completion { result: Err(ClientWriteError::ForwardToLeader(_)), .. }) => {
                this.refused(stamp.ts);
                this.want_barrier();
                false
            }
            // The entry or the group is lost; if it is in the log after all, those that come carry what is in force.
            Ok(_) | Err(_) => false,
        };
        settle(&this, stamp.ts, committed);
    });
}

fn settle(this: &Leadership, ts: Timestamp, committed: bool) {
    this.sequencer().lead_settled(committed);
    tracing::debug!(shard = %this.parts.shard, %ts, committed, lead = ?this.lead(), "lead time settled");
}
