//! The interval clock.
//!
//! Every call of [`Clock::now`] reads the source and holds the reading against what is known already:
//! 1. **Ratchet.** Neither end of what it returns ever goes backward.
//! 2. **Holdover.** The previous good reading, carried forward by the monotonic clock and widened by the largest
//!    drift, must overlap the new one. If it does not, the source has jumped by more than its bound: one of the two
//!    is wrong, nobody here knows which, so the clock keeps to the one it had and is unsafe until the source
//!    agrees with it again or a majority of the nodes vouches for the source ([`Clock::heed`]).
//! 3. A failed reading also falls back on holdover, and the clock is unsafe until a reading succeeds.
//!
//! An unsafe clock still answers, for display and for orders that need no bound, but it releases no commit wait
//! (rule W3). Not here: what a node gives up while its clock is unsafe.

use crate::timer::sleep;
use crate::{
    ClockConfig, ClockError, FixedSource, KernelSource, Mono, PeerVerdict, SimulatedSource, SourceKind, TimeSource,
};
use meridian_probe::{Event, emit};
use meridian_types::{Interval, Timestamp};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The largest rate at which the monotonic clock may part from true time: crystals keep 100 ppm, and the kernel slews
/// by up to 500 ppm.
const DRIFT_PPM_MAX: u64 = 1_000;

/// The longest a commit wait sleeps before it reads the clock again, which may have been stepped meanwhile.
const RECHECK_MAX: Duration = Duration::from_secs(1);

/// How often a commit wait looks whether an unsafe clock has become safe.
const UNSAFE_RECHECK: Duration = Duration::from_millis(10);

/// Why a clock must not be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// The source could not be read.
    #[error("its source cannot be read: {0}")]
    Unreadable(String),
    /// The interval is wider than the cluster lives with.
    #[error("its interval is {width:?} wide, the limit is {max:?}")]
    Wide {
        /// Width of the interval.
        width: Duration,
        /// Twice the configured `max_offset`.
        max: Duration,
    },
    /// The source moved by more than its declared bound.
    #[error("its source jumped {} by {by:?} more than its bound allows", if *.forward { "forward" } else { "backward" })]
    Jumped {
        /// Which way.
        forward: bool,
        /// The gap between the old interval and the new one.
        by: Duration,
    },
    /// The source's interval ends before what the clock has already called past.
    #[error("its source is {by:?} behind what it has read before")]
    Behind {
        /// How far.
        by: Duration,
    },
    /// Somebody outside said so.
    #[error("{0}")]
    Marked(String),
}

/// What a node reports about its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockStatus {
    /// Name of the source in use.
    pub source: &'static str,
    /// The interval at the time of asking.
    pub interval: Interval,
    /// Whether it may be relied on.
    pub safe: bool,
    /// Why not.
    pub why: Option<Unsafe>,
}

/// A clock that answers with an interval that contains true time. Clones are the same clock.
#[derive(Clone)]
pub struct Clock {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<dyn TimeSource>,
    max_offset: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Everything returned so far is at or below these.
    earliest: Timestamp,
    latest: Timestamp,
    /// The last reading that could be trusted.
    held: Option<Reading>,
    /// What the last reading showed.
    fault: Option<Unsafe>,
    /// When a reading last found a fault that was not there before.
    moved_at: Mono,
    /// What somebody outside has said.
    mark: Option<String>,
    /// What the last reading said of the clock: tests are told of changes.
    told_safe: bool,
}

/// An interval, and monotonic instants before and after it was read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    interval: Interval,
    before: Mono,
    after: Mono,
}

impl Clock {
    /// Opens the clock that the configuration asks for. Fails if its source cannot be read now; `auto` falls back.
    pub fn open(config: &ClockConfig) -> Result<Self, ClockError> {
        config.validate()?;
        Self::open_with(config, KernelSource::default())
    }

    fn open_with(config: &ClockConfig, kernel: KernelSource) -> Result<Self, ClockError> {
        let source: Arc<dyn TimeSource> = match config.source {
            SourceKind::Fixed => Arc::new(FixedSource::new(config.bound)),
            SourceKind::Kernel => Arc::new(kernel),
            SourceKind::Simulated => {
                let source = SimulatedSource::new(config.bound);
                source.set_offset_ns(config.simulated.offset_us.saturating_mul(1_000));
                source.set_drift_ppm(config.simulated.drift_ppm);
                if let Some(file) = &config.simulated.file {
                    source.follow(file.clone());
                }
                Arc::new(source)
            }
            SourceKind::Auto => match kernel.read() {
                Ok(_) => Arc::new(kernel),
                Err(why) => {
                    let bound = ClockConfig::BOUND_DEFAULT;
                    tracing::warn!(%why, ?bound, "no synchronized clock source: using the wall clock with a fixed bound");
                    Arc::new(FixedSource::new(bound))
                }
            },
        };
        source.read()?;
        Ok(Self::with_limit(source, config.max_offset))
    }

    /// A clock over this source, with the default `max_offset`.
    pub fn with_source(source: Arc<dyn TimeSource>) -> Self {
        Self::with_limit(source, ClockConfig::MAX_OFFSET_DEFAULT)
    }

    /// A clock over this source that is unsafe when its interval is wider than twice `max_offset`.
    pub fn with_limit(source: Arc<dyn TimeSource>, max_offset: Duration) -> Self {
        let state = State {
            earliest: Timestamp::ZERO,
            latest: Timestamp::ZERO,
            held: None,
            fault: None,
            moved_at: Mono(0),
            mark: None,
            told_safe: true,
        };
        let clock = Self { inner: Arc::new(Inner { source, max_offset, state: Mutex::new(state) }) };
        clock.now();
        clock
    }

    /// The interval: `earliest` is not after true time at the return, `latest` not before true time at the call.
    /// Never fails; whether it may be relied on is what [`Clock::is_safe`] and [`Clock::safe_now`] say.
    pub fn now(&self) -> Interval {
        let mut state = self.state();
        self.read(&mut state)
    }

    /// The interval, or why it must not be relied on.
    pub fn safe_now(&self) -> Result<Interval, Unsafe> {
        let mut state = self.state();
        let interval = self.read(&mut state);
        state.why().map_or(Ok(interval), Err)
    }

    /// What the source says at this instant, without ratchet and holdover: for comparing clocks with other nodes.
    pub fn reading(&self) -> Result<Interval, ClockError> {
        self.inner.source.read()
    }

    /// Whether true time is in [`Clock::now`], as far as this node can know. Reads the clock.
    pub fn is_safe(&self) -> bool {
        self.safe_now().is_ok()
    }

    /// Declares the clock unsafe until [`Clock::heed`] takes it back.
    pub fn mark_unsafe(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, source = self.inner.source.name(), "the clock is unsafe");
        self.state().mark = Some(reason);
    }

    /// When the source was last found to have moved by more than its bound, or failed. What was compared with other nodes
    /// before that says nothing of it any more.
    pub fn moved_at(&self) -> Mono {
        self.state().moved_at
    }

    /// Takes in how this clock compares with the other nodes'. Disjoint from a majority: unsafe. In agreement with one:
    /// the source is vouched for, so a mark is lifted and a jump is accepted.
    pub fn heed(&self, verdict: &PeerVerdict) {
        match verdict {
            PeerVerdict::Unknown => {}
            PeerVerdict::Disjoint { from } => {
                let marked = self.state().mark.is_some();
                if !marked {
                    let nodes: Vec<_> = from.iter().map(ToString::to_string).collect();
                    self.mark_unsafe(format!("its interval is disjoint from those of {}", nodes.join(", ")));
                }
            }
            PeerVerdict::Agrees => {
                let mut state = self.state();
                let jumped = matches!(state.fault, Some(Unsafe::Jumped { .. }));
                if jumped {
                    state.held = None;
                }
                if state.mark.take().is_some() || jumped {
                    tracing::info!("a majority of the nodes agrees with this clock again");
                }
            }
        }
    }

    /// The interval and whether it may be relied on.
    pub fn status(&self) -> ClockStatus {
        let mut state = self.state();
        let interval = self.read(&mut state);
        let why = state.why();
        ClockStatus { source: self.inner.source.name(), interval, safe: why.is_none(), why }
    }

    /// The largest distance from true time that the cluster lives with.
    pub fn max_offset(&self) -> Duration {
        self.inner.max_offset
    }

    /// Whether `ts` is in the past everywhere: `earliest > ts`, by a safe clock.
    pub fn is_past(&self, ts: Timestamp) -> bool {
        self.safe_now().is_ok_and(|now| now.earliest > ts)
    }

    /// Commit wait (rule W1): returns once `earliest > ts`, so that whoever acts on the return, anywhere, gets a
    /// larger timestamp. Never early; late by the precision of [`crate::sleep`]. While the clock is unsafe it does not
    /// return (rule W3): give it a deadline. Cancel-safe.
    pub async fn wait_past(&self, ts: Timestamp) {
        loop {
            match self.safe_now() {
                Ok(now) if now.earliest > ts => return,
                Ok(now) => sleep(ts.next().since(now.earliest).min(RECHECK_MAX)).await,
                Err(_) => sleep(UNSAFE_RECHECK).await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the source, judges the reading, and moves the ratchet.
    fn read(&self, state: &mut State) -> Interval {
        let before = Mono::now();
        let read = self.inner.source.read();
        let after = Mono::now();
        let expected = state.held.map(|held| held.carried(before, after));
        let (interval, fault) = match (read, expected) {
            (Err(e), expected) => (expected, Some(Unsafe::Unreadable(e.to_string()))),
            (Ok(now), Some(expected)) if now.earliest > expected.latest => {
                let by = now.earliest.since(expected.latest);
                (Some(expected), Some(Unsafe::Jumped { forward: true, by }))
            }
            (Ok(now), Some(expected)) if now.latest < expected.earliest => {
                let by = expected.earliest.since(now.latest);
                (Some(expected), Some(Unsafe::Jumped { forward: false, by }))
            }
            (Ok(now), _) => {
                state.held = Some(Reading { interval: now, before, after });
                (Some(now), self.limits(state, now))
            }
        };
        if fault.is_some() && state.fault.is_none() {
            tracing::error!(why = %Explain(&fault), source = self.inner.source.name(), "the clock is unsafe");
        } else if fault.is_none() && state.fault.is_some() {
            tracing::info!(source = self.inner.source.name(), "the clock's source is good again");
        }
        if fault.is_some() && state.fault.is_none() {
            state.moved_at = after;
        }
        state.fault = fault;
        let safe = state.fault.is_none() && state.mark.is_none();
        if std::mem::replace(&mut state.told_safe, safe) != safe {
            emit(|| Event::ClockSafe { safe });
        }
        if let Some(interval) = interval {
            state.earliest = state.earliest.max(interval.earliest);
            state.latest = state.latest.max(interval.latest);
        }
        Interval { earliest: state.earliest, latest: state.latest }
    }

    /// What is wrong with a reading that agrees with the one before.
    fn limits(&self, state: &State, now: Interval) -> Option<Unsafe> {
        if now.latest < state.earliest {
            return Some(Unsafe::Behind { by: state.earliest.since(now.latest) });
        }
        let (width, max) = (now.width(), self.inner.max_offset.saturating_mul(2));
        (width > max).then_some(Unsafe::Wide { width, max })
    }
}

impl State {
    fn why(&self) -> Option<Unsafe> {
        self.fault.clone().or_else(|| self.mark.clone().map(Unsafe::Marked))
    }
}

impl Reading {
    /// Where true time can be at some instant between `before` and `after`, by this reading and the monotonic clock.
    fn carried(&self, before: Mono, after: Mono) -> Interval {
        let (least, most) = (before.since(self.after), after.since(self.before));
        Interval {
            earliest: self.interval.earliest.plus(least).minus(drift(least)),
            latest: self.interval.latest.plus(most).plus(drift(most)),
        }
    }
}

fn drift(d: Duration) -> Duration {
    let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos / (1_000_000 / DRIFT_PPM_MAX) + 1)
}

/// A fault as text for the log.
struct Explain<'a>(&'a Option<Unsafe>);

impl fmt::Display for Explain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |why| why.fmt(f))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("source", &self.inner.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::unsynchronized;

    #[test]
    fn auto_falls_back_on_a_fixed_bound_and_kernel_refuses() {
        let kernel = KernelSource::with_reader(unsynchronized);
        let auto = Clock::open_with(&ClockConfig::default(), kernel).unwrap();
        assert_eq!(auto.status().source, "fixed");
        assert_eq!(auto.now().width(), 2 * ClockConfig::BOUND_DEFAULT);
        let config = ClockConfig { source: SourceKind::Kernel, ..ClockConfig::default() };
        assert!(matches!(Clock::open_with(&config, kernel), Err(ClockError::Unsynchronized { .. })));
    }

    #[test]
    fn a_kernel_that_loses_its_synchronization_makes_the_clock_unsafe_and_time_goes_on() {
        let clock = Clock::with_source(Arc::new(KernelSource::with_reader(unsynchronized)));
        assert!(matches!(clock.status().why, Some(Unsafe::Unreadable(_))));
        assert_eq!(clock.now(), Interval { earliest: Timestamp::ZERO, latest: Timestamp::ZERO });
    }

    #[test]
    fn a_reading_is_carried_forward_by_time_passed_and_widened_by_drift() {
        let ts = |ms: u64| Timestamp(ms * 1_000_000);
        let mono = |ms: u64| Mono(ms * 1_000_000);
        let held = Reading {
            interval: Interval { earliest: ts(5_000), latest: ts(5_010) },
            before: mono(100),
            after: mono(101),
        };
        let later = held.carried(mono(1_101), mono(1_102));
        // At least 1000 ms and at most 1002 ms have passed; 1000 ppm of that is about 1 ms.
        assert_eq!(later.earliest, Timestamp(ts(6_000).0 - 1_000_001));
        assert_eq!(later.latest, Timestamp(ts(6_012).0 + 1_002_001));
    }
}
