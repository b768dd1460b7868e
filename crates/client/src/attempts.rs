//! What may be said of an operation after several attempts, of which some may still be on their way.
//!
//! An attempt whose answer was lost may have been applied, or may be applied later. From then on a refusal speaks
//! only for the copy that it answers: a later `NO_QUORUM` does not make the first copy undone (invariants, rule X4).
//! Two answers speak for all copies, because they are read from the request ledger, which holds one record per
//! request id: success, and a failed precondition (rule X2).
//!
//! Pure: no clock, no I/O. The caller sends, pauses and gives up.

use meridian_types::{Error, Fate, Reason, RequestId};

/// What kind of operation is attempted; decides what is safe to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Changes nothing: may be repeated after any passing failure.
    Read,
    /// Carries a request id: may be repeated after any passing failure, a lost answer included.
    Write(RequestId),
    /// Changes something and carries no id: repeated only when it is known to have done nothing.
    Once,
}

/// The attempts of one operation so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    operation: Operation,
    /// Finished attempts.
    count: u32,
    /// The answer to some attempt was lost.
    maybe_applied: bool,
    last: Option<Error>,
}

impl Attempts {
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation, count: 0, maybe_applied: false, last: None }
    }

    /// Takes in that an attempt succeeded; returns how many were made.
    pub(crate) fn succeed(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    /// Takes in a failed attempt. Returns whether another one is safe and may help.
    pub(crate) fn fail(&mut self, error: Error) -> bool {
        self.count += 1;
        let settles = error.reason == Reason::PreconditionFailed && error.fate == Fate::NotApplied;
        self.maybe_applied = !settles && (self.maybe_applied || error.fate == Fate::Unknown);
        let may_retry = error.reason.is_retryable()
            && match self.operation {
                Operation::Read | Operation::Write(_) => true,
                Operation::Once => error.fate == Fate::NotApplied,
            };
        self.last = Some(error);
        may_retry
    }

    /// The operation's error, once no further attempt is made.
    pub(crate) fn give_up(self) -> crate::Error {
        let last = self.last.unwrap_or_else(|| Error::new(Reason::NoQuorum, "no time was left for an attempt"));
        let cause = match (self.operation, self.maybe_applied, last.fate) {
            (Operation::Read, _, _) => last.with_fate(Fate::NotApplied),
            (_, true, Fate::NotApplied) => Error::new(
                Reason::OutcomeUnknown,
                format!("an earlier attempt's answer was lost; the last one said: {last}"),
            ),
            (_, true, Fate::Unknown) | (_, false, _) => last,
        };
        let request_id = match self.operation {
            Operation::Write(id) => Some(id),
            Operation::Read | Operation::Once => None,
        };
        crate::Error { cause, request_id, attempts: self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Operation = Operation::Write(RequestId { time: meridian_types::Timestamp(1), client: 2, sequence: 3 });

    /// The final error after these failures, and for each whether a retry was allowed.
    fn run(operation: Operation, failures: &[Reason]) -> (Reason, Fate, Vec<bool>) {
        let mut attempts = Attempts::new(operation);
        let retries = failures.iter().map(|r| attempts.fail(Error::new(*r, "why"))).collect();
        let error = attempts.give_up();
        assert_eq!(error.attempts as usize, failures.len());
        (error.reason(), error.fate(), retries)
    }

    #[test]
    fn a_refusal_alone_is_definite() {
        assert_eq!(run(WRITE, &[Reason::NoQuorum]), (Reason::NoQuorum, Fate::NotApplied, vec![true]));
        assert_eq!(run(WRITE, &[Reason::UnknownTable]), (Reason::UnknownTable, Fate::NotApplied, vec![false]));
    }

    #[test]
    fn unknown_stays_unknown_whatever_a_later_copy_is_told() {
        for later in [Reason::NoQuorum, Reason::Overloaded, Reason::UnknownTable, Reason::RequestIdReused] {
            let (reason, fate, _) = run(WRITE, &[Reason::OutcomeUnknown, later]);
            assert_eq!((reason, fate), (Reason::OutcomeUnknown, Fate::Unknown), "{later:?}");
        }
        let (reason, fate, _) = run(WRITE, &[Reason::OutcomeUnknown, Reason::NoQuorum, Reason::RequestIdExpired]);
        assert_eq!((reason, fate), (Reason::RequestIdExpired, Fate::Unknown));
    }

    #[test]
    fn the_ledger_settles_an_unknown_outcome() {
        let (reason, fate, _) = run(WRITE, &[Reason::OutcomeUnknown, Reason::PreconditionFailed]);
        assert_eq!((reason, fate), (Reason::PreconditionFailed, Fate::NotApplied));
    }

    #[test]
    fn an_unrecorded_refusal_settles_nothing() {
        let mut attempts = Attempts::new(WRITE);
        attempts.fail(Error::new(Reason::OutcomeUnknown, "lost"));
        attempts.fail(Error::new(Reason::PreconditionFailed, "garbled").with_fate(Fate::Unknown));
        assert_eq!(attempts.give_up().fate(), Fate::Unknown);
    }

    #[test]
    fn without_an_id_an_unknown_outcome_is_not_repeated() {
        assert_eq!(
            run(Operation::Once, &[Reason::NoQuorum, Reason::OutcomeUnknown]),
            (Reason::OutcomeUnknown, Fate::Unknown, vec![true, false])
        );
    }

    #[test]
    fn a_read_has_no_effect_to_be_unsure_of() {
        let (_, fate, retries) = run(Operation::Read, &[Reason::OutcomeUnknown, Reason::Corruption]);
        assert_eq!((fate, retries), (Fate::NotApplied, vec![true, false]));
    }

    #[test]
    fn giving_up_before_the_first_attempt_is_definite() {
        assert_eq!(Attempts::new(WRITE).give_up().fate(), Fate::NotApplied);
    }
}
