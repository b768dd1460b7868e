//! Transfers among three voters on loopback, with requests between them that get lost.

use super::{Replica, ReplicaOptions};
use crate::apply::StateMachine;
use crate::early::Acceptances;
use crate::hazards::Nothing;
use crate::heartbeats::Heartbeats;
use crate::memory::NodeMemory;
use crate::peers::{PeerAddress, Peers};
use crate::raft_types::Member;
use crate::replicas::Replicas;
use crate::service::RaftService;
use crate::snapshot::{BYTES_PER_SECOND_DEFAULT, Transfers};
use meridian_clock::{Clock, FixedSource};
use meridian_storage::{Store, StoreOptions};
use meridian_transport::{BoxCall, Carry, Channel, Connect, Meter, Tcp};
use meridian_types::{KeyRange, MEMORY_MIN, MemoryBudget, NodeId, RaftTiming, ShardId, TableId};
use openraft::async_runtime::watch::WatchReceiver as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::Request;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};

const SHARD: ShardId = ShardId(4);
const TIMING: RaftTiming = RaftTiming { heartbeat_ms: 100, election_min_ms: 1_000, election_max_ms: 3_000 };

/// TCP, on which calls of these methods are never answered.
#[derive(Clone, Debug, Default)]
struct Lossy(Arc<Mutex<BTreeSet<&'static str>>>);

impl Lossy {
    fn lose(&self, methods: &[&'static str]) {
        *self.0.lock().unwrap() = methods.iter().copied().collect();
    }
}

impl Connect for Lossy {
    fn connect(&self, endpoint: &Endpoint, meter: &Meter) -> Channel {
        Channel::carried(Arc::new(Line { to: Tcp.connect(endpoint, meter), lossy: self.clone() }))
    }
}

#[derive(Debug)]
struct Line {
    to: Channel,
    lossy: Lossy,
}

impl Carry for Line {
    fn call(&self, request: Request<Body>) -> BoxCall {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        if self.lossy.0.lock().unwrap().contains(method) {
            return Box::pin(std::future::pending());
        }
        let mut to = self.to.clone();
        Box::pin(async move {
            std::future::poll_fn(|cx| to.poll_ready(cx)).await?;
            to.call(request).await
        })
    }
}

/// Three voters; the first one leads.
struct Group {
    replicas: Vec<Arc<Replica>>,
    lossy: Lossy,
    _dir: TempDir,
}

impl Group {
    async fn start() -> Self {
        let (dir, lossy) = (TempDir::new().unwrap(), Lossy::default());
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let address = |l: &TcpListener| l.local_addr().unwrap().to_string();
        let members: BTreeMap<NodeId, Member> = (1..)
            .map(NodeId)
            .zip(listeners.iter().map(|l| Member { region: "eu".into(), address: address(l) }))
            .collect();
        let mut replicas = Vec::new();
        for (me, listener) in (1..).map(NodeId).zip(listeners) {
            let peers = Peers::new(me, BTreeMap::new(), Arc::new(lossy.clone()));
            for (id, member) in members.iter().filter(|(id, _)| **id != me) {
                peers.learn(*id, PeerAddress { region: "eu".into(), address: member.address.clone() });
            }
            replicas.push(open(me, peers, &dir, listener).await);
        }
        for replica in &replicas {
            replica.form(members.clone()).await.unwrap();
        }
        let group = Self { replicas, lossy, _dir: dir };
        let led = tokio::time::timeout(Duration::from_secs(60), group.have_the_first_lead()).await;
        assert!(led.is_ok(), "the first does not lead");
        group
    }

    /// Whoever is elected at first hands over; on a busy machine that may be one after another.
    async fn have_the_first_lead(&self) {
        let all_fit = || [2, 3].iter().all(|node| self.of(1).is_fit_to_lead(NodeId(*node)));
        while !all_fit() {
            if let Some(leader) = self.replicas.iter().find(|r| r.is_leader() && r.is_fit_to_lead(NodeId(1))) {
                // If it does not work it is tried again.
                let _ = leader.transfer_leader(NodeId(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn of(&self, node: usize) -> &Arc<Replica> {
        &self.replicas[node - 1]
    }

    /// Waits until every replica has applied what the last leader's barrier has behind it.
    async fn all_have_applied(&self, leader: usize) {
        let leadership = self.of(leader).leadership().unwrap();
        let open = tokio::time::timeout(Duration::from_secs(30), leadership.wait_open()).await;
        assert!(open.unwrap().is_ok());
        let applied = self.of(leader).applied_index();
        for node in 1..=3 {
            until("it is applied everywhere", || self.of(node).applied_index() >= applied).await;
        }
    }

    /// Waits until somebody leads in a later term, and all follow.
    async fn led_after(&self, term: u64) {
        let later = |r: &Arc<Replica>| r.leadership().is_some_and(|l| l.leader().term > term);
        until("somebody leads anew", || self.replicas.iter().any(later)).await;
        let leader = self.replicas.iter().position(later).unwrap() + 1;
        self.all_have_applied(leader).await;
    }

    async fn stop(self) {
        for replica in &self.replicas {
            replica.stop().await;
        }
    }
}

async fn open(me: NodeId, peers: Peers, dir: &TempDir, listener: TcpListener) -> Arc<Replica> {
    let (cluster, machine): (Arc<str>, Arc<dyn StateMachine>) = ("c".into(), Arc::new(Nothing));
    let clock = Clock::with_source(Arc::new(FixedSource::new(Duration::from_millis(1))));
    let heartbeats = Heartbeats::new(cluster.clone(), peers.clone(), clock.clone());
    let options = ReplicaOptions {
        cluster: cluster.clone(),
        shard: SHARD,
        table: TableId(4),
        range: KeyRange::all(),
        timing: TIMING,
        max_offset: Duration::from_millis(500),
        heartbeats: heartbeats.clone(),
        clock,
        peers,
        store: Store::open(&dir.path().join(me.to_string()), StoreOptions::default()).unwrap(),
        machine,
        memory: NodeMemory::new(MemoryBudget::of(MEMORY_MIN).unwrap()),
        transfers: Transfers::new(BYTES_PER_SECOND_DEFAULT),
        acceptances: Acceptances::new(me),
    };
    let replica = Replica::open(options).await.unwrap();
    let replicas = Replicas::new(me, cluster);
    replicas.insert(replica.clone());
    let server = Server::builder().add_service(RaftService::new(replicas.clone()));
    // Both end with the test's runtime.
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    tokio::spawn(async move { heartbeats.run(&replicas).await });
    replica
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "waited until {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_is_elected_though_nobody_answers_its_requests_for_votes() {
    let group = Group::start().await;
    let term = group.of(1).leadership().unwrap().leader().term;
    group.lossy.lose(&["Vote"]);
    group.of(1).transfer_leader(NodeId(2)).await.unwrap();
    until("the successor leads", || group.of(2).is_leader()).await;
    assert_eq!(group.of(2).leadership().unwrap().leader().term, term + 1, "its first candidacy");
    group.all_have_applied(2).await;
    // And back, with the third voter's support alone known beside.
    until("it is fit", || group.of(2).is_fit_to_lead(NodeId(1))).await;
    group.of(2).transfer_leader(NodeId(1)).await.unwrap();
    until("it leads again", || group.of(1).is_leader()).await;
    group.all_have_applied(1).await;
    group.stop().await;
}

/// The old leader has given its vote away, and the one it was given to does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_lost_costs_an_election_and_nothing_else() {
    let group = Group::start().await;
    let before = group.of(1).leadership().unwrap().leader();
    group.lossy.lose(&["TransferLeader"]);
    let called = tokio::time::timeout(Duration::from_millis(100), group.of(1).transfer_leader(NodeId(2)));
    assert!(called.await.is_err(), "nobody hears of it");
    group.lossy.lose(&[]);
    group.led_after(before.term).await;
    group.stop().await;
}

/// Requests follow the vote: whoever has voted for a successor presumes that it leads, and there they are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_voted_for_a_successor_presumes_that_it_leads() {
    let group = Group::start().await;
    // The successor has no vote but its own for now.
    let (first, second) = (group.of(1).clone(), group.of(2).clone());
    let from = first.leadership().unwrap().leader();
    let leader = crate::raft_types::RaftLeaderId { term: from.term, node_id: 1 };
    let last = first.raft().data_metrics().borrow_watched().last_log;
    let ballot = first.vote_ahead(&leader, NodeId(2), last).await.unwrap().unwrap();
    assert_eq!((ballot.leader.term, ballot.leader.node_id, ballot.last), (from.term + 1, 2, last));
    until("it leads no more", || !first.is_leader()).await;
    assert_eq!(first.presumed_leader(), Some(NodeId(2)));
    assert!(!second.is_leader());
    // Who asks it now waits, until it leads or a turn is over.
    second.call();
    let asked = second.clone();
    let waits = tokio::spawn(async move { asked.await_leadership(NodeId(1)).await });
    second.voted(NodeId(1), ballot);
    second.raft().trigger().elect(false).await.unwrap();
    waits.await.unwrap();
    group.led_after(from.term).await;
    group.stop().await;
}
