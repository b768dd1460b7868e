//! One run: load, warm up, measure, report. The same for a real cluster and for scripted sessions.

use crate::driver::{OpenLoop, closed_loop, load, open_loop};
use crate::error::BenchError;
use crate::floors::Floors;
use crate::history_file::{HistoryFile, HistorySender};
use crate::options::{BenchOptions, Pace};
use crate::progress::{show_load, show_run};
use crate::report::{Facts, Report, build};
use crate::request::Session;
use crate::tally::Tally;
use crate::worker::{Region, Worker};
use crate::workload::{Generator, KeySpace, UniqueValues, stream};
use meridian_clock::Mono;
use meridian_types::RegionId;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Random streams of open-loop schedules start here, far above those of clients.
const SCHEDULE_STREAMS: u64 = 1 << 32;

/// A region to drive, and how to get a session there.
#[derive(Clone, Debug)]
pub struct RegionSessions<F> {
    /// The region.
    pub region: RegionId,
    /// Makes a new session.
    pub session: F,
}

/// What a report says of the cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// The topology's name, or where the cluster is.
    pub topology: String,
    /// Largest half-width of a node's clock interval.
    pub clock_bound: Option<Duration>,
    /// Round trips and placement of the table.
    pub floors: Floors,
}

/// Runs the workload and reports. When `stop` completes, no further operation is started, those in flight are
/// completed, and what was measured so far is reported.
pub async fn run_sessions<S: Session, F: FnMut() -> S + Clone + Send + 'static>(
    options: &BenchOptions,
    cluster: &ClusterFacts,
    regions: Vec<RegionSessions<F>>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<Report, BenchError> {
    options.validate()?;
    if regions.is_empty() {
        return Err(BenchError::NoRegion);
    }
    let stopped = CancellationToken::new();
    let stopper = tokio::spawn(stop_when(stop, stopped.clone()));
    let (file, history) = match &options.history {
        Some(path) => Some(HistoryFile::create(path)?).unzip(),
        None => (None, None),
    };
    let keys = Arc::new(KeySpace::new(options.keys));
    let plan = Plan { options, run: rand::random(), keys, newest: Arc::default(), history };
    let ended = plan.execute(cluster, regions, &stopped).await;
    drop(plan);
    stopper.abort();
    if let Some(file) = file {
        file.finish().await?;
    }
    ended
}

async fn stop_when(stop: impl Future<Output = ()>, stopped: CancellationToken) {
    stop.await;
    stopped.cancel();
}

/// What stays the same through one run.
struct Plan<'a> {
    options: &'a BenchOptions,
    /// Random: makes this run's values its own.
    run: u64,
    keys: Arc<KeySpace>,
    /// Newest timestamp that any client has seen.
    newest: Arc<AtomicU64>,
    history: Option<HistorySender>,
}

impl Plan<'_> {
    async fn execute<S: Session, F: FnMut() -> S + Clone + Send + 'static>(
        &self,
        cluster: &ClusterFacts,
        mut regions: Vec<RegionSessions<F>>,
        stop: &CancellationToken,
    ) -> Result<Report, BenchError> {
        let processes = Arc::new(AtomicU64::new(0));
        if self.options.load {
            self.load(&mut regions, &processes, stop).await?;
        }
        let start = Mono::now();
        let measured = start.plus(self.options.warm_up)..start.plus(self.options.warm_up + self.options.duration);
        let shared: Vec<_> = regions.iter().map(|r| self.region(&r.region, measured.clone())).collect();
        let length = measured.end.since(start);
        let progress = tokio::spawn(show_run(self.options.progress, start, length, shared.clone()));
        let driven = self.drive(start, regions, &shared, &processes, stop).await;
        progress.abort();
        // Waiting for it clears the line before anything else is printed.
        let _ = progress.await;
        let facts = Facts {
            topology: &cluster.topology,
            clock_bound: cluster.clock_bound,
            floors: &cluster.floors,
            run: self.run,
            measured: Mono::now().min(measured.end).since(measured.start),
            interrupted: stop.is_cancelled(),
            in_flight_limit_met: driven?,
        };
        let tallies: Vec<_> = shared.iter().map(|r| (r.name.clone(), take(&r.tally))).collect();
        Ok(build(self.options, &facts, &tallies))
    }

    /// Writes every key from the first region.
    async fn load<S: Session, F: FnMut() -> S>(
        &self,
        regions: &mut [RegionSessions<F>],
        processes: &Arc<AtomicU64>,
        stop: &CancellationToken,
    ) -> Result<(), BenchError> {
        let Some(first) = regions.first_mut() else { return Err(BenchError::NoRegion) };
        let now = Mono::now();
        let shared = self.region(&first.region, now..now);
        let workers =
            (0..self.options.load_clients).map(|_| self.worker(&shared, (first.session)(), processes)).collect();
        let loaded = Arc::new(AtomicU64::new(0));
        let progress = tokio::spawn(show_load(self.options.progress, self.options.keys, loaded.clone()));
        let ended = load(workers, self.options.keys, loaded, stop).await;
        progress.abort();
        let _ = progress.await;
        ended.map(drop)
    }

    /// Drives all regions until the end. Returns how often the limit of operations in flight was met.
    async fn drive<S: Session, F: FnMut() -> S + Clone + Send + 'static>(
        &self,
        start: Mono,
        regions: Vec<RegionSessions<F>>,
        shared: &[Arc<Region>],
        processes: &Arc<AtomicU64>,
        stop: &CancellationToken,
    ) -> Result<u64, BenchError> {
        let generator = Generator::new(self.options, self.keys.clone());
        let seed = self.options.seed;
        let mut tasks = JoinSet::new();
        let mut streams = 1..;
        let mut stream_number = || streams.next().unwrap_or_default();
        for (mut sessions, region) in regions.into_iter().zip(shared) {
            let end = region.measured.end;
            match self.options.pace {
                Pace::Closed { clients } => {
                    for _ in 0..clients {
                        let worker = self.worker(region, (sessions.session)(), processes);
                        let generator = generator.for_client(seed, stream_number());
                        let client = closed_loop(worker, generator, end, stop.clone());
                        tasks.spawn(async move {
                            client.await;
                            Ok(0)
                        });
                    }
                }
                Pace::Open { rate, arrivals, in_flight_max } => {
                    let number = stream_number();
                    let rng = stream(seed, SCHEDULE_STREAMS + number);
                    let schedule = OpenLoop { rate, arrivals, in_flight_max, start, end, rng };
                    let client = self.workers(region.clone(), sessions.session, processes.clone());
                    tasks.spawn(open_loop(schedule, generator.for_client(seed, number), client, stop.clone()));
                }
            }
        }
        let mut limit_met = 0;
        while let Some(ended) = tasks.join_next().await {
            limit_met += ended??;
        }
        Ok(limit_met)
    }

    fn region(&self, name: &RegionId, measured: Range<Mono>) -> Arc<Region> {
        Arc::new(Region {
            name: name.clone(),
            table: self.options.table.clone(),
            level: self.options.consistency,
            keys: self.keys.clone(),
            measured,
            tally: Mutex::default(),
            history: self.history.clone(),
            newest: self.newest.clone(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    fn worker<S>(&self, region: &Arc<Region>, session: S, processes: &AtomicU64) -> Worker<S> {
        new_worker(self.run, self.options.value_bytes, region.clone(), session, processes)
    }

    /// Makes workers later, when they are needed.
    fn workers<S, F: FnMut() -> S + Send>(
        &self,
        region: Arc<Region>,
        mut session: F,
        processes: Arc<AtomicU64>,
    ) -> impl FnMut() -> Worker<S> + Send + use<S, F> {
        let (run, value_bytes) = (self.run, self.options.value_bytes);
        move || new_worker(run, value_bytes, region.clone(), session(), &processes)
    }
}

fn new_worker<S>(run: u64, value_bytes: usize, region: Arc<Region>, session: S, processes: &AtomicU64) -> Worker<S> {
    let process = processes.fetch_add(1, Ordering::Relaxed);
    Worker { process, region, session, values: UniqueValues::new(run, process, value_bytes) }
}

fn take(tally: &Mutex<Tally>) -> Tally {
    std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner))
}
