//! What an outcome tells the client: a result, or an error with a reason, the request's fate and advice.

use meridian_proto::internal::v1::outcome::Result as Decision;
use meridian_proto::internal::v1::{Mutation, Outcome};
use meridian_proto::v1::Row;
use meridian_proto::v1::precondition::Condition;
use meridian_types::{Error, Fate, Reason, Timestamp};

/// A mutation that took effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its commit timestamp.
    pub ts: Timestamp,
    /// The values that it read, as they were before its writes.
    pub reads: Vec<Row>,
}

/// Reads the outcome of `mutation`.
///
/// A recorded refusal is final, so its fate is "not applied" (G10). [`Reason::RequestIdExpired`] is not: a copy
/// may have taken effect in a past that the ledger has forgotten.
pub fn verdict(mutation: &Mutation, outcome: Outcome) -> Result<Committed, Error> {
    let ts = Timestamp(outcome.ts);
    let error = match outcome.result {
        Some(Decision::Committed(committed)) => return Ok(Committed { ts, reads: committed.reads }),
        Some(Decision::Refused(refused)) => {
            let text = refusal(mutation, refused.precondition, refused.found_version);
            Error::new(Reason::PreconditionFailed, text)
        }
        Some(Decision::IdReused(_)) => Error::new(
            Reason::RequestIdReused,
            "the request id was used for a request with another content; give every new request an id of its own",
        ),
        Some(Decision::IdExpired(_)) => Error::new(
            Reason::RequestIdExpired,
            "the request id is too old: whether an earlier attempt took effect is no longer known; \
             read the keys to find out, then write under a new id",
        ),
        Some(Decision::IdInFuture(_)) => Error::new(
            Reason::TimestampInFuture,
            "the request id's issue time is in the future; correct the client's clock and use a new id",
        ),
        Some(Decision::WrongShard(_)) => Error::new(
            Reason::CrossShard,
            "a key of the request lies outside the shard that it was sent to; \
             the keys of one transaction must lie in one shard",
        ),
        Some(Decision::StaleTimestamp(_)) => Error::new(
            Reason::Internal,
            "the request's timestamp was not above its predecessors'; try again under the same request id",
        ),
        Some(Decision::Malformed(_)) => Error::new(
            Reason::BadRequest,
            "the request has no id, a precondition without a condition, or a write that neither puts nor deletes",
        ),
        Some(Decision::ReadsTooLarge(_)) => Error::new(
            Reason::RequestTooLarge,
            "the values to be returned exceed what one reply holds; nothing was written; read fewer keys",
        ),
        None => Error::new(Reason::Internal, "the outcome cannot be understood by this version of Meridian")
            .with_fate(Fate::Unknown),
    };
    Err(error)
}

fn refusal(mutation: &Mutation, index: u32, found_version: u64) -> String {
    let Some(precondition) = mutation.preconditions.get(index as usize) else {
        return format!("precondition {index} does not hold; nothing was written");
    };
    let wanted = match &precondition.condition {
        Some(Condition::Value(_)) => "the given value".to_owned(),
        Some(Condition::Exists(true)) => "a value".to_owned(),
        Some(Condition::Exists(false)) => "no value".to_owned(),
        Some(Condition::Version(0)) => "no version".to_owned(),
        Some(Condition::Version(version)) => format!("version {version}"),
        None => "a condition unknown to this version".to_owned(),
    };
    let found = if found_version == 0 { "none".to_owned() } else { format!("version {found_version}") };
    let key = precondition.key.escape_ascii();
    format!(
        "precondition {index} does not hold: it wants key \"{key}\" to have {wanted}, found {found}; \
         nothing was written; read the key again and decide anew"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::internal::v1::outcome::{
        Committed as Done, IdExpired, IdInFuture, IdReused, Malformed, ReadsTooLarge, Refused, StaleTimestamp,
        WrongShard,
    };
    use meridian_proto::v1::Precondition;

    #[test]
    fn every_outcome_has_its_reason_and_fate() {
        let refused = Refused { precondition: 0, found_version: 7, reveals: 7 };
        type Row = (Option<Decision>, Option<(Reason, Fate)>);
        let table: [Row; 10] = [
            (Some(Decision::Committed(Done::default())), None),
            (Some(Decision::Refused(refused)), Some((Reason::PreconditionFailed, Fate::NotApplied))),
            (Some(Decision::IdReused(IdReused {})), Some((Reason::RequestIdReused, Fate::NotApplied))),
            (Some(Decision::IdExpired(IdExpired {})), Some((Reason::RequestIdExpired, Fate::Unknown))),
            (Some(Decision::IdInFuture(IdInFuture {})), Some((Reason::TimestampInFuture, Fate::NotApplied))),
            (Some(Decision::WrongShard(WrongShard {})), Some((Reason::CrossShard, Fate::NotApplied))),
            (Some(Decision::StaleTimestamp(StaleTimestamp {})), Some((Reason::Internal, Fate::Unknown))),
            (Some(Decision::Malformed(Malformed {})), Some((Reason::BadRequest, Fate::NotApplied))),
            (Some(Decision::ReadsTooLarge(ReadsTooLarge {})), Some((Reason::RequestTooLarge, Fate::NotApplied))),
            (None, Some((Reason::Internal, Fate::Unknown))),
        ];
        for (result, expected) in table {
            let outcome = Outcome { ts: 9, result };
            let got = verdict(&Mutation::default(), outcome.clone()).map_err(|e| (e.reason, e.fate));
            assert_eq!(got.err(), expected, "{outcome:?}");
        }
    }

    #[test]
    fn a_refusal_names_key_wish_and_finding() {
        let precondition = Precondition { key: "a\0".into(), condition: Some(Condition::Exists(false)) };
        let mutation = Mutation { preconditions: vec![precondition], ..Mutation::default() };
        let refused = Refused { precondition: 0, found_version: 7, reveals: 7 };
        let error = verdict(&mutation, Outcome { ts: 9, result: Some(Decision::Refused(refused)) }).unwrap_err();
        assert!(error.message.contains(r#"key "a\x00" to have no value, found version 7"#), "{}", error.message);
    }
}
