//! The API's edges: every limit and refusal with its gRPC code, its reason, what became of the request, and a text;
//! pages of scans against a model; receipts that add up.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use meridian_client::{Client, Consistency, Fate, KeyRange, Reason, ScanOptions, Timestamp, Transaction};
use meridian_proto::v1 as pb;
use meridian_proto::v1::kv_client::KvClient;
use meridian_proto::v1::tables_client::TablesClient;
use meridian_tests::harness::{REGIONS, TestCluster, client_at, until};
use meridian_types::{Limits, NodeId, Placement, RequestId};
use meridian_wire::status::{Effect, from_status, is_answer};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

const TABLE: &str = "t";

/// Larger than any request: the server's own checks are what is tested, not the client library's.
const MESSAGE_BYTES: usize = 64 << 20;

struct Api {
    kv: KvClient<Channel>,
    tables: TablesClient<Channel>,
}

impl Api {
    async fn connect(cluster: &TestCluster, region: &str) -> Self {
        Self::connect_to(&cluster.node(TestCluster::node_in(region)).grpc_address().to_string()).await
    }

    async fn connect_to(address: &str) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let kv = KvClient::new(channel.clone()).max_encoding_message_size(MESSAGE_BYTES);
        Self { kv, tables: TablesClient::new(channel) }
    }

    async fn put(&self, table: &str, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Status> {
        let request = pb::PutRequest { header: None, table: table.into(), key: key.into(), value: value.into() };
        self.kv.clone().put(request).await.map(drop)
    }

    async fn get(&self, level: &Consistency) -> Result<(), Status> {
        let consistency = Some(meridian_wire::consistency::encode(level));
        let request = pb::GetRequest { table: TABLE.into(), key: "k".into(), consistency, ..pb::GetRequest::default() };
        self.kv.clone().get(request).await.map(drop)
    }

    async fn scan(&self, start: &'static str, end: &'static str, page_token: &'static [u8]) -> Result<(), Status> {
        let (start, end, page_token) = (start.into(), end.into(), page_token.into());
        let request = pb::ScanRequest { table: TABLE.into(), start, end, page_token, ..pb::ScanRequest::default() };
        self.kv.clone().scan(request).await.map(drop)
    }

    async fn transact(&self, request: pb::TransactRequest) -> Result<(), Status> {
        let request = pb::TransactRequest { table: TABLE.into(), ..request };
        self.kv.clone().transact(request).await.map(drop)
    }

    async fn create(&self, name: &str, placement: &str, splits: &[&'static str]) -> Result<(), Status> {
        let placement = Placement::parse(placement).unwrap();
        let request = pb::CreateTableRequest {
            name: name.into(),
            placement: Some(meridian_wire::placement::encode(&placement)),
            split_keys: splits.iter().map(|key| Bytes::from(*key)).collect(),
            gc_ttl_ns: 0,
            classic_commit: false,
        };
        self.tables.clone().create_table(request).await.map(drop)
    }
}

fn writes(pairs: &[(&'static str, Bytes)]) -> pb::TransactRequest {
    let write = |(key, value): &(&'static str, Bytes)| pb::WriteOp {
        key: Bytes::from(*key),
        action: Some(pb::write_op::Action::Put(value.clone())),
    };
    pb::TransactRequest { writes: pairs.iter().map(write).collect(), ..pb::TransactRequest::default() }
}

/// A refusal as Meridian makes them: its code, its reason, that nothing was applied, and a text.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: Reason) {
    let status = result.unwrap_err();
    let error = from_status(&status, Effect::Write);
    assert!(is_answer(&status), "no answer of Meridian's: {status:?}");
    assert_eq!((status.code(), error.reason, error.fate), (code, reason, Fate::NotApplied), "{status:?}");
    assert!(status.message().len() > 10, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_code_its_reason_and_its_outcome() {
    let cluster = TestCluster::start(81).await;
    cluster.create(TABLE, "global:us-east", &["m"]).await;
    let limits = Limits::default();
    // By a gateway that leads, and by one that does not.
    for region in ["us-east", "eu-west"] {
        let api = Api::connect(&cluster, region).await;
        let (key_max, value_max) = (vec![b'k'; limits.key_bytes_max], vec![b'v'; limits.value_bytes_max]);
        let over = |bytes: &Vec<u8>| [bytes.as_slice(), b"x"].concat();
        api.put(TABLE, key_max.clone(), "v").await.unwrap();
        api.put(TABLE, "k", value_max.clone()).await.unwrap();
        refused(api.put(TABLE, "", "v").await, Code::InvalidArgument, Reason::BadRequest);
        refused(api.put(TABLE, over(&key_max), "v").await, Code::InvalidArgument, Reason::KeyTooLarge);
        refused(api.put(TABLE, "k", over(&value_max)).await, Code::InvalidArgument, Reason::ValueTooLarge);
        let part = Bytes::from(value_max);
        let five = writes(&["a", "b", "c", "d", "e"].map(|key| (key, part.clone())));
        refused(api.transact(five).await, Code::InvalidArgument, Reason::RequestTooLarge);
        let many = vec![Bytes::from("k"); limits.ops_max + 1];
        let many = pb::TransactRequest { reads: many, ..pb::TransactRequest::default() };
        refused(api.transact(many).await, Code::InvalidArgument, Reason::RequestTooLarge);
        refused(api.transact(pb::TransactRequest::default()).await, Code::InvalidArgument, Reason::BadRequest);

        refused(api.put("nowhere", "k", "v").await, Code::NotFound, Reason::UnknownTable);
        refused(api.scan("b", "a", b"").await, Code::InvalidArgument, Reason::BadRange);
        refused(api.scan("a", "a", b"").await, Code::InvalidArgument, Reason::BadRange);
        refused(api.scan("a", "b", b"no token").await, Code::InvalidArgument, Reason::BadRequest);

        let across = writes(&[("a", "1".into()), ("z", "1".into())]);
        refused(api.transact(across).await, Code::Unimplemented, Reason::CrossShard);
        let absent = pb::precondition::Condition::Exists(false);
        let preconditions = vec![pb::Precondition { key: "k".into(), condition: Some(absent) }];
        let failing = pb::TransactRequest { preconditions, ..writes(&[("k", "2".into())]) };
        refused(api.transact(failing).await, Code::FailedPrecondition, Reason::PreconditionFailed);
        let empty = vec![pb::Precondition { key: "k".into(), condition: None }];
        let empty = pb::TransactRequest { preconditions: empty, ..writes(&[("k", "2".into())]) };
        refused(api.transact(empty).await, Code::InvalidArgument, Reason::BadRequest);

        let now = cluster.node(NodeId(1)).context().clock.now().latest;
        let future = now.plus(Duration::from_secs(3600));
        refused(api.get(&Consistency::Snapshot(future)).await, Code::OutOfRange, Reason::TimestampInFuture);
        let id = RequestId { time: future, client: 1, sequence: 1 };
        let header = Some(meridian_wire::header::encode_request(Some(id), false));
        let early = pb::TransactRequest { header, ..writes(&[("k", "3".into())]) };
        refused(api.transact(early).await, Code::OutOfRange, Reason::TimestampInFuture);

        refused(api.create(TABLE, "global", &[]).await, Code::AlreadyExists, Reason::TableExists);
        refused(api.create("u", "global:atlantis", &[]).await, Code::FailedPrecondition, Reason::BadPlacement);
        refused(api.create("u", "regional:atlantis", &[]).await, Code::FailedPrecondition, Reason::BadPlacement);
        refused(api.create("", "global", &[]).await, Code::InvalidArgument, Reason::BadRequest);
        refused(api.create("u", "global", &["b", "a"]).await, Code::InvalidArgument, Reason::BadRequest);
        let no = api.tables.clone().drop_table(pb::DropTableRequest { name: "nowhere".into() }).await;
        refused(no, Code::NotFound, Reason::UnknownTable);
        let no = api.tables.clone().describe_table(pb::DescribeTableRequest { name: "nowhere".into() }).await;
        refused(no, Code::NotFound, Reason::UnknownTable);
    }
    // None of the refused has left anything.
    let rows = cluster.client(REGIONS[2]).await.session().scan(TABLE, ScanOptions::default()).collect().await.unwrap();
    let sizes: Vec<_> = rows.value.iter().map(|row| (row.key.len(), row.value.len())).collect();
    assert_eq!(sizes, [(1, limits.value_bytes_max), (limits.key_bytes_max, 1)]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_promised() {
    let mut cluster = TestCluster::start_together(82).await;
    let shard = cluster.create(TABLE, "regional:us-east", &[]).await[0];
    let leader = cluster.led(shard).await;
    let mut followers: Vec<_> = [1, 2, 3].map(NodeId).into_iter().filter(|node| *node != leader).collect();
    let left = followers.pop().expect("two followers");
    let address = cluster.node(left).grpc_address().to_string();
    let client = client_at(&address, REGIONS[0]).await;
    client.session().put(TABLE, "k", "before").await.unwrap();
    cluster.converged(shard).await;
    // The follower first, then the leader: the one that is left cannot have become leader in between.
    for node in followers.iter().chain([&leader]) {
        cluster.stop_node(*node).await;
    }
    let api = Api::connect_to(&address).await;
    // Nothing can have been proposed, and it says so.
    refused(timed(api.kv.clone(), "k").await, Code::Unavailable, Reason::NoQuorum);
    refused(read_timed(api.kv.clone()).await, Code::Unavailable, Reason::NoQuorum);
    let error = client.session().put(TABLE, "k", "after").await.unwrap_err();
    assert_eq!((error.reason(), error.fate()), (Reason::NoQuorum, Fate::NotApplied), "{error}");
    // What it has it still serves.
    let read = client.session().get(TABLE, "k", Consistency::Local).await.unwrap();
    assert_eq!(read.value.unwrap().value, "before");
    for node in followers.iter().chain([&leader]) {
        cluster.restart_node(*node).await;
    }
    until("there is a quorum again", || async { client.session().put(TABLE, "k", "again").await.is_ok() }).await;
    cluster.stop().await;
}

/// A put with a deadline of its own, shorter than the gateway's.
async fn timed(mut kv: KvClient<Channel>, key: &'static str) -> Result<Response<pb::PutReply>, Status> {
    let put = pb::PutRequest { header: None, table: TABLE.into(), key: key.into(), value: "after".into() };
    let mut request = tonic::Request::new(put);
    request.set_timeout(Duration::from_secs(3));
    kv.put(request).await
}

async fn read_timed(mut kv: KvClient<Channel>) -> Result<Response<pb::GetReply>, Status> {
    let get = pb::GetRequest { table: TABLE.into(), key: "k".into(), ..pb::GetRequest::default() };
    let mut request = tonic::Request::new(get);
    request.set_timeout(Duration::from_secs(3));
    kv.get(request).await
}

type Model = BTreeMap<Bytes, Bytes>;

/// What a scan must find.
fn expected(model: &Model, options: &ScanOptions) -> Vec<(Bytes, Bytes)> {
    let inside = model.iter().filter(|(key, _)| options.range.contains(key)).map(|(k, v)| (k.clone(), v.clone()));
    let mut rows: Vec<_> = inside.collect();
    if options.reverse {
        rows.reverse();
    }
    if options.limit > 0 {
        rows.truncate(options.limit as usize);
    }
    rows
}

async fn scanned(client: &Client, options: &ScanOptions) -> (Vec<(Bytes, Bytes)>, u32) {
    let session = client.session();
    let mut scan = session.scan(TABLE, options.clone());
    let (mut rows, mut pages, mut at) = (Vec::new(), 0, None::<Timestamp>);
    while let Some(page) = scan.next_page().await.unwrap() {
        assert_eq!(*at.get_or_insert(page.timestamp), page.timestamp, "all pages are read at one timestamp");
        rows.extend(page.value.into_iter().map(|row| (row.key, row.value)));
        pages += 1;
    }
    (rows, pages)
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_are_what_a_model_says() {
    let cluster = TestCluster::start(83).await;
    cluster.create(TABLE, "global:us-east", &["k3", "k6"]).await;
    let client = cluster.client("us-east").await;
    let session = client.session();
    let mut rng = ChaCha8Rng::seed_from_u64(83);
    let mut model = Model::new();
    // Values so large that a page ends by its bytes, in the middle of a shard.
    for i in 0..60 {
        let (key, size) = (format!("k{}", i * 7 % 90), rng.random_range(1..200_000));
        session.put(TABLE, key.clone(), vec![b'v'; size]).await.unwrap();
        model.insert(key.into(), vec![b'v'; size].into());
        if i % 5 == 0 {
            let gone = format!("k{}", rng.random_range(0..90));
            session.delete(TABLE, gone.clone()).await.unwrap();
            model.remove(gone.as_bytes());
        }
    }
    let clients = cluster.clients().await;
    let mut several_pages = 0;
    for round in 0..24_usize {
        let bound = |rng: &mut ChaCha8Rng| Bytes::from(format!("k{}", rng.random_range(0..90)));
        let range = match round % 4 {
            0 => KeyRange::all(),
            1 => KeyRange { start: bound(&mut rng), end: None },
            2 => KeyRange::prefix("k5".into()),
            _ => KeyRange::new(bound(&mut rng), Some(bound(&mut rng))).unwrap_or_default(),
        };
        let limit = if rng.random_bool(0.5) { rng.random_range(1..40) } else { 0 };
        let consistency = if round % 2 == 0 { Consistency::Linearizable } else { Consistency::Causal(session.token()) };
        let options = ScanOptions { range, limit, reverse: rng.random_bool(0.5), consistency, within: None };
        let (rows, pages) = scanned(&clients[round % 3].1, &options).await;
        let wanted = expected(&model, &options);
        assert_eq!(rows.len(), wanted.len(), "round {round}: {options:?}");
        assert!(rows == wanted, "round {round}: {options:?}");
        several_pages += u32::from(pages > 1);
    }
    assert!(several_pages > 3, "scans of several pages: {several_pages}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_add_up() {
    let cluster = TestCluster::start(84).await;
    cluster.create(TABLE, "global:us-east", &["m"]).await;
    for (region, client) in cluster.clients().await {
        let session = client.session().with_receipts(true);
        for i in 0..5 {
            let key = format!("k{i}");
            let receipts = [
                session.put(TABLE, key.clone(), "v").await.unwrap().receipt,
                session.get(TABLE, key.clone(), Consistency::Linearizable).await.unwrap().receipt,
                session.get_causal(TABLE, key.clone()).await.unwrap().receipt,
                session.get(TABLE, key.clone(), Consistency::Local).await.unwrap().receipt,
                session.scan(TABLE, ScanOptions::default()).collect().await.unwrap().receipt,
                session
                    .transact(TABLE, &Transaction::new().if_exists(key.clone()).put(key, "w"))
                    .await
                    .unwrap()
                    .receipt,
            ];
            for (what, receipt) in ["put", "get", "causal", "local", "scan", "transact"].into_iter().zip(receipts) {
                let receipt = receipt.expect("a receipt, because it was asked for");
                let (parts, total) = (receipt.parts(), receipt.total);
                assert!(parts.abs_diff(total) * 50 <= total, "{what} in {region}: {parts} of {total}: {receipt:?}");
                assert!(total > 0, "{what} in {region}: {receipt:?}");
            }
            // A write cannot be faster than light: the leader's quorum is 10 ms away.
            let put = receipts[0].expect("checked above");
            assert!(put.floor >= 10_000_000 && put.total >= put.floor, "{region}: {put:?}");
        }
        assert_eq!(session.put(TABLE, "z", "v").await.unwrap().attempts, 1);
        assert_eq!(client.session().put(TABLE, "z", "v").await.unwrap().receipt, None, "nobody asked for one");
    }
    cluster.stop().await;
}

/// Refused for the lack of memory, before anything was done, with a hint when to come again.
fn assert_overloaded(result: Result<(), Status>) {
    use tonic_types::StatusExt as _;
    let status = result.unwrap_err();
    let error = from_status(&status, Effect::Write);
    assert_eq!(
        (status.code(), error.reason, error.fate),
        (Code::ResourceExhausted, Reason::Overloaded, Fate::NotApplied)
    );
    assert!(status.get_details_retry_info().is_some_and(|hint| hint.retry_delay.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_the_memory_budget_is_refused_before_anything_is_done() {
    const ROOM: u64 = 128 << 10;
    let cluster = TestCluster::start(64).await;
    let shards = cluster.create(TABLE, "global:us-east", &[]).await;
    let leader = cluster.led(shards[0]).await;
    assert_eq!(leader, NodeId(1));
    let accounts = [1, 2, 3].map(|n| cluster.node(NodeId(n)).context().memory.in_flight.clone());
    let (us, eu) = (Api::connect(&cluster, REGIONS[0]).await, Api::connect(&cluster, REGIONS[1]).await);
    let bytes = |kib: usize| vec![7; kib << 10];
    let refusals = || accounts.iter().map(|a| a.refused()).sum::<u64>();
    us.put(TABLE, "k", bytes(512)).await.unwrap();
    assert_eq!(refusals(), 0);

    // The gateway's account is nearly used up, and it leads: small requests pass, larger ones and larger answers do not.
    let held = accounts[0].admit(accounts[0].limit() - ROOM).unwrap();
    us.put(TABLE, "small", bytes(1)).await.unwrap();
    assert_overloaded(us.put(TABLE, "large", bytes(100)).await);
    assert_overloaded(us.get(&Consistency::Linearizable).await);
    // The leader's account is, and not the gateway's: the gateway says what the leader said.
    eu.put(TABLE, "small", bytes(1)).await.unwrap();
    assert_overloaded(eu.put(TABLE, "large", bytes(100)).await);
    assert!(accounts.iter().all(|a| a.used() <= a.limit()));
    assert_eq!(refusals(), 3);

    // Given back, everything passes; and every charge is given back in the end.
    drop(held);
    us.put(TABLE, "large", bytes(100)).await.unwrap();
    us.get(&Consistency::Linearizable).await.unwrap();
    until("nothing is charged any more", || async { accounts.iter().all(|a| a.used() == 0) }).await;
}
