//! The physical floor of a request: the round trips that no implementation of this placement can do without.

use meridian_catalog::CatalogView;
use meridian_types::floor;
use meridian_types::{Consistency, RegionId, ShardId};
use std::time::Duration;

/// The regions that matter for one shard's requests.
struct Sites<'a> {
    view: &'a CatalogView,
    gateway: &'a RegionId,
}

impl Sites<'_> {
    fn to(&self, region: &RegionId) -> Duration {
        self.view.rtts().get(self.gateway, region).unwrap_or_default()
    }
}

/// Whether a shard's leader closes ahead of its clock.
fn leads(view: &CatalogView, shard: ShardId) -> bool {
    let table = view.shard(shard).and_then(|s| view.table_by_id(s.table));
    table.is_some_and(|t| t.placement.has_lead_time())
}

/// Floor of a write: one round trip to the leader, or more where the quorum or a replica is farther away; in a
/// `global-reads` table what its lead time has to cover.
pub(crate) fn write(view: &CatalogView, gateway: &RegionId, shard: ShardId, leader: &RegionId) -> Duration {
    let leads = leads(view, shard);
    let Some(shard) = view.shard(shard) else {
        // The catalog's own shard is in no record.
        return Sites { view, gateway }.to(leader);
    };
    let voters: Vec<RegionId> = shard.voters().map(|r| r.region.clone()).collect();
    if leads {
        let replicas: Vec<RegionId> = shard.replicas.iter().map(|r| r.region.clone()).collect();
        return floor::leading_write(view.rtts(), gateway, leader, &voters, &replicas).unwrap_or_default();
    }
    let counts = shard.replicas.iter().any(|r| r.region == *gateway);
    floor::write(view.rtts(), gateway, leader, &voters, counts).unwrap_or_default()
}

/// Floor of a read: to the leader and back if it must be the newest state, else to the nearest replica. In a
/// `global-reads` table any replica has the newest state.
pub(crate) fn read(
    view: &CatalogView,
    gateway: &RegionId,
    shard: ShardId,
    leader: Option<&RegionId>,
    consistency: &Consistency,
) -> Duration {
    let sites = Sites { view, gateway };
    match (consistency, leader) {
        (Consistency::Linearizable, Some(leader)) if !leads(view, shard) => sites.to(leader),
        _ => {
            let replicas = view.shard(shard).map(|s| s.replicas.as_slice()).unwrap_or_default();
            replicas.iter().map(|r| sites.to(&r.region)).min().unwrap_or_default()
        }
    }
}
