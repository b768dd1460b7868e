//! One life: a store that is used as a node uses it, until the power goes.
//!
//! The rules of a node that the store relies on are kept: one writer per shard; entries are applied once they are committed
//! and synced here, and the log is purged up to what is durable of the data; what is committed is not truncated. What is
//! committed is made up: some of what is synced.

use crate::workload::{DataOp, Entry, KEYS, LogOp, Note, key, table};
use bytes::Bytes;
use meridian_proto::internal::v1::{LeaderId, LogId, ShardState};
use meridian_storage::{DataBatch, RaftLog, StorageError, Store, StoreOptions};
use meridian_types::{KeyRange, NodeId, RequestId, ShardId, Timestamp};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The cluster and the node that every directory is given to.
pub const MEMBER: (&str, NodeId) = ("power", NodeId(1));

/// Acknowledgements that a life waits for at most.
const IN_FLIGHT_MAX: u64 = 24;

/// Entries applied by one batch, at most.
const APPLIED_MAX: u64 = 16;

/// How long a ledger's records are kept, in indexes.
const LEDGER_KEPT: u64 = 100;

/// Tells the journal something.
pub type Tell = Arc<dyn Fn(&Note) + Send + Sync>;

/// What a life does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything but the timing of threads.
    pub seed: u64,
    /// Threads that write to logs.
    pub writers: u64,
    /// Shards of each.
    pub shards: u64,
    /// Operations of each writer, after which the life ends.
    pub steps: u64,
}

impl Plan {
    /// The plan of a life.
    pub fn draw(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let writers = [1, 1, 2][rng.random_range(0..3)];
        Self { seed, writers, shards: 4 / writers, steps: rng.random_range(50..500) }
    }
}

/// Buffers so small that files are switched, flushed and compacted all the time.
pub fn options() -> StoreOptions {
    StoreOptions {
        raft_write_buffer_bytes: 64 << 10,
        raft_memtables_bytes: 160 << 10,
        raft_wal_bytes_max: 150 << 10,
        data_write_buffer_bytes: 64 << 10,
        ledger_write_buffer_bytes: 64 << 10,
        shards_write_buffer_bytes: 64 << 10,
        data_memtables_bytes: 200 << 10,
        block_cache_bytes: 4 << 20,
        open_files_max: 64,
        disk_reserve_bytes: Some(0),
        ..StoreOptions::default()
    }
}

/// Bytes of a log id in the store.
pub fn log_id(index: u64) -> Bytes {
    index.to_be_bytes().to_vec().into()
}

/// The index in such bytes.
pub fn index_of(log_id: &[u8]) -> Option<u64> {
    log_id.try_into().ok().map(u64::from_be_bytes)
}

/// The ledger's record of an index.
pub fn request(index: u64) -> RequestId {
    RequestId { time: Timestamp(index), client: 1, sequence: index }
}

/// Lives: opens the store in `dir` and works on it. `peer` is an unwatched folder for another node's store.
pub fn live(dir: &Path, peer: &Path, plan: Plan, tell: &Tell) -> Result<(), StorageError> {
    let store = Store::open(dir, options())?;
    store.resume_installs()?;
    store.set_membership(MEMBER.0, MEMBER.1)?;
    tell(&Note::Opened(plan.writers));
    let life = Life::new(store, peer, plan, tell)?;
    std::thread::scope(|threads| {
        let writers: Vec<_> = (0..plan.writers)
            .map(|n| {
                threads.spawn({
                    let life = &life;
                    move || life.write(n)
                })
            })
            .collect();
        let applier = threads.spawn(|| life.apply());
        let results: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        life.over.store(true, Ordering::Release);
        let applied = applier.join();
        results
            .into_iter()
            .chain([applied])
            .try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

struct Life<'a> {
    store: Store,
    peer: &'a Path,
    plan: Plan,
    tell: Tell,
    shards: Vec<Shard>,
    /// How many operations on each shard's data were asked for. Held by whoever changes data.
    data: Mutex<Vec<Applied>>,
    in_flight: Arc<(Mutex<u64>, Condvar)>,
    over: AtomicBool,
}

struct Shard {
    id: ShardId,
    log: RaftLog,
    writing: Mutex<Writing>,
    /// The last index that is known to be committed.
    committed: AtomicU64,
    synced: Arc<Mutex<Synced>>,
}

/// The end of a shard's log, as its writer knows it.
struct Writing {
    /// Operations asked for.
    asked: u64,
    term: u64,
    /// The index of the next entry.
    next: u64,
    purged: u64,
}

/// Up to where a shard's log is durable. A truncation begins an epoch: what is acknowledged of an earlier one counts no
/// more.
#[derive(Default)]
struct Synced {
    index: u64,
    epoch: u64,
}

/// A shard's data, as whoever applies knows it.
#[derive(Clone, Copy, Default)]
struct Applied {
    asked: u64,
    index: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Life<'a> {
    /// Takes up what the store has, as a node does that starts.
    fn new(store: Store, peer: &'a Path, plan: Plan, tell: &Tell) -> Result<Self, StorageError> {
        let (mut shards, mut data) = (Vec::new(), Vec::new());
        for id in (1..=plan.writers * plan.shards).map(ShardId) {
            let log = store.raft.shard(id);
            let applied = store.data.view().shard_state(id)?.and_then(|state| state.applied).map_or(0, |id| id.index);
            let purged = log.purged()?.and_then(|id| index_of(&id)).unwrap_or(0);
            let last = log.last_index()?.unwrap_or(purged);
            let term = log.vote()?.and_then(|vote| index_of(&vote)).unwrap_or(0) + 1;
            let committed = log.committed()?.and_then(|id| index_of(&id)).unwrap_or(0);
            let mut writing = Writing { asked: 0, term, next: last + 1, purged };
            if applied > last {
                // A snapshot was installed, and the log not given up before the loss.
                writing.asked += 1;
                writing.next = applied + 1;
                writing.purged = applied;
                tell(&Note::Log(id.0, LogOp::Purge(applied)));
                log.purge(applied, log_id(applied))?;
            }
            let last = writing.next - 1;
            shards.push(Shard {
                id,
                log,
                writing: Mutex::new(writing),
                committed: AtomicU64::new(committed.min(last).max(applied)),
                synced: Arc::new(Mutex::new(Synced { index: last, epoch: 0 })),
            });
            data.push(Applied { asked: 0, index: applied });
        }
        let in_flight = Arc::new((Mutex::new(0), Condvar::new()));
        let tell = Arc::clone(tell);
        Ok(Self { store, peer, plan, tell, shards, data: Mutex::new(data), in_flight, over: AtomicBool::new(false) })
    }

    fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.plan.seed);
        rng.set_stream(stream + 1);
        rng
    }

    /// What one writer does.
    fn write(&self, writer: u64) -> Result<(), StorageError> {
        let mut rng = self.rng(writer);
        for _ in 0..self.plan.steps {
            let n = (writer * self.plan.shards + rng.random_range(0..self.plan.shards)) as usize;
            let shard = &self.shards[n];
            let mut writing = lock(&shard.writing);
            match rng.random_range(0..1000) {
                0..650 => self.append(shard, &mut writing, &mut rng)?,
                650..720 => self.vote(shard, &mut writing)?,
                720..770 => self.truncate(shard, &mut writing, &mut rng)?,
                770..880 => self.commit(shard, &mut writing, &mut rng)?,
                880..950 => self.purge(shard, &mut writing)?,
                950..990 => self.quiet(0),
                990..994 => self.install(n, &mut writing, &mut rng)?,
                _ => {
                    self.quiet(0);
                    let _held = lock(&self.data);
                    let dir = self.store.snapshots_dir().join(format!("built-{}", shard.id));
                    self.store.data.build_snapshot(shard.id, table(shard.id), &KeyRange::all(), &dir)?;
                }
            }
            drop(writing);
            self.quiet(IN_FLIGHT_MAX);
        }
        self.quiet(0);
        Ok(())
    }

    /// Waits until at most so many acknowledgements are missing.
    fn quiet(&self, most: u64) {
        let (count, changed) = &*self.in_flight;
        drop(changed.wait_while(lock(count), |count| *count > most).unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes an operation that is about to be asked for; returns its number.
    fn ask(&self, shard: &Shard, writing: &mut Writing, op: LogOp) -> u64 {
        writing.asked += 1;
        (self.tell)(&Note::Log(shard.id.0, op));
        writing.asked
    }

    fn append(&self, shard: &Shard, writing: &mut Writing, rng: &mut ChaCha8Rng) -> Result<(), StorageError> {
        let entries: Vec<_> = (0..rng.random_range(1..6)).map(|_| Entry::draw(writing.term, rng)).collect();
        let encoded: Vec<_> = (writing.next..).zip(entries.iter().map(Entry::encode)).collect();
        let number = self.ask(shard, writing, LogOp::Append(writing.next, entries));
        writing.next += encoded.len() as u64;
        let (id, last, synced) = (shard.id.0, writing.next - 1, Arc::clone(&shard.synced));
        let (tell, in_flight, epoch) = (Arc::clone(&self.tell), Arc::clone(&self.in_flight), lock(&synced).epoch);
        *lock(&in_flight.0) += 1;
        shard.log.append(
            &encoded,
            Box::new(move |result| {
                if result.is_ok() {
                    tell(&Note::LogAcked(id, number));
                    let mut synced = lock(&synced);
                    if synced.epoch == epoch {
                        synced.index = synced.index.max(last);
                    }
                }
                *lock(&in_flight.0) -= 1;
                in_flight.1.notify_all();
            }),
        )
    }

    fn vote(&self, shard: &Shard, writing: &mut Writing) -> Result<(), StorageError> {
        writing.term += 1;
        let number = self.ask(shard, writing, LogOp::Vote(writing.term));
        let saved = shard.log.save_vote(log_id(writing.term));
        tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|e| StorageError::File { action: "start", path: "a runtime".into(), source: Arc::new(e) })?
            .block_on(saved)?;
        (self.tell)(&Note::LogAcked(shard.id.0, number));
        Ok(())
    }

    /// Another leader's log goes on from somewhere above what is committed.
    fn truncate(&self, shard: &Shard, writing: &mut Writing, rng: &mut ChaCha8Rng) -> Result<(), StorageError> {
        let least = shard.committed.load(Ordering::Acquire).max(writing.purged) + 1;
        if least >= writing.next {
            return Ok(());
        }
        let from = rng.random_range(least..writing.next);
        {
            let mut synced = lock(&shard.synced);
            synced.epoch += 1;
            synced.index = synced.index.min(from - 1);
        }
        self.ask(shard, writing, LogOp::Truncate(from));
        writing.next = from;
        writing.term += 1;
        shard.log.truncate_from(from)
    }

    fn commit(&self, shard: &Shard, writing: &mut Writing, rng: &mut ChaCha8Rng) -> Result<(), StorageError> {
        let (committed, synced) = (shard.committed.load(Ordering::Acquire), lock(&shard.synced).index);
        if synced <= committed {
            return Ok(());
        }
        let index = rng.random_range(committed + 1..=synced);
        shard.committed.store(index, Ordering::Release);
        self.ask(shard, writing, LogOp::Committed(index));
        shard.log.save_committed(log_id(index))
    }

    /// Gives up what is durable of the data.
    fn purge(&self, shard: &Shard, writing: &mut Writing) -> Result<(), StorageError> {
        let durable = self.store.data.durable(shard.id).and_then(|state| state.applied).map_or(0, |id| id.index);
        (self.tell)(&Note::Durable(shard.id.0, durable));
        if durable <= writing.purged {
            return Ok(());
        }
        writing.purged = durable;
        self.ask(shard, writing, LogOp::Purge(durable));
        shard.log.purge(durable, log_id(durable))
    }

    /// A snapshot arrives from a node that has more than this one, is installed, and the log given up.
    fn install(&self, n: usize, writing: &mut Writing, rng: &mut ChaCha8Rng) -> Result<(), StorageError> {
        let (shard, mut data) = (&self.shards[n], lock(&self.data));
        let applied = data[n].index;
        let last = writing.next - 1;
        let upto = last.max(applied) + rng.random_range(1..20);
        // What is committed here has to be in it.
        let known = shard.log.read(applied + 1..shard.committed.load(Ordering::Acquire) + 1, usize::MAX)?;
        let mut entries = decoded(&known)?;
        let from = entries.last().map_or(applied, |(index, _)| *index) + 1;
        entries.extend((from..=upto).map(|index| (index, Entry::draw(writing.term, rng))));
        let dir = self.store.snapshots_dir().join(format!("in-{}", shard.id));
        let manifest = self.peers_snapshot(shard.id, &entries, &dir)?;
        data[n].asked += 1;
        (self.tell)(&Note::Data(shard.id.0, DataOp::Install(entries)));
        self.store.install_snapshot(shard.id, table(shard.id), &KeyRange::all(), &dir, &manifest)?;
        data[n].index = upto;
        self.flushed(&data);
        {
            let mut synced = lock(&shard.synced);
            *synced = Synced { index: upto, epoch: synced.epoch + 1 };
        }
        shard.committed.store(upto, Ordering::Release);
        self.ask(shard, writing, LogOp::Purge(upto));
        (writing.purged, writing.next) = (upto, upto + 1);
        shard.log.purge(upto, log_id(upto))?;
        self.store.files().remove_dir(&dir)
    }

    /// Has another store build a snapshot of what is applied here and of these entries.
    fn peers_snapshot(
        &self,
        shard: ShardId,
        entries: &[(u64, Entry)],
        dir: &Path,
    ) -> Result<meridian_proto::internal::v1::SnapshotManifest, StorageError> {
        let peer = Store::open(self.peer, options())?;
        peer.data.clear_shard(shard, table(shard), &KeyRange::all())?;
        let (mut batch, view) = (DataBatch::default(), self.store.data.view());
        for key in (0..KEYS).map(key) {
            if let Some(version) = view.get(table(shard), &key, Timestamp::MAX)? {
                batch.put_version(table(shard), &key, version.ts, version.value);
            }
        }
        put(&mut batch, shard, entries);
        peer.data.write(batch)?;
        peer.data.build_snapshot(shard, table(shard), &KeyRange::all(), dir)
    }

    /// Everything asked for so far is durable.
    fn flushed(&self, data: &[Applied]) {
        for (shard, data) in self.shards.iter().zip(data) {
            (self.tell)(&Note::DataAcked(shard.id.0, data.asked));
        }
    }

    /// What the applying thread does.
    fn apply(&self) -> Result<(), StorageError> {
        let mut rng = self.rng(self.plan.writers);
        while !self.over.load(Ordering::Acquire) {
            let n = rng.random_range(0..self.shards.len());
            let mut data = lock(&self.data);
            let shard = &self.shards[n];
            let applied = data[n].index;
            let upto =
                shard.committed.load(Ordering::Acquire).min(lock(&shard.synced).index).min(applied + APPLIED_MAX);
            if upto > applied {
                let entries = decoded(&shard.log.read(applied + 1..upto + 1, usize::MAX)?)?;
                let mut batch = DataBatch::default();
                put(&mut batch, shard.id, &entries);
                if rng.random_range(0..10) == 0 {
                    batch.forget_ledger_before(shard.id, Timestamp(upto.saturating_sub(LEDGER_KEPT)));
                }
                data[n] = Applied { asked: data[n].asked + 1, index: upto };
                (self.tell)(&Note::Data(shard.id.0, DataOp::Apply(entries)));
                self.store.data.write(batch)?;
            }
            if rng.random_range(0..400) == 0 {
                self.store.data.flush()?;
                self.flushed(&data);
            }
            drop(data);
            if upto <= applied {
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

/// Puts entries, a ledger record of each, and the position after them.
fn put(batch: &mut DataBatch, shard: ShardId, entries: &[(u64, Entry)]) {
    for (index, entry) in entries {
        batch.put_version(table(shard), &key(entry.key), Timestamp(*index), entry.put().map(|entry| entry.encode()));
        batch.put_ledger(shard, &request(*index), b"r");
    }
    if let Some((index, entry)) = entries.last() {
        let applied = LogId { leader: Some(LeaderId { term: entry.term, node: 1 }), index: *index };
        let state = ShardState { applied: Some(applied), last_ts: *index, ..ShardState::default() };
        batch.put_shard_state(shard, &state);
    }
}

/// What a read of the log has returned.
fn decoded(read: &[(u64, Bytes)]) -> Result<Vec<(u64, Entry)>, StorageError> {
    let decode = |(index, bytes): &(u64, Bytes)| {
        let bad = || StorageError::Corrupt { what: format!("entry {index} is not what was appended") };
        Ok((*index, Entry::decode(bytes).ok_or_else(bad)?))
    };
    read.iter().map(decode).collect()
}
