//! Why a clock gives no time.

use std::time::Duration;

/// A reading, or the opening of a clock, that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The kernel's time discipline says that it is not synchronized to anything.
    #[error(
        "the kernel's clock is not synchronized (status {status:#x}, state {state}); start chrony or another NTP client, or use the `fixed` clock source with a bound that you can vouch for"
    )]
    Unsynchronized {
        /// `timex.status` as the kernel returned it.
        status: i32,
        /// The return value of `adjtimex`.
        state: i32,
    },
    /// The kernel gave numbers that make no interval.
    #[error("the kernel's clock reading makes no sense: {seconds} s + {fraction}, maximum error {maxerror_us} us")]
    Nonsense {
        /// Seconds since the Unix epoch.
        seconds: i64,
        /// Nanoseconds or microseconds of the second.
        fraction: i64,
        /// Maximum error in microseconds.
        maxerror_us: i64,
    },
    /// The wall clock is before the Unix epoch.
    #[error("the wall clock is before 1970; set it")]
    BeforeEpoch,
    /// The system call failed, or the platform has none.
    #[error("the kernel's clock cannot be read")]
    Os(#[from] std::io::Error),
    /// The configured bound is zero or larger than the largest offset that the cluster accepts.
    #[error("clock bound {bound:?} must be above zero and at most max_offset ({max_offset:?})")]
    Bound {
        /// The configured bound.
        bound: Duration,
        /// The configured largest offset.
        max_offset: Duration,
    },
    /// A simulated source was told to fail.
    #[error("the simulated clock was told to fail")]
    Simulated,
}
