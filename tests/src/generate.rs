//! Valid histories, made up from a seed: a simulated database that keeps every guarantee, and processes with bad luck.
//!
//! Time is virtual, in nanoseconds, and is also the database's timestamp (plus [`EPOCH`]). Each operation takes effect
//! at a random instant between being asked for and being answered; unknown ones at that instant, long after, or never.

use crate::exactly_once::FinalState;
use meridian_bench::history::{Condition, OpKind, Outcome, Precondition, Record, ScanResult, Txn, Version, Write};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Timestamp of virtual time zero.
pub const EPOCH: u64 = 1_700_000_000_000_000_000;

/// Longest time between two parts of an operation, ns.
const PAUSE_MAX: u64 = 1_000;

/// Furthest that a stale read looks back, ns.
const LAG_MAX: u64 = 20_000;

/// What a history looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Processes, each with one operation at a time.
    pub processes: u64,
    /// Operations in all.
    pub ops: usize,
    /// Keys.
    pub keys: u64,
    /// Share of writes whose outcome stays unknown.
    pub unknown_percent: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { processes: 6, ops: 600, keys: 8, unknown_percent: 8 }
    }
}

/// So many operations every checker must be able to deal with.
pub const LARGE: Shape = Shape { processes: 64, ops: 100_000, keys: 300, unknown_percent: 2 };

/// A valid history.
pub fn generate(seed: u64, shape: &Shape) -> Vec<Record> {
    World::simulate(seed, shape).0
}

/// The state in which the same history ends.
pub fn final_state(seed: u64, shape: &Shape) -> FinalState {
    let world = World::simulate(seed, shape).1;
    let rows = world.keys.iter().filter_map(|(key, versions)| {
        let (version, value) = versions.last_key_value()?;
        Some(Version { key: key.clone(), value: Some(value.clone()?), version: Some(*version) })
    });
    FinalState { table: TABLE.to_owned(), rows: rows.collect() }
}

const TABLE: &str = "t";

/// What is planned for one operation before its result is known.
struct Plan {
    record: Record,
    /// When it takes effect; `None`: never.
    effect: Option<u64>,
}

/// The database, and what its clients have seen.
struct World {
    rng: ChaCha8Rng,
    keys: BTreeMap<String, BTreeMap<u64, Option<String>>>,
    /// By process.
    tokens: BTreeMap<u64, u64>,
}

impl World {
    fn simulate(seed: u64, shape: &Shape) -> (Vec<Record>, Self) {
        let mut world = Self { rng: ChaCha8Rng::seed_from_u64(seed), keys: BTreeMap::new(), tokens: BTreeMap::new() };
        let mut plans = world.plan(shape);
        plans.sort_by_key(|plan| plan.effect.unwrap_or(plan.record.completed_ns));
        let mut history: Vec<_> = plans.into_iter().map(|plan| world.carry_out(plan)).collect();
        history.sort_by_key(|record| (record.invoked_ns, record.process));
        (history, world)
    }

    fn pause(&mut self) -> u64 {
        self.rng.random_range(1..=PAUSE_MAX)
    }

    /// Decides who asks for what and when. No two operations take effect at the same instant.
    fn plan(&mut self, shape: &Shape) -> Vec<Plan> {
        let mut free_from = vec![0; usize::try_from(shape.processes).unwrap_or(usize::MAX)];
        let mut taken = std::collections::HashSet::new();
        let mut plans = Vec::new();
        for number in 0..shape.ops {
            let turn = number % free_from.len();
            let process = turn as u64;
            let invoked = free_from[turn] + self.pause();
            let mut instant = invoked + self.pause();
            while !taken.insert(instant) {
                instant += 1;
            }
            let completed = instant + self.pause();
            free_from[turn] = completed;
            let mut record = self.request(process, number, shape);
            (record.invoked_ns, record.completed_ns) = (invoked, completed);
            let mut effect = Some(instant);
            if !record.writes().is_empty() && self.rng.random_range(0..100) < shape.unknown_percent {
                record.outcome = Outcome::Unknown;
                record.error = Some("OUTCOME_UNKNOWN".to_owned());
                effect = match self.rng.random_range(0..3) {
                    0 => None,
                    1 => Some(instant),
                    _ => {
                        let mut late = completed + 20 * self.pause();
                        while !taken.insert(late) {
                            late += 1;
                        }
                        Some(late)
                    }
                };
            }
            plans.push(Plan { record, effect });
        }
        plans
    }

    fn request(&mut self, process: u64, number: usize, shape: &Shape) -> Record {
        let key = format!("k{}", self.rng.random_range(0..shape.keys));
        let mut record = blank(process, OpKind::Get, &key);
        let value = format!("p{process}-{number}");
        match self.rng.random_range(0..100) {
            0..35 => record.consistency = Some("linearizable".to_owned()),
            35..50 => {
                let levels = ["local", "bounded", "causal", "snapshot"];
                record.consistency = Some(levels[self.rng.random_range(0..levels.len())].to_owned());
            }
            50..55 => {
                record.op = OpKind::Scan;
                record.consistency = Some("linearizable".to_owned());
                record.scan = Some(ScanResult { rows_max: self.rng.random_range(1..5), found: Vec::new() });
            }
            55..80 => (record.op, record.value) = (OpKind::Put, Some(value)),
            80..86 => record.op = OpKind::Delete,
            _ => {
                record.op = OpKind::Txn;
                let writes = vec![Write { key, value: Some(value) }];
                record.txn = Some(Txn { writes, ..Txn::default() });
            }
        }
        record
    }

    fn carry_out(&mut self, Plan { mut record, effect }: Plan) -> Record {
        let Some(instant) = effect else {
            self.require(&mut record, None);
            return record;
        };
        let now = EPOCH + instant;
        match record.op {
            OpKind::Get | OpKind::Scan => self.read(&mut record, now),
            OpKind::Put | OpKind::Delete => self.write(&mut record, now),
            OpKind::Txn => {
                if self.require(&mut record, Some(now)) {
                    self.write(&mut record, now);
                } else if record.outcome == Outcome::Ok {
                    record.outcome = Outcome::Fail;
                    record.error = Some("PRECONDITION_FAILED".to_owned());
                }
            }
        }
        record
    }

    fn write(&mut self, record: &mut Record, now: u64) {
        let writes: Vec<_> = record.writes().into_iter().map(|(k, v)| (k.to_owned(), v.map(str::to_owned))).collect();
        for (key, value) in writes {
            self.keys.entry(key).or_default().insert(now, value);
        }
        if record.outcome == Outcome::Ok {
            record.timestamp = Some(now);
            self.tell(record.process, now);
        }
    }

    /// Gives a transaction a precondition, mostly one that holds now; returns whether it does.
    fn require(&mut self, record: &mut Record, now: Option<u64>) -> bool {
        let key = record.key.clone();
        let present = self.newest(&key, now.unwrap_or(u64::MAX));
        let Some(txn) = &mut record.txn else { return true };
        let honest = self.rng.random_range(0..100) < 70;
        let condition = match (&present.value, self.rng.random_range(0..3)) {
            (Some(value), 0) if honest => Condition::Value(value.clone()),
            (Some(_), 1) if honest => Condition::Version(present.version.unwrap_or(0)),
            (value, _) if honest => Condition::Exists(value.is_some()),
            (_, 0) => Condition::Value("something else".to_owned()),
            (value, _) => Condition::Exists(value.is_none()),
        };
        txn.preconditions = vec![Precondition { key, condition }];
        honest
    }

    fn read(&mut self, record: &mut Record, now: u64) {
        let token = self.tokens.get(&record.process).copied().unwrap_or(0);
        let lag = self.rng.random_range(0..=LAG_MAX).min(now - EPOCH);
        let at = match record.consistency.as_deref() {
            Some("linearizable") => now,
            Some("causal") => {
                record.token = Some(token);
                (now - lag).max(token)
            }
            // Coarse instants, so that several snapshots meet.
            Some("snapshot") => (now - lag) / 4096 * 4096,
            _ => now - lag,
        };
        // At linearizable reads the answer is as fresh as can be; others claim what is true, or a little more.
        let behind = (EPOCH + record.invoked_ns).saturating_sub(at);
        let linearizable = record.consistency.as_deref() == Some("linearizable");
        record.staleness_ns = Some(if linearizable { 0 } else { behind + self.rng.random_range(0..100) });
        record.timestamp = Some(at);
        if let Some(mut scan) = record.scan.take() {
            let rows_max = usize::try_from(scan.rows_max).unwrap_or(usize::MAX);
            let keys: Vec<_> = self.keys.range(record.key.clone()..).map(|(key, _)| key.clone()).collect();
            let rows = keys.iter().map(|key| self.newest(key, at)).filter(|row| row.value.is_some());
            scan.found = rows.take(rows_max).collect();
            record.scan = Some(scan);
        } else {
            let row = self.newest(&record.key, at);
            (record.value, record.version) = (row.value, row.version);
        }
        self.tell(record.process, at);
    }

    /// The newest version of a key at a timestamp; without a value also without a version.
    fn newest(&self, key: &str, at: u64) -> Version {
        let newest = self.keys.get(key).and_then(|versions| versions.range(..=at).next_back());
        let present = newest.and_then(|(version, value)| Some((*version, value.clone()?)));
        let (version, value) = present.unzip();
        Version { key: key.to_owned(), value, version }
    }

    fn tell(&mut self, process: u64, timestamp: u64) {
        let token = self.tokens.entry(process).or_default();
        *token = timestamp.max(*token);
    }
}

/// A get that succeeded, with nothing filled in.
pub(crate) fn blank(process: u64, op: OpKind, key: &str) -> Record {
    Record {
        process,
        region: "r".to_owned(),
        op,
        table: TABLE.to_owned(),
        key: key.to_owned(),
        value: None,
        outcome: Outcome::Ok,
        invoked_ns: 0,
        completed_ns: 0,
        timestamp: None,
        version: None,
        consistency: None,
        staleness_ns: None,
        token: None,
        attempts: 1,
        error: None,
        txn: None,
        scan: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides() {
        let shape = Shape::default();
        assert_eq!(generate(4, &shape), generate(4, &shape));
        assert_ne!(generate(4, &shape), generate(5, &shape));
    }

    #[test]
    fn everything_occurs() {
        let history = generate(1, &Shape::default());
        let some = |is: fn(&Record) -> bool| history.iter().filter(|r| is(r)).count() >= 5;
        assert!(some(|r| r.op == OpKind::Scan && r.outcome == Outcome::Ok));
        assert!(some(|r| r.op == OpKind::Txn && r.outcome == Outcome::Ok));
        assert!(some(|r| r.op == OpKind::Txn && r.outcome == Outcome::Fail));
        assert!(some(|r| r.outcome == Outcome::Unknown));
        assert!(some(|r| r.consistency.as_deref() == Some("causal") && r.value.is_some()));
        assert!(some(|r| r.op == OpKind::Delete));
    }
}
