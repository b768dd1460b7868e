//! What clients do in a simulation: the real client library, from every region, everything recorded.

use crate::exactly_once::FinalState;
use crate::harness::{History, Process};
use meridian_client::{Client, ClientConfig, Gateway, RetryPolicy, TableOptions};
use meridian_transport::Connect;
use meridian_types::{Consistency, Placement, Reason, RegionId, Timestamp, Within};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::plan::{Plan, TablePlan};

/// How long one operation may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(6);
/// How far ahead of the clock a read is that has to be refused: beyond any clock distance that a cluster lives with.
const FAR_FUTURE: Duration = Duration::from_secs(30);

/// Timestamps that a clock out of its bounds has given are past after this, by every clock that is right again.
const CLOCKS_FORGOTTEN: Duration = Duration::from_secs(10);

/// In one of so many seeds gets have latency budgets: what the others did before there were any stays as it was.
const BUDGETS_IN: u64 = 12;

/// What the clients tell the world.
#[derive(Default)]
pub(crate) struct Progress {
    /// Tables are there, and every region has a client.
    pub(crate) ready: AtomicBool,
    /// Processes are to end.
    pub(crate) stop: AtomicBool,
    /// Processes that have not ended.
    pub(crate) running: AtomicU64,
    /// Successful operations of each process.
    pub(crate) done: Mutex<Vec<Arc<AtomicU64>>>,
    /// What the tables hold in the end, once it was read.
    pub(crate) tables: Mutex<Option<Vec<FinalState>>>,
    /// Answers that contradict the API on their own.
    pub(crate) wrong: Mutex<Vec<String>>,
}

fn locked<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the clients reach the cluster.
#[derive(Clone)]
pub(crate) struct Ways {
    pub(crate) connects: Vec<(RegionId, Arc<dyn Connect>)>,
    pub(crate) gateways: Vec<(String, RegionId)>,
    /// How long one attempt may take.
    pub(crate) patience: Duration,
}

async fn connect(ways: &Ways, region: &RegionId, by: &Arc<dyn Connect>, pipelining: bool) -> Client {
    let gateways = ways.gateways.iter().map(|(address, r)| Gateway::in_region(address.clone(), r.clone())).collect();
    let mut config = ClientConfig::new(gateways).in_region(region.clone());
    config.pipelining = pipelining;
    config.request_deadline = REQUEST_DEADLINE;
    config.retry = RetryPolicy { attempt_timeout: ways.patience, ..RetryPolicy::default() };
    loop {
        match Client::connect_by(config.clone(), by.as_ref()).await {
            Ok(client) => return client,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Creates the tables; started on the clients' host.
async fn create(client: &Client, tables: &[TablePlan], gc_ttl: Option<Duration>) {
    let options = TableOptions { gc_ttl, ..TableOptions::default() };
    for table in tables {
        let placement: Placement = Placement::parse(&table.placement).expect("a plan has valid placements");
        let splits: Vec<bytes::Bytes> = if table.split { vec!["k001".into()] } else { Vec::new() };
        loop {
            match client.create_table_with(table.name, &placement, splits.clone(), options).await {
                Ok(_) => break,
                Err(e) if e.reason() == Reason::TableExists => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

/// Prepares the tables, then runs the processes until they are told to stop.
pub(crate) async fn run(plan: Plan, ways: Ways, history: History, progress: Arc<Progress>) {
    let mut clients = Vec::new();
    for (number, (region, by)) in (0..).zip(&ways.connects) {
        // Calls can arrive twice, and streams break as a whole: clients of both kinds.
        let pipelining = (plan.seed ^ number) & 1 == 0;
        clients.push((region.clone(), connect(&ways, region, by, pipelining).await));
    }
    create(&clients[0].1, &plan.tables, plan.gc_ttl).await;
    let mut number = 0;
    for (region, client) in &clients {
        for _ in 0..plan.processes {
            let process = history.process(region.clone(), client);
            let done = Arc::new(AtomicU64::new(0));
            locked(&progress.done).push(done.clone());
            progress.running.fetch_add(1, Ordering::Relaxed);
            let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x6c6f_6164);
            rng.set_stream(number);
            number += 1;
            let worker =
                Worker { process, plan: plan.clone(), clients: clients.clone(), rng, progress: progress.clone() };
            tokio::spawn(worker.work(done));
        }
    }
    progress.ready.store(true, Ordering::Relaxed);
}

/// Reads everything, after the processes have ended.
pub(crate) async fn read_all(plan: Plan, ways: Ways, history: History, progress: Arc<Progress>) {
    if plan.clocks_break && plan.tables.iter().any(TablePlan::is_read_ahead) {
        // Such a table is read at the reader's clock: what is stamped above it is not there yet.
        tokio::time::sleep(CLOCKS_FORGOTTEN).await;
    }
    let (region, by) = &ways.connects[0];
    let client = connect(&ways, region, by, true).await;
    let mut process = history.process(region.clone(), &client);
    let mut tables = Vec::new();
    for table in &plan.tables {
        loop {
            match process.scan(table.name, "", u32::MAX, Consistency::Linearizable).await {
                Ok(all) => {
                    let row = |row: &meridian_client::Row| meridian_bench::history::Version {
                        key: String::from_utf8_lossy(&row.key).into_owned(),
                        value: Some(String::from_utf8_lossy(&row.value).into_owned()),
                        version: Some(row.version.0),
                    };
                    tables.push(FinalState { table: table.name.to_owned(), rows: all.value.iter().map(row).collect() });
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
    *locked(&progress.tables) = Some(tables);
}

/// One process.
struct Worker {
    process: Process,
    plan: Plan,
    clients: Vec<(RegionId, Client)>,
    rng: ChaCha8Rng,
    progress: Arc<Progress>,
}

impl Worker {
    async fn work(mut self, done: Arc<AtomicU64>) {
        while !self.progress.stop.load(Ordering::Relaxed) {
            if self.step().await {
                done.fetch_add(1, Ordering::Relaxed);
            }
            let think = self.plan.think.as_micros() as u64;
            tokio::time::sleep(Duration::from_micros(self.rng.random_range(0..=2 * think))).await;
        }
        self.progress.running.fetch_sub(1, Ordering::Relaxed);
    }

    fn place(&mut self) -> (&'static str, String) {
        let table = self.plan.tables[self.rng.random_range(0..self.plan.tables.len())].name;
        (table, format!("k{:03}", self.rng.random_range(0..self.plan.keys)))
    }

    /// One operation; whether it succeeded.
    async fn step(&mut self) -> bool {
        let (table, key) = self.place();
        match self.rng.random_range(0..100) {
            0..30 => self.process.put(table, &key).await.is_ok(),
            30..37 => self.process.delete(table, &key).await.is_ok(),
            37..52 => match self.process.get(table, &key, Consistency::Linearizable).await {
                Ok(seen) => self.process.swap(table, &key, seen.value.as_ref()).await.is_ok(),
                Err(_) => false,
            },
            52..80 if self.plan.seed % BUDGETS_IN == BUDGETS_IN - 1 => {
                // Mostly the level of which a wrong claim shows.
                let level = if self.rng.random_bool(0.8) { Consistency::Linearizable } else { self.level() };
                let within = self.within(&level);
                // Too little time is no failure of the cluster.
                self.process.get_within(table, &key, level, &within).await.is_ok()
            }
            52..80 => {
                let level = self.level();
                match self.process.get(table, &key, level.clone()).await {
                    Ok(reply) => {
                        self.check_bound(&level, reply.staleness);
                        true
                    }
                    Err(e) => {
                        self.check_collected(&level, e.reason());
                        false
                    }
                }
            }
            80..95 => {
                let level = self.level();
                let rows = self.rng.random_range(1..=self.plan.keys as u32);
                match self.process.scan(table, "", rows, level.clone()).await {
                    Ok(_) => true,
                    Err(e) => {
                        // Over several shards the gateway chooses a timestamp, and may take too long.
                        if matches!(level, Consistency::Snapshot(_)) {
                            self.check_collected(&level, e.reason());
                        }
                        false
                    }
                }
            }
            95..97 => {
                self.read_the_future(table, &key).await;
                false
            }
            _ => {
                // The session goes to another region, with its token.
                let (region, client) = self.clients[self.rng.random_range(0..self.clients.len())].clone();
                self.process.travel(region, &client);
                self.process.get_causal(table, &key).await.is_ok()
            }
        }
    }

    /// A bounded read is not older than was asked for.
    fn check_bound(&self, level: &Consistency, staleness: Duration) {
        if let Consistency::BoundedStaleness(bound) = level
            && staleness > *bound
        {
            locked(&self.progress.wrong)
                .push(format!("bounded read: at most {bound:?} were allowed, the reply claims {staleness:?}"));
        }
    }

    /// Only a timestamp that the caller has chosen may be collected, and not before the table's time is over.
    fn check_collected(&self, level: &Consistency, reason: Reason) {
        if reason != Reason::TimestampCollected || self.plan.clocks_break {
            return;
        }
        let now = Timestamp(meridian_probe::machine::true_ns().unwrap_or(0));
        let old = |at: Timestamp| self.plan.gc_ttl.is_some_and(|ttl| at < now.minus(ttl));
        if !matches!(level, Consistency::Snapshot(at) if old(*at)) {
            locked(&self.progress.wrong).push(format!("collected too early: {level:?} is refused at {now}"));
        }
    }

    fn level(&mut self) -> Consistency {
        match self.rng.random_range(0..12) {
            0..4 => Consistency::Linearizable,
            4..6 => self.process.session().causal(),
            6..8 => Consistency::BoundedStaleness(Duration::from_millis(self.rng.random_range(0..1_500))),
            8..11 => {
                // Around now: the leader has to close it, wait for what is in flight, or for its clock.
                let now = meridian_probe::machine::true_ns().unwrap_or(0);
                // Where versions are collected, also on both sides of the floor.
                let back = self.plan.gc_ttl.map_or(1_000_000_000, |ttl| ttl.as_nanos() as i64 * 3 / 2);
                let off = self.rng.random_range(-back..150_000_000);
                Consistency::Snapshot(Timestamp(now.saturating_add_signed(off)))
            }
            _ => Consistency::Local,
        }
    }

    /// Some budget, which falls short of the way to the leader as often as not, and a weaker level if there is one.
    fn within(&mut self, strongest: &Consistency) -> Within {
        let within = Within::new(Duration::from_millis(self.rng.random_range(1..200)));
        let weakest = match (self.rng.random_range(0..6), strongest) {
            (0, _) | (_, Consistency::Snapshot(_)) => return within,
            (1, Consistency::Linearizable) => Consistency::BoundedStaleness(Duration::from_secs(3)),
            (1 | 2, _) => self.process.session().causal(),
            _ => Consistency::Local,
        };
        let within = within.or_weaker(weakest);
        if self.rng.random_bool(0.25) { within.including(self.process.session().token()) } else { within }
    }

    /// A timestamp beyond any clock has to be refused, not waited for (rule S6).
    async fn read_the_future(&mut self, table: &str, key: &str) {
        let now = meridian_probe::machine::true_ns().unwrap_or(0);
        let at = Timestamp(now).plus(FAR_FUTURE);
        let result = self.process.session().get(table, key.to_owned(), Consistency::Snapshot(at)).await;
        match result {
            Ok(_) => locked(&self.progress.wrong).push(format!("future read: one at {at}, 30 s ahead, was answered")),
            Err(e) if e.reason() == Reason::TimestampInFuture => {}
            // Nobody could be asked.
            Err(e) if matches!(e.reason(), Reason::NoQuorum | Reason::ClockUnsafe | Reason::UnknownTable) => {}
            Err(e) => {
                locked(&self.progress.wrong).push(format!("future read: one at {at}, 30 s ahead, failed with {e}"))
            }
        }
    }
}
