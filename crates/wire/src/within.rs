//! A read's latency budget, and the detail of a status that says what could be had instead.

use crate::consistency;
use bytes::Bytes;
use meridian_proto::v1 as pb;
use meridian_types::{Achievable, CausalityToken, Error, Reason, Within};
use prost::Message as _;
use prost_types::Any;
use std::time::Duration;

/// Under which [`pb::BudgetDetail`] is among the details of a status.
const DETAIL_TYPE: &str = "type.googleapis.com/meridian.v1.BudgetDetail";

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// To the wire.
pub fn encode(within: &Within) -> pb::Within {
    let seen = within.token > CausalityToken::default();
    pb::Within {
        budget_ns: nanos(within.budget),
        weakest: within.weakest.as_ref().map(consistency::encode),
        token: if seen { Bytes::from(within.token.to_bytes()) } else { Bytes::new() },
    }
}

/// From the wire.
///
/// Errors: [`Reason::BadRequest`] for a budget of nothing, and for a token that this build cannot read.
pub fn decode(message: pb::Within) -> Result<Within, Error> {
    if message.budget_ns == 0 {
        let text = "`within` without a budget; say how many nanoseconds the read may take, or leave `within` out";
        return Err(Error::new(Reason::BadRequest, text));
    }
    Ok(Within {
        budget: Duration::from_nanos(message.budget_ns),
        weakest: message.weakest.map(|weakest| consistency::decode(Some(weakest))).transpose()?,
        token: consistency::token(&message.token)?,
    })
}

/// The detail of a status; `None` for an error that has nothing to say of it.
pub(crate) fn encode_detail(achievable: &[Achievable]) -> Option<Any> {
    let encode = |a: &Achievable| pb::Achievable {
        consistency: Some(consistency::encode(&a.level)),
        latency_ns: a.latency.map(nanos),
        staleness_ns: a.staleness.map(nanos),
    };
    let detail = pb::BudgetDetail { achievable: achievable.iter().map(encode).collect() };
    (!achievable.is_empty()).then(|| Any { type_url: DETAIL_TYPE.to_owned(), value: detail.encode_to_vec() })
}

/// What could be had instead, by the details of a status; nothing if none of them says so in a way that this build knows.
pub(crate) fn decode_detail(details: &[Any]) -> Vec<Achievable> {
    let detail = details.iter().find(|any| any.type_url == DETAIL_TYPE);
    let detail = detail.and_then(|any| pb::BudgetDetail::decode(any.value.as_slice()).ok()).unwrap_or_default();
    let decode = |a: pb::Achievable| {
        Some(Achievable {
            level: consistency::decode(a.consistency).ok()?,
            latency: a.latency_ns.map(Duration::from_nanos),
            staleness: a.staleness_ns.map(Duration::from_nanos),
        })
    };
    detail.achievable.into_iter().filter_map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{Consistency, Timestamp};

    #[test]
    fn budgets_round_trip() {
        let bare = Within::new(Duration::from_millis(40));
        let full = bare.clone().or_weaker(Consistency::Local).including(CausalityToken(Timestamp(7)));
        for within in [bare, full] {
            assert_eq!(decode(encode(&within)), Ok(within));
        }
    }

    #[test]
    fn a_budget_of_nothing_and_a_strange_token_are_refused() {
        let strange = pb::Within { budget_ns: 1, token: Bytes::from_static(b"x"), ..pb::Within::default() };
        for message in [pb::Within::default(), strange] {
            assert_eq!(decode(message).unwrap_err().reason, Reason::BadRequest);
        }
    }

    #[test]
    fn details_of_other_kinds_are_passed_over() {
        let other = Any { type_url: "type.googleapis.com/google.rpc.Help".to_owned(), value: vec![1, 2] };
        let garbled = Any { type_url: DETAIL_TYPE.to_owned(), value: vec![0xff] };
        assert_eq!(decode_detail(std::slice::from_ref(&other)), []);
        assert_eq!(decode_detail(&[garbled]), []);
        let local = Achievable { level: Consistency::Local, latency: Some(Duration::from_millis(1)), staleness: None };
        let ours = encode_detail(std::slice::from_ref(&local)).unwrap();
        assert_eq!(decode_detail(&[other, ours]), [local]);
        assert_eq!(encode_detail(&[]), None);
    }
}
