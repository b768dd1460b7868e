//! One-round-trip commit: the node that a write came from finds out by itself that a quorum has it.
//!
//! On the classic path a write from region `o` to a leader in region `l` costs `rtt(o, l)` and the leader's quorum round
//! trip. But whoever knows what the voters have on their disks knows what is chosen; the leader is only the first to be
//! told. So each voter also tells the node that a request came from, and the cost is
//! `min over quorums of max over members m of d(o, l) + d(l, m) + d(m, o)`: in three regions one round trip to the leader.
//!
//! * [`acceptor`]: what this node's log has accepted, and of which leader (rule O1).
//! * [`acceptances`]: telling others of it, and being told.
//! * [`quorum`]: which entry a quorum has (rule O2).
//! * [`outcomes`]: requests of this node's gateway that wait for their outcome.
//! * [`commit`]: has this node's own replica apply what it has found to be chosen (rule O6).
//!
//! **What is answered.** The origin does not answer on the strength of a quorum alone. It hands what it has found to its
//! own replica, which applies the entry like any other, and the outcome that applying came to is the answer. So nothing
//! has to be known beforehand about entries whose effect depends on the state (rule O3), and a stamp that the apply guard
//! would refuse refuses itself (O4): conditional writes, retries that the ledger knows and blind writes all take this way.
//! A verdict in the entry would save the time of one apply, some tens of microseconds of a wide-area round trip.
//!
//! **Why an acknowledged entry survives.** Let `(l, i)` be found chosen with the membership `M` in force at `i`: a quorum
//! of `M` had the entry durable while their vote was `l`, not given to anybody above `l`. A later leader `l'` was elected by a
//! quorum of a membership of its own log.
//! That is `M`, or comes after it through joint memberships, each committed before the next: in either case one voter
//! both accepted `(l, i)` and then voted for `l'`, with `(l, i)` in its log, which `l'` matched or exceeded (Raft's
//! election rule; log and vote share one ordered write-ahead log, so the order of both survives power loss). That the
//! leader itself has not counted the quorum yet, or never will, changes nothing: the argument is about what is on disks.
//! A later truncation of the entry somewhere, or a report that comes late, changes nothing either: it *was* so.
//!
//! **Why no linearizable read misses it.** A leader serves reads under `l` only after everything in flight that may touch
//! the keys is applied at the leader, acknowledged or not (I1 to I3): an entry is in flight from before it is handed to
//! openraft until applied, whatever becomes of the request. A leader after `l` has the entry in its log (above) and serves
//! nothing before its barrier, which is behind it, is applied. Followers read up to a read index obtained that way.
//! Snapshot reads at or above its stamp wait in the same manner, or rest on closed timestamps whose position is at or
//! above it.
//!
//! **Changes of leader.** Acceptances of different leaders are never added up, and leaders are compared as `(term, node)`
//! (Z0). An entry of an older leader that a later one sends again is not reported (O1); it becomes chosen with the first
//! own entry of the later one, which is reported.
//!
//! **Restarts.** Nothing here is kept. A voter that restarts reports only what it appends afterwards; entries before that
//! are covered by the first such report, because a log that takes `(l, i)` under `l` matches `l`'s log up to `i`. An origin
//! that restarts has forgotten who waited; their outcome is unknown to them, as ever when a gateway dies.
//!
//! **Lost tails.** A leader reports its own entries after its own fsync, as every voter does, so a leader that loses an
//! unsynced tail in a power loss had not been counted for it.
//!
//! **Changes of membership.** The count uses the newest membership in the origin's own log. Where that is behind the entry
//! in question, the entry is not found chosen here; the leader's answer comes on the classic path (O2).
//!
//! **Apply guard.** An entry that the guard refuses (S5) has no outcome, so nobody is answered early.

pub(crate) mod acceptances;
pub(crate) mod acceptor;
pub(crate) mod commit;
pub(crate) mod outcomes;
pub(crate) mod quorum;

pub use acceptances::Acceptances;
pub use outcomes::Awaited;
