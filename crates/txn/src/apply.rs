//! Evaluates the mutations of log entries against a shard's state.
//!
//! A mutation inside one shard is decided when its entry is applied: no locks, one consensus round. The decision
//! is a function of the state, the entry's stamp and the mutation, and of nothing else: every replica, at every
//! replay, comes to the same outcomes and the same state (A1, O5). How mutations are grouped into entries does not
//! matter either: each sees what the ones before it did, in the same entry or not.
//!
//! In this order, the first that applies:
//! 1. A request without an id is refused: nothing could be recorded about it, so nothing may be done for it.
//! 2. The ledger knows the id: the recorded outcome again, or [`IdReused`] if the request is another one (X2).
//! 3. The id is older than the ledger remembers, or from the future (X1).
//! 4. Malformed, or a key outside this shard.
//! 5. Preconditions, in order. The first that does not hold refuses the request.
//! 6. Reads: the values before the writes.
//! 7. Writes, at the mutation's own timestamp.
//!
//! What comes out of steps 3 to 7 is recorded in the ledger, refusals included: a request that was refused once
//! can never take effect through a copy that arrives late. Only "too old" is not recorded: its id stays too old.
//! No outcome is acknowledged before its timestamp has passed (W1); that is the caller's to see to.

use crate::fingerprint::fingerprint;
use crate::ledger;
use crate::overlay::{Overlay, damaged};
use bytes::Bytes;
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::internal::v1::outcome::{
    Committed, IdExpired, IdInFuture, IdReused, Malformed, ReadsTooLarge, Refused, Result as Decision, StaleTimestamp,
    WrongShard,
};
use meridian_proto::internal::v1::{LedgerRecord, Mutation, Outcome};
use meridian_proto::v1::precondition::Condition;
use meridian_proto::v1::write_op::Action;
use meridian_proto::v1::{Precondition, Row};
use meridian_storage::{DataBatch, DataView, StorageError};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};

/// Most bytes of keys and values that the reads of one mutation return. Part of the replicated rules: every
/// replica must refuse the same mutations.
pub const READS_BYTES_MAX: usize = 2 << 20;

/// The data that one shard holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardScope {
    /// The shard.
    pub shard: ShardId,
    /// The table that it is a part of.
    pub table: TableId,
    /// Its part of that table.
    pub range: KeyRange,
}

impl ShardScope {
    /// The catalog's shard: all of the system table.
    pub fn catalog() -> Self {
        Self { shard: ShardId::CATALOG, table: TableId::CATALOG, range: KeyRange::all() }
    }
}

/// What the log before an entry has left, beside the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The last timestamp that it has used.
    pub last_ts: Timestamp,
    /// The shard's GC floor. A tombstone at or below it is as good as nothing: it may be collected here and not on another
    /// replica.
    pub gc_floor: Timestamp,
}

/// The mutations of one entry; mutation `i` has the timestamp `ts + i`.
#[derive(Clone, Copy, Debug)]
pub struct Stamped<'a> {
    /// What the log before the entry has left.
    pub log: LogPosition,
    /// The first mutation's timestamp.
    pub ts: Timestamp,
    /// The mutations.
    pub mutations: &'a [Mutation],
}

/// Applies one entry's mutations; see [`apply_all`].
pub fn apply(
    scope: &ShardScope,
    view: &DataView,
    log: LogPosition,
    ts: Timestamp,
    mutations: &[Mutation],
    batch: &mut DataBatch,
) -> Result<Vec<Outcome>, StorageError> {
    let outcomes = apply_all(scope, view, &[Stamped { log, ts, mutations }], batch)?;
    Ok(outcomes.into_iter().flatten().collect())
}

/// Applies the mutations of consecutive entries, as one after another would. Puts their effects into `batch`.
///
/// * `view`: the state before the first entry.
/// * Returns one outcome per mutation, in order, for each entry.
/// * An entry whose stamp is not above its log's `last_ts` has no effect at all (S5): every mutation comes to
///   [`StaleTimestamp`]. That means a fence was broken somewhere; the caller raises the alarm.
/// * How many entries are applied together is each replica's own business: every decision rests on the entry, its
///   log position and the state that the entries before it have left (A1).
/// * Cost: one ledger lookup per mutation, one read per key of its preconditions and reads. Blind writes read nothing.
pub fn apply_all(
    scope: &ShardScope,
    view: &DataView,
    entries: &[Stamped<'_>],
    batch: &mut DataBatch,
) -> Result<Vec<Vec<Outcome>>, StorageError> {
    let mut state = Overlay::new(scope, view, batch);
    let mut all = Vec::with_capacity(entries.len());
    for Stamped { log: LogPosition { last_ts, gc_floor }, ts, mutations } in entries {
        state.set_floor(*gc_floor);
        let stamps = (ts.0..=u64::MAX).map(Timestamp);
        if ts <= last_ts && !sabotaged(Sabotage::IgnoreApplyGuard) {
            let stale = |(_, ts)| outcome(ts, Decision::StaleTimestamp(StaleTimestamp {}));
            all.push(mutations.iter().zip(stamps).map(stale).collect());
            continue;
        }
        let mut previous = *last_ts;
        let mut outcomes = Vec::with_capacity(mutations.len());
        for (mutation, ts) in mutations.iter().zip(stamps) {
            if let Some(before) = ledger::forget_before(previous, ts) {
                state.forget(before);
            }
            outcomes.push(apply_one(scope, &mut state, ts, mutation)?);
            previous = ts;
        }
        all.push(outcomes);
    }
    Ok(all)
}

/// Steps 1 to 3, and the record of whatever the rest decides.
fn apply_one(
    scope: &ShardScope,
    state: &mut Overlay<'_>,
    ts: Timestamp,
    mutation: &Mutation,
) -> Result<Outcome, StorageError> {
    let Some(id) = ledger::id_of(mutation) else {
        return Ok(outcome(ts, Decision::Malformed(Malformed {})));
    };
    let fingerprint = fingerprint(mutation);
    if let Some(record) = state.record(&id)?.filter(|_| !sabotaged(Sabotage::IgnoreLedger)) {
        if record.fingerprint != fingerprint {
            return Ok(outcome(ts, Decision::IdReused(IdReused {})));
        }
        return record.outcome.ok_or_else(|| damaged(&id, &"it holds no outcome"));
    }
    if ledger::is_expired(&id, ts) {
        return Ok(outcome(ts, Decision::IdExpired(IdExpired {})));
    }
    let outcome = outcome(ts, decide(scope, state, &id, ts, mutation)?);
    emit(|| {
        let committed = matches!(outcome.result, Some(Decision::Committed(_)));
        Event::Decided { shard: scope.shard, request: id, ts, committed }
    });
    let refused = !matches!(outcome.result, Some(Decision::Committed(_)));
    if !(refused && sabotaged(Sabotage::ForgetRefusals)) {
        state.remember(id, LedgerRecord { fingerprint, outcome: Some(outcome.clone()) });
    }
    Ok(outcome)
}

/// Steps 3 to 7.
fn decide(
    scope: &ShardScope,
    state: &mut Overlay<'_>,
    id: &RequestId,
    ts: Timestamp,
    mutation: &Mutation,
) -> Result<Decision, StorageError> {
    if ledger::is_in_future(id, ts) {
        return Ok(Decision::IdInFuture(IdInFuture {}));
    }
    if is_malformed(mutation) {
        return Ok(Decision::Malformed(Malformed {}));
    }
    if !is_inside(scope, mutation) {
        return Ok(Decision::WrongShard(WrongShard {}));
    }
    for (index, precondition) in (0..).zip(&mutation.preconditions) {
        if let Some(refused) = check(state, index, precondition)? {
            return Ok(Decision::Refused(refused));
        }
    }
    let Some(reads) = read_before(state, &mutation.reads)? else {
        return Ok(Decision::ReadsTooLarge(ReadsTooLarge {}));
    };
    for write in &mutation.writes {
        match &write.action {
            Some(Action::Put(value)) => state.write(write.key.clone(), ts, Some(value.clone())),
            Some(Action::Delete(_)) => state.write(write.key.clone(), ts, None),
            None => {} // refused as malformed above
        }
    }
    Ok(Decision::Committed(Committed { reads }))
}

fn outcome(ts: Timestamp, result: Decision) -> Outcome {
    Outcome { ts: ts.0, result: Some(result) }
}

/// A kind of condition or action that this build does not know decodes as none: it must not pass as fulfilled.
fn is_malformed(mutation: &Mutation) -> bool {
    mutation.preconditions.iter().any(|p| p.condition.is_none()) || mutation.writes.iter().any(|w| w.action.is_none())
}

fn is_inside(scope: &ShardScope, mutation: &Mutation) -> bool {
    let inside = |key: &Bytes| scope.range.contains(key);
    TableId(mutation.table) == scope.table
        && mutation.preconditions.iter().all(|p| inside(&p.key))
        && mutation.writes.iter().all(|w| inside(&w.key))
        && mutation.reads.iter().all(inside)
}

/// The refusal, if the precondition does not hold.
fn check(state: &Overlay<'_>, index: u32, precondition: &Precondition) -> Result<Option<Refused>, StorageError> {
    let newest = state.newest(&precondition.key)?;
    let reveals = newest.as_ref().map_or(0, |v| v.ts.0);
    let value = newest.and_then(|v| v.value);
    let found_version = if value.is_some() { reveals } else { 0 };
    let holds = match &precondition.condition {
        Some(Condition::Value(wanted)) => value.as_ref() == Some(wanted),
        Some(Condition::Exists(wanted)) => value.is_some() == *wanted,
        Some(Condition::Version(wanted)) => found_version == *wanted,
        None => false,
    };
    Ok((!holds).then_some(Refused { precondition: index, found_version, reveals }))
}

/// The keys' rows, absent ones left out; `None`: together they exceed [`READS_BYTES_MAX`].
fn read_before(state: &Overlay<'_>, keys: &[Bytes]) -> Result<Option<Vec<Row>>, StorageError> {
    let mut rows = Vec::new();
    let mut bytes = 0;
    for key in keys {
        let Some(version) = state.newest(key)? else { continue };
        let Some(value) = version.value else { continue };
        bytes += key.len() + value.len();
        if bytes > READS_BYTES_MAX {
            return Ok(None);
        }
        rows.push(Row { key: key.clone(), value, version: version.ts.0 });
    }
    Ok(Some(rows))
}
