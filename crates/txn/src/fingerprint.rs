//! The fingerprint by which the ledger tells a retry from another request under the same id.
//!
//! XXH64, seed 0, of an encoding of our own: protobuf does not promise equal bytes for equal messages across
//! versions, and a record must be recognised by every build that may replay the log. Layout, integers as 64-bit
//! little endian, byte strings as length and bytes:
//!
//! ```text
//! table
//! count of preconditions, each: key, tag (0 none, 1 value, 2 exists, 3 version), then bytes | one byte | integer
//! count of writes,        each: key, tag (0 none, 1 put, 2 delete), then the value of a put
//! count of reads,         each: key
//! ```
//!
//! A field that a later format adds is appended, and only when it is set: older requests keep their fingerprint.

use meridian_proto::internal::v1::Mutation;
use meridian_proto::v1::precondition::Condition;
use meridian_proto::v1::write_op::Action;
use xxhash_rust::xxh64::Xxh64;

/// The fingerprint of everything in the mutation but its id.
pub(crate) fn fingerprint(mutation: &Mutation) -> u64 {
    let mut hash = Xxh64::new(0);
    integer(&mut hash, mutation.table);
    count(&mut hash, mutation.preconditions.len());
    for precondition in &mutation.preconditions {
        string(&mut hash, &precondition.key);
        match &precondition.condition {
            None => hash.update(&[0]),
            Some(Condition::Value(value)) => {
                hash.update(&[1]);
                string(&mut hash, value);
            }
            Some(Condition::Exists(exists)) => hash.update(&[2, u8::from(*exists)]),
            Some(Condition::Version(version)) => {
                hash.update(&[3]);
                integer(&mut hash, *version);
            }
        }
    }
    count(&mut hash, mutation.writes.len());
    for write in &mutation.writes {
        string(&mut hash, &write.key);
        match &write.action {
            None => hash.update(&[0]),
            Some(Action::Put(value)) => {
                hash.update(&[1]);
                string(&mut hash, value);
            }
            Some(Action::Delete(_)) => hash.update(&[2]),
        }
    }
    count(&mut hash, mutation.reads.len());
    for key in &mutation.reads {
        string(&mut hash, key);
    }
    hash.digest()
}

fn integer(hash: &mut Xxh64, n: u64) {
    hash.update(&n.to_le_bytes());
}

fn count(hash: &mut Xxh64, n: usize) {
    integer(hash, n as u64);
}

fn string(hash: &mut Xxh64, bytes: &[u8]) {
    count(hash, bytes.len());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::v1::{Precondition, RequestId, WriteOp, write_op};

    fn sample() -> Mutation {
        Mutation {
            request_id: Some(RequestId { time_ns: 1, client: 2, sequence: 3 }),
            table: 7,
            preconditions: vec![
                Precondition { key: "a".into(), condition: Some(Condition::Value("v".into())) },
                Precondition { key: "b".into(), condition: Some(Condition::Exists(true)) },
                Precondition { key: "c".into(), condition: Some(Condition::Version(9)) },
            ],
            writes: vec![
                WriteOp { key: "a".into(), action: Some(Action::Put("w".into())) },
                WriteOp { key: "b".into(), action: Some(Action::Delete(write_op::Remove {})) },
            ],
            reads: vec!["a".into()],
        }
    }

    #[test]
    fn the_format_is_fixed() {
        // Written by the first build; a record in an old ledger must still match its retry.
        assert_eq!(fingerprint(&sample()), 0x2154_9540_6fd2_e6ad);
    }

    #[test]
    fn the_layout_is_as_documented() {
        let n = |n: u64| n.to_le_bytes().to_vec();
        let s = |text: &str| [n(text.len() as u64), text.as_bytes().to_vec()].concat();
        let preconditions = [n(3), s("a"), vec![1], s("v"), s("b"), vec![2, 1], s("c"), vec![3], n(9)].concat();
        let writes = [n(2), s("a"), vec![1], s("w"), s("b"), vec![2]].concat();
        let bytes = [n(7), preconditions, writes, n(1), s("a")].concat();
        assert_eq!(fingerprint(&sample()), xxhash_rust::xxh64::xxh64(&bytes, 0));
    }

    #[test]
    fn the_id_does_not_count_and_everything_else_does() {
        let base = fingerprint(&sample());
        assert_eq!(base, fingerprint(&Mutation { request_id: None, ..sample() }));
        let changes: [fn(&mut Mutation); 7] = [
            |m| m.table = 8,
            |m| m.preconditions[0].condition = Some(Condition::Value("".into())),
            |m| m.preconditions[1].condition = Some(Condition::Exists(false)),
            |m| m.preconditions[2].condition = None,
            |m| m.writes[0].action = Some(Action::Put("x".into())),
            |m| m.writes.reverse(),
            |m| m.reads.clear(),
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut other = sample();
            change(&mut other);
            assert_ne!(base, fingerprint(&other), "change {i}");
        }
    }

    #[test]
    fn bytes_that_move_between_fields_change_it() {
        let put = |key: &'static str, value: &'static str| Mutation {
            writes: vec![WriteOp { key: key.into(), action: Some(Action::Put(value.into())) }],
            ..Mutation::default()
        };
        assert_ne!(fingerprint(&put("ab", "c")), fingerprint(&put("a", "bc")));
    }
}
