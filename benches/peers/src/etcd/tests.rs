//! Against a real etcd, where one is installed.

use super::{EtcdCluster, EtcdSession, find_program};
use crate::session::Connection;
use bytes::Bytes;
use meridian_bench::{Request, Session as _};
use meridian_types::{Consistency, Reason};

/// A running cluster, or `None` and a message where there is no etcd.
async fn cluster(dir: &std::path::Path) -> Option<EtcdCluster> {
    match find_program(None) {
        Ok(program) => Some(EtcdCluster::start(&program, dir, 1).await.unwrap()),
        Err(error) => {
            eprintln!("SKIPPED, nothing was tested: {error}");
            None
        }
    }
}

fn session(cluster: &EtcdCluster, member: usize) -> EtcdSession {
    match &cluster.connections[member][0] {
        Connection::Etcd(client) => EtcdSession::new(client.clone()),
        Connection::Meridian(_) => panic!("an etcd cluster has etcd connections"),
    }
}

fn put(key: &str, value: &'static str) -> Request {
    Request::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into() }
}

fn get(key: &str) -> Request {
    Request::Get { key: Bytes::copy_from_slice(key.as_bytes()), consistency: Consistency::Linearizable }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_read_at_every_member_and_counted_as_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut cluster) = cluster(dir.path()).await else { return };
    let leader = cluster.leader().await.unwrap().expect("a cluster that is ready has a leader");
    let before = cluster.nodes.read().await.unwrap();

    let empty = session(&cluster, 0).call("", get("k")).await.unwrap();
    assert!(empty.rows.is_empty());
    let mut last = empty.timestamp;
    for (member, value) in [(leader, "a"), ((leader + 1) % 3, "b"), ((leader + 2) % 3, "c")] {
        let written = session(&cluster, member).call("", put("k", value)).await.unwrap();
        assert!(written.timestamp > last, "revisions grow: {written:?}");
        last = written.timestamp;
        for reader in 0..3 {
            let read = session(&cluster, reader).call("", get("k")).await.unwrap();
            assert_eq!(read.rows.len(), 1);
            assert_eq!((&read.rows[0].key[..], &read.rows[0].value[..]), (&b"k"[..], value.as_bytes()));
            assert_eq!(read.rows[0].version, written.timestamp);
        }
    }

    let after = cluster.nodes.read().await.unwrap();
    // Reading at every member has shown that each has all three writes; it takes the next one only after it has synced
    // the one before.
    for (before, after) in before.syncs.iter().zip(&after.syncs) {
        assert!(after >= &(before + 1.0), "{before} {after}");
    }
    assert_eq!(after.usage.len(), 3);
    assert!(after.usage.iter().all(|usage| usage.resident_bytes > 1 << 20));
    cluster.check().unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_comparison_has_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(cluster) = cluster(dir.path()).await else { return };
    let stale = Request::Get { key: "k".into(), consistency: Consistency::Local };
    let refused = session(&cluster, 0).call("", stale).await.unwrap_err();
    assert_eq!(refused.error.reason, Reason::BadRequest);
    cluster.stop().await;
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = find_program(Some(std::path::Path::new("/nonexistent/etcd"))).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/etcd"), "{error}");
}
