//! Exit codes: what a script can tell about a failure without reading the message.

use meridian_client::{Error, Fate, Reason};

/// The command failed, and nothing that it was to write was written by the failing step.
pub(crate) const ERROR: u8 = 1;
/// A precondition did not hold, or the key that was asked for has no value.
pub(crate) const CONDITION: u8 = 3;
/// A write may or may not have taken effect.
pub(crate) const UNKNOWN: u8 = 4;

/// For the end of `meridian --help`. 2 is clap's.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed; the write that failed had no effect
  2  the command line was not understood
  3  a precondition did not hold, or the key has no value
  4  outcome unknown: a write may or may not have taken effect";

/// The key has no value at the read timestamp.
#[derive(Debug, thiserror::Error)]
#[error("the key has no value")]
pub(crate) struct NotFound;

/// Some of many writes have an unknown outcome.
#[derive(Debug, thiserror::Error)]
#[error("{0} writes have an unknown outcome; run the command again to settle them")]
pub(crate) struct SomeUnknown(pub(crate) u64);

/// The exit code that says what `error` means.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<NotFound>() {
        return CONDITION;
    }
    if error.is::<SomeUnknown>() {
        return UNKNOWN;
    }
    match error.downcast_ref::<Error>() {
        Some(e) if e.fate() == Fate::Unknown => UNKNOWN,
        Some(e) if e.reason() == Reason::PreconditionFailed => CONDITION,
        Some(_) | None => ERROR,
    }
}

/// Whether the reader of our output went away, as `head` does: not a failure.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    fn failed(reason: Reason) -> anyhow::Error {
        let cause = meridian_types::Error::new(reason, "why");
        Error { cause, request_id: None, attempts: 1 }.into()
    }

    #[test]
    fn codes_survive_added_context() {
        let wrapped = Err::<(), _>(failed(Reason::OutcomeUnknown)).context("while importing").unwrap_err();
        assert_eq!(code(&wrapped), UNKNOWN);
        assert_eq!(code(&failed(Reason::PreconditionFailed)), CONDITION);
        assert_eq!(code(&failed(Reason::NoQuorum)), ERROR);
        assert_eq!(code(&NotFound.into()), CONDITION);
        assert_eq!(code(&SomeUnknown(3).into()), UNKNOWN);
        assert_eq!(code(&anyhow::anyhow!("anything")), ERROR);
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_faults() {
        assert!(is_closed_pipe(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()));
        assert!(!is_closed_pipe(&std::io::Error::from(std::io::ErrorKind::NotFound).into()));
    }
}
