//! Heartbeats: how a leader hears from its followers while nobody writes.
//!
//! openraft beats for each group and follower by itself, one beat at a time. A node with a thousand shards would make tens
//! of thousands of calls a second that all say the same, and where the interval is shorter than the round trip a leader
//! locks itself out. So the beats are Meridian's own:
//!
//! * A node beats for all the shards that it leads at the same instants, so that the beats for a node travel together: one
//!   stream per ordered pair of nodes, one message per interval ([`Heartbeats`]).
//! * A beat does not wait for the one before it: the interval does not depend on the distance. Each one's send instant is
//!   credited when that very one is answered (rule R1, [`pulse`]).
//! * A follower's Raft takes a beat in as an append without entries ([`answer`]), so the promise behind the answer is the
//!   one that Raft keeps (rule R3).
//! * A beat says up to where the log is committed, when that has changed: the message that told of the last commit may have
//!   been lost, and while nobody writes there is no other.
//! * openraft's own beats go nowhere: they are answered with what the follower has answered lately. It asks when there are
//!   news that it needs, and uses them to refuse proposals of a leader that nobody answers; no lease rests on them.
//!
//! Beats end when a transfer of the leadership begins (rule R4): they would keep the voters from electing another, should
//! the one that was chosen be gone.

pub(crate) mod answer;
pub(crate) mod pulse;

use crate::codec::known_leader_to_pb;
use crate::lease::Moment;
use crate::peers::{Class, MESSAGE_BYTES_MAX, Peers};
use crate::raft_types::Raft;
use crate::replicas::Replicas;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use meridian_clock::{Clock, Mono, sleep};
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::raft_client::RaftClient;
use meridian_transport::{Calls, Failed, Incoming, Outgoing, Sending};
use meridian_types::{LeaderId, LogId, NodeId, RaftTiming, ShardId};
use pulse::Pulse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tonic::{Code, Status};

/// An answer that took longer proves nothing any more, and a stream on which nothing is answered for as long is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Time between looks for shards that are led, while there are none.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A beat's size in a message, about.
const BEAT_BYTES: usize = 24;
/// How long a node that does not know these beats is taken not to: it may be replaced by a newer one.
const OLDER_FOR: Duration = Duration::from_secs(10);

/// Who leads a shard, and what is committed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) leader: LeaderId,
    pub(crate) committed: Option<LogId>,
}

type Beat = (ShardId, State);
type Link = Calls<Beat, Option<pb::AppendReply>>;

/// What beats for one replica. Clones share it.
#[derive(Clone)]
pub(crate) struct Beater {
    heartbeats: Heartbeats,
    pulse: Arc<Pulse>,
    /// Has openraft ask what the followers have answered.
    ask: Arc<dyn Fn() + Send + Sync>,
}

impl Beater {
    pub(crate) fn new(heartbeats: Heartbeats, pulse: Arc<Pulse>, raft: Raft) -> Self {
        // If openraft has too much to do to be asked, it is next time.
        let ask = move || drop(raft.trigger().heartbeat().now_or_never());
        Self { heartbeats, pulse, ask: Arc::new(ask) }
    }

    /// Beats now.
    pub(crate) fn beat(&self, state: State, followers: impl IntoIterator<Item = NodeId>) {
        for to in followers {
            self.heartbeats.send(to, vec![(self.clone(), state)]);
        }
    }

    /// Whether one of these nodes is left to openraft's own beats.
    pub(crate) fn any_older(&self, nodes: &[NodeId]) -> bool {
        nodes.iter().any(|node| self.heartbeats.is_older(*node))
    }

    fn answered(&self, from: NodeId, leader: LeaderId, sent: Moment, reply: pb::AppendReply) {
        if self.pulse.answered(from, leader, sent, reply) {
            (self.ask)();
        }
    }
}

struct Inner {
    peers: Peers,
    cluster: Arc<str>,
    clock: Clock,
    links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    /// Nodes that do not know these beats, and when they said so.
    older: Mutex<BTreeMap<NodeId, Mono>>,
}

/// The heartbeats of one node. Clones share them.
#[derive(Clone)]
pub struct Heartbeats {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Heartbeats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeats").finish_non_exhaustive()
    }
}

impl Heartbeats {
    /// None yet; [`run`](Self::run) beats.
    pub fn new(cluster: Arc<str>, peers: Peers, clock: Clock) -> Self {
        let (links, older) = (RwLock::default(), Mutex::default());
        Self { inner: Arc::new(Inner { peers, cluster, clock, links, older }) }
    }

    /// Beats for the shards that this node leads until the future is dropped.
    pub async fn run(&self, replicas: &Replicas) {
        let mut before = Mono::now();
        loop {
            let now = Mono::now();
            let mut due: BTreeMap<NodeId, Vec<(Beater, State)>> = BTreeMap::new();
            let mut next = now.plus(LOOK_INTERVAL);
            for replica in replicas.all() {
                let Some(state) = replica.beats_as() else { continue };
                let timing = replica.timing();
                next = next.min(instant(beat_of(now, &timing) + 1, &timing));
                if beat_of(now, &timing) == beat_of(before, &timing) {
                    continue;
                }
                for to in replica.followers() {
                    due.entry(to).or_default().push((replica.beater(), state));
                }
            }
            for (to, beats) in due {
                self.send(to, beats);
            }
            before = now;
            sleep(next.since(Mono::now())).await;
        }
    }

    /// Whether a node has said lately that it does not know these beats.
    pub(crate) fn is_older(&self, node: NodeId) -> bool {
        let older = self.inner.older.lock().unwrap_or_else(PoisonError::into_inner);
        older.get(&node).is_some_and(|said| said.elapsed() < OLDER_FOR)
    }

    /// Sends beats to a node, and has each credited when it is answered.
    fn send(&self, to: NodeId, beats: Vec<(Beater, State)>) {
        if self.is_older(to) {
            return;
        }
        let (this, link) = (self.clone(), self.link(to));
        // Sampled before any of them can reach the wire: an earlier instant claims less.
        let sent = Moment::now(&self.inner.clock);
        let asked = beats.into_iter().map(move |(beater, state)| {
            let (this, link) = (this.clone(), link.clone());
            async move {
                match link.call((beater.pulse.shard(), state), BEAT_BYTES).await {
                    Ok(Some(reply)) => beater.answered(to, state.leader, sent, reply),
                    // No such replica there (yet).
                    Ok(None) => {}
                    Err(Failed::Lost(status) | Failed::NotSent(status)) if status.code() == Code::Unimplemented => {
                        let mut older = this.inner.older.lock().unwrap_or_else(PoisonError::into_inner);
                        older.insert(to, Mono::now());
                    }
                    Err(Failed::Lost(_) | Failed::NotSent(_)) => {}
                }
            }
        });
        let mut answers: FuturesUnordered<_> = asked.collect();
        let all = async move { while answers.next().await.is_some() {} };
        tokio::spawn(tokio::time::timeout(ANSWER_LIMIT, all));
    }

    fn link(&self, to: NodeId) -> Arc<Link> {
        if let Some(link) = self.inner.links.read().unwrap_or_else(PoisonError::into_inner).get(&to) {
            return link.clone();
        }
        let mut links = self.inner.links.write().unwrap_or_else(PoisonError::into_inner);
        let (peers, cluster) = (self.inner.peers.clone(), self.inner.cluster.clone());
        let open = move |out| open(peers.clone(), cluster.clone(), to, out);
        links.entry(to).or_insert_with(|| Arc::new(Calls::new(Some(ANSWER_LIMIT), open))).clone()
    }
}

/// The number of the last beat of shards with these timers, counted from the clock's beginning: all of them on a node that
/// have the same interval beat at the same instants.
fn beat_of(now: Mono, timing: &RaftTiming) -> u64 {
    now.0 / (timing.heartbeat_ms.max(1) * 1_000_000)
}

/// When that beat is due.
fn instant(beat: u64, timing: &RaftTiming) -> Mono {
    Mono(beat.saturating_mul(timing.heartbeat_ms.max(1) * 1_000_000))
}

async fn open(
    peers: Peers,
    cluster: Arc<str>,
    to: NodeId,
    outgoing: Outgoing<Beat, Option<pb::AppendReply>>,
) -> Result<Incoming<Option<pb::AppendReply>>, Status> {
    let channel = peers.channel(to, Class::Control)?;
    let mut client = RaftClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (from, mut said) = (peers.me(), BTreeMap::new());
    let batches = outgoing.map(move |sending| {
        let target = || pb::Target { cluster_id: cluster.to_string(), from: from.0, to: to.0, shard: 0 };
        let target = sending.first.then(target);
        batch(target, sending, &mut said)
    });
    let replies = client.beat(batches).await?.into_inner();
    Ok(replies.map(|message| Ok(message?.replies.into_iter().map(|r| (r.number, r.reply)).collect())).boxed())
}

/// One message. What was said of a shard is not said again until it changes; `said` is what was said last on this stream.
fn batch(target: Option<pb::Target>, sending: Sending<Beat>, said: &mut BTreeMap<ShardId, State>) -> pb::BeatBatch {
    let beats = sending.requests.into_iter().map(|(number, (shard, state))| {
        let before = said.insert(shard, state);
        let leader = Some(state.leader).filter(|leader| before.map(|b| b.leader) != Some(*leader));
        let committed = state.committed.filter(|id| before.and_then(|b| b.committed) != Some(*id));
        let committed = committed.map(|id| pb::LogId { leader: Some(known_leader_to_pb(id.leader)), index: id.index });
        pb::HeartBeat { number, shard: shard.0, leader: leader.map(known_leader_to_pb), committed }
    });
    pb::BeatBatch { target, beats: beats.collect(), dropped: sending.dropped }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::QuorumAcks;
    use crate::peers::PeerAddress;
    use meridian_clock::FixedSource;
    use meridian_transport::{BoxCall, Carry, Channel, Connect, Meter};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tonic::body::Body;
    use tonic::transport::Endpoint;

    /// A node to which no method is known.
    #[derive(Clone, Debug, Default)]
    struct Older(Arc<AtomicUsize>);

    impl Connect for Older {
        fn connect(&self, _: &Endpoint, _: &Meter) -> Channel {
            Channel::carried(Arc::new(self.clone()))
        }
    }

    impl Carry for Older {
        fn call(&self, _: tonic::codegen::http::Request<Body>) -> BoxCall {
            self.0.fetch_add(1, Ordering::Relaxed);
            let answer = Status::unimplemented("no such method").into_http();
            Box::pin(std::future::ready(Ok(answer)))
        }
    }

    #[tokio::test]
    async fn a_node_that_does_not_know_them_is_left_to_openraft() {
        let (older, to) = (Older::default(), NodeId(2));
        let peers = Peers::new(NodeId(1), BTreeMap::new(), Arc::new(older.clone()));
        peers.learn(to, PeerAddress { region: "eu".into(), address: "host:1".into() });
        let clock = Clock::with_source(Arc::new(FixedSource::new(Duration::from_millis(1))));
        let heartbeats = Heartbeats::new("c".into(), peers, clock.clone());
        let timing = RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 };
        let pulse =
            Arc::new(Pulse::new(ShardId(7), clock, Arc::new(QuorumAcks::new(NodeId(1), timing.promise())), &timing));
        let beater = Beater { heartbeats: heartbeats.clone(), pulse, ask: Arc::new(|| {}) };
        let state = State { leader: LeaderId { term: 3, node: NodeId(1) }, committed: None };
        assert!(!heartbeats.is_older(to));
        beater.beat(state, [to]);
        while !heartbeats.is_older(to) {
            tokio::task::yield_now().await;
        }
        let calls = older.0.load(Ordering::Relaxed);
        beater.beat(state, [to]);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(older.0.load(Ordering::Relaxed), calls, "it is not asked again for a while");
        assert!(!heartbeats.is_older(NodeId(3)));
    }

    #[test]
    fn who_leads_is_said_once() {
        let state = |term| State { leader: LeaderId { term, node: NodeId(1) }, committed: None };
        let mut said = BTreeMap::new();
        let mut batch = |requests: &[(u64, u64, u64)]| {
            let requests = requests.iter().map(|(n, shard, term)| (*n, (ShardId(*shard), state(*term)))).collect();
            let made = batch(None, Sending { first: false, requests, dropped: vec![] }, &mut said);
            made.beats.into_iter().map(|b| b.leader.map(|l| l.term)).collect::<Vec<_>>()
        };
        assert_eq!(batch(&[(1, 7, 3), (2, 8, 5)]), [Some(3), Some(5)]);
        assert_eq!(batch(&[(3, 7, 3), (4, 8, 6)]), [None, Some(6)]);
        assert_eq!(batch(&[(5, 8, 6), (6, 8, 5), (7, 8, 6)]), [None, Some(5), Some(6)], "whatever it was before");
    }

    #[test]
    fn what_is_committed_is_said_when_it_has_changed() {
        let leader = LeaderId { term: 3, node: NodeId(1) };
        let mut said = BTreeMap::new();
        let mut batch = |committed: Option<u64>| {
            let committed = committed.map(|index| LogId { leader, index });
            let requests = vec![(1, (ShardId(7), State { leader, committed }))];
            let made = batch(None, Sending { first: false, requests, dropped: vec![] }, &mut said);
            made.beats[0].committed.map(|id| id.index)
        };
        let asked = [None, Some(4), Some(4), Some(6), Some(6)];
        assert_eq!(asked.map(&mut batch), [None, Some(4), None, Some(6), None]);
    }

    #[test]
    fn shards_of_one_interval_beat_together() {
        let timing = RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 };
        let at = |ms: u64| Mono(ms * 1_000_000);
        assert_eq!(beat_of(at(1_234), &timing), 12);
        assert_eq!(instant(13, &timing), at(1_300));
        assert_eq!(beat_of(instant(13, &timing), &timing), 13, "due when it is due");
    }
}
