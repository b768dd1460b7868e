//! What the clients of a run do: every operation, at every level, on few keys, and asking again.
//!
//! Most clients wait for their answers, so while their node is cut off they hang on what it cannot serve. Watchers do
//! not: they ask their own node for linearizable reads of what other regions write, and give up soon. A leader that
//! answers although it has been deposed is seen by them.

use crate::harness::{History, Process};
use crate::soak::keys::{Keys, TABLES};
use meridian_client::{Client, Error};
use meridian_clock::{FixedSource, Mono, TimeSource as _, sleep, sleep_until};
use meridian_types::{Consistency, Fate, Reason, RegionId, Timestamp};
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Pause after a failed operation: what cannot be served now is not asked for at once again.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Bounds of bounded reads are drawn from zero to this.
const STALENESS_MAX: Duration = Duration::from_millis(500);

/// Snapshots are asked for up to so far in the future: a leader has to close the timestamp and wait.
const AHEAD_MAX: Duration = Duration::from_millis(30);

/// And up to so far in the past.
const BEHIND_MAX: Duration = Duration::from_millis(2_000);

/// Snapshots that are remembered, so that several clients read at the same timestamp.
const SNAPSHOTS_MAX: usize = 32;

/// Most rows of a scan.
const SCAN_ROWS_MAX: u32 = 6;

/// What a client does next.
#[derive(Clone, Copy, Debug)]
enum Op {
    Put,
    Delete,
    /// Read, then compare and swap.
    Swap,
    /// Writes if the key has no value: mostly refused, and later asked for again.
    Claim,
    /// Reads and writes two keys at once.
    Exchange,
    Get,
    Scan,
    /// Sends a transaction that was answered once more.
    Again,
    /// Goes to another region.
    Travel,
}

/// How often each comes, in a thousand.
const WEIGHTS: [(Op, u32); 9] = [
    (Op::Put, 200),
    (Op::Delete, 60),
    (Op::Swap, 100),
    (Op::Claim, 30),
    (Op::Exchange, 60),
    (Op::Get, 440),
    (Op::Scan, 70),
    (Op::Again, 30),
    (Op::Travel, 10),
];

/// Chance in a thousand that a client asks for an unknown outcome before it goes on.
const SETTLE_PERMILLE: u32 = 250;

/// Chance in a thousand that a client never asks for an unknown outcome: the checkers have to live with some.
const LET_GO_PERMILLE: u32 = 250;

/// Watchers in each region.
const WATCHERS: usize = 2;

/// Time between two reads of a watcher.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// Chance that a watcher reads a table that should be led from its own region.
const WATCH_OWN: f64 = 0.8;

/// The load's settings.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Clients in each region.
    pub clients: usize,
    /// Operations a second of all together, at most, watchers not counted; 0: no limit.
    pub rate: u32,
}

/// Timestamps that were read at, shared by all clients.
#[derive(Debug, Default)]
pub struct Snapshots {
    recent: Mutex<VecDeque<Timestamp>>,
    /// One in a while of all there were, for reading them all again at the end.
    kept: Mutex<Vec<Timestamp>>,
}

impl Snapshots {
    /// A timestamp to read at: one that somebody else has read at, or a new one around the present.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Timestamp {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if !recent.is_empty() && rng.random_bool(0.5) {
            return recent[rng.random_range(0..recent.len())];
        }
        // The machine's wall clock is true time here.
        let now = FixedSource::new(Duration::ZERO).read().map_or(Timestamp::ZERO, |now| now.earliest);
        let at = if rng.random_bool(0.5) {
            now.plus(AHEAD_MAX.mul_f64(rng.random()))
        } else {
            now.minus(BEHIND_MAX.mul_f64(rng.random()))
        };
        recent.push_back(at);
        if recent.len() > SNAPSHOTS_MAX {
            recent.pop_front();
        }
        if rng.random_bool(0.02) {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(at);
        }
        at
    }

    /// Some of them, spread over the run.
    pub fn spread(&self, count: usize) -> Vec<Timestamp> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let step = kept.len().div_ceil(count.max(1)).max(1);
        kept.iter().copied().step_by(step).collect()
    }
}

/// The clients of one region, by how they find the cluster.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where they are.
    pub region: RegionId,
    /// Each knows one node of the region and no other.
    pub loyal: Vec<Client>,
    /// The same, and gives up soon.
    pub watching: Vec<Client>,
    /// Knows all nodes, and goes elsewhere when its own do not answer.
    pub free: Client,
}

/// A load that runs.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Process>,
    snapshots: Arc<Snapshots>,
}

/// What all clients share.
#[derive(Debug)]
struct Shared {
    sites: Vec<Site>,
    keys: Keys,
    snapshots: Arc<Snapshots>,
    stop: Arc<AtomicBool>,
    /// Time from one operation of a client to its next.
    every: Duration,
}

impl Workload {
    /// Starts the clients; each draws from a random sequence of its own. In every region one half of them knows only
    /// one node.
    pub fn start(history: &History, sites: &[Site], pace: Pace, seed: u64) -> Self {
        let (stop, snapshots) = (Arc::new(AtomicBool::new(false)), Arc::new(Snapshots::default()));
        let all = u32::try_from(pace.clients * sites.len()).unwrap_or(u32::MAX);
        let every = if pace.rate == 0 { Duration::ZERO } else { Duration::from_secs(1) * all / pace.rate };
        let shared = Arc::new(Shared {
            sites: sites.to_vec(),
            keys: Keys::default(),
            snapshots: snapshots.clone(),
            stop: stop.clone(),
            every,
        });
        let mut tasks = JoinSet::new();
        for (i, site) in sites.iter().enumerate() {
            for j in 0..pace.clients {
                let loyal = &site.loyal[j / 2 % site.loyal.len()];
                let client = if j % 2 == 0 { loyal } else { &site.free };
                let process = history.process(site.region.clone(), client);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                // Stream 0 is the schedule's.
                rng.set_stream(1 + (i * pace.clients + j) as u64);
                tasks.spawn(User { process, rng, shared: shared.clone() }.run());
            }
            for j in 0..WATCHERS {
                let process = history.process(site.region.clone(), &site.watching[j % site.watching.len()]);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(u64::MAX - (i * WATCHERS + j) as u64);
                tasks.spawn(User { process, rng, shared: shared.clone() }.watch(i));
            }
        }
        Self { stop, tasks, snapshots }
    }

    /// The timestamps that were read at.
    pub fn snapshots(&self) -> Arc<Snapshots> {
        self.snapshots.clone()
    }

    /// Lets every client end its operation.
    ///
    /// # Panics
    /// When a client has panicked.
    pub async fn finish(self) -> Vec<Process> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await
    }
}

/// One client.
struct User {
    process: Process,
    rng: ChaCha8Rng,
    shared: Arc<Shared>,
}

impl User {
    async fn run(mut self) -> Process {
        let mut next = Mono::now().plus(self.shared.every.mul_f64(self.rng.random()));
        while !self.shared.stop.load(Ordering::Relaxed) {
            sleep_until(next).await;
            if !self.step().await {
                sleep(AFTER_FAILURE).await;
            }
            // A client that was held up does not catch up.
            next = next.plus(self.shared.every).max(Mono::now());
        }
        self.process
    }

    /// Reads what only other regions write, from the node of this region, counted from 0.
    async fn watch(mut self, region: usize) -> Process {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let own = self.rng.random_bool(WATCH_OWN);
            let tables: Vec<_> = TABLES.iter().filter(|table| (table.led_from == region) == own).collect();
            let table = tables[self.rng.random_range(0..tables.len())].name;
            let key = self.shared.keys.to_watch(table, region, &mut self.rng);
            // Whether it succeeds or not: the next is another.
            let _ = self.process.get(table, &key, Consistency::Linearizable).await;
            sleep(WATCH_EVERY).await;
        }
        self.process
    }

    /// One operation; whether it succeeded.
    async fn step(&mut self) -> bool {
        if self.process.unsettled() > 0 && self.rng.random_range(0..1000) < SETTLE_PERMILLE {
            return self.process.settle().await;
        }
        let table = TABLES[self.rng.random_range(0..TABLES.len())].name;
        let op = WEIGHTS.choose_weighted(&mut self.rng, |(_, weight)| *weight).map_or(Op::Get, |(op, _)| *op);
        match op {
            Op::Put | Op::Delete | Op::Swap | Op::Claim => self.write(op, table).await,
            Op::Exchange => {
                let keys = self.shared.keys.two_to_write(table, &mut self.rng);
                let result = self.process.exchange(table, [&keys[0], &keys[1]]).await;
                self.note(table, &keys, result.as_ref().err());
                result.is_ok()
            }
            Op::Get => {
                let (key, level) = (self.shared.keys.to_read(table, &mut self.rng), self.level());
                self.process.get(table, &key, level).await.is_ok()
            }
            Op::Scan => {
                let (key, level) = (self.shared.keys.to_read(table, &mut self.rng), self.level());
                let rows = self.rng.random_range(1..=SCAN_ROWS_MAX);
                self.process.scan(table, &key, rows, level).await.is_ok()
            }
            Op::Again => {
                self.process.ask_again().await;
                true
            }
            Op::Travel => {
                let site = &self.shared.sites[self.rng.random_range(0..self.shared.sites.len())];
                self.process.travel(site.region.clone(), &site.free);
                true
            }
        }
    }

    async fn write(&mut self, op: Op, table: &'static str) -> bool {
        let here = self.shared.sites.iter().position(|site| site.region == *self.process.region()).unwrap_or(0);
        let key = self.shared.keys.to_write(table, here, &mut self.rng);
        let failed = match op {
            Op::Delete => self.process.delete(table, &key).await.err(),
            Op::Claim => self.process.swap(table, &key, None).await.err(),
            Op::Swap => match self.process.get(table, &key, Consistency::Linearizable).await {
                Ok(seen) => self.process.swap(table, &key, seen.value.as_ref()).await.err(),
                Err(e) => Some(e),
            },
            _ => self.process.put(table, &key).await.err(),
        };
        self.note(table, &[key], failed.as_ref());
        failed.is_none_or(|e| e.reason() == Reason::PreconditionFailed)
    }

    /// Notes a write's failure.
    fn note(&mut self, table: &'static str, keys: &[String], failed: Option<&Error>) {
        if failed.is_some_and(|e| e.fate() == Fate::Unknown) {
            keys.iter().for_each(|key| self.shared.keys.unknown(table, key));
            if self.rng.random_range(0..1000) < LET_GO_PERMILLE {
                self.process.let_go();
            }
        }
    }

    fn level(&mut self) -> Consistency {
        match self.rng.random_range(0..100) {
            0..40 => Consistency::Linearizable,
            40..55 => self.process.session().causal(),
            55..67 => Consistency::BoundedStaleness(STALENESS_MAX.mul_f64(self.rng.random())),
            67..80 => Consistency::Local,
            _ => Consistency::Snapshot(self.shared.snapshots.draw(&mut self.rng)),
        }
    }
}
