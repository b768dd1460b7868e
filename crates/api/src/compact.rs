//! Mutations in memory of their own.
//!
//! The fields of a decoded message are slices of the buffer that it arrived in, at least 8 KiB for each call. A mutation
//! lives on as a log entry, in the ring of recent entries, long after its call: there a small one must not hold a large
//! buffer, or the ring would take many times what it is charged.

use bytes::{Bytes, BytesMut};
use meridian_proto::internal::v1::Mutation;
use meridian_proto::v1::{precondition, write_op};

/// The same mutation, with its keys and values in one allocation of their size.
pub(crate) fn compact(mut mutation: Mutation) -> Mutation {
    let mut bytes = 0;
    each(&mut mutation, |field| bytes += field.len());
    let mut buffer = BytesMut::with_capacity(bytes);
    each(&mut mutation, |field| {
        buffer.extend_from_slice(field);
        *field = buffer.split().freeze();
    });
    mutation
}

/// Calls `with` for every key and value.
fn each(mutation: &mut Mutation, mut with: impl FnMut(&mut Bytes)) {
    for p in &mut mutation.preconditions {
        with(&mut p.key);
        match &mut p.condition {
            Some(precondition::Condition::Value(value)) => with(value),
            Some(precondition::Condition::Exists(_) | precondition::Condition::Version(_)) | None => {}
        }
    }
    for w in &mut mutation.writes {
        with(&mut w.key);
        match &mut w.action {
            Some(write_op::Action::Put(value)) => with(value),
            Some(write_op::Action::Delete(_)) | None => {}
        }
    }
    mutation.reads.iter_mut().for_each(with);
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::v1::{Precondition, WriteOp};

    #[test]
    fn a_compact_mutation_is_the_same_and_shares_nothing_with_its_call() {
        let call = Bytes::from((0..=255).collect::<Vec<u8>>());
        let condition = Some(precondition::Condition::Value(call.slice(10..20)));
        let mutation = Mutation {
            preconditions: vec![Precondition { key: call.slice(0..10), condition }],
            writes: vec![
                WriteOp { key: call.slice(20..30), action: Some(write_op::Action::Put(call.slice(30..60))) },
                WriteOp { key: call.slice(60..61), action: Some(write_op::Action::Delete(write_op::Remove {})) },
            ],
            reads: vec![call.slice(70..80), Bytes::new()],
            ..Mutation::default()
        };
        let mut own = compact(mutation.clone());
        assert_eq!(own, mutation);
        let inside = call.as_ptr_range();
        each(&mut own, |field| assert!(field.is_empty() || !inside.contains(&field.as_ptr())));
        drop(mutation);
        assert!(call.is_unique(), "nothing holds the buffer any more");
    }
}
