//! `sim`: simulates clusters under faults, one seed after the other.

use clap::Parser;
use meridian_probe::Sabotage;
use meridian_tests::sim::{Options, Report, Wish, simulate};
use std::cell::Cell;
use std::process::ExitCode;

mod many;
mod sabotage;

/// Simulates whole clusters under faults, deterministically: everything that happens follows from a seed.
///
/// Each seed is a cluster of three to seven nodes with its own distances, clocks, load and faults. Real consensus,
/// gateway, state machine and client code runs on simulated machines, networks and disks. Invariants are checked at every
/// event, histories at the end. A seed that fails is printed with the command that repeats it. `MERIDIAN_LOG=debug` writes
/// the nodes' own logs to the standard error output.
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
    /// Check the clients' histories alone, as somebody from outside would: no invariants.
    #[arg(long)]
    histories_only: bool,
    /// Write the trace of a single seed to this file: every event, and every fault.
    #[arg(long)]
    trace: Option<std::path::PathBuf>,
    /// With --seed: report as JSON.
    #[arg(long)]
    json: bool,
    /// Go on after a seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// Show for every known-wrong behaviour how many seeds it takes until a check notices it; fails if one takes more than
    /// --seeds.
    #[arg(long)]
    sabotage_suite: bool,
    /// With --sabotage-suite: how many rows of seeds each is tried on; the median counts.
    #[arg(long, default_value_t = 1)]
    rows: u64,
    /// List the known-wrong behaviours and the kinds of faults.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Ok(level) = std::env::var("MERIDIAN_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(level)
            .without_time()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
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
    if args.sabotage_suite {
        return sabotage::suite(&args, &sabotages);
    }
    let wish = Wish { kinds: args.faults.clone(), break_clocks: args.break_clocks };
    match args.seed {
        Some(seed) => one(
            &args,
            Options { seed, sabotages, trace: args.trace.is_some(), histories_only: args.histories_only, wish },
        ),
        None => many::run(&args),
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
    let report = match simulate_alone(options) {
        Ok(report) => report,
        Err(code) => return code,
    };
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

thread_local! {
    /// Where this thread is in the sequence of its entropy.
    static ENTROPY: Cell<u64> = const { Cell::new(0) };
}

/// Simulates on a fresh thread, whose entropy is the seed's: what this process did before makes no difference.
fn simulate_alone(options: Options) -> Result<Report, ExitCode> {
    let simulation = std::thread::spawn(move || {
        ENTROPY.set(options.seed);
        simulate(&options)
    });
    simulation.join().map_err(|_| {
        eprintln!("the simulation itself has failed");
        ExitCode::from(2)
    })
}

/// The entropy of this process, in place of the operating system's. tokio and the standard library's hash maps seed
/// themselves from it, so that a seed repeats itself to the last event. Nothing secret is made here.
#[expect(unsafe_code, reason = "stands in for the C library's function, which the linker then leaves out")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for i in 0..length {
        let n = ENTROPY.try_with(|e| e.replace(e.get().wrapping_add(0x9e37_79b9_7f4a_7c15))).unwrap_or(0);
        let mixed = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        // SAFETY: the caller says that `length` bytes may be written at `buffer`.
        unsafe { buffer.add(i).write((mixed >> 56) as u8) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
