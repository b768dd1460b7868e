//! What clients and gateways say to one another, as `meridian-wire` decodes it.

use crate::Named;
use bytes::Bytes;
use meridian_proto::v1 as pb;
use meridian_types::Fate;
use meridian_wire::status::Effect;
use meridian_wire::{consistency, header, placement, range, status};
use prost::Message;
use tonic::{Code, Status};

pub(crate) const TARGETS: &[Named] = &[
    ("consistency", level),
    ("request", request),
    ("pipeline", pipeline),
    ("reply", reply),
    ("tables", tables),
    ("status", error_status),
];

fn message<M: Message + Default>(data: &[u8]) -> Option<M> {
    M::decode(Bytes::copy_from_slice(data)).ok()
}

/// A consistency level: what is understood is said again in the same way.
fn level(data: &[u8]) {
    let Ok(level) = consistency::decode(message(data)) else { return };
    assert_eq!(consistency::decode(Some(consistency::encode(&level))), Ok(level));
}

fn check_consistency(message: Option<pb::Consistency>) {
    drop(consistency::decode(message));
}

fn check_range(start: Bytes, end: Bytes) {
    let Ok(keys) = range::decode(start, end) else { return };
    let (start, end) = range::encode(&keys);
    assert_eq!(range::decode(start, end), Ok(keys));
}

fn check_header(message: Option<pb::RequestHeader>) {
    let (id, receipt) = header::decode_request(message);
    assert_eq!(header::decode_request(Some(header::encode_request(id, receipt))), (id, receipt));
}

fn check_get(message: pb::GetRequest) {
    check_header(message.header);
    check_consistency(message.consistency);
}

fn check_scan(message: pb::ScanRequest) {
    check_header(message.header);
    check_consistency(message.consistency);
    check_range(message.start, message.end);
}

/// Each request of the data path.
fn request(data: &[u8]) {
    if let Some(m) = message::<pb::PutRequest>(data) {
        check_header(m.header);
    }
    if let Some(m) = message::<pb::DeleteRequest>(data) {
        check_header(m.header);
    }
    if let Some(m) = message::<pb::GetRequest>(data) {
        check_get(m);
    }
    if let Some(m) = message::<pb::ScanRequest>(data) {
        check_scan(m);
    }
    if let Some(m) = message::<pb::TransactRequest>(data) {
        check_header(m.header);
    }
}

/// Many requests, and many replies.
fn pipeline(data: &[u8]) {
    use pb::operation::Request;
    use pb::operation_reply::Reply;
    for request in message::<pb::PipelineRequest>(data).into_iter().flat_map(|m| m.operations).filter_map(|o| o.request)
    {
        match request {
            Request::Put(m) => check_header(m.header),
            Request::Get(m) => check_get(m),
            Request::Delete(m) => check_header(m.header),
            Request::Scan(m) => check_scan(m),
            Request::Transact(m) => check_header(m.header),
        }
    }
    for reply in message::<pb::PipelineReply>(data).into_iter().flat_map(|m| m.replies).filter_map(|r| r.reply) {
        match reply {
            Reply::Put(m) => check_served(m.header),
            Reply::Get(m) => check_served(m.header),
            Reply::Delete(m) => check_served(m.header),
            Reply::Scan(m) => check_served(m.header),
            Reply::Transact(m) => check_served(m.header),
            Reply::Failed(m) => check_status(&Status::with_details(Code::from_i32(m.code), m.message, m.details)),
        }
    }
}

fn check_served(message: Option<pb::ReplyHeader>) {
    let Some(message) = message else { return };
    let served = header::decode_reply(message);
    assert_eq!(header::decode_reply(header::encode_reply(&served)), served);
}

/// What a reply says of itself.
fn reply(data: &[u8]) {
    check_served(message(data));
}

/// Requests about tables.
fn tables(data: &[u8]) {
    let Some(m) = message::<pb::CreateTableRequest>(data) else { return };
    if let Ok(placed) = placement::decode(m.placement) {
        assert_eq!(placement::decode(Some(placement::encode(&placed))), Ok(placed));
    }
}

/// A failed call: a read is never said to have had an effect, and a node passes on what it was told.
fn check_status(told: &Status) {
    assert_eq!(status::from_status(told, Effect::Read).fate, Fate::NotApplied);
    let error = status::from_status(told, Effect::Write);
    let again = status::from_status(&status::to_status(&error), Effect::Write);
    assert_eq!((again.reason, again.fate), (error.reason, error.fate));
}

/// The status of a failed call: a code, and details that anybody may have written.
fn error_status(data: &[u8]) {
    let Some((code, details)) = data.split_first() else { return };
    check_status(&Status::with_details(Code::from_i32(i32::from(*code)), "why", Bytes::copy_from_slice(details)));
}
