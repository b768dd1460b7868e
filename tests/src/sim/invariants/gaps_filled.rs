//! A position that nobody can reach does not stay.
//!
//! * A leader whose lease is valid does not go on closing timestamps at the position of an entry that Raft refused: it
//!   stamps another one, or replicas wait for the position until the next write (C6). Without a valid lease it may: what
//!   it has stamped waits for a quorum then, and so does whatever follows.
//!
//! Source: rule C6.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LeaderId, ShardId, Timestamp};

/// How often a leader may close at a gap before it is filled: a refused barrier is tried again within 20 ms.
const CLOSES_MAX: u32 = 4;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct GapsFilled {
    leaderships: Table<(ShardId, LeaderId), Leadership>,
    /// The lease that the event before found valid.
    valid: Option<(ShardId, LeaderId)>,
}

#[derive(Default)]
struct Leadership {
    /// First and last stamp of the entry that was stamped last.
    last: (Timestamp, Timestamp),
    /// That entry was refused, and how often the leader has closed all the same.
    refused: bool,
    closes: u32,
}

impl Invariant for GapsFilled {
    fn name(&self) -> &'static str {
        "gaps-filled"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let What::Event(event) = seen.what else { return Ok(()) };
        let valid = self.valid.take();
        match event {
            Event::LeaseValid { shard, leader } => self.valid = Some((*shard, *leader)),
            Event::Stamped { shard, leader, first, last, .. } => {
                let fresh = Leadership { last: (*first, *last), ..Leadership::default() };
                self.leaderships.insert((*shard, *leader), fresh);
            }
            Event::Refused { shard, leader, first } => {
                let leadership = self.leaderships.entry((*shard, *leader)).or_default();
                leadership.refused |= leadership.last.0 == *first;
            }
            Event::Closed { shard, leader, position, .. } => {
                let leadership = self.leaderships.entry((*shard, *leader)).or_default();
                if !leadership.refused || leadership.last.1 != *position || valid != Some((*shard, *leader)) {
                    return Ok(());
                }
                leadership.closes += 1;
                if leadership.closes > CLOSES_MAX {
                    return Err(format!("{leader} goes on closing {shard} at {position}, which was refused"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    fn script() -> Script {
        let mut s = Script::new(GapsFilled::default());
        s.ok(1, stamped(leader(1, 1), 10, key("a")));
        s.ok(1, stamped(leader(1, 1), 20, key("a")));
        s.ok(1, refused(leader(1, 1), 20));
        close(&mut s);
        s
    }

    fn close(s: &mut Script) {
        s.ok(1, lease(leader(1, 1)));
        s.ok(1, closed(leader(1, 1), 15, 20));
    }

    #[test]
    fn a_gap_that_is_filled_is_fine() {
        let mut s = script();
        s.ok(1, stamped(leader(1, 1), 30, key("a")));
        for _ in 0..10 {
            s.ok(1, closed(leader(1, 1), 25, 30));
        }
        s.end();
    }

    #[test]
    fn a_gap_stays_while_there_is_no_quorum() {
        let mut s = script();
        for _ in 0..10 {
            s.ok(1, closed(leader(1, 1), 15, 20));
        }
        s.end();
    }

    #[test]
    fn a_gap_may_not_stay() {
        let mut s = script();
        for _ in 1..CLOSES_MAX {
            close(&mut s);
        }
        s.ok(1, lease(leader(1, 1)));
        s.bad(1, closed(leader(1, 1), 15, 20), "which was refused");
    }
}
