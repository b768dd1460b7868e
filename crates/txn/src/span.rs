//! What a request may touch, for reads that wait for writes in flight (I3). Conservative: both what is read and
//! what is written, whatever the outcome.

use crate::read::ReadPlan;
use meridian_proto::internal::v1::Mutation;
use meridian_types::KeySpan;

/// Every key that the mutation checks, reads or writes.
pub fn mutation_span(mutation: &Mutation) -> KeySpan {
    let checked = mutation.preconditions.iter().map(|p| &p.key);
    let written = mutation.writes.iter().map(|w| &w.key);
    let mut keys: Vec<_> = checked.chain(written).chain(&mutation.reads).cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    KeySpan { keys, ..KeySpan::default() }
}

/// Everything that the read may look at: of a scan the whole range, however few rows it returns.
pub fn plan_span(plan: &ReadPlan) -> KeySpan {
    match plan {
        ReadPlan::Keys(keys) => KeySpan { keys: keys.clone(), ..KeySpan::default() },
        ReadPlan::Range { range, .. } => KeySpan::range(range.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::v1::{Precondition, WriteOp};
    use meridian_types::KeyRange;

    #[test]
    fn checked_read_and_written_keys_all_count_once() {
        let mutation = Mutation {
            preconditions: vec![Precondition { key: "c".into(), condition: None }],
            writes: vec![WriteOp { key: "a".into(), action: None }, WriteOp { key: "c".into(), action: None }],
            reads: vec!["b".into(), "a".into()],
            ..Mutation::default()
        };
        assert_eq!(mutation_span(&mutation).keys, ["a", "b", "c"]);
    }

    #[test]
    fn a_scan_spans_its_whole_range() {
        let range = KeyRange::new("a".into(), Some("m".into())).unwrap();
        let plan = ReadPlan::Range { range: range.clone(), limit: 1, reverse: false };
        assert!(plan_span(&plan).touches(&KeySpan::key("l".into())));
        assert!(!plan_span(&plan).touches(&KeySpan::key("m".into())));
        assert_eq!(plan_span(&plan).ranges, [range]);
    }
}
