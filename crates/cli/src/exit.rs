//! Exit codes: what a script can tell about a failure without reading the message.

use crate::consistency;
use meridian_client::{Achievable, Error, Fate, Reason};
use meridian_storage::backup::BackupError;

/// The command failed, and nothing that it was to write was written by the failing step.
pub(crate) const ERROR: u8 = 1;
/// A precondition did not hold, or the key that was asked for has no value.
pub(crate) const CONDITION: u8 = 3;
/// A write may or may not have taken effect.
pub(crate) const UNKNOWN: u8 = 4;

/// What was checked is damaged.
pub(crate) const DAMAGED: u8 = 5;

/// An objective is not met.
pub(crate) const BROKEN: u8 = 6;

/// For the end of `meridian --help`. 2 is clap's.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed; the write that failed had no effect
  2  the command line was not understood
  3  a precondition did not hold, or the key has no value
  4  outcome unknown: a write may or may not have taken effect
  5  `debug verify`, `verify-backup` or `restore` found damage
  6  `budget --check`: an objective is not met

With --format json, errors are JSON too, on stderr. MERIDIAN_LOG=debug shows every attempt.";

/// The key has no value at the read timestamp.
#[derive(Debug, thiserror::Error)]
#[error("the key has no value")]
pub(crate) struct NotFound;

/// Some of many writes have an unknown outcome.
#[derive(Debug, thiserror::Error)]
#[error("{0} writes have an unknown outcome; run the command again to settle them")]
pub(crate) struct SomeUnknown(pub(crate) u64);

/// What was checked is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("{0} findings; do not start a node on this directory")]
pub(crate) struct DamageFound(pub(crate) u64);

/// A placement does not meet its objectives.
#[derive(Debug, thiserror::Error)]
#[error("{0} objectives are not met")]
pub(crate) struct BudgetBroken(pub(crate) usize);

/// A backup is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("{0} findings; nothing is restored from this backup")]
pub(crate) struct BackupDamaged(pub(crate) u64);

/// The exit code that says what `error` means.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<NotFound>() {
        return CONDITION;
    }
    if error.is::<DamageFound>() || error.is::<BackupDamaged>() {
        return DAMAGED;
    }
    if error.is::<BudgetBroken>() {
        return BROKEN;
    }
    if let Some(BackupError::Damaged(_) | BackupError::BadManifest { .. }) = error.downcast_ref() {
        return DAMAGED;
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

/// The error and its causes in one line. A cause that the error above it has already told is not told again.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// The same for programs: the message, and what the client knows of the operation.
pub(crate) fn json(error: &anyhow::Error) -> serde_json::Value {
    let client = error.downcast_ref::<Error>();
    let outcome = client.map(|e| match e.fate() {
        Fate::NotApplied => "not_applied",
        Fate::Unknown => "unknown",
    });
    let achievable = client.map(Error::achievable).unwrap_or_default();
    let mut json = serde_json::json!({
        "error": message(error),
        "reason": client.map(|e| e.reason().name()),
        "outcome": outcome,
        "attempts": client.map(|e| e.attempts),
    });
    if !achievable.is_empty() {
        json["achievable"] = achievable.iter().map(achievable_json).collect();
    }
    json
}

fn achievable_json(achievable: &Achievable) -> serde_json::Value {
    let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    serde_json::json!({
        "consistency": consistency::text(&achievable.level),
        "latency_ns": achievable.latency.map(nanos),
        "staleness_ns": achievable.staleness.map(nanos),
    })
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
        assert_eq!(code(&DamageFound(1).into()), DAMAGED);
        assert_eq!(code(&BudgetBroken(1).into()), BROKEN);
        assert_eq!(code(&BackupDamaged(1).into()), DAMAGED);
        assert_eq!(code(&BackupError::BadManifest { path: "b/manifest".into(), why: "x".into() }.into()), DAMAGED);
        assert_eq!(code(&BackupError::NoBackup { path: "b".into() }.into()), ERROR);
        assert_eq!(code(&anyhow::anyhow!("anything")), ERROR);
    }

    #[test]
    fn programs_are_told_what_the_client_knows() {
        let known = json(&failed(Reason::OutcomeUnknown));
        assert_eq!((&known["reason"], &known["outcome"]), (&"OUTCOME_UNKNOWN".into(), &"unknown".into()));
        assert_eq!(json(&NotFound.into())["outcome"], serde_json::Value::Null);
        assert_eq!(json(&failed(Reason::NoQuorum)).get("achievable"), None);
    }

    #[test]
    fn programs_are_told_what_would_fit() {
        let millis = |ms| Some(std::time::Duration::from_millis(ms));
        let achievable = vec![
            Achievable { level: meridian_client::Consistency::Linearizable, latency: None, staleness: millis(0) },
            Achievable { level: meridian_client::Consistency::Local, latency: millis(1), staleness: millis(60) },
        ];
        let cause = meridian_types::Error::new(Reason::BudgetTooSmall, "why").with_achievable(achievable);
        let told = json(&Error { cause, request_id: None, attempts: 1 }.into());
        let (first, second) = (&told["achievable"][0], &told["achievable"][1]);
        assert_eq!((&first["consistency"], &first["latency_ns"]), (&"linearizable".into(), &serde_json::Value::Null));
        assert_eq!((&second["latency_ns"], &second["staleness_ns"]), (&1_000_000.into(), &60_000_000.into()));
    }

    #[test]
    fn a_message_tells_each_cause_once() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let told = anyhow::Error::from(missing).context("cannot open f: entity not found").context("import");
        assert_eq!(message(&told), "import: cannot open f: entity not found");
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_faults() {
        assert!(is_closed_pipe(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()));
        assert!(!is_closed_pipe(&std::io::Error::from(std::io::ErrorKind::NotFound).into()));
    }
}
