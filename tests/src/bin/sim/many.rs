//! Many seeds, each in a process of its own.

use crate::{Args, say};
use meridian_tests::sim::Report;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

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

/// Simulates the seeds that the arguments ask for, and says what came out.
pub(crate) fn run(args: &Args) -> ExitCode {
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
                    if seed >= end || tx.send(in_process(seed, &again(args))).is_err() {
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
///
/// `options`: as on the command line.
pub(crate) fn in_process(seed: u64, options: &str) -> Result<Report, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program cannot be found: {e}"))?;
    let mut command = std::process::Command::new(program);
    command.args(["--json", "--seed", &seed.to_string()]);
    command.args(options.split_whitespace());
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
    let histories = if args.histories_only { " --histories-only" } else { "" };
    format!("{sabotage}{faults}{clocks}{histories}")
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
