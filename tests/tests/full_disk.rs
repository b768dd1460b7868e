//! Disks that fill up below whole nodes: processes of their own, each on a small file system of the test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../crates/storage/tests/storage/mounts.rs"]
mod mounts;

use bytes::Bytes;
use meridian_client::{Client, Consistency, Fate, Placement, Reason};
use meridian_proto::v1 as pb;
use meridian_proto::v1::kv_client::KvClient;
use meridian_server::bootstrap::{BootstrapOptions, Bootstrapped, write};
use meridian_server::config::NodeConfig;
use meridian_server::layout::Ports;
use meridian_server::processes::Processes;
use meridian_tests::harness::{REGIONS, client_at, logging, near, until};
use meridian_types::NodeId;
use meridian_wire::status::{Effect, from_status};
use mounts::{SmallDisk, may_mount};
use std::path::Path;
use std::time::Duration;
use tonic::{Code, Status};

const TABLE: &str = "t";
const READY: Duration = Duration::from_secs(60);
const DISK_MIB: u64 = 192;
const RESERVE_MIB: u64 = 48;
/// Free KiB of a disk at each level.
const NEARLY_FULL: u64 = (RESERVE_MIB * 3 / 4) << 10;
const FULL: u64 = (RESERVE_MIB * 3 / 8) << 10;
const CRITICAL: u64 = (RESERVE_MIB / 8) << 10;

/// Three nodes, each a process with a disk of its own; near to each other.
struct Cluster {
    files: Bootstrapped,
    disks: Vec<SmallDisk>,
    processes: Processes,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(seed: u64) -> Self {
        logging();
        let dir = tempfile::tempdir().unwrap();
        let (topology, ports) = (near(), Ports::Free);
        let options = BootstrapOptions { topology, dir: dir.path().to_owned(), ports, emulate_wan: Some(seed) };
        let files = write(options).unwrap();
        let disk = |node: &meridian_server::bootstrap::NodeFiles| {
            let mut config = NodeConfig::load(&node.config).unwrap();
            config.memory_bytes = Some(meridian_types::MEMORY_MIN);
            config.disk_reserve_bytes = Some(RESERVE_MIB << 20);
            std::fs::write(&node.config, config.to_toml()).unwrap();
            SmallDisk::mount(&config.data_dir, DISK_MIB)
        };
        let disks = files.nodes.iter().map(disk).collect();
        let mut processes = Processes::start(Path::new(env!("CARGO_BIN_EXE_test-node")), &files.nodes).unwrap();
        processes.ready(READY).await.unwrap();
        let this = Self { files, disks, processes, _dir: dir };
        let placement = Placement::parse("global:us-east").unwrap();
        this.client(0).await.create_table(TABLE, &placement, Vec::new()).await.unwrap();
        this
    }

    fn address(&self, node: usize) -> &str {
        &self.files.cluster.nodes[node].grpc
    }

    async fn client(&self, node: usize) -> Client {
        client_at(self.address(node), REGIONS[node]).await
    }

    /// One attempt, without the client library's retries.
    async fn try_put(&self, node: usize, key: &str, value: Bytes) -> Result<(), Status> {
        let mut kv = KvClient::connect(format!("http://{}", self.address(node))).await.unwrap();
        let key = Bytes::copy_from_slice(key.as_bytes());
        kv.put(pb::PutRequest { header: None, table: TABLE.into(), key, value }).await.map(drop)
    }

    /// What a node says of itself.
    async fn status(&self, node: usize) -> pb::NodeStatus {
        let status = self.client(node).await.status(true).await.unwrap();
        status.nodes.into_iter().find(|n| n.node == node as u64 + 1).unwrap()
    }

    async fn level(&self, node: usize) -> pb::DiskLevel {
        self.status(node).await.disk.unwrap().level()
    }

    async fn until_level(&self, node: usize, level: pb::DiskLevel) {
        until(&format!("the disk of node {} is {level:?}", node + 1), || async { self.level(node).await == level })
            .await;
    }

    /// The table's shard on a node.
    async fn shard(&self, node: usize) -> pb::ShardStatus {
        self.status(node).await.shards.into_iter().find(|s| s.table == TABLE).unwrap()
    }

    async fn holds(&self, node: usize, keys: impl IntoIterator<Item = (String, Bytes)>) {
        let session = self.client(node).await.session();
        for (key, value) in keys {
            let row = session.get(TABLE, key.clone(), Consistency::Linearizable).await.unwrap().value;
            assert_eq!(row.map(|r| r.value), Some(value), "{key}");
        }
    }

    async fn kill_all(&mut self) {
        for node in [1, 2, 3].map(NodeId) {
            self.processes.kill(node).await.unwrap();
        }
    }

    async fn restart_all(&mut self) {
        for node in [1, 2, 3].map(NodeId) {
            self.processes.restart(node).unwrap();
        }
        self.processes.ready(READY).await.unwrap();
    }
}

fn rows(of: &str, count: usize) -> Vec<(String, Bytes)> {
    (0..count).map(|i| (format!("{of}{i:04}"), Bytes::from(format!("value {i} of {of}")))).collect()
}

/// A refusal for the lack of room: not applied, and with a hint when to come again.
fn assert_refused(status: &Status) {
    let error = from_status(status, Effect::Write);
    assert_eq!(
        (status.code(), error.reason, error.fate),
        (Code::ResourceExhausted, Reason::DiskFull, Fate::NotApplied)
    );
    assert!(error.message.contains("nearly full"), "{}", error.message);
    use tonic_types::StatusExt as _;
    assert!(status.get_details_retry_info().is_some_and(|hint| hint.retry_delay.is_some()));
}

async fn one_full_disk() {
    let cluster = Cluster::start(71).await;
    let session = cluster.client(0).await.session();
    let early = rows("early", 20);
    for (key, value) in &early {
        session.put(TABLE, key.clone(), value.clone()).await.unwrap();
    }
    until("node 1 leads the table", || async { cluster.shard(0).await.role == "leader" }).await;

    // The leader's disk is nearly full: it hands over, and clients of its region write through it.
    cluster.disks[0].fill(NEARLY_FULL);
    cluster.until_level(0, pb::DiskLevel::NearlyFull).await;
    until("another node leads the table", || async { cluster.shard(0).await.role != "leader" }).await;
    let late = rows("late", 20);
    for (key, value) in &late {
        session.put(TABLE, key.clone(), value.clone()).await.unwrap();
    }

    // Fuller: it takes no entries any more, and stays alive and serves reads.
    cluster.disks[0].fill(FULL);
    cluster.until_level(0, pb::DiskLevel::Full).await;
    let without = rows("without", 20);
    for (key, value) in &without {
        session.put(TABLE, key.clone(), value.clone()).await.unwrap();
    }
    let behind = cluster.shard(0).await;
    let leader = if cluster.shard(1).await.role == "leader" { 1 } else { 2 };
    assert!(behind.log_last < cluster.shard(leader).await.log_last, "it took no entries");
    assert!(behind.leader == leader as u64 + 1, "it hears its leader's heartbeats");
    let local = session.get(TABLE, "early0000", Consistency::Local).await.unwrap();
    assert_eq!(local.value.map(|r| r.value), Some(early[0].1.clone()));
    cluster.holds(0, early.iter().chain(&late).chain(&without).cloned()).await;

    // Room again: it catches up, and gets the leadership back, by itself.
    cluster.disks[0].relieve();
    cluster.until_level(0, pb::DiskLevel::Enough).await;
    until("node 1 leads the table again", || async { cluster.shard(0).await.role == "leader" }).await;
    cluster.holds(0, early.into_iter().chain(late).chain(without)).await;
    assert_eq!(cluster.processes.stop().await, []);
}

async fn all_disks_full() {
    let mut cluster = Cluster::start(72).await;
    let session = cluster.client(1).await.session();
    let mut all = rows("first", 20);
    for (key, value) in &all {
        session.put(TABLE, key.clone(), value.clone()).await.unwrap();
    }
    for level in [NEARLY_FULL, FULL, CRITICAL] {
        cluster.disks.iter().for_each(|disk| disk.fill(level));
        for node in 0..3 {
            until("no disk has room", || async { cluster.level(node).await >= expected(level) }).await;
            assert_refused(&cluster.try_put(node, "refused", "x".into()).await.unwrap_err());
            cluster.holds(node, all.iter().cloned()).await;
        }
    }
    // Died on full disks; back with room.
    cluster.kill_all().await;
    cluster.disks.iter().for_each(SmallDisk::relieve);
    cluster.restart_all().await;
    let more = rows("more", 20);
    let session = cluster.client(1).await.session();
    for (key, value) in &more {
        session.put(TABLE, key.clone(), value.clone()).await.unwrap();
    }
    all.extend(more);
    cluster.holds(2, all).await;
    let refused = session.get(TABLE, "refused", Consistency::Linearizable).await.unwrap();
    assert!(refused.value.is_none(), "what was refused had no effect");
    assert_eq!(cluster.processes.stop().await, []);
}

fn expected(level: u64) -> pb::DiskLevel {
    match level {
        NEARLY_FULL => pb::DiskLevel::NearlyFull,
        FULL => pb::DiskLevel::Full,
        _ => pb::DiskLevel::Critical,
    }
}

async fn filled_by_writing() {
    let mut cluster = Cluster::start(73).await;
    // Random bytes: nothing is gained by compression.
    let value = |i: u64| -> Bytes {
        let mut x = i + 1;
        let next = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 56) as u8
        };
        std::iter::repeat_with(next).take(256 << 10).collect::<Vec<_>>().into()
    };
    let mut acknowledged = Vec::new();
    let refused = loop {
        let i = acknowledged.len() as u64;
        match cluster.try_put(0, &format!("k{i:04}"), value(i)).await {
            Ok(()) => acknowledged.push(i),
            Err(status) if status.code() == Code::ResourceExhausted => break status,
            // The leadership moves while disks fill up one after the other; such an answer claims less.
            Err(status) => assert!(from_status(&status, Effect::Write).reason.is_retryable(), "{status}"),
        }
        assert!(acknowledged.len() < 1_000, "three disks of {DISK_MIB} MiB never fill up");
    };
    assert_refused(&refused);
    assert!(acknowledged.len() > 50, "only {} values fit", acknowledged.len());
    for node in 0..3 {
        let held = acknowledged.iter().rev().take(10).map(|i| (format!("k{i:04}"), value(*i)));
        cluster.holds(node, held).await;
    }
    cluster.kill_all().await;
    cluster.disks.iter().for_each(|disk| disk.resize(4 * DISK_MIB));
    cluster.restart_all().await;
    cluster.holds(2, acknowledged.iter().map(|i| (format!("k{i:04}"), value(*i)))).await;
    let session = cluster.client(0).await.session();
    session.put(TABLE, "after", "x").await.unwrap();
    assert_eq!(cluster.processes.stop().await, []);
}

fn run(test: &str, work: impl Future<Output = ()>) {
    if may_mount(test) {
        tokio::runtime::Runtime::new().unwrap().block_on(work);
    }
}

#[test]
fn a_node_whose_disk_fills_up_hands_over_and_serves_reads() {
    run("a_node_whose_disk_fills_up_hands_over_and_serves_reads", one_full_disk());
}

#[test]
fn when_all_disks_are_full_writes_are_refused_and_reads_go_on() {
    run("when_all_disks_are_full_writes_are_refused_and_reads_go_on", all_disks_full());
}

#[test]
fn disks_that_are_filled_by_writing_lose_nothing() {
    run("disks_that_are_filled_by_writing_lose_nothing", filled_by_writing());
}
