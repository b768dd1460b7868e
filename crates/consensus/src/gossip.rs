//! What every node tells every other one, all the time: closed timestamps, clock readings, round trips.
//!
//! One stream per ordered pair of nodes, one message per interval for all shards that are written to or have a lead time,
//! and now and then for all. What a message says is true for ever, so losing, doubling or reordering messages is harmless
//! (rule C4): nothing is ever implied by what is missing.

use crate::peers::{Class, Peers};
use crate::replicas::Replicas;
use crate::sequencer::Closed;
use meridian_clock::{Clock, Exchange, Mono, PeerClocks};
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::peer_client::PeerClient;
use meridian_storage::{DiskLevel, DiskSpace};
use meridian_types::{Interval, LeaderId, NodeId, ShardId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Usual time between two messages: the part of staleness that is not the speed of light.
pub const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);
/// Shards that nobody writes to are published once in so many intervals: the rest of the messages is not worth what a
/// thousand of them would cost. Not those with a lead time: their readers need a promise beyond their own clocks at any time.
const QUIET_INTERVALS: u64 = 5;
/// A shard is quiet when its leader has stamped nothing for this long.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// Time between looks at the list of nodes, and pause before a broken stream is opened again.
const PEERS_INTERVAL: Duration = Duration::from_millis(250);
/// Round trips remembered per peer; the smallest is reported.
const RTTS_KEPT: usize = 64;
/// Round trips to others are told with one message in so many.
const RTTS_EVERY: u64 = 25;
/// Of how many others a node's round trips are kept.
const RTTS_TOLD_MAX: usize = 1_024;
/// Messages sent and not answered that are remembered.
const SENT_KEPT: usize = 1_024;

#[derive(Default)]
struct Peer {
    sent: VecDeque<(u64, Mono, Interval)>,
    rtts: VecDeque<Duration>,
    /// When it answered last.
    answered: Option<Mono>,
    /// How wide its clock's interval was when it answered last.
    clock_width: Option<Duration>,
    /// As it said last.
    disk_full: bool,
    /// Its own round trips to others, as it told last.
    told: BTreeMap<NodeId, Rtts>,
}

impl Peer {
    /// What so many of ten recent round trips stayed below.
    fn rtt_of_ten(&self, tenths: usize) -> Option<Duration> {
        let mut rtts: Vec<Duration> = self.rtts.iter().copied().collect();
        rtts.sort_unstable();
        rtts.get(rtts.len().checked_sub(1)? * tenths / 10).copied()
    }

    fn measured(&self) -> Option<Rtts> {
        Some(Rtts { median: self.rtt_of_ten(5)?, usual: self.rtt_of_ten(9)? })
    }
}

/// Recent round trips between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rtts {
    /// What half of them stayed below.
    pub median: Duration,
    /// What nine of ten stayed below.
    pub usual: Duration,
}

struct Inner {
    replicas: Replicas,
    peers: Peers,
    clock: Clock,
    interval: Duration,
    space: DiskSpace,
    state: Mutex<BTreeMap<NodeId, Peer>>,
    clocks: Mutex<PeerClocks>,
}

/// The gossip of one node. Clones share it.
#[derive(Clone)]
pub struct Gossip {
    inner: Arc<Inner>,
}

impl Gossip {
    /// For this node's replicas; publishes at every `interval`, also how full the disk is.
    pub fn new(replicas: Replicas, peers: Peers, clock: Clock, space: DiskSpace, interval: Duration) -> Self {
        let (state, clocks) = (Mutex::default(), Mutex::new(PeerClocks::default()));
        let inner = Inner { replicas, peers, clock, interval, space, state, clocks };
        Self { inner: Arc::new(inner) }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The smallest of the recent round trips to a node; `None` until it has answered.
    pub fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.state().get(&node)?.rtts.iter().min().copied()
    }

    /// How long ago a node has answered last; `None` until it has. Messages go out at every fifth interval at least.
    pub fn silence(&self, node: NodeId) -> Option<Duration> {
        Some(self.state().get(&node)?.answered?.elapsed())
    }

    /// What nine of ten recent round trips to a node stayed below; `None` until it has answered.
    pub fn usual_rtt(&self, node: NodeId) -> Option<Duration> {
        self.state().get(&node)?.rtt_of_ten(9)
    }

    /// Recent round trips between two nodes: measured, if this one is one of them; else what both have told, whatever is
    /// longer. `None`: nothing is known.
    pub fn rtts_between(&self, a: NodeId, b: NodeId) -> Option<Rtts> {
        let state = self.state();
        let told = |from: NodeId, to: NodeId| {
            let peer = state.get(&from)?;
            if to == self.inner.peers.me() { peer.measured() } else { peer.told.get(&to).copied() }
        };
        let (there, back) = (told(a, b), told(b, a));
        let longer = |x: Rtts, y: Rtts| Rtts { median: x.median.max(y.median), usual: x.usual.max(y.usual) };
        there.zip(back).map(|(there, back)| longer(there, back)).or(there).or(back)
    }

    /// This node's round trips, for others.
    fn own_rtts(&self) -> Vec<pb::NodeRtt> {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let rtt = |(node, peer): (&NodeId, &Peer)| {
            let Rtts { median, usual } = peer.measured()?;
            Some(pb::NodeRtt { node: node.0, median_us: us(median), usual_us: us(usual) })
        };
        self.state().iter().filter_map(rtt).collect()
    }

    /// How wide a node's clock interval was when it answered last.
    pub fn clock_width(&self, node: NodeId) -> Option<Duration> {
        self.state().get(&node)?.clock_width
    }

    /// Usual time between two publications.
    pub fn interval(&self) -> Duration {
        self.inner.interval
    }

    /// Whether a node's disk is nearly full, by its last message or this node's own disk. It may have got room since.
    pub fn is_disk_full(&self, node: NodeId) -> bool {
        if node == self.inner.peers.me() {
            return self.inner.space.level() > DiskLevel::Enough;
        }
        self.state().get(&node).is_some_and(|peer| peer.disk_full)
    }

    /// Whether any other node has said last that its disk is nearly full.
    pub fn any_disk_full(&self) -> bool {
        self.state().values().any(|peer| peer.disk_full)
    }

    /// Publishes until the future is dropped: closes at every interval, and keeps a stream to every node known.
    pub async fn run(&self) {
        let (tx, rx) = watch::channel(Arc::new(Vec::new()));
        let mut streams: BTreeMap<NodeId, tokio::task::AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut publish = tokio::time::interval(self.inner.interval);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0_u64;
        let mut look = tokio::time::interval(PEERS_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = publish.tick() => {
                    let quiet_too = ticks.is_multiple_of(QUIET_INTERVALS);
                    ticks += 1;
                    let closed = self.close(quiet_too);
                    if quiet_too || !closed.is_empty() {
                        tx.send_replace(Arc::new(closed));
                    }
                }
                _ = look.tick() => {
                    let others = self.inner.peers.others();
                    for (node, _) in &others {
                        let start = || tasks.spawn(self.clone().keep_stream(*node, rx.clone()));
                        streams.entry(*node).or_insert_with(start);
                    }
                    self.judge_clock(others.len() + 1);
                }
            }
        }
    }

    /// Closes at the shards that are written to or that are read ahead of the clock, or at all.
    fn close(&self, quiet_too: bool) -> Vec<pb::ClosedTimestamp> {
        let wanted =
            |r: &Arc<crate::Replica>| quiet_too || !r.lead_time().is_zero() || r.has_stamped_within(QUIET_AFTER);
        let closed = |r: Arc<crate::Replica>| r.close().map(|c| closed_to_pb(r.shard(), c));
        self.inner.replicas.all().into_iter().filter(wanted).filter_map(closed).collect()
    }

    /// A clock that is apart from those of most nodes is not to be trusted (rule W3).
    fn judge_clock(&self, nodes: usize) {
        let verdict = {
            let clocks = self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner);
            clocks.judge(nodes, Mono::now(), self.inner.clock.moved_at())
        };
        self.inner.clock.heed(&verdict);
    }

    async fn keep_stream(self, node: NodeId, rx: watch::Receiver<Arc<Vec<pb::ClosedTimestamp>>>) {
        loop {
            if let Err(e) = self.stream(node, rx.clone()).await {
                tracing::debug!(%node, "gossip stream ended: {e}");
            }
            tokio::time::sleep(PEERS_INTERVAL).await;
        }
    }

    async fn stream(
        &self,
        node: NodeId,
        mut rx: watch::Receiver<Arc<Vec<pb::ClosedTimestamp>>>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let channel = self.inner.peers.channel(node, Class::Control)?;
        let (tx, messages) = mpsc::channel(4);
        let mut client = PeerClient::new(channel);
        let this = self.clone();
        let sender = async move {
            for sequence in 0.. {
                let begun = Mono::now();
                let Ok(now) = this.inner.clock.reading() else { break };
                this.sent(node, sequence, begun, now);
                let message = pb::GossipMessage {
                    target: Some(this.target(node)),
                    sequence,
                    earliest: now.earliest.0,
                    latest: now.latest.0,
                    closed: rx.borrow_and_update().as_ref().clone(),
                    disk_full: this.inner.space.level() > DiskLevel::Enough,
                    rtts: if sequence.is_multiple_of(RTTS_EVERY) { this.own_rtts() } else { Vec::new() },
                };
                if tx.send(message).await.is_err() || rx.changed().await.is_err() {
                    break;
                }
            }
        };
        let receiver = async {
            let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
            let mut acks = client.gossip(messages).await?.into_inner();
            while let Some(ack) = acks.message().await? {
                self.acknowledged(node, &ack);
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = sender => Ok(()),
            ended = receiver => ended,
        }
    }

    fn target(&self, to: NodeId) -> pb::Target {
        let cluster_id = self.inner.replicas.cluster().to_string();
        pb::Target { cluster_id, from: self.inner.peers.me().0, to: to.0, shard: 0 }
    }

    fn sent(&self, node: NodeId, sequence: u64, begun: Mono, now: Interval) {
        let mut state = self.state();
        let peer = state.entry(node).or_default();
        if sequence == 0 {
            peer.sent.clear();
        }
        peer.sent.push_back((sequence, begun, now));
        if peer.sent.len() > SENT_KEPT {
            peer.sent.pop_front();
        }
    }

    fn acknowledged(&self, node: NodeId, ack: &pb::GossipAck) {
        let Ok(received) = self.inner.clock.reading() else { return };
        let (begun, sent) = {
            let mut state = self.state();
            let peer = state.entry(node).or_default();
            while peer.sent.front().is_some_and(|(s, ..)| *s < ack.sequence) {
                peer.sent.pop_front();
            }
            let Some((_, begun, sent)) = peer.sent.pop_front().filter(|(s, ..)| *s == ack.sequence) else { return };
            let now = Mono::now();
            peer.answered = Some(now);
            peer.clock_width = Some(Timestamp(ack.latest).since(Timestamp(ack.earliest)));
            peer.rtts.push_back(now.since(begun));
            if peer.rtts.len() > RTTS_KEPT {
                peer.rtts.pop_front();
            }
            (begun, sent)
        };
        let theirs = Interval { earliest: Timestamp(ack.earliest), latest: Timestamp(ack.latest) };
        let mut clocks = self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.record(node, Exchange { sent, theirs, received, begun, at: Mono::now() });
    }

    /// Takes in one message of another node, and answers it.
    ///
    /// An unreadable clock answers with the widest interval: it disagrees with nobody.
    pub fn receive(&self, message: &pb::GossipMessage) -> pb::GossipAck {
        if let Some(target) = &message.target {
            let mut state = self.state();
            let peer = state.entry(NodeId(target.from)).or_default();
            peer.disk_full = message.disk_full;
            if !message.rtts.is_empty() {
                let us = Duration::from_micros;
                let rtts = |r: &pb::NodeRtt| (NodeId(r.node), Rtts { median: us(r.median_us), usual: us(r.usual_us) });
                peer.told = message.rtts.iter().take(RTTS_TOLD_MAX).map(rtts).collect();
            }
        }
        for closed in &message.closed {
            let Some(leader) = closed.leader else { continue };
            if let Some(replica) = self.inner.replicas.get(ShardId(closed.shard)) {
                replica.observe_closed(Closed {
                    leader: LeaderId { term: leader.term, node: NodeId(leader.node) },
                    closed: Timestamp(closed.closed),
                    position: Timestamp(closed.position),
                });
            }
        }
        let widest = Interval { earliest: Timestamp::ZERO, latest: Timestamp::MAX };
        let now = self.inner.clock.reading().unwrap_or(widest);
        pb::GossipAck { sequence: message.sequence, earliest: now.earliest.0, latest: now.latest.0 }
    }
}

fn closed_to_pb(shard: ShardId, closed: Closed) -> pb::ClosedTimestamp {
    pb::ClosedTimestamp {
        shard: shard.0,
        leader: Some(pb::LeaderId { term: closed.leader.term, node: closed.leader.node.0 }),
        closed: closed.closed.0,
        position: closed.position.0,
    }
}
