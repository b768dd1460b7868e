//! The catalog's changes, applied to a real store as the data that they are.

use bytes::Bytes;
use meridian_catalog::{
    Catalog, CatalogView, Cluster, NewCluster, NewTable, Node, RttMatrix, SHARDS_MAX, TABLE_NAME_BYTES_MAX,
    create_table, drop_table, form_cluster, register_node, table_to_proto, timing_for,
};
use meridian_proto::internal::v1::Mutation;
use meridian_storage::{DataBatch, Store, StoreOptions};
use meridian_txn::{Committed, LogPosition, ShardScope, apply, verdict};
use meridian_types::{Error, KeyRange, NodeId, Placement, Reason, RequestId, ShardId, TableId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

const START: u64 = 1_790_000_040_000_000_000;

/// Shard 0 on a real store.
struct Shard0 {
    store: Store,
    catalog: Catalog,
    last_ts: Timestamp,
    _dir: tempfile::TempDir,
}

impl Shard0 {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), StoreOptions::default()).expect("an empty store opens");
        let catalog = Catalog::open(&store.data).expect("an empty catalog is one");
        Self { store, catalog, last_ts: Timestamp(START), _dir: dir }
    }

    /// A cluster of one node in each region of the preset `three`.
    fn formed() -> Self {
        let mut shard = Self::new();
        let nodes = vec![node(1, "us-east"), node(2, "eu-west"), node(3, "ap-northeast")];
        let form = form_cluster(shard.id(), NewCluster { cluster: cluster(), nodes });
        shard.apply(&form).expect("an empty catalog takes its first records");
        shard
    }

    fn id(&self) -> RequestId {
        RequestId { time: self.last_ts, client: 1, sequence: self.last_ts.0 }
    }

    fn view(&self) -> Arc<CatalogView> {
        self.catalog.view()
    }

    fn apply(&mut self, mutation: &Mutation) -> Result<Committed, Error> {
        let mut batch = DataBatch::default();
        let (view, ts) = (self.store.data.view(), self.last_ts.next());
        let mutations = std::slice::from_ref(mutation);
        let scope = ShardScope::catalog();
        let log = LogPosition { last_ts: self.last_ts, ..LogPosition::default() };
        let outcome = apply(&scope, &view, log, ts, mutations, &mut batch).expect("the store works").remove(0);
        self.store.data.write(batch).expect("the store takes the batch");
        self.last_ts = ts;
        self.catalog.refresh(&self.store.data.view()).expect("the catalog can be read");
        verdict(mutation, outcome)
    }

    fn create(&mut self, new: NewTable) -> Result<meridian_catalog::Table, Error> {
        let (mutation, table) = create_table(&self.view(), self.id(), new)?;
        self.apply(&mutation).map(|_| table)
    }
}

fn cluster() -> Cluster {
    let rtt = |a: &str, b: &str, ms| (a.into(), b.into(), Duration::from_millis(ms));
    let rtts: RttMatrix =
        [rtt("us-east", "eu-west", 70), rtt("us-east", "ap-northeast", 140), rtt("eu-west", "ap-northeast", 210)]
            .into_iter()
            .collect();
    let timing = timing_for(Duration::from_millis(210));
    Cluster { id: "test".into(), rtts, timing, max_clock_offset: Duration::from_millis(250) }
}

fn node(id: u64, region: &str) -> Node {
    Node {
        id: NodeId(id),
        region: region.into(),
        zone: "a".into(),
        grpc_address: format!("host{id}:7000"),
        http_address: format!("host{id}:8000"),
        incarnation: id * 11,
        version: "0.1.0".into(),
    }
}

fn table(name: &str, placement: &str, split_keys: &[&'static str]) -> NewTable {
    let placement = Placement::parse(placement).expect("a placement");
    let split_keys = split_keys.iter().map(|k| Bytes::from(*k)).collect();
    NewTable { name: name.into(), placement, split_keys, gc_ttl: None, classic_commit: false }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> Reason {
    result.expect_err("a refusal").reason
}

#[test]
fn a_cluster_is_formed_once() {
    let mut shard = Shard0::formed();
    let view = shard.view();
    assert_eq!(view.cluster().map(|c| &c.record), Some(&cluster()));
    assert_eq!(view.nodes().map(|n| n.record.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(view.next_id().map(|n| n.record), Some(1));
    assert_eq!(view.stamp(), shard.last_ts);
    let again = form_cluster(shard.id(), NewCluster { cluster: cluster(), nodes: vec![node(4, "us-east")] });
    assert_eq!(reason(shard.apply(&again)), Reason::PreconditionFailed);
    assert_eq!(shard.view().nodes().count(), 3);
}

#[test]
fn before_a_cluster_is_formed_nothing_joins_and_no_table_is_made() {
    let shard = Shard0::new();
    assert_eq!(reason(register_node(&shard.view(), shard.id(), node(1, "us-east"))), Reason::NoQuorum);
    assert_eq!(reason(create_table(&shard.view(), shard.id(), table("t", "global", &[]))), Reason::NoQuorum);
}

#[test]
fn nodes_join_come_back_and_are_not_replaced() {
    let mut shard = Shard0::formed();
    let join = |shard: &Shard0, node| register_node(&shard.view(), shard.id(), node);
    let fourth = join(&shard, node(4, "eu-west")).unwrap().expect("a change");
    shard.apply(&fourth).unwrap();
    assert_eq!(shard.view().node(NodeId(4)).unwrap().record, node(4, "eu-west"));
    assert_eq!(join(&shard, node(4, "eu-west")), Ok(None), "nothing to change");

    let moved = Node { grpc_address: "elsewhere:7000".into(), version: "0.2.0".into(), ..node(4, "eu-west") };
    let update = join(&shard, moved.clone()).unwrap().expect("a change");
    shard.apply(&update).unwrap();
    assert_eq!(shard.view().node(NodeId(4)).unwrap().record, moved);

    let other_data = Node { incarnation: 1, ..node(4, "eu-west") };
    assert_eq!(reason(join(&shard, other_data)), Reason::BadRequest);
    assert_eq!(reason(join(&shard, node(4, "us-east"))), Reason::BadRequest, "its replicas are where it was");
    assert_eq!(reason(join(&shard, Node { zone: "b".into(), ..moved })), Reason::BadRequest);
    assert_eq!(reason(join(&shard, node(5, "mars"))), Reason::BadRequest);
    assert_eq!(reason(join(&shard, node(0, "us-east"))), Reason::BadRequest);
}

#[test]
fn tables_get_numbers_shards_and_places() {
    let mut shard = Shard0::formed();
    let created = shard.create(table("accounts", "global:eu-west", &["g", "p"])).unwrap();
    let view = shard.view();
    assert_eq!(view.table("accounts").map(Arc::as_ref), Some(&created), "what was announced is what is recorded");
    assert_eq!(created.id, TableId(1));
    assert_eq!(created.shards.iter().map(|s| s.id.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(view.next_id().unwrap().record, 5);
    for shard in &created.shards {
        assert_eq!((shard.preferred_leader, shard.voters().count()), (NodeId(2), 3));
        assert_eq!(shard.replica(NodeId(2)).unwrap().address, "host2:7000");
        assert_eq!(shard.quorum_rtt(view.rtts(), NodeId(2)), Some(Duration::from_millis(70)));
    }
    let second = shard.create(table("local", "regional:us-east", &[])).unwrap();
    assert_eq!((second.id, second.shards[0].id), (TableId(5), ShardId(6)));
    assert_eq!(second.shards[0].voters().map(|r| r.node.0).collect::<Vec<_>>(), [1]);
    assert_eq!(shard.view().shards_on(NodeId(3)).count(), 4, "a learner of the regional table too");
}

#[test]
fn keys_and_ranges_find_their_shards() {
    let mut shard = Shard0::formed();
    shard.create(table("t", "global", &["g", "p"])).unwrap();
    let view = shard.view();
    let id = view.table("t").unwrap().id;
    let at = |key: &[u8]| view.shard_for_key(id, key).unwrap().id.0;
    assert_eq!([at(b""), at(b"fz"), at(b"g"), at(b"oz"), at(b"p"), at(b"\xff")], [2, 2, 3, 3, 4, 4]);
    let over = |start: &'static str, end: Option<&'static str>| {
        let range = KeyRange::new(start.into(), end.map(Into::into)).unwrap();
        view.shards_for_range(id, &range).iter().map(|s| s.id.0).collect::<Vec<_>>()
    };
    assert_eq!(over("", None), [2, 3, 4]);
    assert_eq!(over("g", Some("p")), [3]);
    assert_eq!(over("f", Some("g\0")), [2, 3]);
    assert_eq!(view.shard_for_key(TableId(99), b"a"), None);
    assert_eq!(view.shards_for_range(TableId(99), &KeyRange::all()).len(), 0);
}

#[test]
fn bad_tables_are_refused() {
    let mut shard = Shard0::formed();
    shard.create(table("taken", "global", &[])).unwrap();
    let long = "x".repeat(TABLE_NAME_BYTES_MAX + 1);
    let many: Vec<_> = (0..SHARDS_MAX as u32).map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
    let big_key = Bytes::from(vec![1; 5000]);
    let cases = [
        (table("taken", "global", &[]), Reason::TableExists),
        (table("", "global", &[]), Reason::BadRequest),
        (table("a/b", "global", &[]), Reason::BadRequest),
        (table("ä", "global", &[]), Reason::BadRequest),
        (table(&long, "global", &[]), Reason::BadRequest),
        (table("t", "global", &["b", "a"]), Reason::BadRequest),
        (table("t", "global", &["a", "a"]), Reason::BadRequest),
        (table("t", "global", &[""]), Reason::BadRequest),
        (NewTable { split_keys: vec![big_key], ..table("t", "global", &[]) }, Reason::KeyTooLarge),
        (NewTable { gc_ttl: Some(Duration::from_millis(999)), ..table("t", "global", &[]) }, Reason::BadRequest),
        (NewTable { split_keys: many, ..table("t", "global", &[]) }, Reason::BadRequest),
        (table("t", "regional:mars", &[]), Reason::BadPlacement),
    ];
    for (new, expected) in cases {
        let name = format!("{:?} {} {} split keys", new.name, new.placement, new.split_keys.len());
        assert_eq!(reason(shard.create(new)), expected, "{name}");
    }
    assert_eq!(shard.view().tables().count(), 1);
}

#[test]
fn of_two_changes_planned_on_one_view_one_is_refused() {
    let mut shard = Shard0::formed();
    let view = shard.view();
    let change = |sequence, name| {
        let id = RequestId { time: Timestamp(START), client: 2, sequence };
        create_table(&view, id, table(name, "global", &["m"])).unwrap().0
    };
    let (first, second, namesake) = (change(1, "a"), change(2, "b"), change(3, "a"));
    shard.apply(&first).unwrap();
    assert_eq!(reason(shard.apply(&second)), Reason::PreconditionFailed, "both would take the same numbers");
    assert_eq!(reason(shard.apply(&namesake)), Reason::PreconditionFailed);
    // Planned again on the newer view it goes through, with numbers of its own.
    let b = shard.create(table("b", "global", &["m"])).unwrap();
    assert_eq!((b.id, shard.view().shards().count()), (TableId(4), 4));
    // A node that changes its address between plan and apply makes the plan stale too.
    let (stale, _) = create_table(&shard.view(), shard.id(), table("c", "global", &[])).unwrap();
    let moved = Node { grpc_address: "elsewhere:7000".into(), ..node(3, "ap-northeast") };
    let update = register_node(&shard.view(), RequestId { sequence: 0, ..shard.id() }, moved).unwrap().unwrap();
    shard.apply(&update).unwrap();
    assert_eq!(reason(shard.apply(&stale)), Reason::PreconditionFailed);
}

#[test]
fn a_dropped_table_is_gone_and_its_numbers_stay_used() {
    let mut shard = Shard0::formed();
    shard.create(table("t", "global", &[])).unwrap();
    let before = shard.view();
    let drop = drop_table(&before, shard.id(), "t").unwrap();
    shard.apply(&drop).unwrap();
    let view = shard.view();
    assert_eq!((view.table("t"), view.shards().count()), (None, 0));
    assert_eq!(view.stamp(), shard.last_ts, "a view's stamp counts what was removed");
    assert!(before.table("t").is_some(), "an old view stays what it was");
    assert_eq!(reason(drop_table(&view, shard.id(), "t")), Reason::UnknownTable);
    assert_eq!(shard.create(table("t", "global", &[])).unwrap().id, TableId(3));
}

#[tokio::test]
async fn followers_are_told_of_changes_only() {
    let mut shard = Shard0::formed();
    let mut newest = shard.catalog.subscribe();
    newest.mark_unchanged();
    assert!(!shard.catalog.refresh(&shard.store.data.view()).unwrap());
    assert!(!newest.has_changed().unwrap());
    shard.create(table("t", "global", &[])).unwrap();
    newest.changed().await.unwrap();
    assert!(newest.borrow().table("t").is_some());
}

#[test]
fn tables_are_described_with_leaders_and_floors() {
    let mut shard = Shard0::formed();
    let created = shard.create(table("t", "global:us-east", &["m"])).unwrap();
    let leader = |shard| (shard == ShardId(2)).then_some(NodeId(3));
    let described = table_to_proto(&created, shard.view().rtts(), leader);
    let shards: Vec<_> =
        described.shards.iter().map(|s| (s.id, s.leader, s.preferred_leader, s.quorum_rtt_ns / 1_000_000)).collect();
    assert_eq!(shards, [(2, 3, 1, 140), (3, 0, 1, 70)], "the quorum RTT is the actual leader's if it is known");
    assert_eq!(described.shards[0].end, described.shards[1].start);
    assert_eq!(described.shards[0].replicas.iter().filter(|r| r.voter).count(), 3);
}
