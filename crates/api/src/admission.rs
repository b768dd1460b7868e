//! Admission: what requests take in memory is charged to the node, and what does not fit is refused.
//!
//! A request is charged from its first byte: a fixed amount when its head arrives, more with every piece of its body.
//! Until the body is complete no service has seen the request, so a refusal has had no effect, whatever the method. The
//! charge ends with the last byte of the answer, or with the entry that the request became, whichever is later.
//!
//! Answers to reads are charged when their rows are known. A read works on one thread without waiting, so what is not
//! charged yet is bounded by one page for each thread.
//!
//! Charged are the calls that clients make, and those that gateways forward. Streams between nodes are not: what travels
//! in them was charged to its sender. Nor are health and status: an operator has to see what is going on.

use crate::failure;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use meridian_consensus::{Charge, InFlight};
use meridian_proto::internal::v1::peer_server;
use meridian_proto::v1::{kv_server, tables_server};
use meridian_types::Error;
use meridian_wire::status::to_status;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What a request takes beside its bytes: tasks, HTTP/2 state and buffers.
const REQUEST_BYTES: u64 = 16 << 10;
/// How often the bytes of a request are in memory at the same time: as they arrived, in the entry, and encoded for the
/// log and the followers.
const REQUEST_COPIES: u64 = 3;
/// How often the bytes of an answer are: as read, and encoded.
const ANSWER_COPIES: u64 = 2;

/// Charges a request, or refuses it.
pub(crate) async fn admit(State(account): State<InFlight>, request: Request, next: Next) -> Response {
    if !is_charged(request.uri().path()) {
        return next.run(request).await;
    }
    let charge = match account.admit(REQUEST_BYTES) {
        Ok(charge) => charge,
        Err(over) => return to_status(&failure::over_budget(&over)).into_http(),
    };
    let (mut head, body) = request.into_parts();
    head.extensions.insert(charge.clone());
    let arriving = Body::new(Arriving { body, charge: charge.clone() });
    let response = next.run(Request::from_parts(head, arriving)).await;
    response.map(|body| Body::new(Leaving { body, _charge: charge }))
}

/// Whether the calls of this path are charged.
fn is_charged(path: &str) -> bool {
    match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((kv_server::SERVICE_NAME | tables_server::SERVICE_NAME, _)) => true,
        Some((peer_server::SERVICE_NAME, method)) => matches!(method, "Mutate" | "Read"),
        Some(_) | None => false,
    }
}

/// The charge of a request; of one that came past [`admit`], nothing.
pub(crate) fn charge_of<T>(request: &tonic::Request<T>) -> Charge {
    request.extensions().get().cloned().unwrap_or_default()
}

/// Charges rows that were read for an answer of these bytes.
pub(crate) fn charge_answer(charge: &Charge, bytes: usize) -> Result<(), Error> {
    charge.grow((bytes as u64).saturating_mul(ANSWER_COPIES)).map_err(|over| failure::over_budget(&over))
}

/// A request's body, charged piece by piece.
struct Arriving {
    body: Body,
    charge: Charge,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            let charged = self.charge.grow(bytes * REQUEST_COPIES);
            // The service never sees the request; its call ends with this status.
            charged.map_err(|over| to_status(&failure::over_budget(&over)))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, which holds the request's charge until it is gone.
struct Leaving {
    body: Body,
    _charge: Charge,
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_and_gateways_send_is_charged_and_nothing_else() {
        for path in ["/meridian.v1.Kv/Put", "/meridian.v1.Tables/CreateTable", "/meridian.internal.v1.Peer/Mutate"] {
            assert!(is_charged(path), "{path}");
        }
        let free = [
            "/meridian.internal.v1.Raft/Append",
            "/meridian.internal.v1.Peer/Gossip",
            "/meridian.v1.Cluster/GetStatus",
        ];
        for path in free.into_iter().chain(["/grpc.health.v1.Health/Check", "/", ""]) {
            assert!(!is_charged(path), "{path}");
        }
    }
}
