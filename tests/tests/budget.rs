//! What `meridian budget` predicts, held against a cluster that runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_catalog::budget::{Budget, Cost, Overheads, price};
use meridian_catalog::{Hosted, Site, plan};
use meridian_client::{Consistency, Session};
use meridian_tests::harness::{REGIONS, TestCluster};
use meridian_types::{NodeId, Placement, Receipt};
use std::time::Duration;

/// Operations of each kind from each region: the fastest of them is compared, which a busy machine delays least.
const ROUNDS: usize = 20;
/// What a machine that runs the whole cluster, the clients and other tests may add even to the fastest.
const BUSY: Duration = Duration::from_millis(30);

/// Predicts for the cluster's own nodes, round trips and clock.
fn predict(cluster: &TestCluster, placement: &str) -> Budget {
    let ctx = cluster.node(NodeId(1)).context();
    let view = ctx.catalog.view();
    let site = |n: &meridian_catalog::Node| Site { node: n.id, region: n.region.clone(), zone: n.zone.clone() };
    let sites: Vec<Site> = view.nodes().map(|n| site(&n.record)).collect();
    let now = ctx.clock.now();
    let overheads = Overheads { clock_width: now.latest.since(now.earliest), ..Overheads::default() };
    let plan = plan(&sites, view.rtts(), &Placement::parse(placement).unwrap(), &mut Hosted::new()).unwrap();
    price(&plan, &sites, view.rtts(), None, &overheads).unwrap()
}

fn total(receipt: Option<Receipt>) -> Duration {
    Duration::from_nanos(receipt.unwrap().total)
}

/// The fastest write and the fastest linearizable read.
async fn measure(session: &Session, table: &str, region: &str) -> (Duration, Duration) {
    let (mut write, mut read) = (Duration::MAX, Duration::MAX);
    for i in 0..ROUNDS {
        let key = format!("{region}/{i}");
        write = write.min(total(session.put(table, key.clone(), "v").await.unwrap().receipt));
        read = read.min(total(session.get(table, key, Consistency::Linearizable).await.unwrap().receipt));
    }
    (write, read)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_lies_between_the_floor_and_what_was_predicted() {
    let cluster = TestCluster::start(65).await;
    for (table, placement) in [("global", "global:us-east"), ("home", "regional:eu-west")] {
        let shard = cluster.create(table, placement, &[]).await[0];
        cluster.led(shard).await;
        let budget = predict(&cluster, placement);
        for region in REGIONS {
            let session = cluster.client(region).await.session().with_receipts(true);
            let (write, read) = measure(&session, table, region).await;
            let predicted = budget.regions.iter().find(|r| r.region.as_str() == region).unwrap();
            let holds = |measured: Duration, cost: &Cost| cost.floor <= measured && measured <= cost.p99 + BUSY;
            assert!(holds(write, &predicted.write), "{table}, write from {region}: {write:?}, {:?}", predicted.write);
            let cost = &predicted.linearizable;
            assert!(holds(read, cost), "{table}, read from {region}: {read:?}, {cost:?}");
        }
    }
    cluster.stop().await;
}
