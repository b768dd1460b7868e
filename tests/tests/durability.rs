//! Durability (G1): nodes as processes of their own, killed with `SIGKILL` while they write; everything that was
//! acknowledged is there afterwards.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{Client, Consistency, Placement};
use meridian_server::bootstrap::{BootstrapOptions, Bootstrapped, write};
use meridian_server::layout::Ports;
use meridian_server::processes::Processes;
use meridian_tests::harness::{History, Load, Mix, REGIONS, client_at, logging, near, until};
use meridian_tests::{exactly_once, external_consistency, linearizability};
use meridian_types::{NodeId, RegionId};
use std::path::Path;
use std::time::Duration;

const TABLES: [&str; 2] = ["global", "regional"];
const READY: Duration = Duration::from_secs(60);

/// Three nodes, each a process; emulated distance between them.
struct Cluster {
    files: Bootstrapped,
    processes: Processes,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(seed: u64) -> Self {
        logging();
        let dir = tempfile::tempdir().unwrap();
        let options = BootstrapOptions {
            topology: near(),
            dir: dir.path().to_owned(),
            ports: Ports::Free,
            emulate_wan: Some(seed),
        };
        let files = write(options).unwrap();
        let mut processes = Processes::start(Path::new(env!("CARGO_BIN_EXE_test-node")), &files.nodes).unwrap();
        processes.ready(READY).await.unwrap();
        Self { files, processes, _dir: dir }
    }

    async fn client(&self, region: &str) -> Client {
        let node = self.files.cluster.nodes.iter().find(|n| n.region.as_str() == region).unwrap();
        client_at(&node.grpc, region).await
    }

    async fn clients(&self) -> Vec<(RegionId, Client)> {
        let mut clients = Vec::new();
        for region in REGIONS {
            clients.push((region.into(), self.client(region).await));
        }
        clients
    }

    async fn create_tables(&self) {
        let client = self.client(REGIONS[0]).await;
        for (table, placement) in TABLES.into_iter().zip(["global:us-east", "regional:eu-west"]) {
            client.create_table(table, &Placement::parse(placement).unwrap(), Vec::new()).await.unwrap();
        }
    }
}

/// Waits until every region writes to every table, then checks the history against what the tables hold.
async fn all_is_there(cluster: &Cluster, history: &History) {
    let clients = cluster.clients().await;
    for (_, client) in &clients {
        for table in TABLES {
            until("every region can read everything", || async {
                client.session().get(table, "k000", Consistency::Linearizable).await.is_ok()
            })
            .await;
        }
    }
    let mut tables = Vec::new();
    for (region, client) in &clients {
        let mut reader = history.process(region.clone(), client);
        for table in TABLES {
            tables.push(reader.final_state(table).await);
        }
    }
    let records = history.records();
    exactly_once::check(&records, &tables).unwrap();
    external_consistency::check(&records).unwrap();
    assert!(linearizability::check(&records).is_linearizable(), "{:?}", linearizability::check(&records));
    // The check is worth something only if it would have noticed: without one row it does.
    let lost = tables[0].rows.pop();
    assert!(lost.is_some() && exactly_once::check(&records, &tables).is_err());
}

/// Many keys, so that most acknowledged writes are still the newest of their key at the end.
fn mix() -> Mix {
    Mix { keys: 2_000, ..Mix::writes(&TABLES) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_killed_while_writing() {
    let mut cluster = Cluster::start(61).await;
    cluster.create_tables().await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &mix(), 61);
    // A follower, then the leader of the one table: the others go on. Then the only voter of the other table, without
    // which that table's writes would wait: it comes back at once.
    for (victim, meanwhile) in [(3, 6), (1, 6), (2, 0)] {
        let victim = NodeId(victim);
        let others = |region: &RegionId| region.as_str() != REGIONS[usize::try_from(victim.0).unwrap() - 1];
        load.progress(15).await;
        cluster.processes.kill(victim).await.unwrap();
        load.progress_in(meanwhile, others).await;
        cluster.processes.restart(victim).unwrap();
        cluster.processes.ready(READY).await.unwrap();
    }
    load.progress(15).await;
    load.finish().await;
    all_is_there(&cluster, &history).await;
    assert_eq!(cluster.processes.stop().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once() {
    let mut cluster = Cluster::start(62).await;
    cluster.create_tables().await;
    let history = History::default();
    for _ in 0..2 {
        let clients = cluster.clients().await;
        let load = Load::start(&history, &clients, &mix(), 62);
        load.progress(30).await;
        for node in [1, 2, 3].map(NodeId) {
            cluster.processes.kill(node).await.unwrap();
        }
        for node in [1, 2, 3].map(NodeId) {
            cluster.processes.restart(node).unwrap();
        }
        cluster.processes.ready(READY).await.unwrap();
        load.finish().await;
    }
    all_is_there(&cluster, &history).await;
    assert_eq!(cluster.processes.stop().await, []);
}
