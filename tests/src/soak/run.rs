//! One run from beginning to end.

use crate::Violation;
use crate::harness::History;
use crate::soak::checks::{self, Answer, Check};
use crate::soak::closing::{self, Compared};
use crate::soak::inject::{Done, Injector};
use crate::soak::keys::TABLES;
use crate::soak::nodes::{CLOCK_BOUND, IMPATIENT, Nodes, PATIENT, topology};
use crate::soak::schedule::{Kind, Schedule, Shape};
use crate::soak::summary::{Facts, Summary};
use crate::soak::workload::{Pace, Site, Workload};
use meridian_bench::history::Record;
use meridian_clock::{Mono, sleep};
use meridian_server::bootstrap::BootstrapError;
use meridian_server::processes::ProcessError;
use meridian_types::{NodeId, Placement};
use meridian_wan::ControlError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// Snapshots that are read from every replica at the end.
const SNAPSHOTS_COMPARED: usize = 8;

/// So many wrong answers are shown in full.
const OBJECTIONS_SHOWN: usize = 3;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides schedule and workload.
    pub seed: u64,
    /// How long faults and load go on.
    pub span: Duration,
    /// Kinds of faults; one that is named twice comes twice as often.
    pub faults: Vec<Kind>,
    /// Mean time between two faults.
    pub every: Duration,
    /// Nodes in all, in three regions.
    pub nodes: u32,
    /// Clients and how fast they go.
    pub pace: Pace,
    /// The program that runs one node: `program start --config FILE`.
    pub program: PathBuf,
    /// Where the cluster's data and logs go.
    pub dir: PathBuf,
}

impl Options {
    /// What goes wrong in this run.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.seed, &self.shape())
    }

    /// Goes on until so many nodes were killed; `None` if none ever is.
    pub fn until_killed(self, kills: u64) -> Option<Self> {
        let span = Schedule::span_for_kills(self.seed, &self.shape(), kills)?;
        Some(Self { span, ..self })
    }

    fn shape(&self) -> Shape {
        let topology = topology(self.nodes);
        Shape {
            span: self.span,
            every: self.every,
            kinds: self.faults.clone(),
            nodes: topology.nodes().iter().map(|n| n.id).collect(),
            regions: topology.regions.iter().map(|r| r.name.clone()).collect(),
            clock_bound: CLOCK_BOUND,
        }
    }

    /// Whether clocks leave their bounds in it.
    pub fn breaks_clocks(&self) -> bool {
        self.faults.iter().any(|kind| kind.breaks_clocks())
    }
}

/// A run that came to its end.
#[derive(Clone, Debug)]
pub struct Run {
    /// What clients saw.
    pub history: Vec<Record>,
    /// When the load began: nanoseconds of the history's clock.
    pub began_ns: u64,
    /// What went wrong, as it was carried out.
    pub done: Vec<Done>,
    /// Figures.
    pub summary: Summary,
    /// What the checkers say.
    pub checks: Vec<Check>,
    /// What was found wrong without a checker: a node that ended by itself, a cluster that did not serve again, another
    /// answer to the same request.
    pub faults_found: Vec<String>,
}

impl Run {
    /// Whether a guarantee was broken.
    pub fn is_violated(&self) -> bool {
        !self.faults_found.is_empty() || self.checks.iter().any(|c| matches!(c.answer, Answer::Violated(_)))
    }

    /// Whether some checker gave up.
    pub fn is_undecided(&self) -> bool {
        self.checks.iter().any(|c| matches!(c.answer, Answer::Undecided(_)))
    }
}

/// Why a run could not be made. Not a violation.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    /// The cluster's folder cannot be written.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A node's process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A request that had to succeed.
    #[error("a request failed that has to succeed: {0}")]
    Client(#[from] meridian_client::Error),
    /// The link control.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A file or a signal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A node's configuration cannot be read back.
    #[error("a node's configuration cannot be read: {0}")]
    Config(String),
    /// A table's placement.
    #[error("no placement: {0}")]
    Placement(String),
    /// The cluster has no emulated links.
    #[error("the cluster has no emulated links")]
    NoLinks,
    /// No such node, or it does not run.
    #[error("node {} does not run", .0.0)]
    NoNode(NodeId),
}

/// Forms a cluster, loads it, breaks it, heals it, reads it and checks what was seen. Needs a tokio runtime with
/// several threads.
pub async fn run(options: &Options) -> Result<Run, SoakError> {
    let topology = topology(options.nodes);
    let nodes = Arc::new(Nodes::start(&options.program, &options.dir, topology.clone(), options.seed).await?);
    let sites = sites(&nodes).await?;
    create_tables(&sites).await?;

    let history = History::default();
    let schedule = options.schedule();
    schedule.clocks.iter().try_for_each(|(node, offset_us)| nodes.set_clock(*node, *offset_us, 0))?;
    let begin = Mono::now();
    let workload = Workload::start(&history, &sites, options.pace, options.seed);
    let snapshots = workload.snapshots();
    let injector = Arc::new(Injector::new(nodes.clone(), topology, sites[0].free.clone(), begin).await?);
    let faults = injector.clone().run(&schedule);
    tokio::select! {
        ended = async { tokio::join!(faults, sleep(options.span)).0 } => ended?,
        () = progress(&history, &injector, begin) => {}
    }
    let ended = Mono::now();
    injector.heal().await?;
    let mut processes = workload.finish().await;

    let mut faults_found = Vec::new();
    let each = closing::of_each(&nodes).await?;
    let served = closing::serves(&history, &each).await;
    faults_found.extend(served.as_ref().err().map(|why| {
        let limit = closing::SERVE_WITHIN;
        format!("the cluster does not serve {limit:?} after everything was healed: {why}")
    }));
    closing::settle(&mut processes).await;
    let compared = match closing::read_all(&history, &each, &snapshots.spread(SNAPSHOTS_COMPARED)).await {
        Ok(compared) => compared,
        Err(e) => {
            faults_found.push(format!("a table cannot be read at the end: {e}"));
            Compared::default()
        }
    };
    let done = injector.done();
    drop((injector, sites, each, processes));
    faults_found.extend(stop(nodes).await?);
    faults_found.extend(objections(&history, options.breaks_clocks()));

    let facts = Facts {
        seed: options.seed,
        began_ns: begin.0,
        ended_ns: ended.0,
        done: done.clone(),
        settled: history.settled(),
        served_after: served.ok(),
        compared,
    };
    let (history, broken_clocks) = (history.records(), options.breaks_clocks());
    let summary = Summary::new(&history, facts);
    let checked = tokio::task::spawn_blocking(move || {
        let checks = checks::all(&history, broken_clocks);
        (history, checks)
    });
    let (history, checks) = checked.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
    Ok(Run { history, began_ns: begin.0, done, summary, checks, faults_found })
}

/// Clients in every region: of each of its nodes alone, and of all nodes.
async fn sites(nodes: &Nodes) -> Result<Vec<Site>, SoakError> {
    let mut sites = Vec::new();
    for region in nodes.regions() {
        let (mut loyal, mut watching) = (Vec::new(), Vec::new());
        for node in nodes.in_region(&region) {
            loyal.push(nodes.client(&region, &[node], PATIENT).await?);
            watching.push(nodes.client(&region, &[node], IMPATIENT).await?);
        }
        let free = nodes.client(&region, &nodes.ids(), PATIENT).await?;
        sites.push(Site { region, loyal, watching, free });
    }
    Ok(sites)
}

async fn create_tables(sites: &[Site]) -> Result<(), SoakError> {
    for table in &TABLES {
        let placement = Placement::parse(table.placement).map_err(|e| SoakError::Placement(e.to_string()))?;
        let splits = table.split_keys.iter().map(|key| bytes::Bytes::from_static(key.as_bytes())).collect();
        sites[0].free.create_table(table.name, &placement, splits).await?;
    }
    Ok(())
}

/// What clients found wrong themselves, the first few in full.
fn objections(history: &History, broken_clocks: bool) -> Vec<String> {
    let all = history.objections(broken_clocks);
    let mut shown: Vec<_> = all.iter().take(OBJECTIONS_SHOWN).map(Violation::to_string).collect();
    if let Some(more) = all.len().checked_sub(OBJECTIONS_SHOWN).filter(|more| *more > 0) {
        shown.push(format!("{more} more answers that are not what was asked for, or not what was answered before"));
    }
    shown
}

/// Says how far a run is; never returns.
async fn progress(history: &History, injector: &Injector, begin: Mono) {
    loop {
        sleep(PROGRESS).await;
        let (ops, seconds) = (history.len(), begin.elapsed().as_secs_f64());
        let rate = ops as f64 / seconds;
        eprintln!("{seconds:>6.0} s  {ops} operations ({rate:.0}/s), {} faults", injector.done().len());
    }
}

async fn stop(nodes: Arc<Nodes>) -> Result<Vec<String>, SoakError> {
    match Arc::try_unwrap(nodes) {
        Ok(nodes) => nodes.stop().await,
        // Somebody still holds it; dropping the processes ends them.
        Err(nodes) => nodes.surprises(),
    }
}
