//! Reads with a latency budget: the strongest level that fits, and an early failure that says what would.
//!
//! 1. [`ladder`]: which levels will do, and which token all of them include.
//! 2. [`live`]: how the shards' replicas are seen from here now.
//! 3. [`plan`]: what each level costs then, which one to try, and which one to keep time for.
//! 4. [`hedge`]: trying it, and falling back in time.
//!
//! Estimates decide only what is tried. What is answered comes from the same reads as ever, and has the level that the
//! reply claims: a linearizable read that is late is dropped, never shown as something that it is not.

mod hedge;
mod ladder;
mod live;
mod plan;
mod recent;

pub(crate) use ladder::Ladder;
pub(crate) use recent::Recent;

use crate::context::Context;
use crate::failure;
use crate::gateway::Arrival;
use hedge::Spent;
use meridian_catalog::CatalogView;
use meridian_clock::Mono;
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::{Achievable, CausalityToken, Consistency, Error, Reason, Result, ShardId, Timestamp};
use plan::{Cost, Moment, Site, cost, needed, together};
use std::time::Duration;

/// A read of one shard or several.
pub(crate) struct Asked<'a> {
    pub(crate) view: &'a CatalogView,
    pub(crate) shards: &'a [ShardId],
    /// One shard is read after the other, and all of them are.
    pub(crate) in_turn: bool,
    pub(crate) ladder: &'a Ladder,
}

/// An answer at some level, with what it says of itself.
pub(crate) struct Told<T> {
    pub(crate) value: T,
    pub(crate) timestamp: Timestamp,
    pub(crate) staleness: Duration,
}

/// What one of the levels comes to.
struct Offer {
    level: Consistency,
    /// What the shards are asked for, so that their answer has the level.
    ask: Consistency,
    estimate: Option<Duration>,
    /// Of the only shard.
    single: Option<(ShardId, Cost)>,
}

/// Gives the strongest level that fits, and says which it is.
///
/// * `at_one`: what several shards are asked for together, so that the answer has a level.
/// * `attempt`: reads with what the shards are asked for.
/// * Errors: [`Reason::BudgetTooSmall`] before anything is tried, [`Reason::BudgetSpent`] if nobody answers in time, and
///   what reads fail with otherwise.
pub(crate) async fn read<'a, T, F: Future<Output = Result<Told<T>>>>(
    ctx: &Context,
    asked: &Asked<'_>,
    at_one: impl Fn(Consistency) -> Result<Consistency>,
    arrival: Arrival<'a>,
    attempt: impl Fn(Consistency, Arrival<'a>) -> F,
) -> Result<(T, Consistency)> {
    let ladder = asked.ladder;
    let arrival = Arrival { deadline: arrival.deadline.min(ladder.budget), ..arrival };
    let now = Now::new(ctx, asked, arrival);
    let offers = now.offers(asked, at_one)?;
    let estimates: Vec<_> = offers.iter().map(|o| o.estimate).collect();
    let left = arrival.left().unwrap_or_default();
    let Some(choice) = plan::choose(&estimates, left) else {
        if !now.moment.clock_safe && ladder.levels.iter().all(rests_on_clock) {
            return Err(failure::clock_unsafe());
        }
        return Err(too_small(ladder, now.achievable(asked, &offers)));
    };
    let try_level = |place: usize| {
        let offer = offers.get(place);
        let timer = offer.and_then(|o| o.single).map(|(shard, cost)| Timer::start(ctx, shard, cost));
        let reading = offer.map(|o| attempt(o.ask.clone(), arrival));
        async move {
            let answer = reading.ok_or_else(no_such_level)?.await?;
            timer.into_iter().for_each(Timer::stop);
            Ok(answer)
        }
    };
    match hedge::spend(choice, left, try_level).await? {
        Spent::Given(place, told) => {
            let place = if sabotaged(Sabotage::ClaimStrongest) { 0 } else { place };
            let level = ladder.levels.get(place).cloned().ok_or_else(no_such_level)?;
            check(&level, &told)?;
            Ok((told.value, level))
        }
        Spent::Late => {
            let now = Now::new(ctx, asked, arrival);
            Err(spent(ladder, now.achievable(asked, &offers)))
        }
    }
}

fn no_such_level() -> Error {
    Error::new(Reason::Internal, "a level was chosen that the read does not accept; report this")
}

fn rests_on_clock(level: &Consistency) -> bool {
    matches!(level, Consistency::Linearizable | Consistency::BoundedStaleness(_))
}

/// What is known when a read is planned.
struct Now {
    moment: Moment,
    sites: Vec<(ShardId, Site)>,
}

impl Now {
    fn new(ctx: &Context, asked: &Asked<'_>, arrival: Arrival<'_>) -> Self {
        let sites = asked.shards.iter().map(|shard| (*shard, live::site(ctx, asked.view, *shard))).collect();
        Self { moment: live::moment(ctx, arrival.latest), sites }
    }

    /// What the levels come to, in their order.
    fn offers(&self, asked: &Asked<'_>, at_one: impl Fn(Consistency) -> Result<Consistency>) -> Result<Vec<Offer>> {
        let token = asked.ladder.token;
        let offers = asked.ladder.levels.iter().cloned().map(|level| {
            if rests_on_clock(&level) && !self.moment.clock_safe {
                return Ok(Offer { ask: level.clone(), level, estimate: None, single: None });
            }
            if let [(shard, site)] = self.sites[..] {
                let (ask, cost) = alone(&level, token, &site, &self.moment);
                let single = cost.map(|cost| (shard, cost));
                return Ok(Offer { ask, level, estimate: cost.map(|c| c.total()), single });
            }
            let ask = match at_one(level.clone())? {
                Consistency::Snapshot(at) => Consistency::Snapshot(at.max(token)),
                other => other,
            };
            Ok(Offer { estimate: self.estimate(&ask, asked.in_turn), ask, level, single: None })
        });
        offers.collect()
    }

    fn estimate(&self, ask: &Consistency, in_turn: bool) -> Option<Duration> {
        together(self.sites.iter().map(|(_, site)| cost(ask, site, &self.moment)), in_turn)
    }

    /// What would be had: at each level that will do, and without any condition.
    fn achievable(&self, asked: &Asked<'_>, offers: &[Offer]) -> Vec<Achievable> {
        let local = Consistency::Local;
        let known = offers.iter().any(|o| o.level == local);
        let also = (!known).then_some((&local, &local));
        let all = offers.iter().map(|o| (&o.level, &o.ask)).chain(also);
        all.map(|(level, ask)| {
            let promised = self.moment.clock_safe || !rests_on_clock(level);
            let latency = if promised { self.estimate(ask, asked.in_turn) } else { None };
            Achievable { level: level.clone(), latency, staleness: self.staleness(level) }
        })
        .collect()
    }

    /// How old an answer would be.
    fn staleness(&self, level: &Consistency) -> Option<Duration> {
        let latest = self.moment.arrived.latest;
        if matches!(level, Consistency::Linearizable) {
            return Some(Duration::ZERO);
        }
        let reached = |site: &Site| site.safe.or(site.nearest.map(|(_, lag)| latest.minus(lag)));
        let reached = self.sites.iter().map(|(_, site)| reached(site)).min()??;
        Some(latest.since(reached.max(needed(level, latest))))
    }
}

/// What the only shard is asked for so that the answer has `level` and includes the token, and what that costs.
///
/// * A linearizable answer includes every token: the replies that they come from left before it began.
/// * A bounded answer is read no earlier than the bound below the clock at arrival. So it is a causal one with that
///   timestamp for a token, which waits for the replica here; and one with the session's token, if that is later.
fn alone(level: &Consistency, token: Timestamp, site: &Site, now: &Moment) -> (Consistency, Option<Cost>) {
    let causal = |ts| Consistency::Causal(CausalityToken(ts));
    if !matches!(level, Consistency::BoundedStaleness(_)) {
        return (level.clone(), cost(level, site, now));
    }
    let oldest = needed(level, now.arrived.latest);
    if token > oldest {
        return (causal(token), cost(&causal(token), site, now));
    }
    let found = cost(level, site, now);
    let ask = if found.is_some_and(|c| c.catches_up) { causal(oldest) } else { level.clone() };
    (ask, found)
}

/// The last defence against a wrong claim: the answer by its own account against the level that it is given as.
fn check<T>(level: &Consistency, told: &Told<T>) -> Result<()> {
    let holds = match level {
        Consistency::Linearizable | Consistency::Local => true,
        Consistency::Snapshot(at) => told.timestamp == *at,
        Consistency::BoundedStaleness(bound) => told.staleness <= *bound,
        Consistency::Causal(CausalityToken(seen)) => told.timestamp >= *seen,
    };
    let text = "an answer is not of the level that it was read at; report this, with the node's log";
    if holds { Ok(()) } else { Err(Error::new(Reason::Internal, text)) }
}

fn listed(achievable: &[Achievable]) -> String {
    achievable.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn too_small(ladder: &Ladder, achievable: Vec<Achievable>) -> Error {
    let text = format!(
        "no level that will do fits into {:?}, so nothing was tried; achievable: {}; allow more time or a weaker level",
        ladder.budget,
        listed(&achievable)
    );
    Error::new(Reason::BudgetTooSmall, text).with_achievable(achievable)
}

fn spent(ladder: &Ladder, achievable: Vec<Achievable>) -> Error {
    let text = format!(
        "nobody answered within {:?}, against what seemed achievable; by now: {}; try again, or allow more time",
        ladder.budget,
        listed(&achievable)
    );
    Error::new(Reason::BudgetSpent, text).with_achievable(achievable)
}

/// Measures an attempt, for the estimates of later ones.
struct Timer {
    ctx: Context,
    shard: ShardId,
    cost: Cost,
    began: Mono,
}

impl Timer {
    fn start(ctx: &Context, shard: ShardId, cost: Cost) -> Self {
        Self { ctx: ctx.clone(), shard, cost, began: Mono::now() }
    }

    /// What the attempt has taken so far beyond what is known to be waits and round trips.
    fn service(&self) -> Duration {
        self.began.elapsed().saturating_sub(self.cost.wait + self.cost.travel)
    }

    fn note(&self, service: Duration) {
        self.ctx.recent().took(self.shard, self.cost.way, Mono::now(), service);
    }

    /// The attempt has ended with an answer.
    fn stop(mut self) {
        let service = self.service();
        self.note(service);
        // What is noted when it is dropped has to be longer than this.
        self.cost.service = Duration::MAX;
    }
}

impl Drop for Timer {
    /// An attempt that was given up took at least so long; that says something if it was expected to take less.
    fn drop(&mut self) {
        let service = self.service();
        if service > self.cost.service {
            self.note(service);
        }
    }
}

#[cfg(test)]
mod tests;
