//! What a voter whose Raft is built anew keeps of what it has promised (rule R3).

use super::{Replica, ReplicaOptions};
use crate::apply::StateMachine;
use crate::early::Acceptances;
use crate::hazards::Nothing;
use crate::heartbeats::Heartbeats;
use crate::memory::NodeMemory;
use crate::peers::Peers;
use crate::raft_types::Member;
use crate::snapshot::{BYTES_PER_SECOND_DEFAULT, Transfers};
use meridian_clock::{Clock, FixedSource, Mono};
use meridian_storage::{Store, StoreOptions};
use meridian_types::{KeyRange, MEMORY_MIN, MemoryBudget, NodeId, RaftTiming, ShardId, TableId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const SHARD: ShardId = ShardId(4);
const SHORT: RaftTiming = RaftTiming { heartbeat_ms: 40, election_min_ms: 100, election_max_ms: 200 };
const LONG: RaftTiming = RaftTiming { heartbeat_ms: 40, election_min_ms: 100, election_max_ms: 700 };

/// The only voter of a group that was created with `timing`.
async fn open(store: &Store, timing: RaftTiming) -> Arc<Replica> {
    let (me, machine): (_, Arc<dyn StateMachine>) = (NodeId(1), Arc::new(Nothing));
    let clock = Clock::with_source(Arc::new(FixedSource::new(Duration::from_millis(1))));
    let peers = Peers::new(me, BTreeMap::new(), meridian_transport::tcp());
    let options = ReplicaOptions {
        cluster: "c".into(),
        shard: SHARD,
        table: TableId(4),
        range: KeyRange::all(),
        timing,
        max_offset: Duration::from_millis(500),
        heartbeats: Heartbeats::new("c".into(), peers.clone(), clock.clone()),
        clock,
        peers,
        store: store.clone(),
        machine,
        memory: NodeMemory::new(MemoryBudget::of(MEMORY_MIN).unwrap()),
        transfers: Transfers::new(BYTES_PER_SECOND_DEFAULT),
        acceptances: Acceptances::new(me),
    };
    let replica = Replica::open(options).await.unwrap();
    replica.form([(me, Member::default())].into()).await.unwrap();
    replica
}

fn store(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "waited until {what}");
}

async fn leads(replica: &Arc<Replica>) {
    until("it leads", || replica.is_leader()).await;
}

/// Has the group agree on other timers, and takes them over as a follower would.
async fn take_over(replica: &Arc<Replica>, timing: RaftTiming) -> Mono {
    leads(replica).await;
    assert!(!replica.rebuild().await.unwrap(), "it leads");
    replica.change_timing(timing).unwrap();
    until("they are agreed on", || replica.agreed_timing() == timing).await;
    replica.end_tasks();
    replica.set_leadership(None);
    let began = Mono::now();
    assert!(replica.is_outdated() && replica.rebuild().await.unwrap());
    assert!(!replica.is_outdated() && replica.timing() == timing);
    began
}

/// Waits until it may vote again; for how long it might not.
async fn held(replica: &Arc<Replica>, since: Mono) -> Duration {
    until("it may vote", || replica.may_vote()).await;
    since.elapsed()
}

fn noted(store: &Store) -> Option<Duration> {
    store.raft.shard(SHARD).promise().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longer_promise_is_kept_in_both_directions() {
    for (created, to) in [(LONG, SHORT), (SHORT, LONG)] {
        let dir = TempDir::new().unwrap();
        let store = store(dir.path());
        let replica = open(&store, created).await;
        leads(&replica).await;
        assert_eq!(noted(&store), None, "it has promised what it was created with");
        let began = take_over(&replica, to).await;
        assert_eq!(noted(&store), Some(LONG.promise()), "durable before anybody can be promised that");
        assert!(held(&replica, began).await >= LONG.promise());
        until("the note says what it promises now", || noted(&store) == Some(to.promise())).await;
        // It takes part again, with what it had.
        leads(&replica).await;
        assert_eq!(replica.agreed_timing(), to);
        replica.stop().await;
        assert!(replica.rebuild().await.is_err(), "stopped for good");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_no_promise() {
    let dir = TempDir::new().unwrap();
    {
        let store = store(dir.path());
        let replica = open(&store, LONG).await;
        take_over(&replica, SHORT).await;
        // While it still keeps the longer one.
        replica.stop().await;
        assert_eq!(noted(&store), Some(LONG.promise()));
        let closed = store.on_close();
        drop((replica, store));
        closed.wait().await;
    }
    let store = store(dir.path());
    let began = Mono::now();
    let replica = open(&store, LONG).await;
    assert_eq!((replica.timing(), replica.created_timing()), (SHORT, LONG));
    assert!(held(&replica, began).await >= LONG.promise());
    until("it need not be known any more", || noted(&store) == Some(SHORT.promise())).await;
    replica.stop().await;
    drop(replica);
    let began = Mono::now();
    let replica = open(&store, LONG).await;
    assert!(held(&replica, began).await >= SHORT.promise());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_at_the_replica_waits_on() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let replica = open(&store, SHORT).await;
    leads(&replica).await;
    let applied = replica.safe_time().applied();
    // As late as the barrier of the next leadership.
    let later = replica.clock().now().latest.plus(LONG.promise() / 2);
    let waiting = replica.clone();
    let waiter = tokio::spawn(async move { waiting.safe_time().wait_applied(later).await });
    take_over(&replica, LONG).await;
    assert!(replica.view().is_some() && replica.safe_time().applied() >= applied);
    tokio::time::timeout(Duration::from_secs(60), waiter).await.expect("what comes later is applied").unwrap();
    leads(&replica).await;
    replica.stop().await;
}
