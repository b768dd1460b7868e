//! The two engines side by side, and beside a model of what a store is: the same operations get the same answers, also
//! after a crash.

use crate::model::Model;
use crate::support::{Machine, block_on, folder, quiet_disk, ship, state, waiter};
use bytes::Bytes;
use meridian_proto::internal::v1::SnapshotManifest;
use meridian_storage::{DataBatch, Store};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use proptest::prelude::*;
use std::fmt::Debug;

const TABLE: TableId = TableId(3);

/// One step of a run. Shards and keys are few, so that steps meet.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Append {
        shard: u64,
        entries: u8,
        bytes: u8,
    },
    Truncate {
        shard: u64,
        back: u64,
    },
    Purge {
        shard: u64,
        ahead: u64,
    },
    Vote {
        shard: u64,
        vote: u8,
    },
    Committed {
        shard: u64,
        id: u8,
    },
    Mark {
        shard: u64,
        name: u8,
        value: Option<u8>,
    },
    Destroy {
        shard: u64,
    },
    Write(Vec<Change>),
    Clear {
        shard: u64,
        start: u8,
        len: u8,
    },
    Flush,
    /// Builds a snapshot and installs it again, into the same store.
    Snapshot {
        shard: u64,
        start: u8,
        len: u8,
    },
    Reopen,
    Crash,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Version { key: u8, ts: u64, value: Option<u8> },
    Ledger { shard: u64, time: u64 },
    Forget { shard: u64, time: u64 },
    Position { shard: u64, index: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop::option::weighted(0.8, any::<u8>());
    prop_oneof![
        6 => (0..12_u8, 0..40_u64, value).prop_map(|(key, ts, value)| Change::Version { key, ts, value }),
        2 => (0..3_u64, 0..20_u64).prop_map(|(shard, time)| Change::Ledger { shard, time }),
        1 => (0..3_u64, 0..20_u64).prop_map(|(shard, time)| Change::Forget { shard, time }),
        2 => (0..3_u64, 0..99_u64).prop_map(|(shard, index)| Change::Position { shard, index }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let shard = || 0..3_u64;
    prop_oneof![
        8 => (shard(), 1..60_u8, any::<u8>()).prop_map(|(shard, entries, bytes)| Step::Append { shard, entries, bytes }),
        2 => (shard(), 0..60_u64).prop_map(|(shard, back)| Step::Truncate { shard, back }),
        2 => (shard(), 0..60_u64).prop_map(|(shard, ahead)| Step::Purge { shard, ahead }),
        2 => (shard(), any::<u8>()).prop_map(|(shard, vote)| Step::Vote { shard, vote }),
        1 => (shard(), any::<u8>()).prop_map(|(shard, id)| Step::Committed { shard, id }),
        1 => (shard(), 0..2_u8, any::<Option<u8>>()).prop_map(|(shard, name, value)| Step::Mark { shard, name, value }),
        1 => shard().prop_map(|shard| Step::Destroy { shard }),
        10 => prop::collection::vec(change(), 1..20).prop_map(Step::Write),
        1 => (shard(), 0..12_u8, 0..12_u8).prop_map(|(shard, start, len)| Step::Clear { shard, start, len }),
        2 => Just(Step::Flush),
        2 => (shard(), 0..12_u8, 0..12_u8).prop_map(|(shard, start, len)| Step::Snapshot { shard, start, len }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// A user key with the bytes that encodings have to escape.
pub(crate) fn key(n: u8) -> Bytes {
    vec![n / 2, if n.is_multiple_of(2) { 0 } else { 0xff }, n].into()
}

pub(crate) fn range(start: u8, len: u8) -> KeyRange {
    KeyRange::new(key(start), (len < 10).then(|| key(start + len + 1))).unwrap()
}

fn batch(changes: &[Change]) -> DataBatch {
    let mut batch = DataBatch::default();
    for change in changes {
        match change {
            Change::Version { key: n, ts, value } => {
                batch.put_version(TABLE, &key(*n), Timestamp(*ts), value.map(|v| vec![v; v.into()].into()));
            }
            Change::Ledger { shard, time } => batch.put_ledger(ShardId(*shard), &id(*time), &time.to_be_bytes()),
            Change::Forget { shard, time } => batch.forget_ledger_before(ShardId(*shard), Timestamp(*time)),
            Change::Position { shard, index } => batch.put_shard_state(ShardId(*shard), &state(*index, *index)),
        }
    }
    batch
}

pub(crate) fn id(time: u64) -> RequestId {
    RequestId { time: Timestamp(time), client: 1, sequence: time }
}

/// A machine under test and the store open on it; `None` only while it is opened again.
struct Subject {
    machine: Machine,
    store: Option<Store>,
}

impl Subject {
    fn new(machine: Machine) -> Self {
        let store = Some(machine.open());
        Self { machine, store }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Does one step; what it answers must not depend on the engine.
    fn run(&mut self, step: &Step) -> String {
        let log = |shard: u64| self.store().raft.shard(ShardId(shard));
        match *step {
            Step::Append { shard, entries, bytes } => {
                let log = log(shard);
                let next = log.last_index().unwrap().map_or(1, |last| last + 1);
                let entry = |index: u64| (index, Bytes::from(vec![index as u8; bytes.into()]));
                let (done, durable) = waiter();
                log.append(&(next..next + u64::from(entries)).map(entry).collect::<Vec<_>>(), done).unwrap();
                format!("{:?}", durable.recv().unwrap())
            }
            Step::Truncate { shard, back } => {
                let from = log(shard).last_index().unwrap().unwrap_or(0).saturating_sub(back);
                format!("{:?}", log(shard).truncate_from(from))
            }
            Step::Purge { shard, ahead } => {
                let upto = log(shard).first_index().unwrap().unwrap_or(0) + ahead;
                format!("{:?}", log(shard).purge(upto, upto.to_be_bytes().to_vec().into()))
            }
            Step::Vote { shard, vote } => format!("{:?}", block_on(log(shard).save_vote(vec![vote].into()))),
            Step::Committed { shard, id } => format!("{:?}", log(shard).save_committed(vec![id].into())),
            Step::Mark { shard, name, value } => {
                format!("{:?}", log(shard).mark(&name.to_string(), value.map(|v| vec![v].into())))
            }
            Step::Destroy { shard } => format!("{:?}", log(shard).destroy()),
            Step::Write(ref changes) => format!("{:?}", self.store().data.write(batch(changes))),
            Step::Clear { shard, start, len } => {
                format!("{:?}", self.store().data.clear_shard(ShardId(shard), TABLE, &range(start, len)))
            }
            Step::Flush => format!("{:?}", self.store().data.flush()),
            Step::Snapshot { shard, start, len } => self.snapshot(ShardId(shard), &range(start, len)),
            Step::Reopen => {
                self.store = None;
                self.store = Some(self.machine.open());
                String::new()
            }
            Step::Crash => {
                // Unsynced raft writes may go or stay; so that both agree, there are none.
                log(9).mark("synced", None).unwrap();
                self.store = Some(self.machine.crash());
                String::new()
            }
        }
    }

    fn snapshot(&self, shard: ShardId, range: &KeyRange) -> String {
        let store = self.store();
        let (built, staged) = (folder(store, "out"), folder(store, "in"));
        let manifest = store.data.build_snapshot(shard, TABLE, range, &built).unwrap();
        ship((store, &built), (store, &staged), manifest.files.iter().map(|file| &file.name));
        store.install_snapshot(shard, TABLE, range, &staged, &manifest).unwrap();
        // Files differ between engines in length and checksum.
        let SnapshotManifest { snapshot_id, state, files, .. } = manifest;
        // Into how many files a family is cut is the disk's business.
        let mut families: Vec<_> = files.into_iter().map(|file| file.family).collect();
        families.dedup();
        format!("{snapshot_id} {state:?} {families:?}")
    }

    /// Everything that can be asked.
    fn content(&self) -> Vec<String> {
        let store = self.store();
        let mut out = vec![show(&store.raft.shards().unwrap())];
        for shard in (0..3).map(ShardId) {
            let log = store.raft.shard(shard);
            out.push(show(&(log.vote().unwrap(), log.purged().unwrap(), log.committed().unwrap())));
            out.push(show(&(log.get_mark("0").unwrap(), log.get_mark("1").unwrap())));
            out.push(show(&(log.first_index().unwrap(), log.last_index().unwrap())));
            let start = log.first_index().unwrap().unwrap_or(0);
            out.push(show(&log.read(0..u64::MAX, usize::MAX).unwrap()));
            out.push(show(&(log.read(start + 3..start + 9, 200).unwrap(), log.read(0..start, 9).unwrap())));
            out.push(show(&store.data.durable(shard)));
        }
        let view = store.data.view();
        for shard in (0..3).map(ShardId) {
            let ledger: Vec<_> = (0..20).map(|time| view.ledger(shard, &id(time)).unwrap()).collect();
            out.push(show(&(view.shard_state(shard).unwrap(), ledger)));
        }
        for at in [0, 7, 20, u64::MAX].map(Timestamp) {
            out.push(show(&(0..12).map(|n| view.get(TABLE, &key(n), at).unwrap()).collect::<Vec<_>>()));
            for (range, reverse) in [(KeyRange::all(), false), (KeyRange::all(), true), (range(3, 5), true)] {
                out.push(show(&view.scan(TABLE, &range, at, reverse, usize::MAX, usize::MAX).unwrap()));
                out.push(show(&view.scan(TABLE, &range, at, reverse, 3, 300).unwrap()));
            }
        }
        out
    }
}

pub(crate) fn show(value: &impl Debug) -> String {
    format!("{value:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn both_engines_answer_as_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut real = Subject::new(Machine::rocks());
        let mut simulated = Subject::new(Machine::Simulated(quiet_disk(1)));
        let mut model = Model::default();
        for (n, step) in steps.iter().enumerate() {
            let (answer, told) = (real.run(step), model.run(step));
            prop_assert_eq!(simulated.run(step), &answer[..], "answer to step {}: {:?}", n, step);
            prop_assert!(told.is_none_or(|told| told == answer), "answer to step {}: {:?}", n, step);
            let content = real.content();
            prop_assert_eq!(&simulated.content(), &content, "after step {}: {:?}", n, step);
            prop_assert_eq!(model.content(), content, "against the model, after step {}: {:?}", n, step);
        }
    }
}
