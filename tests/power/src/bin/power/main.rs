//! `power`: the real store loses power, thousands of times, and is checked after each.

mod shim;

use clap::Parser;
use meridian_clock::Mono;
use meridian_power::cycle::{self, Failure, Options, Summary};
use meridian_power::disk::Loss;
use meridian_power::worker::{Plan, Tell, live};
use meridian_power::workload::Note;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Losses between two lines of progress.
const PROGRESS: u64 = 100;

/// Runs the storage on a disk that forgets what was not synced, cuts the power at a random moment, opens what is left and
/// checks it; then the same again on that.
#[derive(Debug, Parser)]
#[command(name = "power", after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// How often the power is lost.
    #[arg(long, default_value_t = 1000)]
    cycles: u64,
    /// Decides the lives, where they end and what is left of them. Timing within a life is real.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What becomes of what was not synced [default: all of them in turn].
    #[arg(long, value_enum)]
    disk: Option<Loss>,
    /// The disk lies: a sync of a write-ahead log does nothing. Something has to be found then.
    #[arg(long)]
    lies: bool,
    /// Where to work [default: a folder for temporary files]. What was found stays there.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One life: how this program starts its worker.
    #[command(hide = true)]
    Live {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        peer: PathBuf,
        #[arg(long)]
        journal: PathBuf,
        #[arg(long)]
        stop_at: u64,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        lies: bool,
    },
}

const HELP: &str = "\
Exit codes: 0 nothing was lost and nothing came back; 1 something was found, or the run could not be made; 2 usage.";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Live { dir, peer, journal, stop_at, seed, lies }) => {
            one_life(dir, peer, journal, *stop_at, *seed, *lies)
        }
        None => power(&cli),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("power: {e}");
            ExitCode::FAILURE
        }
    }
}

fn one_life(
    dir: &Path,
    peer: &Path,
    journal: &Path,
    stop_at: u64,
    seed: u64,
    lies: bool,
) -> Result<ExitCode, Box<dyn Error>> {
    shim::watch(dir, journal, stop_at, seed, lies)?;
    let tell: Tell = Arc::new(|note: &Note| shim::note(&note.encode()));
    live(dir, peer, Plan::draw(seed), &tell)?;
    Ok(ExitCode::SUCCESS)
}

fn power(cli: &Cli) -> Result<ExitCode, Box<dyn Error>> {
    let (dir, temporary) = cycle::folder(cli.dir.as_deref())?;
    let options = Options {
        losses: cli.cycles,
        seed: cli.seed,
        loss: cli.disk,
        lies: cli.lies,
        program: std::env::current_exe()?,
        dir: dir.canonicalize()?,
    };
    let (begun, mut said) = (Mono::now(), Summary::default());
    let mut last = Summary::default();
    let result = cycle::run(&options, |summary| {
        last = *summary;
        if summary.all() >= said.all() + PROGRESS {
            said = *summary;
            eprintln!("{} losses, {} acknowledged operations found again", summary.all(), summary.acked);
        }
    });
    println!("seed {}\n{last}", cli.seed);
    println!("took       {} s", Mono::now().since(begun).as_secs());
    match result {
        Ok(_) => {
            // The first loss after which anything is missing or back ends the run.
            println!("lost 0, resurrected 0");
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            println!("FOUND      {failure}");
            if let (Failure::Found { .. }, Some(dir)) = (&failure, temporary) {
                drop(dir.keep());
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
