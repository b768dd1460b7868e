//! Three real nodes on loopback, without emulated distances: the shortest way through everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{REGIONS, cluster};
use meridian_client::{Client, ClientConfig};
use meridian_types::{Consistency, Placement};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_read_at_every_level_in_every_region() {
    let _ = tracing_subscriber::fmt().with_env_filter("info").with_test_writer().try_init();
    let cluster = cluster().await;
    let client = Client::connect(ClientConfig::new(cluster.gateway(0))).await.unwrap();
    let placement = Placement::parse("global:us-east").unwrap();
    client.create_table("t", &placement, Vec::new()).await.unwrap();
    let session = client.session();
    let written = session.put("t", "k", "v").await.unwrap();
    for (i, region) in REGIONS.into_iter().enumerate() {
        let client = Client::connect(ClientConfig::new(cluster.gateway(i))).await.unwrap();
        let session = client.session();
        let levels = [
            Consistency::Linearizable,
            Consistency::Snapshot(written.timestamp),
            Consistency::Causal(written.token),
            Consistency::BoundedStaleness(Duration::from_secs(60)),
        ];
        for level in levels {
            let read = session.get("t", "k", level.clone()).await.unwrap();
            match level {
                Consistency::BoundedStaleness(bound) => assert!(read.staleness <= bound, "{read:?}"),
                _ => assert_eq!(read.value.as_ref().unwrap().value, "v", "{level:?} in {region}"),
            }
        }
        let status = client.status(false).await.unwrap();
        assert!(status.nodes.iter().all(|n| n.reachable), "{status:?}");
    }
    for node in cluster.nodes {
        node.stop().await;
    }
    drop(cluster.dir);
}
