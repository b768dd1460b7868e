//! Known-wrong behaviours: each breaks one rule on purpose, so that a suite can show that some check notices.
//!
//! A switch stands at the place in the code whose rule it breaks, as `if sabotaged(Sabotage::X)`. Outside the tests'
//! builds [`sabotaged`] is a constant `false`. Real processes built for tests read their switches from the
//! environment variable `MERIDIAN_SABOTAGE` (names separated by commas).

macro_rules! sabotages {
    ($($(#[doc = $doc:expr])+ $name:ident $rule:literal,)+) => {
        /// A known-wrong behaviour.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Sabotage {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Sabotage {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name, as the command line and the environment have it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// The rules that it breaks, by their numbers in the design's invariants.
            pub fn rules(self) -> &'static str {
                match self { $(Self::$name => $rule,)+ }
            }

            /// What it does, in one line.
            pub fn what(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }

            /// The one with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|s| s.name() == name)
            }
        }
    };
}

sabotages! {
    /// The gateway answers without waiting until the revealed timestamps are past.
    SkipCommitWait "W1",
    /// Only the versions that a read returns count among what it reveals: no tombstone, no read timestamp.
    RevealTombstone "W1",
    /// A node whose clock is unsafe releases commit waits all the same.
    UnsafeClockReleases "W3",
    /// A new leader's first stamps do not exceed those in its log.
    StampBelowLog "S2",
    /// The clock is read when a batch begins, before its last request was taken from the queue.
    StampBeforeQueue "S2",
    /// The state machine applies entries whose stamp is not above the last one. Only shows with a wrong stamp.
    IgnoreApplyGuard "S5",
    /// Entries are proposed without the fence to the leader id.
    ProposeUnfenced "S1",
    /// The leader closes `latest` instead of `earliest`.
    CloseWithLatest "C1",
    /// The leader closes before its barrier is applied.
    CloseBeforeBarrier "C3, S4",
    /// A closed timestamp travels without its position.
    ForgetPosition "C2",
    /// The leader closes without a proof that it still leads.
    CloseWithoutProof "C1",
    /// An entry that was refused leaves a gap: no barrier is stamped after it.
    LeaveGap "C6",
    /// A lease counts for ever once it was obtained.
    ExpiredLease "R2, R6",
    /// An answer is credited with the instant at which it arrived.
    CreditOnArrival "R1",
    /// A restarted voter votes and stands for election at once.
    ForgetPromise "R3",
    /// A leader that transfers its leadership keeps its lease, and serves reads by it.
    LeaseDuringTransfer "R4",
    /// The leader counts on a longer lease than the voters promise.
    OverlongLease "R2, R3",
    /// The leader counts on what its own timers promise, whatever the voters have confirmed.
    CountOwnPromise "R2, R3",
    /// A voter whose Raft was rebuilt with other timers votes and stands for election at once.
    ForgetOnRebuild "R3",
    /// A learner's answers count towards the quorum that proves leadership.
    CountLearners "R1, O2",
    /// What is appended counts as accepted before it is synced.
    AcceptUnsynced "O1",
    /// Entries of an older leader that a later one sends again count as accepted under the later one.
    AcceptResent "O1",
    /// An entry counts as chosen as soon as one voter has accepted it.
    CountMinority "O2",
    /// Of a joint membership only one half is asked.
    CountOneHalf "O2",
    /// A voter's last entry counts as the new leader's own, whichever leader made it.
    MatchOtherLeaders "G1",
    /// A voter's log counts as it was at its vote, though entries were sent to it since.
    BelieveLateVotes "G1",
    /// A vote that was given before it was asked for counts for a later candidacy too.
    CountOldBallots "G1",
    /// A vote that was given before it was asked for counts though the voter's log is ahead.
    CountLongerLogs "G1",
    /// Reads are served before the barrier is applied.
    ReadBeforeBarrier "I1, S4",
    /// Linearizable reads do not wait for entries in flight on their keys.
    SkipInFlightWait "I1",
    /// An entry is no longer in flight when its request is gone.
    DropInFlight "I2",
    /// Two keys touch only if they are written: ranges are forgotten.
    ForgetRanges "I3",
    /// A leader's snapshot read does not wait for entries in flight at or below its timestamp.
    SkipSnapshotWait "N2",
    /// A follower answers a snapshot read above its safe time.
    ReadAboveSafeTime "C5",
    /// A bounded read does not look at its bound.
    IgnoreBound "C7",
    /// A reply claims to be fresher than it is.
    UnderstateStaleness "C7",
    /// A scan over several shards reads each of them at a time of its own.
    ReadShardsApart "N1",
    /// A causal read does not look at its token.
    IgnoreToken "G7",
    /// A read that fell back for the sake of its latency budget claims the level that it was to have at best.
    ClaimStrongest "G4, C7",
    /// Timestamps from any future are accepted, and closed at once.
    AcceptFuture "S6, N4",
    /// An append is acknowledged before it is synced.
    AcknowledgeUnsynced "G1",
    /// A vote is answered before it is synced.
    VoteUnsynced "G1",
    /// An entry is applied before this node's own log has it synced.
    ApplyUnsynced "D1",
    /// A flush that has not happened counts as durable, so that the log is purged too early.
    PurgeUnflushed "D1",
    /// A restarted leader resumes leading.
    RestoreLeader "openraft section 3",
    /// The request ledger is not consulted.
    IgnoreLedger "X1, X2",
    /// A leadership begins with an empty ledger.
    LoseLedger "X1, X3",
    /// Records are dropped before their requests are too old to be judged.
    ForgetRecordsEarly "X1",
    /// Refused preconditions are not recorded.
    ForgetRefusals "X2",
    /// Every attempt of a gateway carries an id of its own.
    NewIdPerAttempt "X1",
    /// A timeout is reported as "not applied".
    DenyUnknown "X4",
    /// Applying looks at the node's own clock.
    ApplyReadsClock "O5, A1",
    /// A replica removes old versions by itself.
    CollectLocally "A2",
    /// Old versions are collected below a floor that is applied and not yet durable.
    CollectUnflushedFloor "A2",
    /// Old versions are collected whatever the floor is.
    CollectAboveFloor "A2",
    /// Reads below the GC floor are answered with what is left.
    ReadBelowFloor "A2",
    /// A snapshot goes without the request ledger.
    SnapshotWithoutLedger "D3",
    /// A snapshot goes without the shard's last timestamp.
    SnapshotWithoutStamp "D3",
    /// The chunks of a snapshot are taken without a look at their checksums.
    SkipChunkChecksum "D2",
    /// A snapshot is resumed with files that were received of another one.
    ResumeOtherSnapshot "D2, D3",
    /// Older files are sent, and what they do not hold counts as sent.
    ReuseStaleCut "D2, R1",
    /// A leader whose disk is nearly full stamps requests all the same.
    StampOnFullDisk "full disk",
    /// A node whose disk is full takes other leaders' entries all the same.
    AppendOnFullDisk "full disk",
    /// An entry counts as applied, and its outcomes are sent, before its effects can be read.
    ReplyBeforeVisible "I2",
    /// A larger lead time is closed with before the entry that brings it is committed.
    LeadBeforeCommit "K1",
    /// A new leader's first stamp does not leap over what older ones may have closed ahead of their clocks.
    IgnoreLeadTime "K2",
    /// A replica answers a linearizable read of a `global-reads` table at its own `latest`, safe or not.
    ReadBeyondSafeTime "K3",
}

/// Whether this behaviour is switched on. Always false outside tests.
#[inline]
pub fn sabotaged(sabotage: Sabotage) -> bool {
    #[cfg(feature = "simulation")]
    return switches::is_on(sabotage);
    #[cfg(not(feature = "simulation"))]
    {
        let _ = sabotage;
        false
    }
}

#[cfg(feature = "simulation")]
pub use switches::set as set_sabotages;

#[cfg(feature = "simulation")]
mod switches {
    use super::Sabotage;
    use std::cell::Cell;
    use std::sync::OnceLock;

    const _: () = assert!(Sabotage::ALL.len() <= 128, "switches are bits of a word");

    thread_local! {
        static HERE: Cell<Option<u128>> = const { Cell::new(None) };
    }

    fn bits(of: &[Sabotage]) -> u128 {
        of.iter().fold(0, |bits, s| bits | (1 << *s as u32))
    }

    /// What the environment asks for, for processes that no simulation runs in.
    fn environment() -> u128 {
        static ENVIRONMENT: OnceLock<u128> = OnceLock::new();
        *ENVIRONMENT.get_or_init(|| {
            let names = std::env::var("MERIDIAN_SABOTAGE").unwrap_or_default();
            bits(&names.split(',').filter_map(Sabotage::from_name).collect::<Vec<_>>())
        })
    }

    pub(super) fn is_on(sabotage: Sabotage) -> bool {
        let here = HERE.try_with(Cell::get).ok().flatten();
        here.unwrap_or_else(environment) & (1 << sabotage as u32) != 0
    }

    /// Switches on exactly these, for this thread.
    pub fn set(on: &[Sabotage]) {
        HERE.set(Some(bits(on)));
    }
}
