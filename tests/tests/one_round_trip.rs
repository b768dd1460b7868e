//! One-round-trip commit (rules O1 to O7): a write from any region is acknowledged where it came from, as soon as a quorum
//! is known there to have it, whatever it depends on; and through its leader where that was asked for.

use meridian_client::{Consistency, TableOptions, Transaction};
use meridian_tests::harness::{REGIONS, TestCluster, client_at, near};
use meridian_types::{CommitPath, NodeId, Placement, RegionId};
use std::time::Duration;

const TABLE: &str = "registers";

fn rtt(a: &str, b: &str) -> Duration {
    near().rtt(&RegionId::from(a), &RegionId::from(b))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_region_that_a_write_came_from_acknowledges_it() {
    let cluster = TestCluster::start(61).await;
    cluster.create(TABLE, "global:us-east", &[]).await;
    let leader = REGIONS[0];
    for region in REGIONS {
        let session = cluster.client(region).await.session().with_receipts(true);
        let expected = if region == leader { CommitPath::Leader } else { CommitPath::OneRoundTrip };
        for i in 0..3 {
            let key = format!("{region}/{i}");
            // A condition on the state is decided at apply, which happens here first.
            let write = |value: &'static str| Transaction::new().if_absent(key.clone()).put(key.clone(), value);
            let receipt = session.transact(TABLE, &write("v")).await.unwrap().receipt.unwrap();
            assert_eq!(receipt.path, expected, "{region}");
            assert!(receipt.total >= u64::try_from(rtt(region, leader).as_nanos()).unwrap(), "{region}: {receipt:?}");
            assert_eq!(receipt.parts(), receipt.total, "{region}");
            let refused = session.transact(TABLE, &write("w")).await;
            assert!(refused.is_err(), "the refusal is the truth here too");
            // Every region reads it at once.
            for reader in REGIONS {
                let reader = cluster.client(reader).await.session();
                let row = reader.get(TABLE, key.clone(), Consistency::Linearizable).await.unwrap().value.unwrap();
                assert_eq!(row.value, "v");
            }
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_leave_it_to_its_leader() {
    let cluster = TestCluster::start(62).await;
    let client = client_at(&cluster.node(NodeId(1)).grpc_address().to_string(), REGIONS[0]).await;
    let options = TableOptions { classic_commit: true, ..TableOptions::default() };
    let placement = Placement::parse("global:us-east").unwrap();
    let table = client.create_table_with(TABLE, &placement, Vec::new(), options).await.unwrap();
    assert!(table.classic_commit);
    let session = cluster.client(REGIONS[1]).await.session().with_receipts(true);
    let receipt = session.put(TABLE, "k", "v").await.unwrap().receipt.unwrap();
    assert_eq!(receipt.path, CommitPath::Leader);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_region_has_acknowledged_survives_the_leader() {
    let mut cluster = TestCluster::start(63).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    cluster.move_leader(shard, NodeId(1)).await;
    let session = cluster.client(REGIONS[1]).await.session().with_receipts(true);
    let mut early = 0;
    for i in 0..20 {
        let reply = session.put(TABLE, format!("k{i}"), "v").await.unwrap();
        early += usize::from(reply.receipt.unwrap().path == CommitPath::OneRoundTrip);
    }
    assert!(early > 0);
    cluster.stop_node(NodeId(1)).await;
    for region in [REGIONS[1], REGIONS[2]] {
        let reader = cluster.client(region).await.session();
        for i in 0..20 {
            let row = reader.get(TABLE, format!("k{i}"), Consistency::Linearizable).await.unwrap().value;
            assert!(row.is_some(), "k{i} in {region}");
        }
    }
    cluster.stop().await;
}
