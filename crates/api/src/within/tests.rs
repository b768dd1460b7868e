//! What levels are asked for, what is said of them, and the check of what is claimed.

use super::*;
use meridian_types::{Interval, Within};

const LATEST: Timestamp = Timestamp(1_000_000_000_000);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn ago(n: u64) -> Timestamp {
    LATEST.minus(ms(n))
}

fn moment() -> Moment {
    let arrived = Interval { earliest: ago(2), latest: LATEST };
    Moment { arrived, clock_safe: true, catch_up: ms(100), publish: ms(20) }
}

/// A follower `lag` behind, 70 ms from its leader.
fn site(lag: u64) -> Site {
    Site {
        leader: Some(ms(70)),
        safe: Some(ago(lag)),
        ahead: false,
        nearest: None,
        at_leader: ms(3),
        at_replica: ms(1),
    }
}

fn bounded(n: u64) -> Consistency {
    Consistency::BoundedStaleness(ms(n))
}

fn causal(at: Timestamp) -> Consistency {
    Consistency::Causal(CausalityToken(at))
}

/// The offers of a read of shards with these lags.
fn offers(ladder: &Ladder, lags: &[u64], moment: Moment) -> (Vec<Offer>, Vec<Achievable>) {
    let sites: Vec<_> = (4..).map(ShardId).zip(lags.iter().map(|lag| site(*lag))).collect();
    let shards: Vec<ShardId> = sites.iter().map(|(shard, _)| *shard).collect();
    let view = CatalogView::default();
    let asked = Asked { view: &view, shards: &shards, in_turn: true, ladder };
    let now = Now { moment, sites };
    let at_one = |level| {
        Ok(Consistency::Snapshot(match level {
            Consistency::Linearizable => LATEST,
            other => needed(&other, LATEST).max(ago(60)),
        }))
    };
    let offers = now.offers(&asked, at_one).unwrap();
    let achievable = now.achievable(&asked, &offers);
    (offers, achievable)
}

fn ladder(weakest: Consistency, token: u64) -> Ladder {
    let token = if token == 0 { Timestamp::ZERO } else { ago(token) };
    let within = Within::new(ms(40)).or_weaker(weakest).including(CausalityToken(token));
    Ladder::new(Consistency::Linearizable, within).unwrap()
}

/// What the weaker level is asked for, and what it is estimated to take.
fn weaker(weakest: Consistency, token: u64, lag: u64) -> (Consistency, Option<u128>) {
    let (offers, _) = offers(&ladder(weakest, token), &[lag], moment());
    assert_eq!((offers[0].ask.clone(), offers[0].estimate), (Consistency::Linearizable, Some(ms(73))));
    (offers[1].ask.clone(), offers[1].estimate.map(|e| e.as_millis()))
}

#[test]
fn a_bounded_read_is_asked_for_as_what_keeps_its_bound_and_its_token() {
    assert_eq!(weaker(bounded(60), 0, 60), (bounded(60), Some(1)), "fresh enough");
    assert_eq!(weaker(bounded(50), 0, 60), (causal(ago(50)), Some(31)), "waits for the replica here");
    assert_eq!(weaker(bounded(5), 0, 200), (bounded(5), Some(73)), "the leader is sooner");
    assert_eq!(weaker(bounded(5_000), 6_000, 60), (bounded(5_000), Some(1)), "the bound is later than the token");
    assert_eq!(weaker(bounded(5_000), 60, 60), (causal(ago(60)), Some(1)), "the token is later than the bound");
    assert_eq!(weaker(bounded(5_000), 30, 60), (causal(ago(30)), Some(51)), "and is waited for");
}

#[test]
fn other_levels_are_asked_for_as_they_are() {
    assert_eq!(weaker(Consistency::Local, 0, 60), (Consistency::Local, Some(1)));
    assert_eq!(weaker(Consistency::Local, 30, 60), (causal(ago(30)), Some(51)));
    assert_eq!(weaker(causal(ago(70)), 0, 60), (causal(ago(70)), Some(1)));
}

#[test]
fn several_shards_are_read_at_one_timestamp_that_includes_the_token() {
    let (offers, _) = offers(&ladder(bounded(5_000), 10), &[60, 40], moment());
    let asks: Vec<_> = offers.iter().map(|o| o.ask.clone()).collect();
    assert_eq!(asks, [Consistency::Snapshot(LATEST), Consistency::Snapshot(ago(10))]);
    // The first waits until the clock is past; the second is beyond both replicas' safe time.
    let estimates: Vec<_> = offers.iter().map(|o| o.estimate.map(|e| e.as_millis())).collect();
    assert_eq!(estimates, [Some(2 + 73 + 73), Some(73 + 73)]);
    assert!(offers.iter().all(|o| o.single.is_none()));
}

#[test]
fn what_is_achievable_is_said_of_every_level_and_of_the_weakest_there_is() {
    let (_, achievable) = offers(&ladder(bounded(50), 0), &[60], moment());
    let said: Vec<_> = achievable.iter().map(|a| (&a.level, a.latency, a.staleness)).collect();
    assert_eq!(
        said,
        [
            (&Consistency::Linearizable, Some(ms(73)), Some(Duration::ZERO)),
            (&bounded(50), Some(ms(31)), Some(ms(50))),
            (&Consistency::Local, Some(ms(1)), Some(ms(60))),
        ]
    );
    let error = too_small(&ladder(bounded(50), 0), achievable.clone());
    assert_eq!((error.reason, &error.achievable), (Reason::BudgetTooSmall, &achievable));
    assert!(error.message.contains("40ms") && error.message.contains("linearizable within 73.0 ms"), "{error}");
    let (_, achievable) = offers(&ladder(Consistency::Local, 0), &[60], moment());
    assert_eq!(achievable.len(), 2, "LOCAL is there already");
}

#[test]
fn an_unsafe_clock_leaves_what_does_not_rest_on_it() {
    let unsafe_clock = Moment { clock_safe: false, ..moment() };
    let (offers, achievable) = offers(&ladder(bounded(5_000), 10), &[60], unsafe_clock);
    assert!(offers.iter().all(|o| o.estimate.is_none()), "a token makes no bounded read out of a causal one");
    let latencies: Vec<_> = achievable.iter().map(|a| a.latency).collect();
    assert_eq!(latencies, [None, None, Some(ms(1))]);
}

#[test]
fn an_answer_is_held_against_what_it_is_given_as() {
    let told = Told { value: (), timestamp: ago(60), staleness: ms(60) };
    for (level, holds) in [
        (Consistency::Local, true),
        (bounded(60), true),
        (bounded(59), false),
        (causal(ago(60)), true),
        (causal(ago(59)), false),
        (Consistency::Snapshot(ago(60)), true),
        (Consistency::Snapshot(ago(61)), false),
    ] {
        assert_eq!(check(&level, &told).is_ok(), holds, "{level:?}");
    }
}
