//! How long the request ledger remembers, and which ids it can judge (invariants X1 to X3).
//!
//! A record is kept until log time exceeds its id's issue time by [`RETENTION`]. A mutation whose id is older
//! than that, and of which no record is left, is refused as "too old to tell": it may be a copy of a request
//! that took effect. So a record may be dropped exactly when its id would be refused without it.
//!
//! Both periods are constants and no settings: they decide at apply, so every replica, at every replay, must
//! use the same values (O5). Another value is another version of the log's format.

use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1::Mutation;
use meridian_proto::v1;
use meridian_types::{RequestId, Timestamp};
use std::time::Duration;

/// How long after its issue a request id is remembered, in log time.
pub const RETENTION: Duration = Duration::from_secs(600);

/// How far a request id's issue time may be ahead of log time. Clients' clocks are not the cluster's: their
/// offset is not bounded by its clock bound.
pub const ID_AHEAD_MAX: Duration = Duration::from_secs(10);

/// Old records are dropped when log time enters another period of this length.
const FORGET_PERIOD_NS: u64 = 60_000_000_000;

/// The id in its wire form.
pub fn id_to_proto(id: RequestId) -> v1::RequestId {
    v1::RequestId { time_ns: id.time.0, client: id.client, sequence: id.sequence }
}

/// The id from its wire form.
pub fn id_from_proto(id: &v1::RequestId) -> RequestId {
    RequestId { time: Timestamp(id.time_ns), client: id.client, sequence: id.sequence }
}

/// The mutation's id; `None` when it has none, or one of zeros only.
pub(crate) fn id_of(mutation: &Mutation) -> Option<RequestId> {
    mutation.request_id.as_ref().map(id_from_proto).filter(|id| *id != RequestId::default())
}

/// Whether the ledger may have dropped the id's record by log time `ts`.
pub(crate) fn is_expired(id: &RequestId, ts: Timestamp) -> bool {
    ts.since(id.time) > RETENTION
}

/// Whether the id claims to have been issued after log time `ts`, beyond any plausible clock.
pub(crate) fn is_in_future(id: &RequestId, ts: Timestamp) -> bool {
    id.time > ts.plus(ID_AHEAD_MAX)
}

/// When log time goes from `previous` to `ts`: the issue time below which records are dropped now, if any are.
///
/// It depends on the stamps alone and not on how mutations share entries. It is rounded down to the period's
/// start, so that every id below it is expired at `ts`.
pub(crate) fn forget_before(previous: Timestamp, ts: Timestamp) -> Option<Timestamp> {
    let period = |t: Timestamp| t.0 / FORGET_PERIOD_NS;
    let kept = if sabotaged(Sabotage::ForgetRecordsEarly) { Duration::ZERO } else { RETENTION };
    (period(previous) < period(ts)).then(|| Timestamp(period(ts) * FORGET_PERIOD_NS).minus(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = FORGET_PERIOD_NS;

    fn id(time: u64) -> RequestId {
        RequestId { time: Timestamp(time), client: 1, sequence: 1 }
    }

    #[test]
    fn ids_are_judged_by_log_time() {
        let issued = 100 * MINUTE;
        let retention = RETENTION.as_nanos() as u64;
        let ahead = ID_AHEAD_MAX.as_nanos() as u64;
        assert!(!is_expired(&id(issued), Timestamp(issued + retention)), "exactly the retention is remembered");
        assert!(is_expired(&id(issued), Timestamp(issued + retention + 1)));
        assert!(!is_in_future(&id(issued), Timestamp(issued - ahead)));
        assert!(is_in_future(&id(issued), Timestamp(issued - ahead - 1)));
    }

    #[test]
    fn nothing_is_dropped_before_it_is_expired() {
        for (previous, ts) in [(0, 700 * MINUTE), (100 * MINUTE - 1, 100 * MINUTE), (90 * MINUTE, 99 * MINUTE + 7)] {
            let before = forget_before(Timestamp(previous), Timestamp(ts)).expect("a period was entered");
            assert!(is_expired(&id(before.0 - 1), Timestamp(ts)));
        }
    }

    #[test]
    fn a_period_is_entered_once() {
        assert_eq!(forget_before(Timestamp(100 * MINUTE), Timestamp(101 * MINUTE - 1)), None);
        let entered = forget_before(Timestamp(100 * MINUTE), Timestamp(101 * MINUTE));
        assert_eq!(entered, Some(Timestamp(91 * MINUTE)));
    }

    #[test]
    fn an_id_of_zeros_is_no_id() {
        let of = |request_id| id_of(&Mutation { request_id, ..Mutation::default() });
        assert_eq!(of(None), None);
        assert_eq!(of(Some(v1::RequestId::default())), None);
        assert_eq!(of(Some(id_to_proto(id(5)))), Some(id(5)));
    }
}
