//! Asking again under the same request id: what became of a write whose answer was lost, and whether what was answered
//! once is answered the same.
//!
//! A process has other operations while it does not know. So a write that is settled later is recorded as one operation
//! of a process of its own, from when it was asked for to when its outcome was known; until then it is recorded as
//! unknown.

use crate::Violation;
use crate::harness::Process;
use crate::harness::history::found;
use meridian_bench::history::{Outcome, Record};
use meridian_client::{Error, Reply, RequestId, Row, Transaction};
use meridian_clock::Mono;
use meridian_types::{Fate, Reason, Timestamp};

/// Answers that a process remembers: what was refused is worth asking for when the state has changed in its favour.
const ANSWERED_MAX: usize = 8;

/// A write whose outcome is unknown.
#[derive(Debug)]
pub(super) struct Unsettled {
    /// Of its record in the history.
    pub(super) place: usize,
    pub(super) id: RequestId,
    pub(super) table: String,
    pub(super) transaction: Transaction,
}

/// A transaction and its final answer.
#[derive(Debug)]
pub(super) struct Answered {
    id: RequestId,
    table: String,
    transaction: Transaction,
    told: Told,
    place: usize,
}

/// Answers that come from the request ledger, so they must be the same however often one asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Committed(Timestamp, Vec<Row>),
    Refused,
}

impl Told {
    fn new(result: &Result<Reply<Vec<Row>>, Error>) -> Option<Self> {
        match result {
            Ok(reply) => Some(Self::Committed(reply.timestamp, reply.value.clone())),
            Err(e) if e.reason() == Reason::PreconditionFailed && e.fate() == Fate::NotApplied => Some(Self::Refused),
            Err(_) => None,
        }
    }
}

impl Answered {
    pub(super) fn new(
        id: RequestId,
        table: &str,
        transaction: Transaction,
        place: usize,
        result: &Result<Reply<Vec<Row>>, Error>,
    ) -> Option<Self> {
        Some(Self { id, table: table.to_owned(), transaction, place, told: Told::new(result)? })
    }
}

impl Process {
    /// How many of its writes have an unknown outcome that may still be found out.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Gives up finding out what became of the last write of unknown outcome.
    pub fn let_go(&mut self) {
        self.unsettled.pop_back();
    }

    /// Asks for the oldest write of unknown outcome again, under its request id. Whether it is settled now.
    pub async fn settle(&mut self) -> bool {
        let Some(asked) = self.unsettled.pop_front() else { return true };
        let result = self.session.transact_as(asked.id, &asked.table, &asked.transaction).await;
        let Some(told) = Told::new(&result) else {
            let forgotten = result.is_err_and(|e| e.reason() == Reason::RequestIdExpired);
            if !forgotten {
                self.unsettled.push_back(asked);
            }
            return forgotten;
        };
        let process = self.history.new_id();
        self.history.amend(asked.place, |record| settled(record, process, &told));
        true
    }

    /// Keeps an answer to hold later ones against.
    pub(super) fn remember(&mut self, answered: Option<Answered>) {
        if self.answered.len() >= ANSWERED_MAX {
            self.answered.pop_front();
        }
        self.answered.extend(answered);
    }

    /// Asks again for the oldest transaction that was answered for good. Another answer is an objection in the history.
    pub async fn ask_again(&mut self) {
        let Some(asked) = self.answered.pop_front() else { return };
        let result = self.session.transact_as(asked.id, &asked.table, &asked.transaction).await;
        let reused = result.as_ref().is_err_and(|e| e.reason() == Reason::RequestIdReused);
        let now = Told::new(&result);
        if reused || now.as_ref().is_some_and(|now| *now != asked.told) {
            let message = format!("a request was answered {:?}, and asked again {now:?} ({result:?})", asked.told);
            let record = self.history.record_at(asked.place);
            self.history.object(false, Violation::new(message, &record.iter().collect::<Vec<_>>()));
        }
        if now.is_some() {
            self.remember(Some(asked));
        }
    }
}

fn settled(record: &mut Record, process: u64, told: &Told) {
    (record.process, record.completed_ns) = (process, Mono::now().0);
    match told {
        Told::Committed(timestamp, rows) => {
            (record.outcome, record.timestamp, record.error) = (Outcome::Ok, Some(timestamp.0), None);
            if let Some(txn) = record.txn.as_mut().filter(|txn| txn.preconditions.is_empty()) {
                // Only exchanges have no precondition, and they read what they write.
                let keys: Vec<_> = txn.writes.iter().map(|w| w.key.as_str()).collect();
                txn.found = found(&keys, rows);
            }
        }
        Told::Refused => {
            record.outcome = Outcome::Fail;
            record.error = Some(Reason::PreconditionFailed.name().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{history, put, txn_value};

    fn settle(record: Record, told: &Told) -> Record {
        let mut record = record;
        settled(&mut record, 77, told);
        record
    }

    #[test]
    fn a_settled_write_is_one_operation_of_a_process_of_its_own() {
        let unknown = history([put(1, "k", "a").at(5, 10).unknown()]).remove(0);
        let known = settle(unknown, &Told::Committed(Timestamp(9), Vec::new()));
        assert_eq!((known.process, known.invoked_ns, known.outcome), (77, 5, Outcome::Ok));
        assert_eq!((known.timestamp, known.error.as_deref()), (Some(9), None));
        assert!(known.completed_ns > 10);
    }

    #[test]
    fn what_turns_out_to_be_refused_had_no_effect() {
        let unknown = history([txn_value(1, "k", "a", "b").at(5, 10).unknown()]).remove(0);
        let known = settle(unknown, &Told::Refused);
        assert_eq!((known.outcome, known.error.as_deref()), (Outcome::Fail, Some("PRECONDITION_FAILED")));
        assert_eq!(known.timestamp, None);
    }

    #[test]
    fn only_answers_from_the_ledger_settle() {
        let failed = |reason, fate| {
            let cause = meridian_types::Error::new(reason, "why").with_fate(fate);
            Told::new(&Err(Error { cause, request_id: None, attempts: 1 }))
        };
        assert_eq!(failed(Reason::NoQuorum, Fate::NotApplied), None, "that speaks for this copy alone");
        assert_eq!(failed(Reason::OutcomeUnknown, Fate::Unknown), None);
        assert_eq!(failed(Reason::PreconditionFailed, Fate::Unknown), None);
        assert_eq!(failed(Reason::PreconditionFailed, Fate::NotApplied), Some(Told::Refused));
    }
}
