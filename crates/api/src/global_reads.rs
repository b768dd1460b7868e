//! Linearizable reads of `global-reads` tables: at the replica's own clock, and nobody is asked (rule K3).
//!
//! The reader takes `r`, the `latest` of its node's clock, after the request has arrived, and reads at `r` from a replica
//! that is safe there: nothing is written at or below `r` any more, and everything that was is here. It is linearizable:
//!
//! * A write that was acknowledged before the request came had its timestamp waited out first (W1), so that is below true
//!   time, and so below `r`: the read sees it.
//! * What the read sees leaves only once its timestamp is past by this node's clock (W1 again), so every later reader's `r`
//!   is above it, wherever that is.
//!
//! Both rest on the clocks' bounds; a node that doubts its own clock reads as in any other table (W3). So does one that
//! is not safe at `r`, because its leader is gone or far behind.
//!
//! Such a table's newest versions are a lead time ahead. Whoever reads them through the leader therefore stops at `r`
//! too: what lies above it was not acknowledged before the read began, and revealing it would mean to wait it out.
//!
//! Source: CockroachDB's global tables do the same, reading at present time plus uncertainty; the wait is Spanner's.

use crate::failure::Refusal;
use crate::serve::{Read, ReadAnswer};
use meridian_clock::Mono;
use meridian_consensus::gossip::PUBLISH_INTERVAL;
use meridian_probe::{ReadKind, Sabotage, sabotaged};
use meridian_types::Timestamp;
use std::time::Duration;

/// A replica that is not safe yet has this long until the leader is asked: the next promise is on its way as a rule, and
/// sooner here than an answer of the leader.
const PATIENCE: Duration = PUBLISH_INTERVAL;

impl Read<'_> {
    /// Reads at this node's `latest`, if its replica is safe there, or is about to be. `None`: ask the leader.
    pub(crate) async fn ahead(&self, start: Mono, began: u64) -> Result<Option<ReadAnswer>, Refusal> {
        let Some(at) = self.own_latest() else { return Ok(None) };
        let safe = self.replica.safe_time();
        if !sabotaged(Sabotage::ReadBeyondSafeTime) && tokio::time::timeout(PATIENCE, safe.wait_safe(at)).await.is_err()
        {
            return Ok(None);
        }
        let ready = Mono::now();
        let (page, at) = self.read_at(at)?;
        self.answered(ReadKind::Ahead, at, began);
        let mut answer = self.answer(page, at, start, ready);
        answer.staleness = Duration::ZERO;
        Ok(Some(answer))
    }

    /// Up to where a linearizable read has to see what is applied: everything, or as far as this node's clock.
    pub(crate) fn newest(&self) -> Timestamp {
        self.own_latest().unwrap_or(Timestamp::MAX)
    }

    /// `latest`, sampled now, which is after the request arrived; `None`: the shard has no lead time, or the clock is not
    /// to be trusted.
    fn own_latest(&self) -> Option<Timestamp> {
        if self.replica.lead_time().is_zero() {
            return None;
        }
        Some(self.ctx.clock.safe_now().ok()?.latest)
    }
}
