//! What writers were told, and what the database then holds: nothing acknowledged may be missing, nothing refused
//! may be there, and what was unknown must have been settled.

use bytes::Bytes;
use meridian_client::{Reason, RequestId, Row, Timestamp};
use meridian_clock::Mono;
use std::collections::BTreeMap;
use std::time::Duration;

/// One write as its client saw it. Every key is written once, with a value of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) key: String,
    pub(super) value: String,
    /// When the client began it.
    pub(super) invoked: Mono,
    /// When the client was answered, or gave up.
    pub(super) completed: Mono,
    pub(super) outcome: Outcome,
}

/// What the client was told in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Committed at this timestamp.
    Acknowledged(Timestamp),
    /// Not committed, and never will be.
    Refused(Reason),
    /// No answer that settles it. The same write under the same id will tell.
    Unknown(RequestId),
    /// It was unknown; asking again found it committed, or committed it, at this timestamp.
    Settled(Timestamp),
}

impl Attempt {
    /// The timestamp at which it must be found, if it must.
    fn committed_at(&self) -> Option<Timestamp> {
        match self.outcome {
            Outcome::Acknowledged(at) | Outcome::Settled(at) => Some(at),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        }
    }
}

/// How many writes ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Counts {
    pub(super) acknowledged: usize,
    pub(super) refused: usize,
    pub(super) settled: usize,
    pub(super) unknown: usize,
}

impl Counts {
    pub(super) fn of<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Self {
        let mut counts = Self::default();
        for attempt in attempts {
            *match attempt.outcome {
                Outcome::Acknowledged(_) => &mut counts.acknowledged,
                Outcome::Refused(_) => &mut counts.refused,
                Outcome::Settled(_) => &mut counts.settled,
                Outcome::Unknown(_) => &mut counts.unknown,
            } += 1;
        }
        counts
    }
}

/// What one read of everything contradicts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Committed, and not there: keys.
    pub(super) lost: Vec<String>,
    /// There, but with another value or version than was acknowledged: keys.
    pub(super) altered: Vec<String>,
    /// Refused, and there nevertheless: keys.
    pub(super) revived: Vec<String>,
}

impl Audit {
    /// Compares what the clients were told with the rows that there are.
    pub(super) fn of(attempts: &[Attempt], rows: &[Row]) -> Self {
        let found: BTreeMap<&Bytes, &Row> = rows.iter().map(|row| (&row.key, row)).collect();
        let mut audit = Self::default();
        for attempt in attempts {
            let row = found.get(&Bytes::copy_from_slice(attempt.key.as_bytes()));
            match (attempt.committed_at(), row) {
                (Some(_), None) => audit.lost.push(attempt.key.clone()),
                (Some(at), Some(row)) if row.version != at || row.value != attempt.value => {
                    audit.altered.push(attempt.key.clone());
                }
                (None, Some(_)) if matches!(attempt.outcome, Outcome::Refused(_)) => {
                    audit.revived.push(attempt.key.clone());
                }
                (Some(_), Some(_)) | (None, _) => {}
            }
        }
        audit
    }

    pub(super) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// The longest time between `start` and `end` in which no write was acknowledged.
pub(super) fn longest_stall<'a>(attempts: impl IntoIterator<Item = &'a Attempt>, start: Mono, end: Mono) -> Duration {
    let is_answer = |a: &&Attempt| matches!(a.outcome, Outcome::Acknowledged(_));
    let mut answers: Vec<_> = attempts.into_iter().filter(is_answer).map(|a| a.completed).collect();
    answers.retain(|at| (start..=end).contains(at));
    answers.push(end);
    answers.sort_unstable();
    let mut last = start;
    let mut longest = Duration::ZERO;
    for at in answers {
        longest = longest.max(at.since(last));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(key: &str, completed: u64, outcome: Outcome) -> Attempt {
        Attempt { key: key.into(), value: format!("v-{key}"), invoked: Mono(0), completed: Mono(completed), outcome }
    }

    fn row(key: &'static str, value: &'static str, version: u64) -> Row {
        Row { key: key.into(), value: value.into(), version: Timestamp(version) }
    }

    fn acknowledged(key: &str, at: u64) -> Attempt {
        attempt(key, at, Outcome::Acknowledged(Timestamp(at)))
    }

    #[test]
    fn each_kind_of_contradiction_is_found() {
        let unknown = RequestId::default();
        let attempts = [
            acknowledged("a", 1),
            acknowledged("b", 2),
            acknowledged("c", 3),
            acknowledged("d", 4),
            attempt("e", 5, Outcome::Settled(Timestamp(5))),
            attempt("f", 6, Outcome::Refused(Reason::NoQuorum)),
            attempt("g", 7, Outcome::Refused(Reason::NoQuorum)),
            attempt("h", 8, Outcome::Unknown(unknown)),
            attempt("i", 9, Outcome::Unknown(unknown)),
        ];
        let rows =
            [row("a", "v-a", 1), row("c", "other", 3), row("d", "v-d", 9), row("f", "v-f", 6), row("h", "v-h", 8)];
        let audit = Audit::of(&attempts, &rows);
        assert_eq!(audit.lost, ["b", "e"]);
        assert_eq!(audit.altered, ["c", "d"]);
        assert_eq!(audit.revived, ["f"], "unknown ones may be there or not");
        assert!(!audit.is_clean());
        assert!(Audit::of(&attempts[..1], &rows).is_clean());
        let counts = Counts::of(&attempts);
        assert_eq!((counts.acknowledged, counts.refused, counts.settled, counts.unknown), (4, 2, 1, 2));
    }

    #[test]
    fn a_stall_counts_from_the_start_and_to_the_end() {
        let attempts =
            [acknowledged("a", 30), acknowledged("b", 20), attempt("c", 60, Outcome::Refused(Reason::NoQuorum))];
        let stall = |start, end| longest_stall(&attempts, Mono(start), Mono(end)).as_nanos();
        assert_eq!(stall(10, 31), 10, "between two answers; a refusal is none");
        assert_eq!(stall(0, 31), 20, "before the first");
        assert_eq!(stall(10, 90), 60, "after the last");
        assert_eq!(longest_stall(&[], Mono(3), Mono(10)).as_nanos(), 7);
    }
}
