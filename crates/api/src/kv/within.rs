//! Gets and scans with a latency budget.

use super::{Found, KvService, Scan};
use crate::gateway::{self, Answered, Arrival, ShardRead};
use crate::within::{self, Asked, Ladder, Told};
use meridian_proto::v1 as pb;
use meridian_txn::{Page, ReadPlan};
use meridian_types::{Consistency, Result, ShardId, Timestamp};
use std::time::Duration;

impl KvService {
    /// Reads one shard at the strongest level that fits.
    pub(super) async fn get_within(
        &self,
        found: &Found,
        shard: ShardId,
        plan: &ReadPlan,
        ladder: &Ladder,
        arrival: Arrival<'_>,
    ) -> Result<Answered<Page>> {
        let asked = Asked { view: &found.view, shards: &[shard], in_turn: false, ladder };
        let attempt = |consistency: Consistency, arrival| async move {
            let (view, table) = (&*found.view, found.table.id);
            let read = ShardRead { view, shard, table, plan, consistency: &consistency };
            let answer = gateway::read(&self.ctx, &read, arrival).await?;
            let (timestamp, staleness) = (answer.served.timestamp, answer.served.staleness);
            Ok(Told { value: answer, timestamp, staleness })
        };
        let (mut answer, level) = within::read(&self.ctx, &asked, Ok, arrival, attempt).await?;
        answer.served.given = Some(level);
        Ok(answer)
    }

    /// Reads one page of a scan at the strongest level that fits, the same for all shards. `ladder`: of a page that is not
    /// the first, the timestamp of the first is the only level.
    pub(super) async fn scan_within(
        &self,
        found: &Found,
        scan: &Scan,
        (reverse, receipt): (bool, bool),
        ladder: &Ladder,
        arrival: Arrival<'_>,
    ) -> Result<pb::ScanReply> {
        let shards = found.view.shards_for_range(found.table.id, &scan.keys);
        let shards: Vec<ShardId> = shards.iter().map(|s| s.id).collect();
        // With a limit, the first shards may have all the rows.
        let asked = Asked { view: &found.view, shards: &shards, in_turn: !scan.limited, ladder };
        let at_one = |level| self.one_timestamp(level, &shards);
        let attempt = |consistency: Consistency, arrival| async move {
            let scan = Scan { consistency, ..scan.clone() };
            let reply = self.scan_page(found, scan, reverse, receipt, arrival).await?;
            let header = reply.header.as_ref();
            let timestamp = Timestamp(header.map_or(0, |h| h.timestamp));
            let staleness = Duration::from_nanos(header.map_or(0, |h| h.staleness_ns));
            Ok(Told { value: reply, timestamp, staleness })
        };
        let (mut reply, level) = within::read(&self.ctx, &asked, at_one, arrival, attempt).await?;
        if let Some(header) = &mut reply.header {
            header.given = Some(meridian_wire::consistency::encode(&level));
        }
        Ok(reply)
    }
}

/// The levels that will do for a read of this consistency; `None`: it has no budget.
pub(super) fn ladder(consistency: &Consistency, within: Option<pb::Within>) -> Result<Option<Ladder>> {
    let within = within.map(meridian_wire::within::decode).transpose()?;
    within.map(|within| Ladder::new(consistency.clone(), within)).transpose()
}

/// The only level of a page that is not the first: the timestamp of the first, whatever that had to include.
pub(super) fn later_page(ladder: Option<Ladder>, at: Consistency) -> Option<Ladder> {
    ladder.map(|ladder| Ladder { levels: vec![at], token: Timestamp::ZERO, ..ladder })
}
