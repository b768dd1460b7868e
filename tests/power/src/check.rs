//! Reads a store that has been through a loss, as a node does that starts, and holds it against what is expected.

use crate::model::{Cut, DataState, Expected, LogState, common};
use crate::worker::{MEMBER, index_of, options, request};
use crate::workload::{Entry, KEYS, key, table};
use meridian_storage::{DataView, RaftLog, StorageError, Store};
use meridian_types::{ShardId, Timestamp};
use std::collections::BTreeSet;
use std::path::Path;

/// A store that holds what it has to.
#[derive(Clone, Default)]
pub struct Checked {
    /// What it holds: on this the next life begins.
    pub found: Expected,
    /// Acknowledged operations that are there.
    pub acked: u64,
    /// Operations that are there though nobody was told.
    pub extra: u64,
    /// Entries read and compared.
    pub entries: u64,
    /// Interrupted installations that were finished.
    pub resumed: u64,
}

/// What is wrong with a store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Wrong {
    /// It does not open.
    #[error("the store does not open: {0}")]
    Refused(StorageError),
    /// It opens, and then cannot be read.
    #[error("the store opened, and failed: {0}")]
    Failed(#[from] StorageError),
    /// It holds something else than it has to.
    #[error("{}", .0.join("; "))]
    Content(Vec<String>),
}

/// Opens the store in `dir` and checks it.
pub fn check(dir: &Path, expected: &Expected) -> Result<Checked, Wrong> {
    let store = Store::open(dir, options()).map_err(Wrong::Refused)?;
    let mut wrong = Vec::new();
    let identity = store.identity();
    if expected.opened && (identity.cluster_id.as_str(), identity.node) != (MEMBER.0, MEMBER.1.0) {
        wrong.push(format!("it belongs to node {} of `{}`", identity.node, identity.cluster_id));
    }
    let mut checked = Checked { resumed: store.resume_installs()?.len() as u64, ..Checked::default() };
    let shards: BTreeSet<u64> =
        store.raft.shards()?.into_iter().map(|shard| shard.0).chain(expected.shards()).collect();
    let (mut logs, mut datas) = (vec![(0, u64::MAX)], vec![(0, u64::MAX)]);
    // By shard, where in the journal its log and then its data were cut: for a reader.
    let mut cuts = Vec::new();
    let view = store.data.view();
    for shard in shards {
        let log = log_state(&store.raft.shard(ShardId(shard)))?;
        let (data, ledger) = data_state(&view, ShardId(shard))?;
        checked.entries += log.entries.len() as u64;
        wrong.extend(ledger);
        let (in_log, in_data) = (expected.find_log(shard, &log), expected.find_data(shard, &data));
        for (found, cut, apart) in [(in_log, &mut logs, false), (in_data, &mut datas, expected.installs(shard))] {
            match found {
                Ok(found) => {
                    checked.acked += found.acked;
                    checked.extra += found.extra;
                    if !apart {
                        *cut = common(cut, &found.cuts);
                    }
                    cuts.push((shard, found.cuts));
                }
                Err(what) => wrong.push(what),
            }
        }
        wrong.extend(agree(shard, &log, &data, expected.installs(shard)));
        checked.found.set(shard, log, data);
    }
    let torn = |cut: &[Cut]| cut.is_empty() && wrong.is_empty();
    if torn(&datas) {
        wrong.push(format!("the data of different shards is of different moments: {cuts:?}"));
    } else if expected.writers == 1 && torn(&logs) {
        wrong.push(format!("the logs of different shards are cut at different moments: {cuts:?}"));
    }
    checked.found.opened = expected.opened;
    checked.found.writers = expected.writers;
    if wrong.is_empty() { Ok(checked) } else { Err(Wrong::Content(wrong)) }
}

fn log_state(log: &RaftLog) -> Result<LogState, StorageError> {
    let index = |id: Option<bytes::Bytes>| id.and_then(|id| index_of(&id));
    let mut state = LogState {
        vote: index(log.vote()?),
        committed: index(log.committed()?),
        purged: index(log.purged()?),
        ..LogState::default()
    };
    for (index, bytes) in log.read(0..u64::MAX, usize::MAX)? {
        let bad =
            || StorageError::Corrupt { what: format!("entry {index} of {} is none that was appended", log.shard()) };
        state.entries.insert(index, Entry::decode(&bytes).ok_or_else(bad)?);
    }
    Ok(state)
}

/// A shard's data, and what its ledger has wrong.
fn data_state(view: &DataView, shard: ShardId) -> Result<(DataState, Option<String>), StorageError> {
    let applied = view.shard_state(shard)?.and_then(|state| state.applied).map_or(0, |id| id.index);
    let mut state = DataState { applied, ..DataState::default() };
    for n in 0..KEYS {
        if let Some(version) = view.get(table(shard), &key(n), Timestamp::MAX)? {
            let bad = || StorageError::Corrupt { what: format!("key {n} of {shard} holds what was never put") };
            let entry = version.value.map(|bytes| Entry::decode(&bytes).ok_or_else(bad)).transpose()?;
            state.newest.insert(n, (version.ts.0, entry));
        }
    }
    let recorded = |index| view.ledger(shard, &request(index)).map(|record| record.is_some());
    let wrong = (applied > 0 && !recorded(applied)?) || recorded(applied + 1)?;
    let what = wrong.then(|| format!("the ledger of shard {} does not agree with its position {applied}", shard.0));
    Ok((state, what))
}

/// A shard's two stores have to fit together.
fn agree(shard: u64, log: &LogState, data: &DataState, installs: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let purged = log.purged.unwrap_or(0);
    let first = log.entries.first_key_value().map_or(purged + 1, |(index, _)| *index);
    let last = log.entries.last_key_value().map_or(purged, |(index, _)| *index);
    if purged > data.applied || first > data.applied + 1 {
        wrong.push(format!("shard {shard}: the log begins at {first}, the data ends at {}", data.applied));
    }
    if data.applied > last && !installs {
        wrong.push(format!("shard {shard}: entry {} is applied, and the log ends with {last}", data.applied));
    }
    wrong
}
