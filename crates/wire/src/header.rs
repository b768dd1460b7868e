//! What every request asks and every reply says of itself.

use crate::{consistency, receipt, request_id};
use bytes::Bytes;
use meridian_proto::v1 as pb;
use meridian_types::{CausalityToken, Consistency, NodeId, Receipt, RegionId, RequestId, Timestamp};
use std::time::Duration;

/// A reply's header, typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Commit timestamp of a write, read timestamp of a read.
    pub timestamp: Timestamp,
    /// The node whose replica served the request.
    pub by: NodeId,
    /// That node's region.
    pub region: RegionId,
    /// How old the state that was read may be; zero for writes and linearizable reads.
    pub staleness: Duration,
    /// What a later causal read has to include in order to follow this reply.
    pub token: CausalityToken,
    /// Where the time went, when it was asked for.
    pub receipt: Option<Receipt>,
    /// The level that the answer has, when the read had a latency budget.
    pub given: Option<Consistency>,
}

/// A request's header.
pub fn encode_request(id: Option<RequestId>, receipt: bool) -> pb::RequestHeader {
    pb::RequestHeader { request_id: id.map(request_id::encode), receipt }
}

/// What a request's header asks: the request id, if it has one, and whether to return a receipt.
pub fn decode_request(header: Option<pb::RequestHeader>) -> (Option<RequestId>, bool) {
    let header = header.unwrap_or_default();
    (header.request_id.map(request_id::decode), header.receipt)
}

/// A reply's header.
pub fn encode_reply(served: &Served) -> pb::ReplyHeader {
    pb::ReplyHeader {
        timestamp: served.timestamp.0,
        served_by: served.by.0,
        region: served.region.as_str().to_owned(),
        staleness_ns: u64::try_from(served.staleness.as_nanos()).unwrap_or(u64::MAX),
        token: Bytes::from(served.token.to_bytes()),
        receipt: served.receipt.as_ref().map(receipt::encode),
        given: served.given.as_ref().map(consistency::encode),
    }
}

/// Reads a reply's header. A token of a version that this build does not know is replaced by one made of the
/// reply's timestamp: nothing that the reply shows is newer than that. A level that this build does not know is none.
pub fn decode_reply(header: pb::ReplyHeader) -> Served {
    let timestamp = Timestamp(header.timestamp);
    Served {
        timestamp,
        by: NodeId(header.served_by),
        region: header.region.into(),
        staleness: Duration::from_nanos(header.staleness_ns),
        token: CausalityToken::from_bytes(&header.token).unwrap_or(CausalityToken(timestamp)),
        receipt: header.receipt.as_ref().map(receipt::decode),
        given: header.given.filter(|g| g.level.is_some()).and_then(|given| consistency::decode(Some(given)).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let id = RequestId { time: Timestamp(1), client: 2, sequence: 3 };
        assert_eq!(decode_request(Some(encode_request(Some(id), true))), (Some(id), true));
        assert_eq!(decode_request(None), (None, false));
        let served = Served {
            timestamp: Timestamp(5),
            by: NodeId(2),
            region: "eu-west".into(),
            staleness: Duration::from_millis(3),
            token: CausalityToken(Timestamp(4)),
            receipt: Some(Receipt { total: 7, ..Receipt::default() }),
            given: Some(Consistency::Local),
        };
        assert_eq!(decode_reply(encode_reply(&served)), served);
    }

    #[test]
    fn an_unreadable_token_becomes_the_replys_timestamp() {
        let header = pb::ReplyHeader { timestamp: 8, token: Bytes::from_static(b"\xffnew"), ..Default::default() };
        assert_eq!(decode_reply(header).token, CausalityToken(Timestamp(8)));
    }
}
