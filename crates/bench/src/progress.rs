//! The line that moves while a run goes on. On anything but a terminal nothing is written.

use crate::worker::Region;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use meridian_clock::Mono;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the line changes.
const TICK: Duration = Duration::from_millis(250);

/// A progress bar of `length` steps on standard error, if that is a terminal and `show` is set.
fn bar(show: bool, length: u64, template: &str) -> ProgressBar {
    let target = if show { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style)
}

/// Shows how many of `keys` are loaded, until it is dropped.
pub(crate) async fn show_load(show: bool, keys: u64, loaded: Arc<AtomicU64>) {
    let bar = Cleared(bar(show, keys, "loading {bar:30} {human_pos}/{human_len} keys, {per_sec}, {eta} left"));
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        bar.0.set_position(loaded.load(Ordering::Relaxed));
    }
}

/// Shows time, answers, failures and throughput of a run, until it is dropped.
pub(crate) async fn show_run(show: bool, start: Mono, length: Duration, regions: Vec<Arc<Region>>) {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let bar = Cleared(bar(show, millis(length), "running {bar:30} {percent}% {msg}"));
    let mut ticks = tokio::time::interval(TICK);
    let (mut before, mut then) = (0, start);
    loop {
        ticks.tick().await;
        let sum = |of: fn(&Region) -> &AtomicU64| regions.iter().map(|r| of(r).load(Ordering::Relaxed)).sum::<u64>();
        let (answered, failed, now) = (sum(|r| &r.answered), sum(|r| &r.failed), Mono::now());
        let rate = (answered - before) as f64 / now.since(then).as_secs_f64().max(1e-3);
        bar.0.set_position(millis(now.since(start)));
        bar.0.set_message(format!("{answered} answered, {failed} failed, {rate:.0}/s"));
        (before, then) = (answered, now);
    }
}

/// Removes its line when it goes out of use, so that the report starts on a clean one.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
