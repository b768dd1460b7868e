//! Spending a budget: the stronger level first, the weaker one in time, and the strongest answer that came.

use crate::within::plan::Choice;
use meridian_types::{Error, Result};
use std::pin::pin;
use std::time::Duration;

/// Part of a budget that is left for the reply to leave in: one in this many.
const REPLY_PART: u32 = 50;

/// What came of a budget.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spent<T> {
    /// An answer at this level; its place among those that will do.
    Given(usize, T),
    /// None in time.
    Late,
}

/// Tries the level that was chosen, and its fallback once its time has come, or the level has failed in a way that the
/// fallback need not share. A fallback's answer is held back while the stronger one may still come.
///
/// * `left`: what is left of the budget.
/// * `attempt`: reads at a level. It is called once for each, and its future is dropped once the answer is decided.
/// * Errors: those of the last attempt that failed, if no other has answered.
pub(super) async fn spend<T, F: Future<Output = Result<T>>>(
    choice: Choice,
    left: Duration,
    attempt: impl Fn(usize) -> F,
) -> Result<Spent<T>> {
    let left = left - left / REPLY_PART;
    let mut strong = pin!(attempt(choice.level));
    let Some(fallback) = choice.fallback else {
        return match tokio::time::timeout(left, strong).await {
            Ok(answer) => answer.map(|answer| Spent::Given(choice.level, answer)),
            Err(_) => Ok(Spent::Late),
        };
    };
    let mut end = pin!(tokio::time::sleep(left));
    let mut failed = None;
    match tokio::time::timeout(fallback.after.min(left), &mut strong).await {
        Ok(Ok(answer)) => return Ok(Spent::Given(choice.level, answer)),
        Ok(Err(error)) if !passes(&error) => return Err(error),
        Ok(Err(error)) => failed = Some(error),
        Err(_) => {}
    }
    let mut weak = pin!(attempt(fallback.level));
    let (mut strong_runs, mut weak_runs) = (failed.is_none(), true);
    let mut held = None;
    while strong_runs || weak_runs {
        tokio::select! {
            biased;
            answer = &mut strong, if strong_runs => match answer {
                Ok(answer) => return Ok(Spent::Given(choice.level, answer)),
                Err(error) if !passes(&error) => return Err(error),
                Err(error) => (strong_runs, failed) = (false, Some(error)),
            },
            answer = &mut weak, if weak_runs => {
                weak_runs = false;
                match answer {
                    Ok(answer) => held = Some(answer),
                    Err(error) if !passes(&error) => return Err(error),
                    Err(error) => failed = Some(error),
                }
            }
            () = &mut end => {
                // Too late for errors of one of them to matter: the other has not ended.
                return Ok(held.map_or(Spent::Late, |answer| Spent::Given(fallback.level, answer)));
            }
        }
        if let Some(answer) = held.take_if(|_| !strong_runs) {
            return Ok(Spent::Given(fallback.level, answer));
        }
    }
    Err(failed.unwrap_or_else(|| crate::failure::no_quorum("the read")))
}

/// Whether another level may have what this attempt failed to give.
fn passes(error: &Error) -> bool {
    error.reason.is_retryable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::within::plan::Fallback;
    use meridian_types::Reason;
    use std::future::{pending, ready};
    use std::sync::Mutex;

    /// Far longer than any of these tests takes, unless something waits that must not.
    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(50);

    /// What an attempt does.
    #[derive(Clone, Debug)]
    enum Does {
        Answers,
        Fails(Reason),
        Hangs,
    }
    use Does::{Answers, Fails, Hangs};

    async fn run(strong: Does, weak: Does, after: Duration, left: Duration) -> (Result<Spent<usize>>, Vec<usize>) {
        let begun = Mutex::new(Vec::new());
        let attempt = |level: usize| {
            begun.lock().unwrap().push(level);
            let does = if level == 0 { strong.clone() } else { weak.clone() };
            async move {
                match does {
                    Answers => ready(Ok(level + 100)).await,
                    Fails(reason) => Err(Error::new(reason, "why")),
                    Hangs => pending().await,
                }
            }
        };
        let choice = Choice { level: 0, fallback: Some(Fallback { level: 1, after }) };
        let spent = spend(choice, left, attempt).await;
        (spent, begun.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_strong_answer_needs_no_fallback() {
        for weak in [Answers, Hangs, Fails(Reason::NoQuorum)] {
            assert_eq!(run(Answers, weak, LONG, LONG).await, (Ok(Spent::Given(0, 100)), vec![0]));
        }
    }

    #[tokio::test]
    async fn a_strong_answer_is_preferred_when_both_are_there() {
        let both = run(Answers, Answers, Duration::ZERO, LONG).await;
        assert_eq!(both.0, Ok(Spent::Given(0, 100)));
    }

    #[tokio::test]
    async fn a_level_that_is_late_falls_back_and_the_answer_is_held_until_the_end() {
        let both = run(Hangs, Answers, Duration::ZERO, SHORT).await;
        assert_eq!(both, (Ok(Spent::Given(1, 101)), vec![0, 1]));
    }

    #[tokio::test]
    async fn a_level_that_fails_in_passing_falls_back_at_once() {
        for reason in [Reason::NoQuorum, Reason::Overloaded, Reason::ClockUnsafe] {
            let both = run(Fails(reason), Answers, LONG, LONG * 2).await;
            assert_eq!(both, (Ok(Spent::Given(1, 101)), vec![0, 1]));
        }
    }

    #[tokio::test]
    async fn a_failure_that_every_level_shares_is_the_answer() {
        let (spent, begun) = run(Fails(Reason::UnknownTable), Answers, LONG, LONG).await;
        assert_eq!((spent.unwrap_err().reason, begun), (Reason::UnknownTable, vec![0]));
        let (spent, _) = run(Hangs, Fails(Reason::TimestampCollected), Duration::ZERO, LONG).await;
        assert_eq!(spent.unwrap_err().reason, Reason::TimestampCollected);
    }

    #[tokio::test]
    async fn when_both_fail_the_last_one_says_why() {
        let (spent, _) = run(Fails(Reason::NoQuorum), Fails(Reason::Overloaded), LONG, LONG).await;
        assert_eq!(spent.unwrap_err().reason, Reason::Overloaded);
    }

    #[tokio::test]
    async fn nobody_in_time_is_late() {
        assert_eq!(run(Hangs, Hangs, Duration::ZERO, SHORT).await, (Ok(Spent::Late), vec![0, 1]));
        assert_eq!(run(Hangs, Fails(Reason::NoQuorum), Duration::ZERO, SHORT).await.0, Ok(Spent::Late));
        let alone = Choice { level: 0, fallback: None };
        assert_eq!(spend(alone, SHORT, |_| pending::<Result<()>>()).await, Ok(Spent::Late));
        assert_eq!(spend(alone, LONG, |level| ready(Ok(level))).await, Ok(Spent::Given(0, 0)));
    }
}
