//! A request is decided once.
//!
//! A shard decides a request id at one timestamp, in one way: later copies find the record (X2). Replicas and replays
//! come to the same decision at the same timestamp, whatever state they go on from (A1, X3).
//!
//! A record may be dropped once log time is past the id's issue time by the retention. From then on the id can only be
//! refused, any number of times (X1).
//!
//! Source: rules X1 to X3, A1, D3.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{RequestId, ShardId, Timestamp};
use std::time::Duration;

/// How long a request id is remembered, in log time. A constant of the log's format.
const RETENTION: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Decision {
    ts: Timestamp,
    committed: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct ExactlyOnce {
    decided: Table<(ShardId, RequestId), Decision>,
}

impl Invariant for ExactlyOnce {
    fn name(&self) -> &'static str {
        "exactly-once"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let What::Event(Event::Decided { shard, request, ts, committed }) = seen.what else { return Ok(()) };
        let new = Decision { ts: *ts, committed: *committed };
        let known = *self.decided.entry((*shard, *request)).or_insert(new);
        if known == new {
            return Ok(());
        }
        let forgotten = known.ts.max(new.ts).since(request.time) > RETENTION;
        let later_refused = if known.ts < new.ts { !new.committed } else { !known.committed };
        if known.ts != new.ts && forgotten && later_refused {
            return Ok(());
        }
        let said = |d: Decision| format!("{} at {}", if d.committed { "committed" } else { "refused" }, d.ts);
        let node = seen.node;
        Err(format!("request {request} of {shard} is {} on {node}, and was {} before", said(new), said(known)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    const LATER: u64 = 600_000_000_002;

    fn script() -> Script {
        let mut s = Script::new(ExactlyOnce::default());
        s.ok(1, decided(1, 10, true));
        s.ok(1, decided(2, 11, false));
        s
    }

    #[test]
    fn replicas_and_replays_repeat_decisions() {
        let mut s = script();
        for node in [2, 3, 1] {
            s.ok(node, decided(1, 10, true));
            s.ok(node, decided(2, 11, false));
        }
        s.ok(1, decided(3, 12, true));
        s.end();
    }

    #[test]
    fn nothing_takes_effect_twice() {
        let mut s = script();
        s.bad(2, decided(1, 20, true), "committed at 20 on n2, and was committed at 10");
    }

    #[test]
    fn a_refusal_is_remembered() {
        let mut s = script();
        s.bad(1, decided(2, 20, true), "was refused");
        let mut s = script();
        s.bad(1, decided(2, 20, false), "was refused");
        let mut s = script();
        s.bad(1, decided(1, 20, false), "was committed");
    }

    #[test]
    fn replicas_decide_alike() {
        let mut s = script();
        s.bad(2, decided(1, 10, false), "refused at 10");
    }

    #[test]
    fn an_id_that_is_too_old_is_refused_for_ever() {
        let mut s = script();
        s.ok(1, decided(1, LATER, false));
        s.bad(1, decided(1, LATER, true), "was committed at 10");
        let mut s = script();
        s.bad(1, decided(1, LATER - 1, false), "was committed");
    }
}
