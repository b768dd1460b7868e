//! One simulation: from a seed to a verdict.

use super::invariants;
use super::observer::Observer;
use super::plan::{Plan, Wish};
use super::workload::{self, Progress, Ways};
use super::world::World;
use crate::harness::History;
use crate::linearizability::Verdict;
use crate::{exactly_once, external_consistency, linearizability, sessions, snapshots, staleness};
use meridian_bench::history::{OpKind, Outcome, Record};
use meridian_probe::{Sabotage, set_sabotages};
use meridian_types::{KeyRange, Timestamp};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once, PoisonError};
use std::time::Duration;

/// Simulated time within which a cluster has to be formed and its tables made.
const FORM_LIMIT: Duration = Duration::from_secs(60);
/// Simulated time after the last fault within which every process must get work done.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Successful operations that show that a process is served again.
const RECOVERY_OPERATIONS: u64 = 3;
/// Simulated time within which processes end, and everything is read.
const END_LIMIT: Duration = Duration::from_secs(60);

/// What to simulate.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Known-wrong behaviours to switch on.
    pub sabotages: Vec<Sabotage>,
    /// Whether to keep a trace.
    pub trace: bool,
    /// Whether only what clients have seen is checked, as somebody from outside would: no invariants.
    pub histories_only: bool,
    /// What the seed may not decide.
    pub wish: Wish,
}

/// What a simulation came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What is wrong; empty if nothing is.
    pub failures: Vec<String>,
    /// Simulated time.
    pub simulated: Duration,
    /// Events that the invariants have seen.
    pub events: u64,
    /// Messages sent.
    pub messages: u64,
    /// Operations of clients by outcome: ok, failed, unknown.
    pub operations: [u64; 3],
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// The cluster, in a line.
    pub cluster: String,
    /// The trace, if one was kept.
    #[serde(skip)]
    pub trace: String,
    /// Digest of the trace.
    pub digest: u64,
    /// Time after the last fault until every process was served again.
    pub recovery: Duration,
}

impl Report {
    /// Whether everything held.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
    }
}

thread_local! {
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Panics inside a simulation are noted: tokio keeps them in the task that panicked.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let noted = PANICS.try_with(|panics| match &mut *panics.borrow_mut() {
                Some(panics) => {
                    panics.push(info.to_string());
                    true
                }
                None => false,
            });
            if !noted.unwrap_or(false) {
                usual(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

fn panics() -> Vec<String> {
    PANICS.with_borrow(|p| p.clone()).unwrap_or_default()
}

/// Simulates one seed on this thread.
///
/// It repeats itself to the last event if it is the first one of its process, on a thread of its own whose entropy is
/// fixed, as it is in the program `sim`: tokio decides in which order it wakes the watchers of a channel by random numbers
/// that it seeds itself.
pub fn simulate(options: &Options) -> Report {
    note_panics();
    set_sabotages(&options.sabotages);
    let plan = Plan::new(options.seed, &options.wish);
    let invariants = if options.histories_only { Vec::new() } else { invariants::all() };
    let observer = Observer::new(invariants, options.trace);
    observer.listen();
    let mut run = Run {
        world: World::new(plan.clone(), observer.clone()),
        history: History::default(),
        progress: Arc::default(),
        failures: Vec::new(),
        recovery: Duration::ZERO,
    };
    run.observer_says(&format!("{plan:?}"));
    run.through();
    let Run { world, history, mut failures, recovery, .. } = run;
    let (messages, simulated) = (world.net.lock().messages, world.now - world.start);
    let faults = world.done.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
    drop(world);
    failures.extend(observer.end().iter().map(ToString::to_string));
    failures.extend(panics().into_iter().map(|p| format!("panic: {p}")));
    PANICS.set(None);
    set_sabotages(&[]);
    let records = history.records();
    let count = |outcome: Outcome| records.iter().filter(|r| r.outcome == outcome).count() as u64;
    Report {
        seed: options.seed,
        failures,
        simulated: Duration::from_nanos(simulated),
        events: observer.events(),
        messages,
        operations: [count(Outcome::Ok), count(Outcome::Fail), count(Outcome::Unknown)],
        faults,
        cluster: describe(&plan),
        trace: observer.trace(),
        digest: observer.digest().0,
        recovery,
    }
}

fn describe(plan: &Plan) -> String {
    let tables: Vec<_> = plan.tables.iter().map(|t| t.placement.clone() + if t.split { "/2" } else { "" }).collect();
    format!("{} nodes, {}, faults: {}", plan.nodes.len(), tables.join(" "), plan.kinds.join(" "))
}

/// A part of a run; `Err`: why it cannot go on.
type Phase = fn(&mut Run) -> Result<(), String>;

struct Run {
    world: World,
    history: History,
    progress: Arc<Progress>,
    failures: Vec<String>,
    recovery: Duration,
}

impl Run {
    fn observer_says(&self, text: &str) {
        self.world.observer.say(|line| line.push_str(text));
    }

    /// All phases, as far as they go.
    fn through(&mut self) {
        for phase in [Self::form, Self::storm, Self::recover, Self::finish] as [Phase; 4] {
            let result = phase(self);
            if self.is_over() {
                break;
            }
            if let Err(why) = result {
                self.failures.push(why);
                break;
            }
        }
        // A history that ends in the middle lacks what was under way.
        if self.progress.tables.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.check_history();
        }
    }

    /// After a breach the rest would only repeat it.
    fn is_over(&self) -> bool {
        self.world.observer.is_broken() || !panics().is_empty()
    }

    fn ways(&self) -> Ways {
        let patience = self.world.plan.patience[0];
        Ways { connects: self.world.client_connects(), gateways: self.world.gateways(), patience }
    }

    /// Steps until `holds`; whether it came to hold in time.
    fn until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.world.now + limit.as_nanos() as u64;
        while !holds(self) {
            if self.world.now >= end || self.is_over() {
                return holds(self);
            }
            self.world.step();
        }
        true
    }

    fn form(&mut self) -> Result<(), String> {
        self.world.start_all();
        let (plan, ways) = (self.world.plan.clone(), self.ways());
        let (history, progress) = (self.history.clone(), self.progress.clone());
        self.world.clients().spawn(workload::run(plan, ways, history, progress));
        let formed = self.until(FORM_LIMIT, |run| run.progress.ready.load(Ordering::Relaxed));
        let failures = self.world.failures();
        match (formed || self.is_over(), failures.is_empty()) {
            (true, true) => Ok(()),
            (_, false) => Err(failures.join("; ")),
            (false, true) => Err(format!("liveness: the cluster was not formed within {FORM_LIMIT:?}")),
        }
    }

    fn storm(&mut self) -> Result<(), String> {
        let start = self.world.now;
        let mut faults = self.world.plan.faults.clone().into_iter().peekable();
        let end = start + self.world.plan.stormy.as_nanos() as u64;
        while self.world.now < end && !self.is_over() {
            while let Some((_, action)) = faults.next_if(|(at, _)| start + at.as_nanos() as u64 <= self.world.now) {
                self.world.act(&action);
            }
            self.world.step();
        }
        let failures = self.world.failures();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    fn recover(&mut self) -> Result<(), String> {
        self.observer_says("CALM");
        self.world.calm();
        let counts = self.progress.done.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = |c: &Arc<std::sync::atomic::AtomicU64>| c.load(Ordering::Relaxed);
        let goals: Vec<u64> = counts.iter().map(|c| now(c) + RECOVERY_OPERATIONS).collect();
        let begun = self.world.now;
        let served = self.until(RECOVERY_LIMIT, |_| counts.iter().zip(&goals).all(|(c, goal)| now(c) >= *goal));
        self.recovery = Duration::from_nanos(self.world.now - begun);
        let failures = self.world.failures();
        match (served || self.is_over(), failures.is_empty()) {
            (true, true) => Ok(()),
            (_, false) => Err(failures.join("; ")),
            (false, true) => {
                let behind = counts.iter().zip(&goals).filter(|(c, goal)| now(c) < **goal).count();
                Err(format!(
                    "liveness: {behind} of {} processes are not served {RECOVERY_LIMIT:?} after the last fault",
                    goals.len()
                ))
            }
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        self.progress.stop.store(true, Ordering::Relaxed);
        if !self.until(END_LIMIT, |run| run.progress.running.load(Ordering::Relaxed) == 0) {
            return Err(format!("liveness: operations do not end within {END_LIMIT:?}"));
        }
        let (plan, ways) = (self.world.plan.clone(), self.ways());
        let (history, progress) = (self.history.clone(), self.progress.clone());
        self.world.clients().spawn(workload::read_all(plan, ways, history, progress));
        let read =
            self.until(END_LIMIT, |run| run.progress.tables.lock().unwrap_or_else(PoisonError::into_inner).is_some());
        if !read {
            return Err(format!("liveness: the tables cannot be read within {END_LIMIT:?}"));
        }
        // Without a write, closed timestamps alone have to bring every replica this far.
        let now = Timestamp(self.world.now);
        if !self.until(END_LIMIT, |run| run.behind(now).is_empty()) {
            let behind = self.behind(now).join(", ");
            return Err(format!("liveness: safe time does not reach {now} within {END_LIMIT:?} on {behind}"));
        }
        if !self.until(END_LIMIT, Self::is_converged) {
            return Err(format!("liveness: the replicas do not converge within {END_LIMIT:?}"));
        }
        self.compare_replicas()
    }

    /// Replicas that may not yet serve at `ts` by themselves.
    fn behind(&self, ts: Timestamp) -> Vec<String> {
        let replicas = self.world.contexts().into_iter().flat_map(|ctx| ctx.replicas.all());
        let behind = replicas.filter(|replica| replica.safe_time().safe() < ts);
        behind.map(|r| format!("{} of {} ({})", r.shard(), r.node(), r.safe_time().safe())).collect()
    }

    /// Whether all replicas of every shard have applied the same.
    fn is_converged(&self) -> bool {
        let mut applied: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ctx in self.world.contexts() {
            for replica in ctx.replicas.all() {
                applied.entry(replica.shard()).or_default().push(replica.safe_time().applied());
            }
        }
        let wanted = self.world.plan.nodes.len();
        self.world.contexts().len() == wanted && applied.values().all(|all| all.iter().all(|ts| *ts == all[0]))
    }

    /// The replicas of a shard hold the same versions, as far as any read can find them: at timestamps from the highest
    /// of their floors on.
    fn compare_replicas(&self) -> Result<(), String> {
        let mut floors: BTreeMap<_, Timestamp> = BTreeMap::new();
        for replica in self.world.contexts().iter().flat_map(|ctx| ctx.replicas.all()) {
            let floor = floors.entry(replica.shard()).or_default();
            *floor = replica.gc_floor().max(*floor);
        }
        let mut first: BTreeMap<_, (_, String)> = BTreeMap::new();
        for ctx in self.world.contexts() {
            for replica in ctx.replicas.all() {
                let Some(view) = replica.view() else { continue };
                let range: KeyRange = replica.range().clone();
                let applied = replica.safe_time().applied();
                let mut text = format!("{applied:?}");
                for at in moments(floors.get(&replica.shard()).copied().unwrap_or_default(), applied) {
                    let rows = view
                        .scan(replica.table(), &range, at, false, usize::MAX, usize::MAX)
                        .map_err(|e| format!("{} of {} cannot be read: {e}", replica.shard(), ctx.me))?;
                    text += &format!(" {at:?}: {:?}", rows.rows);
                }
                let (other, expected) = first.entry(replica.shard()).or_insert_with(|| (ctx.me, text.clone()));
                if *expected != text {
                    return Err(format!("{} differs between {other} and {}", replica.shard(), ctx.me));
                }
            }
        }
        Ok(())
    }

    fn check_history(&mut self) {
        let wrong = std::mem::take(&mut *self.progress.wrong.lock().unwrap_or_else(PoisonError::into_inner));
        self.failures.extend(wrong);
        let tables = self.progress.tables.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
        let records = self.history.records();
        let ahead = &self.world.plan.tables;
        let ahead: Vec<&str> = ahead.iter().filter(|t| t.is_read_ahead()).map(|t| t.name).collect();
        self.failures.extend(check_records(&records, &tables, &ahead, self.world.observer.clocks_good.get()));
    }
}

/// Some timestamps from the floor to what is applied, both included, and the newest of all.
fn moments(floor: Timestamp, applied: Timestamp) -> impl Iterator<Item = Timestamp> {
    const STEPS: u64 = 16;
    let from = if floor == Timestamp::ZERO { applied.minus(Duration::from_secs(20)) } else { floor };
    let step = applied.0.saturating_sub(from.0) / STEPS;
    (0..STEPS).map(move |i| Timestamp(from.0 + i * step)).chain([applied, Timestamp::MAX])
}

/// Everything that can be said about what clients saw.
///
/// Where clocks have left their bounds, what rests on them is not asked for: external consistency, snapshots, staleness, and
/// linearizability of tables that are read `ahead`, at the clocks of those who are asked.
fn check_records(
    records: &[Record],
    tables: &[exactly_once::FinalState],
    ahead: &[&str],
    clocks_good: bool,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<(), crate::Violation>| {
        if let Err(e) = result {
            failures.push(format!("{what}: {e}"));
        }
    };
    note("exactly once", exactly_once::check(records, tables));
    if clocks_good {
        note("external consistency", external_consistency::check(records));
        note("sessions", sessions::check(records));
        note("snapshots", snapshots::check(records));
        note("staleness", staleness::check(records));
    }
    // A scan over several shards is read at the gateway's latest (N1), which rests on its clock.
    let rests_on_clocks = |r: &&Record| !clocks_good && (r.op == OpKind::Scan || ahead.contains(&r.table.as_str()));
    let linearizable: Vec<Record> = records.iter().filter(|r| !rests_on_clocks(r)).cloned().collect();
    match linearizability::check(&linearizable) {
        Verdict::Linearizable => {}
        verdict => failures.push(format!("linearizability: {verdict:?}")),
    }
    failures
}
