//! What log entries and the catalog hold, once their frames are understood.

use crate::Named;
use bytes::Bytes;
use meridian_catalog::Record;
use meridian_proto::internal::v1 as pb;
use meridian_txn::{ReadPlan, id_from_proto, id_to_proto, mutation_span, plan_span};
use prost::Message as _;

pub(crate) const TARGETS: &[Named] = &[("catalog", catalog), ("mutation", mutation), ("read", read)];

/// A record of the catalog: what is understood is found under its own key, and written again in the same way.
fn catalog(data: &[u8]) {
    let Some((at, rest)) = data.split_first() else { return };
    let Some((key, value)) = rest.split_at_checked(usize::from(*at)) else { return };
    if let Ok(Some(record)) = Record::decode(key, value) {
        assert_eq!(record.key(), key);
        let again = Record::decode(key, &record.encode());
        assert!(matches!(again, Ok(Some(again)) if again == record));
    }
}

/// A mutation, from a gateway or in a log entry.
fn mutation(data: &[u8]) {
    let Ok(mutation) = pb::Mutation::decode(Bytes::copy_from_slice(data)) else { return };
    let span = mutation_span(&mutation);
    let touched = mutation.writes.iter().map(|write| &write.key).chain(mutation.preconditions.iter().map(|p| &p.key));
    for key in touched.chain(&mutation.reads) {
        assert!(span.keys.contains(key), "every key that it touches is in its span");
    }
    if let Some(id) = mutation.request_id {
        let id = id_from_proto(&id);
        assert_eq!(id_from_proto(&id_to_proto(id)), id);
    }
}

/// A read that another gateway forwards.
fn read(data: &[u8]) {
    let Ok(request) = pb::ReadRequest::decode(Bytes::copy_from_slice(data)) else { return };
    let Some(Ok(plan)) = request.what.as_ref().map(ReadPlan::from_proto) else { return };
    drop(plan_span(&plan));
    assert_eq!(ReadPlan::from_proto(&plan.to_proto()), Ok(plan));
}
