//! What happens inside a node, for those who check that it was right.
//!
//! The code says what it does with [`emit`], whose argument is not even evaluated unless a test records. A recorder
//! gets the events of its thread in the order in which they happened, whichever node they come from; it knows itself
//! which node's turn it is.

use meridian_types::{KeySpan, LeaderId, LogId, NodeId, RaftTiming, RequestId, ShardId, Timestamp};
use std::time::Duration;

/// A fingerprint of bytes, to compare what two replicas have (FNV-1a, 64 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

impl Digest {
    /// Of nothing.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::EMPTY.and(bytes)
    }

    /// Of what this one covers, and these bytes after it.
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)))
    }
}

/// What kind of read a replica answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadKind {
    /// The newest state, at the leader.
    Linearizable,
    /// No data: the position up to which a follower has to apply before it reads the newest state.
    ReadIndex,
    /// The newest state, at a follower that has the leader's read index.
    Followed,
    /// The newest state that the reader's clock has to know, at a replica that is safe there: nobody was asked.
    Ahead,
    /// At a timestamp that the caller chose.
    Snapshot,
    /// At most so old.
    Bounded,
    /// With everything that a token covers.
    Causal,
    /// Whatever there is.
    Local,
}

/// Something that happened in a node. Stamps are given as the first and the last of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A replica was opened from what its store has.
    Opened {
        /// The shard.
        shard: ShardId,
        /// Index after the last log entry that was found.
        log_end: u64,
        /// The last timestamp of the state that was found.
        applied: Timestamp,
    },
    /// An entry was put into the log of this node; it is not synced yet.
    Appended {
        /// The shard.
        shard: ShardId,
        /// The entry.
        id: LogId,
        /// Its first and last stamp; blank and membership entries have none.
        stamps: Option<(Timestamp, Timestamp)>,
        /// Of the whole entry.
        digest: Digest,
        /// The voters, a set for each half, if it is a membership entry.
        voters: Option<Vec<Vec<NodeId>>>,
    },
    /// The log was cut off from `from` on.
    Truncated {
        /// The shard.
        shard: ShardId,
        /// The first index that is gone.
        from: u64,
    },
    /// The log up to and including `upto` was given up.
    Purged {
        /// The shard.
        shard: ShardId,
        /// The last index that is gone.
        upto: u64,
    },
    /// This node told its group that its log is durable up to and including `upto`.
    Synced {
        /// The shard.
        shard: ShardId,
        /// The index.
        upto: u64,
    },
    /// This node told its group that its vote is durable.
    VoteSaved {
        /// The shard.
        shard: ShardId,
        /// Whom it votes for or follows.
        leader: LeaderId,
        /// Whether that leadership is established.
        committed: bool,
    },
    /// A leadership began on this node.
    Led {
        /// The shard.
        shard: ShardId,
        /// The leadership.
        leader: LeaderId,
        /// Its stamps will exceed this one.
        above: Timestamp,
    },
    /// A leadership ended on this node.
    Deposed {
        /// The shard.
        shard: ShardId,
        /// The leadership.
        leader: LeaderId,
    },
    /// The barrier of a leadership is applied: it may close and serve reads.
    BarrierApplied {
        /// The shard.
        shard: ShardId,
        /// The leadership.
        leader: LeaderId,
        /// The barrier's stamp.
        ts: Timestamp,
    },
    /// An entry was stamped, and is about to be handed to Raft.
    Stamped {
        /// The shard.
        shard: ShardId,
        /// The leadership that stamps.
        leader: LeaderId,
        /// First stamp.
        first: Timestamp,
        /// Last stamp.
        last: Timestamp,
        /// What it may touch.
        span: KeySpan,
    },
    /// A stamped entry was refused by Raft before it was appended.
    Refused {
        /// The shard.
        shard: ShardId,
        /// The leadership that had stamped it.
        leader: LeaderId,
        /// Its first stamp.
        first: Timestamp,
    },
    /// The leader considers one of its own entries committed.
    Committed {
        /// The shard.
        shard: ShardId,
        /// The entry.
        id: LogId,
    },
    /// This replica applied an entry.
    Applied {
        /// The shard.
        shard: ShardId,
        /// The entry.
        id: LogId,
        /// Its first and last stamp.
        stamps: Option<(Timestamp, Timestamp)>,
        /// Whether the apply guard refused it.
        stale: bool,
        /// Of the outcomes.
        digest: Digest,
    },
    /// A request was decided when its entry was applied, not found in the ledger.
    Decided {
        /// The shard.
        shard: ShardId,
        /// The request.
        request: RequestId,
        /// At which timestamp.
        ts: Timestamp,
        /// Whether it took effect.
        committed: bool,
    },
    /// This replica applied an entry that raises the shard's GC floor.
    FloorRaised {
        /// The shard.
        shard: ShardId,
        /// The entry's stamp.
        ts: Timestamp,
        /// The floor from then on, unless it was higher before.
        floor: Timestamp,
    },
    /// This replica applied an entry that changes the shard's lead time.
    LeadTime {
        /// The shard.
        shard: ShardId,
        /// The entry's stamp.
        ts: Timestamp,
        /// How far ahead of its clock a leader may close from then on.
        lead: Duration,
    },
    /// This replica applied an entry that brings other timers.
    TimersAgreed {
        /// The shard.
        shard: ShardId,
        /// The entry's stamp.
        ts: Timestamp,
        /// The timers that the group agrees on from then on.
        timing: RaftTiming,
    },
    /// The Raft of this replica was built anew; its log and its state stay as they are.
    Rebuilt {
        /// The shard.
        shard: ShardId,
        /// The timers that it runs with from now on.
        timing: RaftTiming,
        /// For so long from now it keeps what it has promised before.
        held: Duration,
    },
    /// A compaction that leaves out old versions begins on this node.
    Collecting {
        /// The shard.
        shard: ShardId,
        /// Of the versions at or below this only the newest of each key is kept.
        floor: Timestamp,
    },
    /// A snapshot replaced the state of this replica.
    Installed {
        /// The shard.
        shard: ShardId,
        /// The last entry that it covers.
        id: Option<LogId>,
        /// The last timestamp of its state.
        last_ts: Timestamp,
    },
    /// The leader closed a timestamp, and is about to tell.
    Closed {
        /// The shard.
        shard: ShardId,
        /// The leadership that promises.
        leader: LeaderId,
        /// The promise.
        closed: Timestamp,
        /// It covers replicas that have applied up to here.
        position: Timestamp,
    },
    /// The lease was asked for and found valid.
    LeaseValid {
        /// The shard.
        shard: ShardId,
        /// The leadership.
        leader: LeaderId,
    },
    /// A transfer of the leadership began: it serves no read by its lease any more.
    Transferring {
        /// The shard.
        shard: ShardId,
        /// The leadership.
        leader: LeaderId,
        /// The chosen successor.
        to: NodeId,
    },
    /// The transfer was given up before anybody was told of it: the leadership goes on.
    TransferGivenUp {
        /// The shard.
        shard: ShardId,
        /// The leadership.
        leader: LeaderId,
    },
    /// A replica answered a read, or handed out a read index.
    Read {
        /// The shard.
        shard: ShardId,
        /// What kind of read.
        kind: ReadKind,
        /// The timestamp read at, or the position handed out.
        at: Timestamp,
        /// What the replica had applied when it took its view.
        applied: Timestamp,
        /// What was read.
        span: KeySpan,
        /// [`mark`] when the read began at this replica.
        began: u64,
    },
    /// A gateway lets an answer go that reveals timestamps up to this one.
    Released {
        /// The largest of them.
        ts: Timestamp,
    },
    /// What a node's clock says of itself has changed.
    ClockSafe {
        /// Whether it may be relied on.
        safe: bool,
    },
}

#[cfg(feature = "simulation")]
pub use recording::{Recorder, mark, record};

/// The number of events that this thread has recorded; 0 where nobody records.
#[cfg(not(feature = "simulation"))]
#[inline]
pub fn mark() -> u64 {
    0
}

/// Tells the recorder of this thread, if there is one. Costs nothing where there is none.
#[inline]
pub fn emit(event: impl FnOnce() -> Event) {
    #[cfg(feature = "simulation")]
    recording::emit(event);
    #[cfg(not(feature = "simulation"))]
    drop(event);
}

#[cfg(feature = "simulation")]
mod recording {
    use super::Event;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    /// Takes in events, with their numbers from 1. It must not emit any itself.
    pub type Recorder = Rc<dyn Fn(u64, &Event)>;

    thread_local! {
        static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
        static EVENTS: Cell<u64> = const { Cell::new(0) };
    }

    /// Sends the events of this thread to `recorder` from now on, counted anew.
    pub fn record(recorder: Option<Recorder>) {
        RECORDER.set(recorder);
        EVENTS.set(0);
    }

    /// The number of events that this thread has recorded.
    pub fn mark() -> u64 {
        EVENTS.try_with(Cell::get).unwrap_or(0)
    }

    pub(super) fn emit(event: impl FnOnce() -> Event) {
        let recorder = RECORDER.try_with(|r| r.borrow().clone()).ok().flatten();
        if let Some(recorder) = recorder {
            EVENTS.set(mark() + 1);
            recorder(mark(), &event());
        }
    }
}
