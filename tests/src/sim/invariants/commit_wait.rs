//! Nothing is revealed before its commit wait is over, and not by a node that doubts its clock.
//!
//! * An answer that reveals timestamps up to `ts` leaves when true time is past `ts`, as long as every clock has kept its
//!   bound (W1).
//! * A node that calls its clock unsafe releases no commit wait (W3): what leaves then was past before it began to doubt.
//!
//! Source: rules W1, W3.

use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::NodeId;
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct CommitWait {
    /// True time since when a node's clock is unsafe.
    in_doubt: BTreeMap<NodeId, u64>,
}

impl Invariant for CommitWait {
    fn name(&self) -> &'static str {
        "commit-wait"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let (node, true_ns) = (seen.node, seen.true_ns);
        match seen.what {
            What::Started | What::Event(Event::ClockSafe { safe: true }) => {
                self.in_doubt.remove(&node);
            }
            What::Event(Event::ClockSafe { safe: false }) => {
                self.in_doubt.entry(node).or_insert(true_ns);
            }
            What::Event(Event::Released { ts }) => {
                if seen.clocks_good && ts.0 >= true_ns {
                    return Err(format!("{node} reveals {ts} at true time {true_ns}"));
                }
                if let Some(since) = self.in_doubt.get(&node).filter(|since| ts.0 >= **since) {
                    return Err(format!("{node} reveals {ts} while its clock is unsafe, which it is since {since}"));
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
    use crate::sim::invariant::Stop;

    fn script() -> Script {
        let mut s = Script::new(CommitWait::default());
        s.now = 1_000;
        s
    }

    #[test]
    fn the_past_is_revealed() {
        let mut s = script();
        s.ok(1, released(999));
        s.ok(1, released(0));
        s.end();
    }

    #[test]
    fn the_present_is_not() {
        let mut s = script();
        s.bad(1, released(1_000), "at true time 1000");
    }

    #[test]
    fn broken_clocks_reveal_too_early() {
        let mut s = script();
        s.clocks_good = false;
        s.ok(1, released(5_000));
        s.end();
    }

    #[test]
    fn an_unsafe_clock_releases_nothing_new() {
        let mut s = script();
        s.ok(1, clock(false));
        s.now = 2_000;
        s.ok(1, released(999)); // waited for before
        s.ok(2, released(1_500));
        s.bad(1, released(1_000), "since 1000");
        s.ok(1, clock(true));
        s.ok(1, released(1_500));
        s.ok(1, clock(false));
        s.restart(1, Stop::Killed);
        s.now = 3_000;
        s.ok(1, released(2_500));
        s.end();
    }
}
