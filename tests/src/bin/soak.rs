//! `soak`: real nodes, real clients, a seeded schedule of faults, and every guarantee checked on what clients saw.

use clap::Parser;
use meridian_bench::history;
use meridian_tests::soak::workload::Pace;
use meridian_tests::soak::{Answer, Check, Kind, Options, Run, checks, run};
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A guarantee was broken, or the run could not be made.
const FAILED: u8 = 1;
/// Nothing was found, and a checker gave up.
const UNDECIDED: u8 = 3;

/// Runs a cluster of real processes in three emulated regions, breaks it by a seeded schedule while clients in all
/// regions use it, and checks everything that they saw.
///
/// The seed decides the schedule and what each client asks for. What happens is not repeatable: processes, disks and
/// sockets are real.
#[derive(Debug, Parser)]
#[command(name = "soak", after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Decides schedule and workload.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long load and faults go on, in minutes.
    #[arg(long, value_name = "MINUTES", default_value = "5", value_parser = minutes)]
    minutes: Duration,
    /// Goes on until so many nodes were killed, however long that takes.
    #[arg(long, value_name = "N", conflicts_with_all = ["minutes", "no_faults"])]
    kills: Option<u64>,
    /// Operations a second of all clients together, at most; 0: no limit.
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Clients in each region.
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Nodes in all: 3 to 7.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=7))]
    nodes: u32,
    /// Kinds of faults; one that is named twice comes twice as often. Not named: all that leave every guarantee in
    /// force.
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "no_faults")]
    faults: Vec<Kind>,
    /// Only load.
    #[arg(long)]
    no_faults: bool,
    /// Mean time between two faults; at least 100 ms.
    #[arg(long, value_name = "TIME", default_value = "2500ms", value_parser = every)]
    every: Duration,
    /// Only prints the schedule.
    #[arg(long)]
    plan: bool,
    /// Where the history, the schedule and the logs go when something is found [default: soak-SEED].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Writes them in any case, the nodes' data too.
    #[arg(long)]
    keep: bool,
    /// Checks the history of an earlier run instead.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// With --check: clocks left their bounds in that run, so only what asks no clock is checked.
    #[arg(long, requires = "check")]
    broken_clocks: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Runs one node: how this program starts the nodes.
    #[command(hide = true)]
    Start {
        #[arg(long)]
        config: PathBuf,
    },
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("`{text}` is no number of minutes"))?;
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|e| e.to_string())
}

fn every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if every < Duration::from_millis(100) { Err("at least 100ms".to_owned()) } else { Ok(every) }
}

const HELP: &str = "\
Faults:
  kill         SIGKILL, and a restart up to 2.5 s later
  kill-pair    two nodes at once
  kill-all     all nodes at once
  pause        SIGSTOP, and SIGCONT up to 4 s later
  restart      SIGTERM, and a restart
  partition    two regions cut off from each other
  one-way      what one region sends to another is held back
  isolate      a region cut off from all others
  slow         a round trip of up to 400 ms between two regions
  clock        a clock off by something within its bound of 15 ms
  transfer     a leadership moved by request
  clock-jump   a clock off by 20 ms to 2 s     } the bound is broken: external consistency, snapshots, staleness
  clock-drift  a clock that runs away          } and sessions are not checked then; everything else is

Examples:
  soak --seed 7 --minutes 10
  soak --seed 7 --nodes 5 --faults kill,kill,kill-pair,pause --every 2s
  soak --kills 200 --faults kill,kill-pair,kill-all --every 1500ms
  soak --seed 7 --faults kill,partition,clock-jump,clock-drift
  soak --check soak-7/history.jsonl

Exit codes: 0 every guarantee holds; 1 one is broken, or the run could not be made; 2 usage; 3 a checker gave up.
MERIDIAN_LOG=info shows each fault as it ends, and makes the nodes' logs say more.";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match (&cli.command, &cli.check) {
        (Some(Command::Start { config }), _) => meridian_tests::node::run(config).await.map(|()| ExitCode::SUCCESS),
        (None, Some(file)) => check(file, cli.broken_clocks),
        (None, None) => soak(&cli).await,
    };
    result.unwrap_or_else(|e| {
        eprintln!("soak: {e}");
        ExitCode::from(FAILED)
    })
}

fn check(file: &Path, broken_clocks: bool) -> Result<ExitCode, Box<dyn Error>> {
    let history = history::read(BufReader::new(File::open(file)?))?;
    println!("{} operations", history.len());
    let checks = checks::all(&history, broken_clocks);
    checks.iter().for_each(|check| println!("{check}"));
    Ok(verdict(&checks, &[]))
}

fn verdict(checks: &[Check], found: &[String]) -> ExitCode {
    let some = |is: fn(&Answer) -> bool| checks.iter().any(|check| is(&check.answer));
    if !found.is_empty() || some(|a| matches!(a, Answer::Violated(_))) {
        return ExitCode::from(FAILED);
    }
    if some(|a| matches!(a, Answer::Undecided(_))) { ExitCode::from(UNDECIDED) } else { ExitCode::SUCCESS }
}

async fn soak(cli: &Cli) -> Result<ExitCode, Box<dyn Error>> {
    let data = tempfile::Builder::new().prefix("meridian-soak").tempdir()?;
    let options = options(cli, data.path())?;
    if cli.plan {
        print!("{}", options.schedule());
        return Ok(ExitCode::SUCCESS);
    }
    let level = std::env::var("MERIDIAN_LOG").unwrap_or_else(|_| "error".to_owned());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let schedule = options.schedule();
    eprintln!(
        "{} faults in {:?}, seed {}; data in {}",
        schedule.faults.len(),
        options.span,
        options.seed,
        data.path().display()
    );
    let result = run(&options).await;
    let out = cli.out.clone().unwrap_or_else(|| PathBuf::from(format!("soak-{}", cli.seed)));
    let run = match result {
        Ok(run) => run,
        Err(e) => {
            save_logs(&options, &out)?;
            return Err(format!("{e}; the nodes' logs are in {}", out.display()).into());
        }
    };
    println!("{}", run.summary);
    run.checks.iter().for_each(|check| println!("{check}"));
    run.faults_found.iter().for_each(|found| println!("FOUND      {found}"));
    if let Some(kills) = cli.kills {
        if run.summary.kills < kills {
            return Err(format!("{} nodes were killed, not {kills}", run.summary.kills).into());
        }
        let (acknowledged, tables) = (run.summary.acknowledged, run.summary.read_back);
        let lost = if run.is_violated() || run.is_undecided() { "see above" } else { "0" };
        println!(
            "\n{} nodes killed, {acknowledged} writes acknowledged, {tables} whole tables read back, lost: {lost}",
            run.summary.kills
        );
    }
    let suspicious = run.is_violated() || run.is_undecided();
    if suspicious || cli.keep {
        save(&options, &run, &out)?;
        let flag = if options.breaks_clocks() { " --broken-clocks" } else { "" };
        println!("\nkept in {0}; check again: soak --check {0}/history.jsonl{flag}", out.display());
    }
    if cli.keep {
        println!("the nodes' data: {}", data.keep().display());
    }
    Ok(verdict(&run.checks, &run.faults_found))
}

fn options(cli: &Cli, dir: &Path) -> Result<Options, Box<dyn Error>> {
    let faults = match cli.faults.as_slice() {
        _ if cli.no_faults => Vec::new(),
        [] => Kind::within_bounds(),
        named => named.to_vec(),
    };
    let options = Options {
        seed: cli.seed,
        span: cli.minutes,
        faults,
        every: cli.every,
        nodes: cli.nodes,
        pace: Pace { clients: usize::from(cli.clients), rate: cli.rate },
        program: std::env::current_exe()?,
        dir: dir.to_owned(),
    };
    match cli.kills {
        None => Ok(options),
        Some(kills) => options.until_killed(kills).ok_or_else(|| "none of these faults kills a node".into()),
    }
}

/// Writes what is needed to look into a run and to check it again.
fn save(options: &Options, run: &Run, out: &Path) -> Result<(), Box<dyn Error>> {
    save_logs(options, out)?;
    let mut file = BufWriter::new(File::create(out.join("history.jsonl"))?);
    for record in &run.history {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    let mut file = BufWriter::new(File::create(out.join("schedule.txt"))?);
    writeln!(file, "planned, {}", options.schedule())?;
    writeln!(file, "carried out, times of the load")?;
    run.done.iter().try_for_each(|done| writeln!(file, "{done}"))?;
    writeln!(file, "\nthe load began at {} ns of the history's clock", run.began_ns)?;
    file.flush()?;
    let mut file = BufWriter::new(File::create(out.join("summary.txt"))?);
    writeln!(file, "{}", run.summary)?;
    run.checks.iter().try_for_each(|check| writeln!(file, "{check}"))?;
    run.faults_found.iter().try_for_each(|found| writeln!(file, "FOUND      {found}"))?;
    Ok(file.flush()?)
}

fn save_logs(options: &Options, out: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(out)?;
    for node in 1..=options.nodes {
        let log = options.dir.join(format!("node{node}/log"));
        if log.exists() {
            std::fs::copy(log, out.join(format!("node{node}.log")))?;
        }
    }
    Ok(())
}
