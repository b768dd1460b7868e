//! Streams to the other nodes, over which requests are forwarded in batches.
//!
//! Two per node: one for what has small answers, one for reads, so that a page of rows never delays a commit. Reads of one
//! shard that were queued when a message is made ask for one read index together: the leader proves its leadership after
//! all of them began (rule R6), and waits for what may touch any of their keys (rule I1).

use meridian_consensus::Peers;
use meridian_consensus::peers::{Class, MESSAGE_BYTES_MAX};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::forward_reply::Reply;
use meridian_proto::internal::v1::forwarded::Request;
use meridian_proto::internal::v1::peer_client::PeerClient;
use meridian_transport::{Calls, Failed, Incoming, Outgoing, Sending};
use meridian_types::{NodeId, ShardId};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tonic::Status;

/// A stream on which something is unanswered is given up after this silence; longer than one attempt.
const SILENCE: Duration = Duration::from_secs(5);

/// What is asked for, and of which shard.
type Asked = (ShardId, Request);
type Link = Calls<Asked, Option<Reply>>;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Mutations and read indexes.
    Small,
    /// Reads.
    Read,
}

/// See the module's documentation.
pub(crate) struct Links {
    peers: Peers,
    cluster: Arc<str>,
    links: RwLock<BTreeMap<(NodeId, Kind), Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(peers: Peers, cluster: Arc<str>) -> Self {
        Self { peers, cluster, links: RwLock::default() }
    }

    /// Hands a mutation to another node; `early`: this one counts by itself who has it.
    pub(crate) async fn mutate(
        &self,
        to: NodeId,
        shard: ShardId,
        mutation: internal::Mutation,
        early: bool,
    ) -> Result<Option<internal::MutateReply>, Failed> {
        let bytes = mutation.encoded_len();
        let request = internal::MutateRequest { target: None, mutation: Some(mutation), floor: 0, early };
        let reply = self.link(to, Kind::Small).call((shard, Request::Mutate(request)), bytes).await?;
        Ok(if let Some(Reply::Mutate(reply)) = reply { Some(reply) } else { None })
    }

    /// Hands a read to another node.
    pub(crate) async fn read(
        &self,
        to: NodeId,
        shard: ShardId,
        request: internal::ReadRequest,
    ) -> Result<Option<internal::ReadReply>, Failed> {
        let bytes = request.encoded_len();
        let reply = self.link(to, Kind::Read).call((shard, Request::Read(request)), bytes).await?;
        Ok(if let Some(Reply::Read(reply)) = reply { Some(reply) } else { None })
    }

    /// Asks another node for a read index.
    pub(crate) async fn read_index(
        &self,
        to: NodeId,
        shard: ShardId,
        request: internal::ReadIndexRequest,
    ) -> Result<Option<internal::ReadIndexReply>, Failed> {
        let bytes = request.encoded_len();
        let reply = self.link(to, Kind::Small).call((shard, Request::ReadIndex(request)), bytes).await?;
        Ok(if let Some(Reply::ReadIndex(reply)) = reply { Some(reply) } else { None })
    }

    fn link(&self, to: NodeId, kind: Kind) -> Arc<Link> {
        if let Some(link) = self.links.read().unwrap_or_else(PoisonError::into_inner).get(&(to, kind)) {
            return link.clone();
        }
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let (peers, cluster) = (self.peers.clone(), self.cluster.clone());
        let make =
            move || Arc::new(Calls::new(Some(SILENCE), move |out| open(peers.clone(), cluster.clone(), to, out)));
        links.entry((to, kind)).or_insert_with(make).clone()
    }
}

async fn open(
    peers: Peers,
    cluster: Arc<str>,
    to: NodeId,
    outgoing: Outgoing<Asked, Option<Reply>>,
) -> Result<Incoming<Option<Reply>>, Status> {
    use futures::StreamExt as _;
    // Asked for anew each time: the node may have moved.
    let channel = peers.channel(to, Class::Request)?;
    let mut client = PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let from = peers.me();
    let batches = outgoing.map(move |sending| {
        let target = sending.first.then(|| internal::Target {
            cluster_id: cluster.to_string(),
            from: from.0,
            to: to.0,
            shard: 0,
        });
        batch(target, sending)
    });
    let replies = client.forward(batches).await?.into_inner();
    Ok(replies.map(|message| Ok(answers(message?))).boxed())
}

/// One message. What asks for a read index of the same shard becomes one request.
fn batch(target: Option<internal::Target>, sending: Sending<Asked>) -> internal::ForwardBatch {
    let mut requests: Vec<internal::Forwarded> = Vec::with_capacity(sending.requests.len());
    let mut indexes = BTreeMap::new();
    for (number, (shard, request)) in sending.requests {
        if let Request::ReadIndex(asked) = &request {
            let at = *indexes.entry(shard).or_insert(requests.len());
            if let Some(internal::Forwarded { also, request: Some(Request::ReadIndex(first)), .. }) =
                requests.get_mut(at)
            {
                also.push(number);
                first.keys.extend(asked.keys.iter().cloned());
                first.ranges.extend(asked.ranges.iter().cloned());
                continue;
            }
        }
        requests.push(internal::Forwarded { number, also: Vec::new(), shard: shard.0, request: Some(request) });
    }
    internal::ForwardBatch { target, requests, dropped: sending.dropped }
}

fn answers(message: internal::ForwardReplies) -> Vec<(u64, Option<Reply>)> {
    let mut answers = Vec::with_capacity(message.replies.len());
    for reply in message.replies {
        for number in reply.also {
            answers.push((number, reply.reply.clone()));
        }
        answers.push((reply.number, reply.reply));
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(key: &'static str) -> Request {
        Request::ReadIndex(internal::ReadIndexRequest { keys: vec![key.into()], ..Default::default() })
    }

    #[test]
    fn reads_of_one_shard_share_a_read_index() {
        let mutate = Request::Mutate(internal::MutateRequest::default());
        let requests = vec![
            (1, (ShardId(7), index("a"))),
            (2, (ShardId(8), index("b"))),
            (3, (ShardId(7), mutate)),
            (4, (ShardId(7), index("c"))),
        ];
        let made = batch(None, Sending { first: false, requests, dropped: vec![9] });
        let numbers: Vec<_> = made.requests.iter().map(|r| (r.number, r.also.clone(), r.shard)).collect();
        assert_eq!(numbers, [(1, vec![4], 7), (2, vec![], 8), (3, vec![], 7)]);
        let Some(Request::ReadIndex(first)) = &made.requests[0].request else { panic!("a read index") };
        assert_eq!(first.keys, ["a", "c"], "the leader has to know every key");
        assert_eq!(made.dropped, [9]);
        let position = internal::read_index_reply::Result::Position(5);
        let reply = Some(Reply::ReadIndex(internal::ReadIndexReply { result: Some(position) }));
        let replies = vec![internal::ForwardReply { number: 1, also: vec![4], reply: reply.clone() }];
        assert_eq!(answers(internal::ForwardReplies { replies }), [(4, reply.clone()), (1, reply)]);
    }
}
