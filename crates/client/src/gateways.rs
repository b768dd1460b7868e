//! The gateways: which is nearest, which is down, and when it is back.
//!
//! The order is found once, when the client connects: gateways of the client's own region first, then by measured
//! round trip, then those that did not answer. An operation starts at the first that is not marked down; each
//! further attempt moves on to the next. A gateway is marked when the transport says that it is gone; a task
//! of its own then asks it until it answers, so that no operation pays for finding out.

use crate::pipeline::{Pipeline, pipeline};
use crate::{ClientConfig, Error, Gateway};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use meridian_clock::Mono;
use meridian_probe::machine;
use meridian_proto::v1::GetStatusRequest;
use meridian_proto::v1::cluster_client::ClusterClient;
use meridian_transport::{Channel, Connect, Meter};
use meridian_types::{Reason, RegionId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Endpoint;

/// HTTP/2 windows: the bandwidth-delay product of 1 Gbit/s over 250 ms, rounded up; a smaller window would make a
/// long scan wait for round trips.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// A connection that carries nothing is tested this often, and given up when the test is not answered in time.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// After the first gateway has answered, how long the others may take to be ranked by distance.
const RANKING_GRACE: Duration = Duration::from_millis(500);
/// Pauses between questions to a gateway that is down.
const REVIVAL_PAUSE_MIN: Duration = Duration::from_millis(100);
const REVIVAL_PAUSE_MAX: Duration = Duration::from_secs(2);

/// All gateways, nearest first.
#[derive(Debug)]
pub(crate) struct Gateways {
    ranked: Vec<Peer>,
    probe_timeout: Duration,
}

#[derive(Debug)]
struct Peer {
    address: String,
    region: Option<RegionId>,
    channel: Channel,
    /// Made when it is used.
    pipeline: OnceLock<Pipeline>,
    /// The gateway does not know the stream.
    calls_only: AtomicBool,
    down: AtomicBool,
}

/// What a probe of one gateway has found.
struct Probed {
    index: usize,
    region: Option<RegionId>,
    rtt: Duration,
}

impl Gateways {
    /// Asks all gateways at once and orders them.
    ///
    /// Errors: [`Reason::BadRequest`] for an address that is none, [`Reason::NoQuorum`] when no gateway answers.
    pub(crate) async fn connect(config: &ClientConfig, connect: &dyn Connect) -> Result<Arc<Self>, Error> {
        if config.gateways.is_empty() {
            return Err(Error::unsent(Reason::BadRequest, "no gateway was given; name at least one node's address"));
        }
        let mut peers = Vec::with_capacity(config.gateways.len());
        for gateway in &config.gateways {
            peers.push(Peer::new(gateway, config.connect_timeout, connect)?);
        }
        let answers = probe_all(&peers, config).await;
        if answers.is_empty() {
            let addresses: Vec<_> = config.gateways.iter().map(|g| g.address.as_str()).collect();
            let message = format!("none of the gateways answered ({}); are the nodes running?", addresses.join(", "));
            return Err(Error::unsent(Reason::NoQuorum, message));
        }
        let order = rank(peers.len(), &answers, config.region.as_ref());
        for answer in &answers {
            let peer = &mut peers[answer.index];
            peer.region.clone_from(&answer.region);
            tracing::debug!(address = %peer.address, region = ?peer.region, rtt = ?answer.rtt, "gateway answered");
        }
        let mut slots: Vec<_> = peers.into_iter().map(Some).collect();
        let ranked: Vec<Peer> = order.into_iter().filter_map(|i| slots[i].take()).collect();
        let gateways = Arc::new(Self { ranked, probe_timeout: config.connect_timeout });
        for index in answers.len()..gateways.ranked.len() {
            gateways.mark_down(index);
        }
        Ok(gateways)
    }

    /// The gateway for the next attempt, after one at `last` (if any) has failed: the first in order that is not
    /// down; when all are down, simply the next one.
    pub(crate) fn pick(&self, last: Option<usize>) -> usize {
        let count = self.ranked.len();
        let start = last.map_or(0, |i| (i + 1) % count);
        (0..count).map(|i| (start + i) % count).find(|i| !self.is_down(*i)).unwrap_or(start)
    }

    /// The channel to the gateway at this place.
    pub(crate) fn channel(&self, index: usize) -> Channel {
        self.ranked[index].channel.clone()
    }

    /// The stream that operations on keys share; `None`: the gateway does not know such a stream.
    pub(crate) fn pipeline(&self, index: usize) -> Option<&Pipeline> {
        let peer = &self.ranked[index];
        let known = !peer.calls_only.load(Ordering::Relaxed);
        known.then(|| peer.pipeline.get_or_init(|| pipeline(peer.channel.clone())))
    }

    /// The gateway has said that it does not know such a stream. It is believed until it was down.
    pub(crate) fn no_pipeline(&self, index: usize) {
        self.ranked[index].calls_only.store(true, Ordering::Relaxed);
    }

    /// Its address, for messages.
    pub(crate) fn address(&self, index: usize) -> &str {
        &self.ranked[index].address
    }

    /// The nearest gateway that is not down: its address and region.
    pub(crate) fn nearest(&self) -> (&str, Option<&RegionId>) {
        let peer = &self.ranked[self.pick(None)];
        (&peer.address, peer.region.as_ref())
    }

    /// Passes the gateway over until it answers again.
    pub(crate) fn mark_down(self: &Arc<Self>, index: usize) {
        let peer = &self.ranked[index];
        if !peer.down.swap(true, Ordering::Relaxed) {
            tracing::debug!(address = %peer.address, "gateway is down");
            tokio::spawn(revive(Arc::downgrade(self), index));
        }
    }

    fn is_down(&self, index: usize) -> bool {
        self.ranked[index].down.load(Ordering::Relaxed)
    }
}

impl Peer {
    fn new(gateway: &Gateway, connect_timeout: Duration, connect: &dyn Connect) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", gateway.address))
            .map_err(|e| {
                let message = format!("`{}` is not a gateway address ({e}); write host:port", gateway.address);
                Error::unsent(Reason::BadRequest, message)
            })?
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        Ok(Self {
            address: gateway.address.clone(),
            region: gateway.region.clone(),
            channel: connect.connect(&endpoint, &Meter::default()),
            pipeline: OnceLock::new(),
            calls_only: AtomicBool::new(false),
            down: AtomicBool::new(false),
        })
    }
}

/// Asks every gateway at the same time, until all have answered or time is up.
async fn probe_all(peers: &[Peer], config: &ClientConfig) -> Vec<Probed> {
    let mut deadline = Instant::now() + config.connect_timeout;
    let mut running: FuturesUnordered<_> = peers.iter().enumerate().map(|(i, p)| probe(i, p)).collect();
    let mut answers = Vec::new();
    while let Ok(Some(answer)) = timeout_at(deadline, running.next()).await {
        if let Some(answer) = answer {
            answers.push(answer);
            deadline = deadline.min(Instant::now() + RANKING_GRACE);
        }
    }
    answers
}

async fn probe(index: usize, peer: &Peer) -> Option<Probed> {
    // The first call pays for the connection; the second one measures.
    let region = ask(peer).await?;
    let start = Mono::now();
    ask(peer).await?;
    Some(Probed { index, region: peer.region.clone().or(region), rtt: start.elapsed() })
}

/// Asks a gateway where it is. `None`: it did not answer; `Some(None)`: it does not know.
async fn ask(peer: &Peer) -> Option<Option<RegionId>> {
    let mut cluster = ClusterClient::new(peer.channel.clone());
    let reply = match cluster.get_status(GetStatusRequest { local_only: true }).await {
        Ok(reply) => reply.into_inner(),
        Err(status) => {
            tracing::debug!(address = %peer.address, %status, "gateway does not answer");
            return None;
        }
    };
    let own = reply.nodes.into_iter().find(|n| n.node == reply.served_by);
    Some(own.filter(|n| !n.region.is_empty()).map(|n| n.region.into()))
}

/// The places of `count` gateways in the order of preference.
fn rank(count: usize, answers: &[Probed], home: Option<&RegionId>) -> Vec<usize> {
    let distance = |index: usize| match answers.iter().find(|a| a.index == index) {
        Some(a) if a.region.is_some() && a.region.as_ref() == home => (0, a.rtt),
        Some(a) => (1, a.rtt),
        None => (2, Duration::MAX),
    };
    let mut order: Vec<_> = (0..count).collect();
    order.sort_by_key(|i| distance(*i));
    order
}

/// Asks a gateway that is down until it answers or the client is gone.
async fn revive(gateways: Weak<Gateways>, index: usize) {
    let pauses = ExponentialBuilder::new().with_min_delay(REVIVAL_PAUSE_MIN).with_max_delay(REVIVAL_PAUSE_MAX);
    let pauses = pauses.with_jitter().with_jitter_seed(machine::random());
    for pause in pauses.without_max_times().build() {
        tokio::time::sleep(pause).await;
        let Some(gateways) = gateways.upgrade() else { return };
        let peer = &gateways.ranked[index];
        if let Ok(Some(_)) = timeout(gateways.probe_timeout, ask(peer)).await {
            tracing::debug!(address = %peer.address, "gateway is back");
            // It may be another version now.
            peer.calls_only.store(false, Ordering::Relaxed);
            peer.down.store(false, Ordering::Relaxed);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_transport::Tcp;

    fn answer(index: usize, region: &str, rtt_ms: u64) -> Probed {
        Probed { index, region: Some(region.into()), rtt: Duration::from_millis(rtt_ms) }
    }

    #[test]
    fn own_region_first_then_the_nearest_then_the_silent() {
        let answers = [answer(3, "ap", 5), answer(0, "us", 80), answer(1, "eu", 9)];
        assert_eq!(rank(4, &answers, Some(&"us".into())), [0, 3, 1, 2]);
        assert_eq!(rank(4, &answers, None), [3, 1, 0, 2]);
    }

    fn unconnected(count: usize) -> Gateways {
        let peer = |i| Peer::new(&Gateway::new(format!("127.0.0.1:{}", 1 + i)), Duration::from_secs(1), &Tcp).unwrap();
        Gateways { ranked: (0..count).map(peer).collect(), probe_timeout: Duration::from_secs(1) }
    }

    #[tokio::test]
    async fn attempts_move_on_and_skip_what_is_down() {
        let gateways = unconnected(3);
        assert_eq!((gateways.pick(None), gateways.pick(Some(0)), gateways.pick(Some(2))), (0, 1, 0));
        gateways.ranked[0].down.store(true, Ordering::Relaxed);
        assert_eq!((gateways.pick(None), gateways.pick(Some(2))), (1, 1));
        gateways.ranked.iter().for_each(|p| p.down.store(true, Ordering::Relaxed));
        assert_eq!((gateways.pick(None), gateways.pick(Some(0)), gateways.pick(Some(2))), (0, 1, 0));
    }

    #[tokio::test]
    async fn an_address_must_be_one() {
        assert!(Peer::new(&Gateway::new("no address"), Duration::from_secs(1), &Tcp).is_err());
    }
}
