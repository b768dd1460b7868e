//! What clients and gateways say to one another.

use crate::{Fixture, fixture};
use meridian_proto::v1 as pb;

pub(crate) fn request_id() -> pb::RequestId {
    pb::RequestId { time_ns: 1_700_000_000_000_000_001, client: 0xfeed_beef_0123_4567, sequence: 300 }
}

fn header() -> Option<pb::RequestHeader> {
    Some(pb::RequestHeader { request_id: Some(request_id()), receipt: true })
}

fn served() -> Option<pb::ReplyHeader> {
    let receipt = pb::LatencyReceipt {
        gateway_ns: 1,
        forward_ns: 2,
        queue_ns: 3,
        fsync_ns: 4_000,
        quorum_ns: 70_000_000,
        apply_ns: 6,
        commit_wait_ns: 7,
        total_ns: 70_004_019,
        floor_ns: 9,
        path: 0,
    };
    Some(pb::ReplyHeader {
        timestamp: 1_700_000_000_000_000_777,
        served_by: 3,
        region: "eu-west".into(),
        staleness_ns: 1_234,
        token: vec![1, 0, 0, 0, 0, 0, 0, 3, 9].into(),
        receipt: Some(receipt),
        given: None,
    })
}

/// A budget with everything in it.
fn within() -> pb::Within {
    let [_, _, (_, bounded), ..] = consistencies();
    pb::Within { budget_ns: 40_000_000, weakest: Some(bounded), token: vec![1, 2, 3].into() }
}

pub(crate) fn consistencies() -> [(&'static str, pb::Consistency); 5] {
    use pb::consistency::{BoundedStaleness, Causal, Level, Linearizable, Local, Snapshot};
    let of = |level| pb::Consistency { level: Some(level) };
    [
        ("linearizable", of(Level::Linearizable(Linearizable {}))),
        ("snapshot", of(Level::Snapshot(Snapshot { timestamp: 1_700_000_000_000_000_000 }))),
        ("bounded", of(Level::BoundedStaleness(BoundedStaleness { max_staleness_ns: 500_000_000 }))),
        ("causal", of(Level::Causal(Causal { token: vec![1, 2, 3].into() }))),
        ("local", of(Level::Local(Local {}))),
    ]
}

pub(crate) fn rows() -> Vec<pb::Row> {
    vec![
        pb::Row { key: "a".into(), value: "one".into(), version: 11 },
        pb::Row { key: vec![0, 255, 1].into(), value: vec![0; 3].into(), version: u64::MAX - 1 },
    ]
}

pub(crate) fn preconditions() -> Vec<pb::Precondition> {
    use pb::precondition::Condition;
    let of = |key: &'static str, condition| pb::Precondition { key: key.into(), condition: Some(condition) };
    vec![of("p", Condition::Value("v".into())), of("q", Condition::Exists(false)), of("r", Condition::Version(0))]
}

pub(crate) fn writes() -> Vec<pb::WriteOp> {
    use pb::write_op::{Action, Remove};
    vec![
        pb::WriteOp { key: "w".into(), action: Some(Action::Put("new".into())) },
        pb::WriteOp { key: "x".into(), action: Some(Action::Delete(Remove {})) },
    ]
}

/// What the details of a status say.
fn budget_detail() -> pb::BudgetDetail {
    let [(_, linearizable), .., (_, local)] = consistencies();
    let of = |consistency, latency_ns, staleness_ns| pb::Achievable {
        consistency: Some(consistency),
        latency_ns,
        staleness_ns,
    };
    pb::BudgetDetail { achievable: vec![of(linearizable, None, None), of(local, Some(1_000_000), Some(0))] }
}

fn put() -> pb::PutRequest {
    pb::PutRequest { header: header(), table: "t".into(), key: "k".into(), value: "v".into() }
}

fn get(consistency: Option<pb::Consistency>) -> pb::GetRequest {
    pb::GetRequest { header: header(), table: "t".into(), key: "k".into(), consistency, within: None }
}

fn delete() -> pb::DeleteRequest {
    pb::DeleteRequest { header: header(), table: "t".into(), key: "k".into() }
}

fn scan() -> pb::ScanRequest {
    pb::ScanRequest {
        header: header(),
        table: "t".into(),
        start: "a".into(),
        end: "b".into(),
        limit: 1_000,
        reverse: true,
        consistency: None,
        page_token: vec![8, 1].into(),
        within: None,
    }
}

fn transact() -> pb::TransactRequest {
    let (preconditions, writes) = (preconditions(), writes());
    pb::TransactRequest {
        header: header(),
        table: "t".into(),
        preconditions,
        writes,
        reads: vec!["k".into(), "".into()],
    }
}

fn placements() -> [(&'static str, pb::Placement); 3] {
    use pb::placement::{Global, GlobalReads, Preset, Regional};
    let of = |preset| pb::Placement { preset: Some(preset) };
    [
        ("global", of(Preset::Global(Global { leader: vec!["us-east".into(), "eu-west".into()], survive: 2 }))),
        ("regional", of(Preset::Regional(Regional { home: "eu-west".into() }))),
        ("global-reads", of(Preset::GlobalReads(GlobalReads { leader: vec!["us-east".into()], survive: 2 }))),
    ]
}

fn table() -> pb::Table {
    let replica = |node, voter| pb::Replica { node, region: format!("r{node}"), voter };
    let shard = pb::Shard {
        id: 4,
        start: "a".into(),
        end: "m".into(),
        replicas: vec![replica(1, true), replica(2, false)],
        leader: 1,
        preferred_leader: 2,
        quorum_rtt_ns: 70_000_000,
    };
    let [(_, placement), ..] = placements();
    pb::Table {
        id: 3,
        name: "t".into(),
        placement: Some(placement),
        shards: vec![shard],
        gc_ttl_ns: 14_400_000_000_000,
        classic_commit: false,
    }
}

pub(crate) fn node_status() -> pb::NodeStatus {
    let shard = pb::ShardStatus {
        shard: 4,
        table: "t".into(),
        role: "leader".into(),
        term: 5,
        leader: 1,
        log_last: 6,
        committed: 7,
        applied: 8,
        durable: 9,
        last_ts: 10,
        safe_ts: 11,
        safe_lag_ns: 12,
        lease_left_ns: 13,
        voter: true,
        timers: None,
        lead_time_ns: 0,
        agreed_timers: None,
        created_timers: None,
    };
    let memory = pb::MemoryStatus {
        budget: 1,
        resident: 2,
        cache: 3,
        cache_max: 4,
        raft_memtables: 5,
        data_memtables: 6,
        log_entries: 7,
        log_entries_max: 8,
        in_flight: 9,
        in_flight_max: 10,
        refused: 11,
    };
    pb::NodeStatus {
        node: 1,
        region: "eu-west".into(),
        zone: "a".into(),
        grpc_address: "host:1".into(),
        http_address: "host:2".into(),
        version: "0.1.0".into(),
        reachable: true,
        clock: Some(pb::ClockStatus { source: "kernel".into(), earliest: 1, latest: 2, safe: true }),
        rtts: vec![pb::PeerRtt { node: 2, rtt_ns: 70_000_000 }],
        shards: vec![shard],
        uptime_ns: 99,
        memory: Some(memory),
        disk: Some(pb::DiskStatus {
            free: 1 << 40,
            reserve: 1 << 32,
            level: pb::DiskLevel::Full.into(),
            ..pb::DiskStatus::default()
        }),
        traffic: Vec::new(),
    }
}

fn pipeline() -> (pb::PipelineRequest, pb::PipelineReply) {
    use pb::operation::Request;
    use pb::operation_reply::Reply;
    let requests = [
        Request::Put(put()),
        Request::Get(get(None)),
        Request::Delete(delete()),
        Request::Scan(scan()),
        Request::Transact(transact()),
    ];
    let operation = |(number, request)| pb::Operation { number, timeout_ns: 5_000_000_000, request: Some(request) };
    let request =
        pb::PipelineRequest { operations: (1..).zip(requests).map(operation).collect(), dropped: vec![7, 300] };
    let failed = pb::OperationStatus { code: 14, message: "no quorum".into(), details: vec![8, 14].into() };
    let replies = [
        Reply::Put(pb::PutReply { header: served() }),
        Reply::Get(pb::GetReply { header: served(), row: None }),
        Reply::Delete(pb::DeleteReply { header: served() }),
        Reply::Scan(pb::ScanReply { header: served(), rows: rows(), next_page_token: "p".into() }),
        Reply::Transact(pb::TransactReply { header: served(), reads: rows() }),
        Reply::Failed(failed),
    ];
    let replied = |(number, reply)| pb::OperationReply { number, reply: Some(reply) };
    (request, pb::PipelineReply { replies: (1..).zip(replies).map(replied).collect() })
}

pub(crate) fn fixtures() -> Vec<Fixture> {
    let (request, reply) = pipeline();
    let rtt = pb::RegionRtt { from: "eu-west".into(), to: "us-east".into(), rtt_ns: 70_000_000 };
    let status =
        pb::GetStatusReply { cluster_id: "c".into(), served_by: 1, nodes: vec![node_status()], region_rtts: vec![rtt] };
    let waits = pb::DiskStatus { log_waiting: 70_000_000, log_waiting_max: 1 << 31, ..pb::DiskStatus::default() };
    let node = pb::NodeStatus { node: 2, disk: Some(waits), ..pb::NodeStatus::default() };
    let log_waits = pb::GetStatusReply { nodes: vec![node], ..pb::GetStatusReply::default() };
    let traffic = pb::Traffic { peer: 3, peer_region: "ap".into(), cause: "log".into(), sent: 1 << 40, received: 300 };
    let timers = pb::RaftTimers { heartbeat_ms: 154, election_min_ms: 359, election_max_ms: 600, lease_ms: 540 };
    let timed = pb::ShardStatus { shard: 4, timers: Some(timers), ..pb::ShardStatus::default() };
    let counts = pb::NodeStatus { node: 2, traffic: vec![traffic], shards: vec![timed], ..pb::NodeStatus::default() };
    let counts_bytes = pb::GetStatusReply { nodes: vec![counts], ..pb::GetStatusReply::default() };
    let longer = pb::RaftTimers { heartbeat_ms: 340, election_min_ms: 768, election_max_ms: 1176, lease_ms: 1058 };
    let following = pb::ShardStatus {
        shard: 4,
        timers: Some(timers),
        agreed_timers: Some(longer),
        created_timers: Some(timers),
        ..pb::ShardStatus::default()
    };
    let node = pb::NodeStatus { node: 4, shards: vec![following], ..pb::NodeStatus::default() };
    let changes_timers = pb::GetStatusReply { nodes: vec![node], ..pb::GetStatusReply::default() };
    let leading = pb::ShardStatus { shard: 5, lead_time_ns: 190_000_000, ..pb::ShardStatus::default() };
    let node = pb::NodeStatus { node: 3, shards: vec![leading], ..pb::NodeStatus::default() };
    let leads = pb::GetStatusReply { nodes: vec![node], ..pb::GetStatusReply::default() };
    let created = |(variant, placement)| {
        let split_keys = vec!["g".into(), "m".into()];
        let request = pb::CreateTableRequest {
            name: "t".into(),
            placement: Some(placement),
            split_keys,
            gc_ttl_ns: 1_000_000_000,
            classic_commit: false,
        };
        fixture("meridian.v1.CreateTableRequest", variant, request)
    };
    let read = |(variant, level)| fixture("meridian.v1.GetRequest", variant, get(Some(level)));
    let classic =
        pb::CreateTableRequest { name: "t".into(), classic_commit: true, ..pb::CreateTableRequest::default() };
    let [_, _, _, _, (_, local)] = consistencies();
    let given = served().map(|header| pb::ReplyHeader { given: Some(local), ..header });
    let all = vec![
        fixture("meridian.v1.GetRequest", "within", pb::GetRequest { within: Some(within()), ..get(None) }),
        fixture("meridian.v1.ScanRequest", "within", pb::ScanRequest { within: Some(within()), ..scan() }),
        fixture("meridian.v1.GetReply", "given", pb::GetReply { header: given, row: None }),
        fixture("meridian.v1.BudgetDetail", "all", budget_detail()),
        fixture("meridian.v1.CreateTableRequest", "classic-commit", classic),
        fixture("meridian.v1.PutRequest", "all", put()),
        fixture("meridian.v1.PutReply", "all", pb::PutReply { header: served() }),
        fixture("meridian.v1.DeleteRequest", "all", delete()),
        fixture("meridian.v1.DeleteReply", "all", pb::DeleteReply { header: served() }),
        fixture("meridian.v1.GetReply", "row", pb::GetReply { header: served(), row: rows().pop() }),
        fixture("meridian.v1.GetReply", "no-row", pb::GetReply { header: served(), row: None }),
        fixture("meridian.v1.ScanRequest", "all", scan()),
        fixture(
            "meridian.v1.ScanReply",
            "all",
            pb::ScanReply { header: served(), rows: rows(), next_page_token: "p".into() },
        ),
        fixture("meridian.v1.TransactRequest", "all", transact()),
        fixture("meridian.v1.TransactReply", "all", pb::TransactReply { header: served(), reads: rows() }),
        fixture("meridian.v1.PipelineRequest", "every-request", request),
        fixture("meridian.v1.PipelineReply", "every-reply", reply),
        fixture("meridian.v1.CreateTableReply", "all", pb::CreateTableReply { table: Some(table()) }),
        fixture("meridian.v1.ListTablesRequest", "all", pb::ListTablesRequest {}),
        fixture("meridian.v1.ListTablesReply", "all", pb::ListTablesReply { tables: vec![table(), table()] }),
        fixture("meridian.v1.DescribeTableRequest", "all", pb::DescribeTableRequest { name: "t".into() }),
        fixture("meridian.v1.DescribeTableReply", "all", pb::DescribeTableReply { table: Some(table()) }),
        fixture("meridian.v1.DropTableRequest", "all", pb::DropTableRequest { name: "t".into() }),
        fixture("meridian.v1.DropTableReply", "all", pb::DropTableReply {}),
        fixture("meridian.v1.GetStatusRequest", "all", pb::GetStatusRequest { local_only: true }),
        fixture("meridian.v1.GetStatusReply", "all", status),
        fixture("meridian.v1.GetStatusReply", "log-waiting", log_waits),
        fixture("meridian.v1.GetStatusReply", "counts-bytes", counts_bytes),
        fixture("meridian.v1.GetStatusReply", "lead-time", leads),
        fixture("meridian.v1.GetStatusReply", "changes-timers", changes_timers),
        fixture("meridian.v1.TransferLeaderRequest", "all", pb::TransferLeaderRequest { shard: 4, to: 2 }),
        fixture("meridian.v1.TransferLeaderReply", "all", pb::TransferLeaderReply {}),
    ];
    all.into_iter().chain(placements().map(created)).chain(consistencies().map(read)).collect()
}
