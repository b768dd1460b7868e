//! `sim`: simulates clusters under faults, one seed after the other.

use clap::Parser;
use meridian_probe::Sabotage;
use meridian_tests::sim::{Options, Report, Wish, simulate};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Simulates whole clusters under faults, deterministically: everything that happens follows from a seed.
///
/// Each seed is a cluster of three to seven nodes with its own distances, clocks, load and faults. Real consensus,
/// gateway, state machine and client code runs on simulated machines, networks and disks. Invariants are checked at every
/// event, histories at the end. A seed that fails is printed with the command that repeats it.
#[derive(Parser)]
#[command(name = "sim", version)]
struct Args {
    /// Simulate this seed alone, and say what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// First seed of a row.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds, or as many as fit into --minutes.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Stop starting new seeds after this time.
    #[arg(long)]
    minutes: Option<f64>,
    /// Threads; each runs one seed at a time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Known-wrong behaviours to switch on (see --list), separated by commas.
    #[arg(long, value_delimiter = ',')]
    sabotage: Vec<String>,
    /// Only these kinds of faults (see --list), separated by commas.
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Let clocks leave their bounds, or never do.
    #[arg(long)]
    break_clocks: Option<bool>,
    /// Write the trace of a single seed to this file: every event, and every fault.
    #[arg(long)]
    trace: Option<std::path::PathBuf>,
    /// With --seed: report as JSON.
    #[arg(long)]
    json: bool,
    /// Go on after a seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// List the known-wrong behaviours and the kinds of faults.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        list();
        return ExitCode::SUCCESS;
    }
    let sabotages: Result<Vec<_>, _> = args.sabotage.iter().map(|n| Sabotage::from_name(n).ok_or(n)).collect();
    let sabotages = match sabotages {
        Ok(sabotages) => sabotages,
        Err(name) => {
            eprintln!("there is no sabotage `{name}`; --list names them");
            return ExitCode::from(2);
        }
    };
    if let Some(unknown) = args.faults.iter().flatten().find(|k| !Wish::kinds().contains(&k.as_str())) {
        eprintln!("there is no kind of fault `{unknown}`; --list names them");
        return ExitCode::from(2);
    }
    let wish = Wish { kinds: args.faults.clone(), break_clocks: args.break_clocks };
    match args.seed {
        Some(seed) => one(&args, Options { seed, sabotages, trace: args.trace.is_some(), wish }),
        None => many(&args),
    }
}

fn list() {
    println!("sabotages:");
    for s in Sabotage::ALL {
        println!("  {:<24} {:<10} {}", s.name(), s.rules(), s.what());
    }
    println!("faults: {}", Wish::kinds().join(", "));
}

fn one(args: &Args, options: Options) -> ExitCode {
    let report = simulate(&options);
    if let Some(path) = &args.trace {
        if let Err(e) = std::fs::write(path, &report.trace) {
            eprintln!("the trace cannot be written to {}: {e}", path.display());
            return ExitCode::from(2);
        }
        println!("trace: {} ({} lines, digest {:016x})", path.display(), report.trace.lines().count(), report.digest);
    }
    if args.json {
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        say(&report);
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(report: &Report) {
    let [ok, failed, unknown] = report.operations;
    println!(
        "seed {}: {}; {:.1} s simulated, {} events, {} messages, operations: {ok} ok, {failed} failed, {unknown} unknown; served again after {:.1} s; faults {:?}",
        report.seed,
        report.cluster,
        report.simulated.as_secs_f64(),
        report.events,
        report.messages,
        report.recovery.as_secs_f64(),
        report.faults,
    );
    for failure in &report.failures {
        println!("  FAILED {failure}");
    }
}

/// Sums over seeds.
#[derive(Default)]
struct Sums {
    seeds: u64,
    /// A simulation did not end properly.
    broken: bool,
    failed: Vec<u64>,
    simulated: Duration,
    slowest_recovery: Duration,
    events: u64,
    messages: u64,
    operations: [u64; 3],
    faults: BTreeMap<String, u64>,
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        if !report.is_good() {
            self.failed.push(report.seed);
        }
        self.simulated += report.simulated;
        self.slowest_recovery = self.slowest_recovery.max(report.recovery);
        self.events += report.events;
        self.messages += report.messages;
        for (sum, n) in self.operations.iter_mut().zip(report.operations) {
            *sum += n;
        }
        for (kind, n) in &report.faults {
            *self.faults.entry(kind.clone()).or_default() += n;
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let started = meridian_clock::Mono::now();
    let next = AtomicU64::new(args.from);
    let stop = AtomicBool::new(false);
    let end = args.from.saturating_add(if args.minutes.is_some() { u64::MAX } else { args.seeds });
    let limit = args.minutes.map(|m| Duration::from_secs_f64(m * 60.0));
    let (tx, reports) = mpsc::channel();
    let mut sums = Sums::default();
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            let tx = tx.clone();
            scope.spawn(|| {
                let tx = tx;
                while !stop.load(Ordering::Relaxed) && limit.is_none_or(|l| started.elapsed() < l) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || tx.send(in_process(args, seed)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tx);
        for report in reports {
            let report = match report {
                Ok(report) => report,
                Err(why) => {
                    eprintln!("{why}");
                    stop.store(true, Ordering::Relaxed);
                    sums.broken = true;
                    continue;
                }
            };
            sums.add(&report);
            if !report.is_good() {
                say(&report);
                println!("  again: sim --seed {}{}", report.seed, again(args));
                if !args.keep_going {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            if sums.seeds.is_multiple_of(100) {
                eprintln!(
                    "{} seeds, {} failed, {:.0} s",
                    sums.seeds,
                    sums.failed.len(),
                    started.elapsed().as_secs_f64()
                );
            }
        }
    });
    summary(&sums, started.elapsed());
    if sums.failed.is_empty() && !sums.broken { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Simulates a seed in a process of its own, so that it does there what it does alone.
fn in_process(args: &Args, seed: u64) -> Result<Report, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program cannot be found: {e}"))?;
    let mut command = std::process::Command::new(program);
    command.args(["--json", "--seed", &seed.to_string()]);
    command.args(again(args).split_whitespace());
    let output = command.output().map_err(|e| format!("seed {seed} cannot be started: {e}"))?;
    serde_json::from_slice(&output.stdout).map_err(|e| {
        let text = String::from_utf8_lossy(&output.stderr);
        format!("seed {seed} ended ({}) without a report: {e}\n{text}", output.status)
    })
}

fn again(args: &Args) -> String {
    let sabotage =
        if args.sabotage.is_empty() { String::new() } else { format!(" --sabotage {}", args.sabotage.join(",")) };
    let faults = args.faults.as_ref().map(|f| format!(" --faults {}", f.join(","))).unwrap_or_default();
    let clocks = args.break_clocks.map(|b| format!(" --break-clocks {b}")).unwrap_or_default();
    format!("{sabotage}{faults}{clocks}")
}

fn summary(sums: &Sums, took: Duration) {
    let hours = sums.simulated.as_secs_f64() / 3_600.0;
    println!(
        "{} seeds, {} failed {:?}; {hours:.2} h simulated in {:.0} s ({:.1} simulated hours an hour)",
        sums.seeds,
        sums.failed.len(),
        sums.failed,
        took.as_secs_f64(),
        sums.simulated.as_secs_f64() / took.as_secs_f64().max(1e-9),
    );
    let [ok, failed, unknown] = sums.operations;
    println!(
        "{} events, {} messages; operations: {ok} ok, {failed} failed, {unknown} unknown; slowest recovery {:.1} s",
        sums.events,
        sums.messages,
        sums.slowest_recovery.as_secs_f64(),
    );
    println!("faults: {:?}", sums.faults);
}

/// The entropy of this process: always the same. tokio and the standard library's hash maps seed themselves from it, so
/// that a seed repeats itself to the last event. Nothing secret is made here.
#[expect(unsafe_code, reason = "stands in for the C library's function, which the linker then leaves out")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    for i in 0..length {
        let n = DRAWN.fetch_add(1, Ordering::Relaxed);
        let mixed = (n ^ (n >> 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        // SAFETY: the caller says that `length` bytes may be written at `buffer`.
        unsafe { buffer.add(i).write((mixed & 0xff) as u8) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
