//! Every level against every state of a shard's replicas, and every order of estimates around a budget.

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000_000);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn ago(n: u64) -> Timestamp {
    NOW.minus(ms(n))
}

/// A clock that is 2 ms wide.
fn moment() -> Moment {
    let arrived = Interval { earliest: ago(2), latest: NOW };
    Moment { arrived, clock_safe: true, catch_up: ms(100), publish: ms(20) }
}

/// A follower 60 ms behind, 70 ms from its leader.
fn follower() -> Site {
    Site { leader: Some(ms(70)), safe: Some(ago(60)), ahead: false, nearest: None, at_leader: ms(3), at_replica: ms(1) }
}

/// The same without a replica: the nearest is 10 ms away and 50 ms behind.
fn guest() -> Site {
    Site { safe: None, nearest: Some((ms(10), ms(50))), ..follower() }
}

fn leading() -> Site {
    Site { leader: Some(Duration::ZERO), safe: Some(ago(10)), ..follower() }
}

fn bounded(n: u64) -> Consistency {
    Consistency::BoundedStaleness(ms(n))
}

fn causal(at: Timestamp) -> Consistency {
    Consistency::Causal(CausalityToken(at))
}

fn total(asked: &Consistency, site: &Site) -> Option<u128> {
    cost(asked, site, &moment()).map(|c| c.total().as_millis())
}

#[test]
fn a_linearizable_read_costs_the_round_trip_to_the_leader() {
    assert_eq!(total(&Consistency::Linearizable, &follower()), Some(73));
    assert_eq!(total(&Consistency::Linearizable, &guest()), Some(73));
    assert_eq!(total(&Consistency::Linearizable, &leading()), Some(3));
    assert_eq!(total(&Consistency::Linearizable, &Site { leader: None, ..follower() }), None);
}

#[test]
fn a_table_that_is_closed_ahead_is_read_here() {
    let ahead = Site { ahead: true, safe: Some(moment().arrived.latest.plus(ms(50))), ..follower() };
    let found = cost(&Consistency::Linearizable, &ahead, &moment()).unwrap();
    assert_eq!((found.total(), found.way), (ms(1), Way::Replica));
    // Its leader is gone, or its promises are late.
    let behind = Site { safe: Some(ago(60)), ..ahead };
    assert_eq!(cost(&Consistency::Linearizable, &behind, &moment()).unwrap().way, Way::Leader);
}

#[test]
fn what_the_replica_here_has_reached_costs_no_message() {
    for asked in [
        Consistency::Local,
        bounded(60),
        bounded(5_000),
        causal(Timestamp::ZERO),
        causal(ago(60)),
        Consistency::Snapshot(ago(60)),
    ] {
        for leader in [Some(ms(70)), None] {
            let found = cost(&asked, &Site { leader, ..follower() }, &moment()).unwrap();
            assert_eq!((found.total(), found.way, found.catches_up), (ms(1), Way::Replica, false), "{asked:?}");
        }
    }
}

#[test]
fn a_replica_that_is_nearly_fresh_enough_is_waited_for_if_that_is_sooner() {
    // 10 ms are missing, and one interval of publishing.
    for asked in [bounded(50), causal(ago(50))] {
        let found = cost(&asked, &follower(), &moment()).unwrap();
        assert_eq!((found.total(), found.way, found.catches_up), (ms(31), Way::Replica, true), "{asked:?}");
    }
    // The leader is nearer than that.
    let near = Site { leader: Some(ms(5)), ..follower() };
    let found = cost(&bounded(50), &near, &moment()).unwrap();
    assert_eq!((found.total(), found.way, found.catches_up), (ms(8), Way::Leader, false));
    // A causal read waits all the same.
    assert_eq!(cost(&causal(ago(50)), &near, &moment()).unwrap().total(), ms(31));
    // Without a leader there is nothing but waiting.
    assert_eq!(total(&bounded(50), &Site { leader: None, ..follower() }), Some(31));
}

#[test]
fn a_snapshot_is_not_waited_for() {
    assert_eq!(total(&Consistency::Snapshot(ago(50)), &follower()), Some(73));
    assert_eq!(total(&Consistency::Snapshot(ago(50)), &Site { leader: None, ..follower() }), None);
}

#[test]
fn a_replica_that_is_far_behind_is_passed_over() {
    let behind = Site { safe: Some(ago(9_000)), ..follower() };
    let cut_off = Site { leader: None, ..behind };
    assert_eq!(total(&bounded(5_000), &behind), Some(73), "the leader is asked at once");
    assert_eq!(total(&causal(ago(5_000)), &behind), Some(173), "after a wait in vain");
    assert_eq!(total(&bounded(5_000), &cut_off), None);
    assert_eq!(total(&causal(ago(5_000)), &cut_off), None);
    assert_eq!(total(&Consistency::Local, &cut_off), Some(1), "this needs nothing");
}

#[test]
fn without_a_replica_here_the_nearest_answers_if_it_is_fresh_enough() {
    assert_eq!(total(&Consistency::Local, &guest()), Some(11));
    assert_eq!(total(&bounded(50), &guest()), Some(11));
    assert_eq!(total(&bounded(49), &guest()), Some(83), "there, then to the leader");
    assert_eq!(total(&causal(ago(10)), &guest()), Some(183));
    assert_eq!(total(&bounded(49), &Site { leader: None, ..guest() }), None);
    assert_eq!(total(&Consistency::Local, &Site { nearest: None, ..guest() }), None);
}

#[test]
fn what_is_ahead_of_the_clock_is_waited_out() {
    // The timestamp of a linearizable scan of several shards.
    let newest = Consistency::Snapshot(NOW);
    assert_eq!(cost(&newest, &leading(), &moment()).unwrap().total(), ms(2 + 3));
    assert_eq!(cost(&newest, &follower(), &moment()).unwrap().total(), ms(2 + 73));
    let ahead = causal(NOW.plus(ms(500)));
    assert_eq!(cost(&ahead, &leading(), &moment()).unwrap().wait, ms(502));
    assert_eq!(cost(&ahead, &follower(), &moment()).unwrap().wait, ms(502));
}

#[test]
fn an_unsafe_clock_promises_no_freshness() {
    let now = Moment { clock_safe: false, ..moment() };
    for site in [follower(), guest(), leading()] {
        assert_eq!(cost(&Consistency::Linearizable, &site, &now), None);
        assert_eq!(cost(&bounded(5_000), &site, &now), None);
        assert!(cost(&Consistency::Local, &site, &now).is_some());
        assert!(cost(&causal(Timestamp::ZERO), &site, &now).is_some());
    }
}

#[test]
fn shards_wait_together_and_are_read_in_turn_or_not() {
    let of = |wait, travel| {
        let (wait, travel, service, way) = (ms(wait), ms(travel), ms(1), Way::Leader);
        Some(Cost { wait, travel, service, way, catches_up: false })
    };
    assert_eq!(together([of(20, 70), of(5, 140)], true), Some(ms(20 + 71 + 141)));
    assert_eq!(together([of(20, 70), of(5, 140)], false), Some(ms(20 + 141)));
    assert_eq!(together([of(20, 70)], true), Some(ms(91)));
    for in_turn in [false, true] {
        assert_eq!(together([of(20, 70), None], in_turn), None, "one of them has nobody");
        assert_eq!(together([], in_turn), None);
    }
}

/// The reference of the next test: the strongest that fits, then the strongest of the others that fit.
fn expected(estimates: &[Option<Duration>], budget: Duration) -> Option<(usize, Option<usize>)> {
    let fits: Vec<usize> =
        (0..estimates.len()).filter(|i| estimates[*i].is_some_and(|estimate| estimate <= budget)).collect();
    Some((*fits.first()?, fits.get(1).copied()))
}

#[test]
fn the_strongest_level_that_fits_is_chosen_and_the_next_is_kept_time_for() {
    let budget = ms(40);
    let some = [None, Some(Duration::ZERO), Some(ms(1)), Some(ms(39)), Some(ms(40)), Some(ms(41)), Some(ms(70))];
    let mut fallbacks = 0;
    for first in some {
        assert_eq!(choose(&[first], budget).map(|c| (c.level, None)), expected(&[first], budget), "{first:?}");
        for second in some {
            let estimates = [first, second];
            let chosen = choose(&estimates, budget);
            let found = chosen.map(|c| (c.level, c.fallback.map(|f| f.level)));
            assert_eq!(found, expected(&estimates, budget), "{estimates:?}");
            if let Some(fallback) = chosen.and_then(|c| c.fallback) {
                fallbacks += 1;
                let kept = budget - fallback.after;
                let estimate = second.unwrap();
                assert!(kept >= estimate && kept <= budget, "{estimates:?}: {fallback:?}");
                assert_eq!(fallback.after, budget.saturating_sub(estimate + ms(5)));
            }
            for third in some {
                let estimates = [first, second, third];
                let found = choose(&estimates, budget).map(|c| (c.level, c.fallback.map(|f| f.level)));
                assert_eq!(found, expected(&estimates, budget), "{estimates:?}");
            }
        }
    }
    assert_eq!(fallbacks, 16);
    assert_eq!(choose(&[], budget), None);
    assert_eq!(choose(&[Some(ms(1))], Duration::ZERO), None);
}

#[test]
fn a_fallback_that_needs_the_whole_budget_begins_at_once() {
    let choice = choose(&[Some(ms(20)), Some(ms(38))], ms(40)).unwrap();
    assert_eq!(choice, Choice { level: 0, fallback: Some(Fallback { level: 1, after: Duration::ZERO }) });
}
