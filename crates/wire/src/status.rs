//! Errors as gRPC statuses.
//!
//! A status made here carries `google.rpc.ErrorInfo`: domain [`DOMAIN`], the reason's stable name, and under the
//! metadata key [`OUTCOME`] what became of the request. What could be had instead of a read that does not fit into its
//! latency budget is a detail of its own. The gRPC code is for clients that know nothing of Meridian.
//! A status without such details was made by something between the two programs (the transport, a deadline, a
//! proxy); [`from_status`] then claims no more than can be known: only a connection that was never made proves that
//! the request did nothing (invariants, rule X4).

use crate::within;
use meridian_types::{Error, Fate, Reason};
use prost::Message as _;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, ConnectError, Status};
use tonic_types::{ErrorDetails, StatusExt as _, pb::Status as RpcStatus};

/// `ErrorInfo.domain` of every status that Meridian makes.
pub const DOMAIN: &str = "meridian";
/// `ErrorInfo.metadata` key that says what became of the request.
pub const OUTCOME: &str = "outcome";

/// After this time an overloaded node may have room again.
const OVERLOADED_RETRY: Duration = Duration::from_millis(100);
/// After this time the leadership may have moved to a node whose disk has room.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

const NOT_APPLIED: &str = "not_applied";
const UNKNOWN: &str = "unknown";

/// What a call can do, which decides what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call changes nothing: whatever happens to it, nothing was applied.
    Read,
    /// The call may change something.
    Write,
}

/// The gRPC code under which a reason travels.
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::BadRequest
        | Reason::KeyTooLarge
        | Reason::ValueTooLarge
        | Reason::RequestTooLarge
        | Reason::BadRange => Code::InvalidArgument,
        Reason::UnknownTable => Code::NotFound,
        Reason::TableExists | Reason::RequestIdReused => Code::AlreadyExists,
        Reason::BadPlacement | Reason::PreconditionFailed | Reason::BudgetTooSmall => Code::FailedPrecondition,
        Reason::CrossShard => Code::Unimplemented,
        Reason::TimestampInFuture | Reason::TimestampCollected => Code::OutOfRange,
        Reason::RequestIdExpired => Code::Aborted,
        Reason::NoQuorum | Reason::ClockUnsafe => Code::Unavailable,
        Reason::OutcomeUnknown | Reason::BudgetSpent => Code::DeadlineExceeded,
        Reason::Overloaded | Reason::DiskFull => Code::ResourceExhausted,
        Reason::Corruption => Code::DataLoss,
        Reason::Internal => Code::Internal,
    }
}

/// The status that carries `error`.
pub fn to_status(error: &Error) -> Status {
    let outcome = match error.fate {
        Fate::NotApplied => NOT_APPLIED,
        Fate::Unknown => UNKNOWN,
    };
    let metadata = HashMap::from([(OUTCOME.to_owned(), outcome.to_owned())]);
    let mut details = ErrorDetails::with_error_info(error.reason.name(), DOMAIN, metadata);
    if let Some(after) = retry_after(error.reason) {
        details.set_retry_info(Some(after));
    }
    let status = Status::with_error_details(code(error.reason), error.message.clone(), details);
    match within::encode_detail(&error.achievable) {
        Some(detail) => with_detail(&status, detail),
        None => status,
    }
}

/// The same status with one more detail.
fn with_detail(status: &Status, detail: prost_types::Any) -> Status {
    let mut rpc = rpc_status(status);
    rpc.details.push(detail);
    Status::with_details(status.code(), status.message(), rpc.encode_to_vec().into())
}

/// The status with its details, as far as they can be read.
fn rpc_status(status: &Status) -> RpcStatus {
    RpcStatus::decode(status.details()).unwrap_or_default()
}

/// The hint (`google.rpc.RetryInfo`) of errors that pass when others' work is done.
fn retry_after(reason: Reason) -> Option<Duration> {
    let hints = [(Reason::Overloaded, OVERLOADED_RETRY), (Reason::DiskFull, DISK_FULL_RETRY)];
    hints.into_iter().find(|(of, _)| *of == reason).map(|(_, after)| after)
}

/// The error that `status` carries, or, for a status that Meridian did not make, the most that can be claimed
/// about a call with this `effect`.
pub fn from_status(status: &Status, effect: Effect) -> Error {
    let error = match decode(status) {
        Some(error) => error,
        None if never_connected(status) => {
            Error::new(Reason::NoQuorum, format!("could not connect: {}", causes(status)))
        }
        None => foreign(status, effect),
    };
    match effect {
        Effect::Read => error.with_fate(Fate::NotApplied),
        Effect::Write => error,
    }
}

/// Whether the status was made on this side because no connection could be made: nothing was sent.
pub fn never_connected(status: &Status) -> bool {
    sources(status).any(|source| source.is::<ConnectError>())
}

/// Whether a Meridian server made the status, as opposed to the transport or something on the way.
pub fn is_answer(status: &Status) -> bool {
    decode(status).is_some()
}

fn decode(status: &Status) -> Option<Error> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    // A server newer than this build may give a reason that this build does not know: the code still says the rest.
    let reason = Reason::from_name(&info.reason).unwrap_or(Reason::Internal);
    // Only an explicit statement is a promise that nothing was applied.
    let fate = match info.metadata.get(OUTCOME).map(String::as_str) {
        Some(NOT_APPLIED) => Fate::NotApplied,
        Some(_) | None => Fate::Unknown,
    };
    let achievable = within::decode_detail(&rpc_status(status).details);
    Some(Error::new(reason, status.message()).with_fate(fate).with_achievable(achievable))
}

fn foreign(status: &Status, effect: Effect) -> Error {
    let cause = causes(status);
    match (status.code(), effect) {
        // The peer has no such method: it runs another version, or is no Meridian node at all.
        (Code::Unimplemented, _) => {
            Error::new(Reason::BadRequest, format!("the peer does not offer this call ({cause}); compare versions"))
        }
        (_, Effect::Read) => Error::new(Reason::NoQuorum, format!("no answer: {cause}")),
        (_, Effect::Write) => Error::new(Reason::OutcomeUnknown, format!("the answer was lost: {cause}")),
    }
}

/// The status's message and every cause below it, outermost first, without repetitions.
fn causes(status: &Status) -> String {
    let mut texts = vec![if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    }];
    for source in sources(status) {
        let text = source.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{Achievable, Consistency};

    #[test]
    fn every_reason_and_fate_survives_the_wire() {
        for reason in Reason::ALL {
            for fate in [Fate::NotApplied, Fate::Unknown] {
                let error = Error::new(reason, "what to do").with_fate(fate);
                let status = to_status(&error);
                assert_eq!(status.code(), code(reason));
                assert!(is_answer(&status));
                assert_eq!(from_status(&status, Effect::Write), error);
            }
        }
    }

    #[test]
    fn what_could_be_had_instead_survives_the_wire() {
        let of = |level, latency, staleness| Achievable { level, latency, staleness };
        let achievable = vec![
            of(Consistency::Linearizable, None, None),
            of(Consistency::BoundedStaleness(Duration::from_secs(5)), Some(Duration::from_millis(70)), None),
            of(Consistency::Local, Some(Duration::ZERO), Some(Duration::from_millis(60))),
        ];
        let error = Error::new(Reason::BudgetTooSmall, "too small").with_achievable(achievable);
        let status = to_status(&error);
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(from_status(&status, Effect::Read), error);
    }

    #[test]
    fn a_read_is_never_of_unknown_fate() {
        let error = Error::new(Reason::OutcomeUnknown, "lost");
        assert_eq!(from_status(&to_status(&error), Effect::Read).fate, Fate::NotApplied);
        assert_eq!(from_status(&Status::cancelled("gone"), Effect::Read).fate, Fate::NotApplied);
    }

    #[test]
    fn a_write_whose_answer_others_made_is_unknown() {
        for code in [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded, Code::Internal, Code::Unknown] {
            let error = from_status(&Status::new(code, "broken pipe"), Effect::Write);
            assert_eq!((error.reason, error.fate), (Reason::OutcomeUnknown, Fate::Unknown), "{code:?}");
        }
    }

    #[test]
    fn a_missing_or_odd_outcome_is_no_promise() {
        for metadata in [HashMap::new(), HashMap::from([(OUTCOME.to_owned(), "maybe".to_owned())])] {
            let details = ErrorDetails::with_error_info(Reason::NoQuorum.name(), DOMAIN, metadata);
            let status = Status::with_error_details(Code::Unavailable, "no leader", details);
            assert_eq!(from_status(&status, Effect::Write).fate, Fate::Unknown);
        }
    }

    #[test]
    fn details_of_another_domain_are_not_ours() {
        let details = ErrorDetails::with_error_info(Reason::NoQuorum.name(), "example.com", HashMap::new());
        let status = Status::with_error_details(Code::Unavailable, "proxy", details);
        assert!(!is_answer(&status));
        assert_eq!(from_status(&status, Effect::Write).fate, Fate::Unknown);
    }

    #[test]
    fn a_method_that_does_not_exist_did_nothing() {
        let error = from_status(&Status::unimplemented(""), Effect::Write);
        assert_eq!((error.reason, error.fate), (Reason::BadRequest, Fate::NotApplied));
    }

    #[test]
    fn a_refused_connection_did_nothing() {
        let refused = ConnectError(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
        let status = Status::from_error(Box::new(refused));
        assert!(never_connected(&status));
        let error = from_status(&status, Effect::Write);
        assert_eq!((error.reason, error.fate), (Reason::NoQuorum, Fate::NotApplied));
    }
}
