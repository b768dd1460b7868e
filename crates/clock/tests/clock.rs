//! The interval clock against a source whose error is known.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use meridian_clock::{Clock, ClockConfig, Mono, PeerVerdict, SimulatedSource, SourceKind, Unsafe};
use meridian_types::{Interval, NodeId, Timestamp};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const BOUND: Duration = Duration::from_millis(5);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn simulated() -> (SimulatedSource, Clock) {
    let source = SimulatedSource::new(BOUND);
    (source.clone(), Clock::with_source(Arc::new(source)))
}

/// True time, for the simulated source.
fn truth() -> Timestamp {
    let i = Clock::open(&ClockConfig::fixed(Duration::from_nanos(1))).unwrap().now();
    i.earliest.next()
}

fn forward(last: Interval, next: Interval) -> bool {
    last.earliest <= next.earliest && last.latest <= next.latest && next.earliest <= next.latest
}

#[test]
fn a_clock_that_goes_back_inside_its_bound_stays_safe_and_never_shows_it() {
    let (source, clock) = simulated();
    let before = clock.now();
    source.jump_ns(-4_000_000);
    let after = clock.now();
    assert!(forward(before, after), "{before:?} {after:?}");
    assert!(clock.is_safe());
}

#[test]
fn a_jump_beyond_the_bound_is_unsafe_and_not_followed_until_it_is_undone() {
    for by in [10_000_000_000i64, -10_000_000_000] {
        let (source, clock) = simulated();
        let before = clock.now();
        source.jump_ns(by);
        let during = clock.now();
        assert!(forward(before, during));
        assert!(during.latest.since(before.latest) < ms(1_000), "the jump was followed");
        assert!(matches!(clock.status().why, Some(Unsafe::Jumped { forward, .. }) if forward == (by > 0)));
        assert!(clock.safe_now().is_err() && !clock.is_past(Timestamp(1)));
        source.jump_ns(-by);
        assert!(clock.is_safe());
    }
}

#[test]
fn a_jump_is_followed_once_a_majority_vouches_for_the_source() {
    let (source, clock) = simulated();
    source.jump_ns(10_000_000_000);
    assert!(!clock.is_safe());
    clock.heed(&PeerVerdict::Unknown);
    assert!(!clock.is_safe());
    clock.heed(&PeerVerdict::Agrees);
    assert!(clock.is_safe());
    assert!(clock.now().earliest > truth().plus(ms(9_000)));
    // Back to the truth: the clock is ahead of its source, and says so even when it is vouched for.
    source.jump_ns(-10_000_000_000);
    clock.heed(&PeerVerdict::Agrees);
    assert!(matches!(clock.status().why, Some(Unsafe::Jumped { .. })));
    clock.heed(&PeerVerdict::Agrees);
    assert!(matches!(clock.status().why, Some(Unsafe::Behind { .. })));
}

#[test]
fn a_clock_disjoint_from_a_majority_is_unsafe_until_they_agree() {
    let (_, clock) = simulated();
    clock.heed(&PeerVerdict::Disjoint { from: vec![NodeId(2), NodeId(3)] });
    let why = clock.status().why.unwrap().to_string();
    assert!(why.contains("n2, n3"), "{why}");
    clock.heed(&PeerVerdict::Unknown);
    assert!(!clock.is_safe());
    clock.heed(&PeerVerdict::Agrees);
    assert!(clock.is_safe());
    clock.mark_unsafe("drill");
    assert_eq!(clock.status().why, Some(Unsafe::Marked("drill".into())));
}

#[test]
fn failed_readings_fall_back_on_the_monotonic_clock() {
    let (source, clock) = simulated();
    source.set_fails(true);
    let a = clock.now();
    std::thread::sleep(ms(20));
    let b = clock.now();
    assert!(matches!(clock.status().why, Some(Unsafe::Unreadable(_))));
    assert!(b.earliest.since(a.earliest) >= ms(19), "time stood still: {a:?} {b:?}");
    let now = truth();
    assert!(b.earliest <= now && b.latest.plus(ms(1)) >= now);
    source.set_fails(false);
    assert!(clock.is_safe());
}

#[test]
fn a_bound_wider_than_the_limit_is_unsafe() {
    let source = SimulatedSource::new(ms(50));
    let clock = Clock::with_limit(Arc::new(source.clone()), ms(40));
    assert!(matches!(clock.status().why, Some(Unsafe::Wide { .. })));
    source.set_bound(ms(40));
    assert!(clock.is_safe());
}

#[test]
fn configuration_sets_the_simulated_error() {
    let mut config = ClockConfig { source: SourceKind::Simulated, bound: BOUND, ..ClockConfig::default() };
    config.simulated.offset_us = 60_000_000;
    let clock = Clock::open(&config).unwrap();
    assert!(clock.now().earliest > truth().plus(ms(59_000)));
    assert_eq!(clock.status().source, "simulated");
}

#[tokio::test]
async fn commit_wait_holds_while_the_clock_is_unsafe() {
    let (source, clock) = simulated();
    let ts = clock.now().earliest;
    source.set_fails(true);
    let waited = tokio::time::timeout(ms(60), clock.wait_past(ts)).await;
    assert!(waited.is_err(), "released by an unsafe clock");
    source.set_fails(false);
    clock.wait_past(ts).await;
    assert!(clock.is_past(ts));
}

#[tokio::test]
async fn commit_wait_ends_in_time_or_at_once() {
    let (_, clock) = simulated();
    let start = Mono::now();
    clock.wait_past(clock.now().earliest.minus(ms(1))).await;
    assert!(start.elapsed() < ms(500), "a timestamp that is past needs no wait");
    let now = clock.now();
    let start = Mono::now();
    clock.wait_past(now.latest).await;
    assert!(start.elapsed() >= now.width() - ms(1), "returned early");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the source does inside and outside its bound, time as returned never goes back.
    #[test]
    fn the_ratchet_holds(steps in prop::collection::vec((-50_000_000i64..50_000_000, 0u64..20, any::<bool>()), 1..50)) {
        let (source, clock) = simulated();
        let mut last = clock.now();
        for (jump, bound, fails) in steps {
            source.jump_ns(jump);
            source.set_bound(ms(bound));
            source.set_fails(fails);
            if jump % 3 == 0 {
                clock.heed(&PeerVerdict::Agrees);
            }
            let next = clock.now();
            prop_assert!(forward(last, next), "{last:?} {next:?}");
            last = next;
        }
    }

    /// External consistency in small: two nodes, each wrong by anything inside its bound. What one has waited out,
    /// the other stamps above; and the wait does not end before true time has passed the timestamp.
    #[test]
    fn commit_wait_is_never_early(a in -4_900_000i64..4_900_000, b in -4_900_000i64..4_900_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ((source_a, clock_a), (source_b, clock_b)) = (simulated(), simulated());
            source_a.set_offset_ns(a);
            source_b.set_offset_ns(b);
            let ts = clock_a.now().latest;
            clock_a.wait_past(ts).await;
            assert!(truth() > ts, "acknowledged before true time had passed the timestamp");
            assert!(clock_b.now().latest > ts, "a later write elsewhere got a smaller timestamp");
        });
    }
}
