//! Operations of all sessions, gathered on one stream per gateway.
//!
//! A call of its own costs the client and the gateway several times what its work costs. So everything that sessions ask
//! for while a message is on its way to the wire goes into the next one, and replies come back the same way. A gateway
//! that does not know the stream is asked with calls, and so is what would fill a message by itself.

use crate::client::REPLY_BYTES_MAX;
use bytes::Bytes;
use futures::StreamExt as _;
use meridian_proto::v1::kv_client::KvClient;
use meridian_proto::v1::operation::Request;
use meridian_proto::v1::operation_reply::Reply;
use meridian_proto::v1::{self as pb};
use meridian_transport::{Calls, Channel, Failed, Incoming, Outgoing, Sending};
use std::time::Duration;
use tonic::{Code, Status};

/// Requests larger than this have a call of their own: with what gathers beside it, a message stays well below what a
/// gateway accepts.
const REQUEST_BYTES_MAX: usize = 1 << 20;

type Asked = (Duration, Request);

/// The stream to one gateway.
pub(crate) type Pipeline = Calls<Asked, Option<Reply>>;

/// A stream to the gateway behind `channel`, opened when it is used.
pub(crate) fn pipeline(channel: Channel) -> Pipeline {
    // The connection's keepalive finds out when the gateway is gone; an operation may take as long as it likes.
    Calls::new(None, move |outgoing| open(channel.clone(), outgoing))
}

async fn open(channel: Channel, outgoing: Outgoing<Asked, Option<Reply>>) -> Result<Incoming<Option<Reply>>, Status> {
    let replies = kv(channel).pipeline(outgoing.map(message)).await?.into_inner();
    let answers = |message: pb::PipelineReply| message.replies.into_iter().map(|r| (r.number, r.reply)).collect();
    Ok(replies.map(move |message| Ok(answers(message?))).boxed())
}

fn message(sending: Sending<Asked>) -> pb::PipelineRequest {
    let operations = sending.requests.into_iter().map(|(number, (limit, request))| {
        let timeout_ns = u64::try_from(limit.as_nanos()).unwrap_or(0);
        pb::Operation { number, timeout_ns, request: Some(request) }
    });
    pb::PipelineRequest { operations: operations.collect(), dropped: sending.dropped }
}

pub(crate) fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
}

/// Bytes of a request, nearly; `None`: too many for the stream.
pub(crate) fn gathered_bytes(request: &Request) -> Option<usize> {
    let bytes = match request {
        Request::Put(r) => r.key.len() + r.value.len(),
        Request::Get(r) => r.key.len(),
        Request::Delete(r) => r.key.len(),
        Request::Scan(r) => r.start.len() + r.end.len() + r.page_token.len(),
        Request::Transact(r) => {
            let checked = r.preconditions.iter().map(|p| match &p.condition {
                Some(pb::precondition::Condition::Value(value)) => p.key.len() + value.len(),
                _ => p.key.len(),
            });
            let written = r.writes.iter().map(|w| match &w.action {
                Some(pb::write_op::Action::Put(value)) => w.key.len() + value.len(),
                _ => w.key.len(),
            });
            checked.chain(written).chain(r.reads.iter().map(Bytes::len)).sum()
        }
    };
    (bytes <= REQUEST_BYTES_MAX).then_some(bytes)
}

/// Makes one operation part of the stream: the gateway's reply, or what the status of a call would have been. `None`: the
/// gateway does not know the stream; nothing was done.
pub(crate) async fn operate(
    pipeline: &Pipeline,
    request: Request,
    bytes: usize,
    limit: Duration,
) -> Option<Result<Reply, Status>> {
    Some(match pipeline.call((limit, request), bytes).await {
        Ok(Some(Reply::Failed(failed))) => {
            Err(Status::with_details(Code::from_i32(failed.code), failed.message, failed.details))
        }
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(Status::internal("the gateway's reply is of a kind that this client does not know")),
        Err(Failed::NotSent(status) | Failed::Lost(status)) if status.code() == Code::Unimplemented => return None,
        Err(failed) => Err(failed.into_status()),
    })
}

/// The same operation as a call.
pub(crate) async fn call(channel: Channel, request: Request, limit: Duration) -> Result<Reply, Status> {
    fn within<M>(message: M, limit: Duration) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(limit);
        request
    }
    let mut kv = kv(channel);
    Ok(match request {
        Request::Put(r) => Reply::Put(kv.put(within(r, limit)).await?.into_inner()),
        Request::Get(r) => Reply::Get(kv.get(within(r, limit)).await?.into_inner()),
        Request::Delete(r) => Reply::Delete(kv.delete(within(r, limit)).await?.into_inner()),
        Request::Scan(r) => Reply::Scan(kv.scan(within(r, limit)).await?.into_inner()),
        Request::Transact(r) => Reply::Transact(kv.transact(within(r, limit)).await?.into_inner()),
    })
}
