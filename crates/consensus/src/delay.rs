//! The pauses that a busy or suspended process may make anywhere. Correct code does not mind them; what a known-wrong
//! behaviour gets wrong often shows only across one.

use meridian_clock::sleep;
use meridian_probe::machine::random;
use std::time::Duration;

/// One time in how many there is a pause.
const ONE_IN: u64 = 8;

/// Waits, now and then, up to `longest`.
pub(crate) async fn delay(longest: Duration) {
    if random().is_multiple_of(ONE_IN) {
        let longest_ns = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX).max(1);
        sleep(Duration::from_nanos(random() % longest_ns)).await;
    }
}
