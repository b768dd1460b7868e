//! A clock for tests: the wall clock plus an error that the test chooses.

use crate::source::wall;
use crate::{ClockError, Mono, TimeSource};
use meridian_types::{Interval, Timestamp};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Time between looks at a file that is followed.
const FILE_LOOK: Duration = Duration::from_millis(10);

/// A source whose error is known: it reads `true time + offset + drift`, and declares `bound` whatever they are,
/// so a test can put it inside its bound or outside. Clones share their settings.
///
/// The machine's wall clock stands for true time, so the nodes of one machine share it.
#[derive(Clone, Debug)]
pub struct SimulatedSource {
    settings: Arc<Mutex<Settings>>,
    followed: Arc<Mutex<Option<Followed>>>,
}

/// A file that another process changes the error with.
#[derive(Debug)]
struct Followed {
    file: PathBuf,
    looked: Mono,
    text: String,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    offset_ns: i64,
    drift_ppm: f64,
    drifting_since: Mono,
    bound: Duration,
    fails: bool,
}

impl SimulatedSource {
    /// A clock that is right, and declares this bound.
    pub fn new(bound: Duration) -> Self {
        let settings = Settings { offset_ns: 0, drift_ppm: 0.0, drifting_since: Mono::now(), bound, fails: false };
        Self { settings: Arc::new(Mutex::new(settings)), followed: Arc::default() }
    }

    /// Takes offset and drift from a file, now and whenever its text changes: `offset_us drift_ppm` in one line. What
    /// is not there or says something else changes nothing. The file should be replaced as a whole.
    pub fn follow(&self, file: PathBuf) {
        let followed = Followed { file, looked: Mono::default(), text: String::new() };
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(followed);
        self.look();
    }

    /// Looks at the followed file, if the last look was a while ago.
    fn look(&self) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(followed) = followed.as_mut().filter(|f| f.looked.elapsed() >= FILE_LOOK) else { return };
        followed.looked = Mono::now();
        let Ok(text) = std::fs::read_to_string(&followed.file) else { return };
        if text == followed.text {
            return;
        }
        if let Some((offset_us, drift_ppm)) = parse(&text) {
            self.set_offset_ns(offset_us.saturating_mul(1_000));
            self.change(|s| s.drift_ppm = drift_ppm);
        }
        followed.text = text;
    }

    /// Sets the distance from true time; what drift has added so far is forgotten.
    pub fn set_offset_ns(&self, offset_ns: i64) {
        self.change(|s| (s.offset_ns, s.drifting_since) = (offset_ns, Mono::now()));
    }

    /// Moves the clock by so much, at once.
    pub fn jump_ns(&self, by_ns: i64) {
        self.change(|s| s.offset_ns = s.offset_ns.saturating_add(by_ns));
    }

    /// From now on gains (or loses) so many microseconds a second; what was gained so far is kept.
    pub fn set_drift_ppm(&self, drift_ppm: f64) {
        self.change(|s| {
            s.offset_ns = s.offset_now();
            (s.drift_ppm, s.drifting_since) = (drift_ppm, Mono::now());
        });
    }

    /// Sets the bound that the clock declares.
    pub fn set_bound(&self, bound: Duration) {
        self.change(|s| s.bound = bound);
    }

    /// Makes every reading fail, or none.
    pub fn set_fails(&self, fails: bool) {
        self.change(|s| s.fails = fails);
    }

    /// The present distance from true time in nanoseconds.
    pub fn offset_ns(&self) -> i64 {
        self.get().offset_now()
    }

    fn change(&self, f: impl FnOnce(&mut Settings)) {
        f(&mut self.settings.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The contents of a followed file.
fn parse(text: &str) -> Option<(i64, f64)> {
    let (offset_us, drift_ppm) = text.trim().split_once(' ')?;
    Some((offset_us.parse().ok()?, drift_ppm.parse().ok()?))
}

impl Settings {
    fn offset_now(&self) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "a float to integer cast saturates, which will do here")]
        let drifted = (self.drifting_since.elapsed().as_nanos() as f64 * self.drift_ppm / 1e6) as i64;
        self.offset_ns.saturating_add(drifted)
    }
}

impl TimeSource for SimulatedSource {
    fn read(&self) -> Result<Interval, ClockError> {
        self.look();
        let s = self.get();
        if s.fails {
            return Err(ClockError::Simulated);
        }
        let now = Timestamp(wall()?.0.saturating_add_signed(s.offset_now()));
        Ok(Interval { earliest: now.minus(s.bound), latest: now.plus(s.bound) })
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_decides_whether_the_interval_holds_true_time() {
        let source = SimulatedSource::new(Duration::from_millis(10));
        let holds = || {
            let before = wall().unwrap();
            let i = source.read().unwrap();
            i.earliest <= wall().unwrap() && before <= i.latest
        };
        assert!(holds());
        source.set_offset_ns(9_000_000);
        assert!(holds());
        source.jump_ns(5_000_000_000);
        assert!(!holds());
        source.set_offset_ns(-5_000_000_000);
        assert!(!holds());
    }

    #[test]
    fn drift_adds_up_and_is_kept() {
        let source = SimulatedSource::new(Duration::ZERO);
        source.set_drift_ppm(1e6); // Twice the speed.
        std::thread::sleep(Duration::from_millis(5));
        source.set_drift_ppm(0.0);
        let gained = source.offset_ns();
        assert!(gained >= 5_000_000, "{gained}");
        assert_eq!(source.offset_ns(), gained);
    }

    #[test]
    fn a_followed_file_changes_the_error_while_the_clock_runs() {
        let file = std::env::temp_dir().join(format!("meridian-clock-{}", std::process::id()));
        std::fs::write(&file, "-7000 0").unwrap();
        let source = SimulatedSource::new(Duration::from_millis(10));
        source.follow(file.clone());
        assert_eq!(source.offset_ns(), -7_000_000);
        let comes_to = |offset_ns: i64| {
            let start = Mono::now();
            while source.offset_ns() != offset_ns {
                assert!(start.elapsed() < Duration::from_secs(10), "{}", source.offset_ns());
                source.read().unwrap();
            }
        };
        std::fs::write(&file, "3000 0").unwrap();
        comes_to(3_000_000);
        std::fs::write(&file, "nonsense").unwrap();
        std::thread::sleep(2 * FILE_LOOK);
        source.read().unwrap();
        assert_eq!(source.offset_ns(), 3_000_000);
        std::fs::write(&file, "0 1000000").unwrap();
        std::thread::sleep(2 * FILE_LOOK);
        source.read().unwrap();
        std::thread::sleep(Duration::from_millis(5));
        assert!(source.offset_ns() >= 5_000_000, "it drifts");
        std::fs::remove_file(&file).unwrap();
    }
}
