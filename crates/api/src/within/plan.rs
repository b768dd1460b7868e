//! What each level of a read costs, and which of them a latency budget is spent on. Pure: no clock, no I/O.
//!
//! Every level but `LINEARIZABLE` comes down to a timestamp that the state read must have reached. A replica whose safe
//! time is there answers at once; one that is nearly there may be waited for, since safe time goes on with real time; else
//! the leader answers.

use meridian_types::{CausalityToken, Consistency, Interval, Timestamp};
use std::time::Duration;

/// Part of a budget, in eighths, by which a fallback begins earlier than its estimate says: its answer is held back until
/// the budget is spent, so beginning early costs no strength.
const EARLY_EIGHTHS: u32 = 1;

/// The replicas of one shard, as the gateway sees them now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Round trip to the leader; zero: here. `None`: none is known that would answer.
    pub(crate) leader: Option<Duration>,
    /// Safe time of the replica here. `None`: there is none.
    pub(crate) safe: Option<Timestamp>,
    /// The leader closes ahead of its clock, so that the replica here answers linearizable reads as well.
    pub(crate) ahead: bool,
    /// Where there is none here: the round trip to the nearest replica, and about how old its state is.
    pub(crate) nearest: Option<(Duration, Duration)>,
    /// What a read at the leader took lately beyond its round trip.
    pub(crate) at_leader: Duration,
    /// What a read at another replica took lately beyond its round trip.
    pub(crate) at_replica: Duration,
}

/// When a read arrived, and what a replica is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// By this node's clock.
    pub(crate) arrived: Interval,
    /// Whether that is to be trusted (rule W3).
    pub(crate) clock_safe: bool,
    /// The longest that a gateway waits for a replica's safe time before it asks the leader.
    pub(crate) catch_up: Duration,
    /// Time between two messages that carry safe time.
    pub(crate) publish: Duration,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Another replica than the leader, here or elsewhere.
    Replica,
    /// The leader.
    Leader,
}

/// An estimate of one read of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Until a replica is fresh enough, or what is read is past: shards wait at the same time.
    pub(crate) wait: Duration,
    /// Round trips.
    pub(crate) travel: Duration,
    /// Everything else, as far as it was seen lately.
    pub(crate) service: Duration,
    pub(crate) way: Way,
    /// The replica here is not fresh enough yet, and waiting for it is the shortest way.
    pub(crate) catches_up: bool,
}

impl Cost {
    pub(crate) fn total(&self) -> Duration {
        self.wait + self.travel + self.service
    }
}

/// The timestamp that the state read must have reached.
pub(crate) fn needed(asked: &Consistency, latest: Timestamp) -> Timestamp {
    match asked {
        Consistency::Linearizable | Consistency::Local => Timestamp::ZERO,
        Consistency::Snapshot(at) => *at,
        Consistency::BoundedStaleness(bound) => latest.minus(*bound),
        Consistency::Causal(CausalityToken(seen)) => *seen,
    }
}

/// What a read of one shard would cost. `None`: nobody is known who would answer.
pub(crate) fn cost(asked: &Consistency, site: &Site, now: &Moment) -> Option<Cost> {
    let rests_on_clock = matches!(asked, Consistency::Linearizable | Consistency::BoundedStaleness(_));
    if rests_on_clock && !now.clock_safe {
        return None;
    }
    let need = needed(asked, now.arrived.latest);
    // What lies ahead of the clock is waited out before it is shown (rule W1).
    let reveal = need.since(now.arrived.earliest);
    let leader = site.leader.map(|travel| {
        let (wait, service, way) = (reveal, site.at_leader, Way::Leader);
        Cost { wait, travel, service, way, catches_up: false }
    });
    if site.leader == Some(Duration::ZERO) {
        return leader;
    }
    let replica = |travel| {
        let (wait, service, way) = (reveal, site.at_replica, Way::Replica);
        Cost { wait, travel, service, way, catches_up: false }
    };
    if matches!(asked, Consistency::Linearizable) {
        let here = site.ahead && site.safe.is_some_and(|safe| safe >= now.arrived.latest);
        return if here { Some(replica(Duration::ZERO)) } else { leader };
    }
    // A causal read that no replica is fresh enough for waits before it goes on to the leader.
    let causal = matches!(asked, Consistency::Causal(_));
    let passed_on = |also: Duration| {
        let wait = if causal { now.catch_up } else { Duration::ZERO };
        leader.map(|l| Cost { wait: l.wait.max(wait), travel: l.travel + also, ..l })
    };
    match (site.safe, site.nearest) {
        (Some(safe), _) if safe >= need => Some(replica(Duration::ZERO)),
        (Some(safe), _) => {
            // A snapshot is read at its timestamp, so nothing waits for it here.
            let may_wait = !matches!(asked, Consistency::Snapshot(_));
            let missing = need.since(safe) + now.publish;
            let here = replica(Duration::ZERO);
            let waiting = Cost { wait: here.wait.max(missing), catches_up: true, ..here };
            let waiting = (may_wait && missing <= now.catch_up).then_some(waiting);
            // The causal read's wait ends as soon as the replica is there.
            if causal && waiting.is_some() { waiting } else { sooner(waiting, passed_on(Duration::ZERO)) }
        }
        (None, Some((rtt, lag))) if now.arrived.latest.minus(lag) >= need => Some(replica(rtt)),
        (None, Some((rtt, _))) => passed_on(rtt),
        (None, None) => None,
    }
}

fn sooner(a: Option<Cost>, b: Option<Cost>) -> Option<Cost> {
    [a, b].into_iter().flatten().min_by_key(Cost::total)
}

/// What a read of several shards would cost. `in_turn`: one is read after the other. `None`: one of them has nobody who
/// would answer, or there are none.
pub(crate) fn together(costs: impl IntoIterator<Item = Option<Cost>>, in_turn: bool) -> Option<Duration> {
    let costs: Vec<Cost> = costs.into_iter().collect::<Option<_>>()?;
    let wait = costs.iter().map(|c| c.wait).max()?;
    let work = costs.iter().map(|c| c.travel + c.service);
    Some(wait + if in_turn { work.sum() } else { work.max()? })
}

/// What a budget is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The level to try; its place among those that will do.
    pub(crate) level: usize,
    /// What to do if that turns out to be late.
    pub(crate) fallback: Option<Fallback>,
}

/// A weaker level that time is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fallback {
    pub(crate) level: usize,
    /// How long the stronger level has for itself.
    pub(crate) after: Duration,
}

/// Chooses the strongest level whose estimate fits into `budget`, and the next weaker one that fits to fall back on.
/// `estimates` are of the levels that will do, strongest first. `None`: none of them fits.
pub(crate) fn choose(estimates: &[Option<Duration>], budget: Duration) -> Option<Choice> {
    let mut fitting = estimates.iter().enumerate().filter_map(|(level, estimate)| {
        let estimate = estimate.filter(|estimate| *estimate <= budget)?;
        Some((level, estimate))
    });
    let (level, _) = fitting.next()?;
    let fallback = fitting.next().map(|(level, estimate)| {
        let kept = estimate + budget * EARLY_EIGHTHS / 8;
        Fallback { level, after: budget.saturating_sub(kept) }
    });
    Some(Choice { level, fallback })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
