//! Every stamped entry of a log was stamped by the leadership whose entry it is, once; one that was refused is in no
//! log.
//!
//! * An entry's log id bears the leadership that stamped it: proposals are fenced (S1), and everything that carries a
//!   stamp goes through a sequencer (S3).
//! * Two entries never share a stamp of one leadership.
//! * "Refused" means that it was not appended, neither before nor after: clients are told "not applied" (X4).
//!
//! Source: rules S1, S3, X4.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LeaderId, LogId, ShardId, Timestamp};

/// A stamp that was given.
struct Stamp {
    last: Timestamp,
    fate: Fate,
}

#[derive(Clone, Copy)]
enum Fate {
    Unknown,
    Appended(LogId),
    Refused,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct FencedEntries {
    /// By the first stamp.
    stamps: Table<(ShardId, LeaderId, Timestamp), Stamp>,
}

impl FencedEntries {
    fn appended(&mut self, shard: ShardId, id: LogId, first: Timestamp, last: Timestamp) -> Result<(), String> {
        let Some(stamp) = self.stamps.get_mut(&(shard, id.leader, first)) else {
            return Err(format!("{id} of {shard} has the stamp {first}, which {} never gave", id.leader));
        };
        if stamp.last != last {
            let given = stamp.last;
            return Err(format!("{id} of {shard} has the stamps {first} to {last}; up to {given} were given"));
        }
        match stamp.fate {
            Fate::Unknown => {
                stamp.fate = Fate::Appended(id);
                Ok(())
            }
            Fate::Appended(as_id) if as_id == id => Ok(()),
            Fate::Appended(as_id) => Err(format!("{as_id} and {id} of {shard} have the same stamp {first}")),
            Fate::Refused => Err(format!("{id} of {shard}, stamped {first}, is in a log though it was refused")),
        }
    }
}

impl Invariant for FencedEntries {
    fn name(&self) -> &'static str {
        "fenced-entries"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen.what {
            What::Event(Event::Stamped { shard, leader, first, last, .. }) => {
                let stamp = Stamp { last: *last, fate: Fate::Unknown };
                match self.stamps.insert((*shard, *leader, *first), stamp) {
                    None => Ok(()),
                    Some(_) => Err(format!("{leader} gave the stamp {first} in {shard} twice")),
                }
            }
            What::Event(Event::Appended { shard, id, stamps: Some((first, last)), .. }) => {
                self.appended(*shard, *id, *first, *last)
            }
            What::Event(Event::Refused { shard, leader, first }) => {
                match self.stamps.get_mut(&(*shard, *leader, *first)) {
                    None => Err(format!("an entry of {shard} was refused with stamp {first}, not given by {leader}")),
                    Some(Stamp { fate: Fate::Appended(id), .. }) => {
                        Err(format!("{id} of {shard}, stamped {first}, is said to be refused, and is in a log"))
                    }
                    Some(stamp) => {
                        stamp.fate = Fate::Refused;
                        Ok(())
                    }
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use meridian_types::KeySpan;

    fn script() -> Script {
        let mut s = Script::new(FencedEntries::default());
        s.ok(1, stamped(leader(1, 1), 10, KeySpan::default()));
        s.ok(1, stamped_many(leader(1, 1), 20, 29, KeySpan::default()));
        s
    }

    #[test]
    fn stamped_entries_are_appended_everywhere_and_refused_ones_nowhere() {
        let mut s = script();
        for node in [1, 2] {
            s.ok(node, appended(id(1, 1, 0), 0));
            s.ok(node, appended_many(id(1, 1, 1), 20, 29));
        }
        s.ok(1, refused(leader(1, 1), 10));
        s.ok(2, stamped(leader(2, 2), 10, KeySpan::default())); // another leadership may give it too
        s.end();
    }

    #[test]
    fn an_entry_of_another_leadership_is_unfenced() {
        let mut s = script();
        s.bad(1, appended(id(3, 1, 5), 10), "never gave");
    }

    #[test]
    fn an_entry_keeps_its_stamps() {
        let mut s = script();
        s.bad(1, appended_many(id(1, 1, 1), 20, 30), "were given");
        let mut s = script();
        s.ok(1, appended(id(1, 1, 1), 10));
        s.bad(1, appended(id(1, 1, 2), 10), "the same stamp");
        let mut s = script();
        s.bad(1, stamped(leader(1, 1), 10, KeySpan::default()), "twice");
    }

    #[test]
    fn a_refused_entry_is_in_no_log() {
        let mut s = script();
        s.ok(1, refused(leader(1, 1), 10));
        s.bad(1, appended(id(1, 1, 1), 10), "though it was refused");
        let mut s = script();
        s.ok(1, appended(id(1, 1, 1), 10));
        s.bad(1, refused(leader(1, 1), 10), "is said to be refused");
        let mut s = script();
        s.bad(1, refused(leader(1, 1), 11), "not given");
    }
}
