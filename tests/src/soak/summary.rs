//! What a run came to, in figures.

use crate::soak::closing::{Compared, final_states, is_closing};
use crate::soak::inject::Done;
use crate::soak::schedule::Kind;
use meridian_bench::history::{OpKind, Outcome, Record};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// The figures.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The run's seed.
    pub seed: u64,
    /// How long the load went on.
    pub load: Duration,
    /// By kind and consistency: how many had which outcome.
    pub ops: BTreeMap<(OpKind, String), Outcomes>,
    /// Failures by reason, those of unknown outcome included.
    pub errors: BTreeMap<String, u64>,
    /// How many keys there were.
    pub keys: usize,
    /// Writes that were acknowledged, by whichever request.
    pub acknowledged: u64,
    /// Whole tables read at the end, by all nodes together: in these every one of those writes has to be, or a newer one.
    pub read_back: u64,
    /// Unknown outcomes that were found out later.
    pub settled: usize,
    /// Faults carried out, by kind; and how many could not be.
    pub faults: BTreeMap<Kind, (u64, u64)>,
    /// Nodes killed.
    pub kills: u64,
    /// By table: the longest time in which nobody had a write acknowledged, and when it began.
    pub no_writes: BTreeMap<String, Gap>,
    /// The longest time in which nobody had a linearizable answer, or a write acknowledged, from any table.
    pub nothing: Gap,
    /// How long after everything was healed every node served every table.
    pub served_after: Option<Duration>,
    /// What was read from all replicas at the end.
    pub compared: Compared,
}

/// Operations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Succeeded.
    pub ok: u64,
    /// Had no effect.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl Outcomes {
    fn all(self) -> u64 {
        self.ok + self.failed + self.unknown
    }
}

/// A time without success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// How long it was.
    pub lasted: Duration,
    /// When it began, counted from when the load began.
    pub from: Duration,
}

/// What the figures are taken from, besides the history.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The run's seed.
    pub seed: u64,
    /// When the load began: nanoseconds of the clock of the records.
    pub began_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// Faults.
    pub done: Vec<Done>,
    /// See [`Summary`].
    pub settled: usize,
    /// See [`Summary`].
    pub served_after: Option<Duration>,
    /// See [`Summary`].
    pub compared: Compared,
}

impl Summary {
    /// The figures of a run.
    pub fn new(history: &[Record], facts: Facts) -> Self {
        let (mut ops, mut errors, mut faults) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for record in history.iter().filter(|r| !is_closing(r)) {
            let level = record.consistency.clone().unwrap_or_default();
            let outcomes: &mut Outcomes = ops.entry((record.op, level)).or_default();
            match record.outcome {
                Outcome::Ok => outcomes.ok += 1,
                Outcome::Fail => outcomes.failed += 1,
                Outcome::Unknown => outcomes.unknown += 1,
            }
            if let Some(error) = &record.error {
                *errors.entry(error.clone()).or_default() += 1;
            }
        }
        for done in &facts.done {
            let counts: &mut (u64, u64) = faults.entry(done.planned.fault.kind()).or_default();
            *(if done.failed.is_none() { &mut counts.0 } else { &mut counts.1 }) += 1;
        }
        let keys: BTreeSet<_> = history.iter().map(|r| (r.table.as_str(), r.key.as_str())).collect();
        let span = (facts.began_ns, facts.ended_ns);
        let written = |r: &&Record| !r.writes().is_empty();
        let strict = |r: &&Record| written(r) || r.consistency.as_deref() == Some("linearizable");
        let tables: BTreeSet<_> = history.iter().map(|r| &r.table).collect();
        let no_writes = tables.into_iter().map(|table| {
            let of_table = history.iter().filter(written).filter(|r| r.table == *table);
            (table.clone(), longest_gap(of_table, span))
        });
        let acknowledged = history.iter().filter(|r| r.outcome == Outcome::Ok).map(|r| r.writes().len() as u64).sum();
        Self {
            seed: facts.seed,
            acknowledged,
            read_back: final_states(history).len() as u64,
            load: Duration::from_nanos(facts.ended_ns - facts.began_ns),
            keys: keys.len(),
            settled: facts.settled,
            kills: facts.done.iter().map(|done| done.killed).sum(),
            no_writes: no_writes.collect(),
            nothing: longest_gap(history.iter().filter(strict), span),
            served_after: facts.served_after,
            compared: facts.compared,
            ops,
            errors,
            faults,
        }
    }

    /// Operations in all, without those that read whole tables at the end.
    pub fn ops_all(&self) -> u64 {
        self.ops.values().map(|o| o.all()).sum()
    }

    /// Faults that were carried out.
    pub fn faults_all(&self) -> u64 {
        self.faults.values().map(|(done, _)| done).sum()
    }
}

/// The longest time without a success inside a span of the records' clock.
fn longest_gap<'a>(records: impl Iterator<Item = &'a Record>, (began, ended): (u64, u64)) -> Gap {
    let ok = records.filter(|r| r.outcome == Outcome::Ok).map(|r| r.completed_ns.clamp(began, ended));
    let mut times: Vec<_> = ok.chain([began, ended]).collect();
    times.sort_unstable();
    let gap = |w: &[u64]| Gap { lasted: Duration::from_nanos(w[1] - w[0]), from: Duration::from_nanos(w[0] - began) };
    times.windows(2).map(gap).max().unwrap_or_default()
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} s, from {:.1} s on", self.lasted.as_secs_f64(), self.from.as_secs_f64())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ops, seconds) = (self.ops_all(), self.load.as_secs_f64());
        writeln!(f, "seed {}: {ops} operations on {} keys in {seconds:.0} s", self.seed, self.keys)?;
        writeln!(f, "\n{:<20} {:>9} {:>9} {:>9}", "operations", "ok", "failed", "unknown")?;
        for ((op, level), o) in &self.ops {
            let name = format!("{} {level}", format!("{op:?}").to_lowercase());
            writeln!(f, "{name:<20} {:>9} {:>9} {:>9}", o.ok, o.failed, o.unknown)?;
        }
        let errors: Vec<_> = self.errors.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        writeln!(f, "{:<20} {}", "errors", errors.join(", "))?;
        writeln!(f, "{:<20} {} unknown outcomes, under their request ids", "settled later", self.settled)?;
        writeln!(f, "\n{:<20} {:>9} {:>9}", "faults", "done", "not done")?;
        for (kind, (done, not_done)) in &self.faults {
            writeln!(f, "{kind:<20} {done:>9} {not_done:>9}")?;
        }
        writeln!(f, "{:<20} {:>9}   nodes killed: {}", "all", self.faults_all(), self.kills)?;
        writeln!(
            f,
            "{:<20} {:>9}   read back in {} whole tables",
            "writes acknowledged", self.acknowledged, self.read_back
        )?;
        writeln!(f, "\nlongest time without")?;
        for (table, gap) in &self.no_writes {
            writeln!(f, "{:<20} {gap}", format!("  writes to {table}"))?;
        }
        writeln!(f, "{:<20} {}", "  any of them, read", self.nothing)?;
        if let Some(after) = self.served_after {
            writeln!(f, "all nodes served all tables {:.1} s after the last fault", after.as_secs_f64())?;
        }
        let by: Vec<_> = self.compared.by_replica.iter().map(|(node, n)| format!("node {}: {n}", node.0)).collect();
        writeln!(
            f,
            "snapshots compared at the end: {} timestamps, answered by own replicas of {}",
            self.compared.timestamps,
            by.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{get, history, put};

    #[test]
    fn the_longest_gap_is_found_at_the_edges_too() {
        let ops = history([
            put(1, "k", "a").at(100, 150).ts(1),
            put(1, "k", "b").at(200, 250).unknown(),
            get(1, "k", None).at(300, 360).ts(1),
        ]);
        let gap = |ended| longest_gap(ops.iter(), (100, ended));
        assert_eq!(gap(400), Gap { lasted: Duration::from_nanos(210), from: Duration::from_nanos(50) });
        assert_eq!(gap(1000), Gap { lasted: Duration::from_nanos(640), from: Duration::from_nanos(260) });
    }
}
