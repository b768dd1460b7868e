//! Shows for every known-wrong behaviour that some check notices it.

use crate::Args;
use crate::many::in_process;
use meridian_probe::Sabotage;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Distance between the first seeds of two rows.
const ROW: u64 = 10_000;

/// How one behaviour fared.
#[derive(Clone, Debug, Default)]
struct Caught {
    /// Of each row: seeds until something noticed, or none.
    seeds: Vec<Option<u64>>,
    /// What noticed, how often.
    by: BTreeMap<String, u64>,
    /// A seed that shows it.
    example: Option<u64>,
}

impl Caught {
    /// The median over the rows; `None`: it was not noticed in half of them.
    fn median(&self) -> Option<u64> {
        let mut all = self.seeds.clone();
        all.sort_by_key(|s| s.unwrap_or(u64::MAX));
        all.get(all.len() / 2).copied().flatten()
    }
}

/// The faults that a behaviour needs to show; `None`: whatever a seed brings.
fn faults(sabotage: Sabotage) -> Option<&'static str> {
    match sabotage {
        Sabotage::ProposeUnfenced => Some("leader,transfer"),
        Sabotage::LeaveGap => Some("leader,one-way,flap"),
        Sabotage::CountOldBallots => Some("transfer,flap,one-way"),
        Sabotage::OverlongLease | Sabotage::CountLearners | Sabotage::ClaimStrongest => Some("leader,partition"),
        Sabotage::LeaseDuringTransfer => Some("transfer,slow"),
        Sabotage::AcknowledgeUnsynced | Sabotage::VoteUnsynced | Sabotage::ApplyUnsynced => Some("power,disk"),
        Sabotage::PurgeUnflushed => Some("power,kill,compact"),
        Sabotage::SnapshotWithoutLedger | Sabotage::SnapshotWithoutStamp | Sabotage::ReuseStaleCut => {
            Some("compact,partition,kill,weather")
        }
        Sabotage::ForgetPromise => Some("leader"),
        Sabotage::CountOwnPromise | Sabotage::ForgetOnRebuild => Some("timers"),
        Sabotage::RestoreLeader => Some("power,disk,leader"),
        Sabotage::ExpiredLease | Sabotage::CreditOnArrival => Some("pause,leader,slow"),
        Sabotage::StampOnFullDisk | Sabotage::AppendOnFullDisk => Some("full"),
        Sabotage::UnsafeClockReleases => Some("clock"),
        Sabotage::IgnoreLeadTime => Some("leader,kill,transfer"),
        _ => None,
    }
}

/// The unit test that notices a behaviour which a simulation cannot show, or too seldom.
fn shown_by_test(sabotage: Sabotage) -> Option<&'static str> {
    match sabotage {
        // The simulated network loses and repeats, and changes no byte: TCP does not either, as a rule.
        Sabotage::SkipChunkChecksum => Some("a_changed_chunk_ends_the_transfer_before_it_is_written"),
        // A connection has to break between two files, and another snapshot to come before the rest of this one does.
        Sabotage::ResumeOtherSnapshot => Some("resuming_with_another_snapshots_files_is_noticed"),
        // A leader has to be elected without the last entries of another, and a third to send them again: one seed in
        // some seventy shows it.
        Sabotage::AcceptResent => Some("entries_that_a_later_leader_sends_again_are_not_accepted"),
        // A voter has to end with an entry of an older leader than the candidate does, and not to be truncated before that.
        Sabotage::MatchOtherLeaders => Some("a_last_entry_of_another_leader_says_nothing"),
        // The first entries for a voter wait for its vote; it would have to come after its request was given up.
        Sabotage::BelieveLateVotes => Some("a_vote_that_comes_after_entries_were_sent_says_nothing"),
        // The successor would have to stand for election by itself, in the very term in which it is called, and lack
        // entries that the others have.
        Sabotage::CountLongerLogs => Some("a_candidate_whose_log_is_behind_the_voters_has_no_vote"),
        _ => None,
    }
}

/// Tries every behaviour, or those that were named.
pub(crate) fn suite(args: &Args, only: &[Sabotage]) -> ExitCode {
    let wanted = Sabotage::ALL.iter().copied().filter(|s| only.is_empty() || only.contains(s));
    let (tested, all): (Vec<_>, Vec<_>) = wanted.partition(|s| shown_by_test(*s).is_some());
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while let Some(sabotage) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = hunt(args, *sabotage);
                    eprintln!("{}: {:?} {:?}", sabotage.name(), caught.seeds, caught.by);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(*sabotage, caught);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    table(&all, &results);
    for sabotage in &tested {
        let test = shown_by_test(*sabotage).unwrap_or_default();
        println!(
            "| `{}`: {} | {} | unit test | | `cargo test {test}` |",
            sabotage.name(),
            sabotage.what(),
            sabotage.rules()
        );
    }
    let missed: Vec<&str> =
        all.iter().filter(|s| results.get(s).is_none_or(|c| c.median().is_none())).map(|s| s.name()).collect();
    let medians: Vec<u64> = all.iter().filter_map(|s| results.get(s)?.median()).collect();
    println!(
        "{} caught, {} missed {missed:?}; median seeds to catch: {}; {} shown by a unit test alone",
        all.len() - missed.len(),
        missed.len(),
        median(medians),
        tested.len()
    );
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of.get(of.len() / 2).copied().unwrap_or(0)
}

fn options(sabotage: Sabotage) -> String {
    let also = match sabotage {
        // The guard has nothing to do while stamps are right.
        Sabotage::IgnoreApplyGuard => ",StampBelowLog",
        _ => "",
    };
    let faults = faults(sabotage).map(|f| format!(" --faults {f}")).unwrap_or_default();
    let clocks =
        if sabotage == Sabotage::UnsafeClockReleases { " --break-clocks true" } else { " --break-clocks false" };
    format!("--sabotage {}{also}{faults}{clocks}", sabotage.name())
}

fn hunt(args: &Args, sabotage: Sabotage) -> Caught {
    let mut caught = Caught::default();
    for row in 0..args.rows.max(1) {
        let first = args.from + row * ROW;
        let mut needed = None;
        for seed in first..first + args.seeds {
            // A simulation that does not end properly is noticed as well.
            let by = match in_process(seed, &options(sabotage)) {
                Ok(report) if report.is_good() => continue,
                Ok(report) => report.failures[0].split(':').next().unwrap_or_default().to_owned(),
                Err(_) => "the process ended".to_owned(),
            };
            *caught.by.entry(by).or_default() += 1;
            needed = Some(seed - first + 1);
            caught.example.get_or_insert(seed);
            break;
        }
        caught.seeds.push(needed);
    }
    caught
}

fn table(all: &[Sabotage], results: &BTreeMap<Sabotage, Caught>) {
    println!("| behaviour | rules | noticed by | seeds | shown by |");
    println!("| --- | --- | --- | --- | --- |");
    for sabotage in all {
        let Some(caught) = results.get(sabotage) else { continue };
        let by: Vec<&str> = caught.by.keys().map(String::as_str).collect();
        let seeds = caught.median().map_or_else(|| "missed".to_owned(), |n| n.to_string());
        let shown =
            caught.example.map(|seed| format!("`sim --seed {seed} {}`", options(*sabotage))).unwrap_or_default();
        println!(
            "| `{}`: {} | {} | {} | {seeds} | {shown} |",
            sabotage.name(),
            sabotage.what(),
            sabotage.rules(),
            by.join(", ")
        );
    }
}
