//! The format of keys and records. The bytes were written by the first build: a build that cannot read them cannot
//! read a catalog on disk.

use super::*;
use crate::timing::timing_for;
use meridian_types::Placement;

fn cluster() -> Record {
    let rtts = [("eu".into(), "us".into(), Duration::from_millis(70))].into_iter().collect();
    Record::Cluster(Cluster {
        id: "c".into(),
        rtts,
        timing: RaftTiming { heartbeat_ms: 300, election_min_ms: 900, election_max_ms: 1800 },
        max_clock_offset: Duration::from_millis(250),
    })
}

fn node() -> Record {
    Record::Node(Node {
        id: NodeId(7),
        region: "eu".into(),
        zone: "a".into(),
        grpc_address: "h:1".into(),
        http_address: "h:2".into(),
        incarnation: 9,
        version: "0".into(),
    })
}

fn table() -> Table {
    let replica = |node, voter| Replica { node: NodeId(node), region: "eu".into(), address: "h:1".into(), voter };
    let shard = |id, start: &'static str, end: Option<&'static str>| {
        Arc::new(Shard {
            id: ShardId(id),
            table: TableId(4),
            range: KeyRange::new(start.into(), end.map(Into::into)).unwrap(),
            replicas: vec![replica(7, true), replica(8, false)],
            preferred_leader: NodeId(7),
            timing: timing_for(Duration::ZERO),
        })
    };
    Table {
        id: TableId(4),
        name: "t".into(),
        placement: Placement::Regional { home: "eu".into() },
        shards: vec![shard(5, "", Some("m")), shard(6, "m", None)],
        gc_ttl: Duration::from_secs(60),
        classic_commit: false,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_formats_are_fixed() {
    let fixtures = [
        (cluster(), "cluster", "0a0163120d0a026575120275731880bbb0211a0908ac0210840718880e2080e59a77"),
        (Record::NextId(300), "next_id", "08ac02"),
        (node(), "node/00000000000000000007", "0807120265751a01612203683a312a03683a323109000000000000003a0130"),
        (
            Record::Table(table()),
            "table/t",
            "08041201741a0612040a026575223108051a016d220f0a0b0807120265751a03683a311001220d0a0b0808120265751a03683a3128073208086410ac0218d8042231080612016d220f0a0b0807120265751a03683a311001220d0a0b0808120265751a03683a3128073208086410ac0218d8042880b09dc2df01",
        ),
    ];
    for (record, key, value) in fixtures {
        assert_eq!(record.key(), key);
        assert_eq!(hex(&record.encode()), value, "{key}");
        assert_eq!(Record::decode(key.as_bytes(), &record.encode()).unwrap(), Some(record));
    }
}

#[test]
fn keys_of_later_builds_are_left_alone() {
    for key in ["principal/x", "", "clusters"] {
        assert_eq!(Record::decode(key.as_bytes(), b"whatever").unwrap(), None, "{key}");
    }
    assert_eq!(Record::decode(b"\xff", b"").unwrap(), None);
}

#[test]
fn impossible_records_are_refused() {
    let table = |change: fn(&mut wire::TableRecord)| {
        let mut record = encode_table(&table());
        change(&mut record);
        (table_key(&record.name), record.encode_to_vec())
    };
    let cases = [
        ("gap", table(|t| t.shards[1].start = "n".into())),
        ("no first shard", table(|t| drop(t.shards.remove(0)))),
        ("no last shard", table(|t| drop(t.shards.remove(1)))),
        ("no shards", table(|t| t.shards.clear())),
        ("placement", table(|t| t.placement = None)),
        ("timing", table(|t| t.shards[0].timing = None)),
        ("a learner leads", table(|t| t.shards[0].preferred_leader = 8)),
        ("member", table(|t| t.shards[0].replicas[0].member = None)),
        ("another node's key", (node_key(NodeId(8)), node().encode().to_vec())),
        ("another table's key", (table_key("u"), Record::Table(self::table()).encode().to_vec())),
        ("cluster without timing", (cluster_key(), Vec::new())),
        ("no message", (next_id_key(), vec![0xff])),
    ];
    for (name, (key, value)) in cases {
        let error = Record::decode(&key, &value).expect_err(name);
        assert!(error.to_string().contains("catalog record"), "{name}: {error}");
    }
}
