//! Request ids.

use meridian_proto::v1 as pb;
use meridian_types::{RequestId, Timestamp};

/// To the wire.
pub fn encode(id: RequestId) -> pb::RequestId {
    pb::RequestId { time_ns: id.time.0, client: id.client, sequence: id.sequence }
}

/// From the wire. Every message is an id; whether its time is acceptable is decided where it is applied.
pub fn decode(id: pb::RequestId) -> RequestId {
    RequestId { time: Timestamp(id.time_ns), client: id.client, sequence: id.sequence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let id = RequestId { time: Timestamp(1), client: 2, sequence: 3 };
        assert_eq!(decode(encode(id)), id);
    }
}
