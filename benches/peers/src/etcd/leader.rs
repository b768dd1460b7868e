//! Which member leads, and moving that.

use super::session::pb::maintenance_client::MaintenanceClient;
use super::session::pb::{MoveLeaderRequest, StatusRequest};
use anyhow::{Context as _, bail};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// How long one question may take: the member may be far away.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often the leader is looked for and moved: it may move by itself in between.
const TRIES: u32 = 20;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Makes the member at this place of `addresses` the leader, if it is not.
pub(crate) async fn lead_at(addresses: &[String], place: usize) -> anyhow::Result<()> {
    let mut last = None;
    for _ in 0..TRIES {
        match look_and_move(addresses, place).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // An election may be going on.
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    match last {
        Some(error) => Err(error.context("etcd's leader cannot be moved")),
        None => bail!("etcd's leader does not stay where it was moved"),
    }
}

/// Whether it leads already; else asks for it.
async fn look_and_move(addresses: &[String], place: usize) -> anyhow::Result<bool> {
    let mut ids = Vec::with_capacity(addresses.len());
    let mut leader = 0;
    for address in addresses {
        let status = member(address)?.status(StatusRequest {}).await?.into_inner();
        ids.push(status.header.unwrap_or_default().member_id);
        leader = status.leader;
    }
    let target_id = *ids.get(place).context("there is no such member")?;
    if leader == target_id {
        return Ok(true);
    }
    let leads = ids.iter().position(|id| *id == leader).and_then(|at| addresses.get(at));
    let mut leads = member(leads.context("no member says that it leads")?)?;
    leads.move_leader(MoveLeaderRequest { target_id }).await?;
    Ok(false)
}

fn member(address: &str) -> anyhow::Result<MaintenanceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    Ok(MaintenanceClient::new(endpoint.connect_lazy()))
}
