//! The levels that will do for a read with a latency budget.

use meridian_types::{CausalityToken, Consistency, Error, Reason, Result, Timestamp, Within};
use std::time::Duration;

/// What a read with a budget accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ladder {
    /// How long it may take.
    pub(crate) budget: Duration,
    /// The levels that will do, strongest first; one or two.
    pub(crate) levels: Vec<Consistency>,
    /// Every answer includes what this has seen. Zero: nothing.
    pub(crate) token: Timestamp,
}

impl Ladder {
    /// What a read asks for that has this consistency, and this budget with its weakest level.
    ///
    /// Tokens of whatever part of the request hold at every level, so a causal read stays one: `LOCAL` with a token is
    /// `CAUSAL`.
    ///
    /// Errors: [`Reason::BadRequest`] when the weakest level is no weaker form of the consistency.
    pub(crate) fn new(strongest: Consistency, within: Within) -> Result<Self> {
        let weakest = within.weakest.unwrap_or_else(|| strongest.clone());
        if !is_weaker_or_equal(&weakest, &strongest) {
            let text = format!(
                "`{weakest}` is not a weaker form of `{strongest}`; from the strongest to the weakest they are \
                 linearizable, bounded by more and more time, causal, local; a snapshot has none"
            );
            return Err(Error::new(Reason::BadRequest, text));
        }
        let mut token = within.token;
        for level in [&strongest, &weakest] {
            if let Consistency::Causal(seen) = level {
                token.merge(*seen);
            }
        }
        let mut levels: Vec<_> = [strongest, weakest].into_iter().map(|level| with_token(level, token)).collect();
        levels.dedup();
        Ok(Self { budget: within.budget, levels, token: token.0 })
    }
}

/// The level of an answer at this level that includes what the token has seen.
fn with_token(level: Consistency, token: CausalityToken) -> Consistency {
    match level {
        Consistency::Causal(_) => Consistency::Causal(token),
        Consistency::Local if token > CausalityToken::default() => Consistency::Causal(token),
        Consistency::Local
        | Consistency::Linearizable
        | Consistency::Snapshot(_)
        | Consistency::BoundedStaleness(_) => level,
    }
}

/// Whether whoever accepts `weaker` also accepts `level`, tokens aside: they hold at every level.
fn is_weaker_or_equal(weaker: &Consistency, level: &Consistency) -> bool {
    use Consistency::{BoundedStaleness, Causal, Linearizable, Local, Snapshot};
    match (level, weaker) {
        (Snapshot(a), Snapshot(b)) => a == b,
        (Snapshot(_), _) | (_, Snapshot(_)) => false,
        (BoundedStaleness(a), BoundedStaleness(b)) => a <= b,
        (Linearizable, _)
        | (BoundedStaleness(_), Causal(_) | Local)
        | (Causal(_), Causal(_) | Local)
        | (Local, Local) => true,
        (BoundedStaleness(_) | Causal(_) | Local, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Consistency::{Causal, Linearizable, Local, Snapshot};

    const BUDGET: Duration = Duration::from_millis(40);

    fn token(ts: u64) -> CausalityToken {
        CausalityToken(Timestamp(ts))
    }

    fn bounded(ms: u64) -> Consistency {
        Consistency::BoundedStaleness(Duration::from_millis(ms))
    }

    fn ladder(strongest: Consistency, weakest: Consistency) -> Result<Ladder> {
        Ladder::new(strongest, Within::new(BUDGET).or_weaker(weakest))
    }

    #[test]
    fn every_pair_of_levels_is_a_ladder_or_refused() {
        let all = [Linearizable, bounded(10), bounded(20), Causal(token(0)), Local, Snapshot(Timestamp(5))];
        // Rows: the strongest; columns: the weakest, both in the order of `all`.
        let accepted = [
            [true, true, true, true, true, false],
            [false, true, true, true, true, false],
            [false, false, true, true, true, false],
            [false, false, false, true, true, false],
            [false, false, false, false, true, false],
            [false, false, false, false, false, true],
        ];
        for (strongest, row) in all.iter().zip(accepted) {
            for (weakest, accepted) in all.iter().zip(row) {
                let made = ladder(strongest.clone(), weakest.clone());
                let what = format!("{strongest:?} down to {weakest:?}");
                let Ok(made) = made else {
                    assert!(!accepted, "{what}");
                    continue;
                };
                assert!(accepted, "{what}");
                assert_eq!(made.budget, BUDGET);
                assert_eq!((made.levels.first(), made.levels.last()), (Some(strongest), Some(weakest)), "{what}");
                assert_eq!(made.levels.len(), if strongest == weakest { 1 } else { 2 }, "{what}");
            }
        }
        assert!(ladder(Snapshot(Timestamp(5)), Snapshot(Timestamp(6))).is_err());
    }

    #[test]
    fn without_a_weakest_level_nothing_weaker_will_do() {
        let made = Ladder::new(bounded(10), Within::new(BUDGET)).unwrap();
        assert_eq!((made.levels, made.token), (vec![bounded(10)], Timestamp::ZERO));
    }

    #[test]
    fn tokens_hold_at_every_level_wherever_they_stand() {
        let made = Ladder::new(Linearizable, Within::new(BUDGET).or_weaker(Local).including(token(7))).unwrap();
        assert_eq!((made.levels, made.token), (vec![Linearizable, Causal(token(7))], Timestamp(7)));
        let made = ladder(bounded(10), Causal(token(8))).unwrap();
        assert_eq!((made.levels, made.token), (vec![bounded(10), Causal(token(8))], Timestamp(8)));
        let within = Within::new(BUDGET).or_weaker(Causal(token(3))).including(token(9));
        let made = Ladder::new(Causal(token(4)), within).unwrap();
        assert_eq!((made.levels, made.token), (vec![Causal(token(9))], Timestamp(9)), "they are one level");
        let made = ladder(Causal(token(6)), Local).unwrap();
        assert_eq!(made.levels, [Causal(token(6))], "a token is not given up");
    }
}
