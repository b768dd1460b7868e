//! Many operations on one stream: each goes the way of a call of its own, only the calls themselves are saved.

use super::{KvService, deadline};
use crate::admission::admit_one;
use crate::gateway::Arrival;
use meridian_clock::Mono;
use meridian_consensus::Charge;
use meridian_proto::v1 as pb;
use meridian_proto::v1::operation::Request;
use meridian_proto::v1::operation_reply::Reply;
use meridian_transport::{Answers, Begun, Done, Limits};
use meridian_types::{Error, Fate, Reason, Result, Timestamp};
use meridian_wire::status::to_status;
use prost::Message as _;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

/// The replies to a stream of operations.
pub(super) fn answers(
    service: &KvService,
    messages: Streaming<pb::PipelineRequest>,
) -> impl futures::Stream<Item = std::result::Result<pb::PipelineReply, Status>> + Send + use<> {
    let (service, stop) = (service.clone(), service.ctx.stop.clone());
    let begin = move |message: pb::PipelineRequest| {
        let work = message.operations.into_iter().map(|operation| {
            let bytes = operation.encoded_len();
            (operation.number, bytes, operate(service.clone(), operation, bytes, Mono::now()))
        });
        Begun { work: work.collect(), dropped: message.dropped }
    };
    let encode = |replies| pb::PipelineReply { replies };
    Answers::new(messages, Limits::default(), begin, encode, Box::pin(stop.cancelled_owned()))
}

async fn operate(
    service: KvService,
    operation: pb::Operation,
    bytes: usize,
    arrived: Mono,
) -> Done<pb::OperationReply> {
    let number = operation.number;
    let reply = match admit_one(&service.ctx.memory.in_flight, bytes) {
        Ok(charge) => serve(service, operation, charge, arrived).await,
        Err(e) => Err(e),
    };
    let reply = reply.unwrap_or_else(|e| Reply::Failed(failed(&to_status(&e))));
    let reply = pb::OperationReply { number, reply: Some(reply) };
    Done { number, bytes: reply.encoded_len(), answer: reply }
}

/// What an arrival consists of, without the charge that it borrows.
#[derive(Clone, Copy)]
struct Came {
    at: Mono,
    deadline: Duration,
    latest: Timestamp,
}

impl Came {
    fn with(self, charge: &Charge) -> Arrival<'_> {
        let Self { at, deadline, latest } = self;
        Arrival { at, deadline, latest, charge }
    }
}

async fn serve(service: KvService, operation: pb::Operation, charge: Charge, at: Mono) -> Result<Reply> {
    let asked = (operation.timeout_ns > 0).then(|| Duration::from_nanos(operation.timeout_ns));
    let came = Came { at, deadline: deadline(&service.ctx, asked), latest: service.ctx.latest() };
    match operation.request {
        Some(Request::Put(request)) => service.do_put(request, came.with(&charge)).await.map(Reply::Put),
        Some(Request::Delete(request)) => service.do_delete(request, came.with(&charge)).await.map(Reply::Delete),
        Some(Request::Transact(request)) => service.do_transact(request, came.with(&charge)).await.map(Reply::Transact),
        // Reads may block on the disk: each in a task of its own, so that they do not hold up one another.
        Some(Request::Get(request)) => {
            apart(async move { service.do_get(request, came.with(&charge)).await.map(Reply::Get) }).await
        }
        Some(Request::Scan(request)) => {
            apart(async move { service.do_scan(request, came.with(&charge)).await.map(Reply::Scan) }).await
        }
        None => Err(Error::new(Reason::BadRequest, "an operation that this node does not know; compare versions")),
    }
}

/// Runs `work` in a task, which ends with this future.
async fn apart(work: impl Future<Output = Result<Reply>> + Send + 'static) -> Result<Reply> {
    let done = AbortOnDropHandle::new(tokio::spawn(work)).await;
    done.unwrap_or_else(|e| Err(Error::new(Reason::Internal, e.to_string()).with_fate(Fate::Unknown)))
}

fn failed(status: &Status) -> pb::OperationStatus {
    pb::OperationStatus {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
        details: bytes::Bytes::copy_from_slice(status.details()),
    }
}
