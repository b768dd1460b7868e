//! Events as lines of a trace: what happened, in words, with timestamps in seconds since the simulation began.

use super::invariant::{Stop, What};
use meridian_probe::{Event, ReadKind};
use meridian_types::{KeyRange, KeySpan, Timestamp};

/// A timestamp, in seconds since `start` (nanoseconds since the Unix epoch), to the nanosecond.
fn at(ts: Timestamp, start: u64) -> String {
    match ts.0 {
        0 => "0".to_owned(),
        ns if ns < start => format!("-{}", seconds(start - ns)),
        ns => seconds(ns - start),
    }
}

fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

fn stamps(stamps: Option<(Timestamp, Timestamp)>, start: u64) -> String {
    match stamps {
        None => "without a stamp".to_owned(),
        Some((first, last)) if first == last => format!("stamped {}", at(first, start)),
        Some((first, last)) => format!("stamped {} to {}", at(first, start), at(last, start)),
    }
}

fn span(span: &KeySpan) -> String {
    if span.all {
        return "everything".to_owned();
    }
    let text = |b: &bytes::Bytes| String::from_utf8_lossy(b).into_owned();
    let range = |r: &KeyRange| format!("[{}..{})", text(&r.start), r.end.as_ref().map(text).unwrap_or_default());
    let parts: Vec<String> = span.keys.iter().map(text).chain(span.ranges.iter().map(range)).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(" ") }
}

/// What happened, in words.
pub(super) fn tell(what: &What<'_>, start: u64) -> String {
    match what {
        What::Started => "starts".to_owned(),
        What::Disk(level) => format!("has a disk with {level:?} room"),
        What::Stopped(Stop::Killed) => "is killed".to_owned(),
        What::Stopped(Stop::PowerLost) => "loses its power".to_owned(),
        What::Event(event) => event_text(event, start),
    }
}

fn event_text(event: &Event, start: u64) -> String {
    match event {
        Event::Opened { shard, log_end, applied } => {
            format!("opens {shard}: log up to {log_end} (exclusive), state of {}", at(*applied, start))
        }
        Event::Appended { shard, id, stamps: s, voters, .. } => {
            let voters = voters.as_ref().map(|v| format!(", voters {v:?}")).unwrap_or_default();
            format!("appends {id} to {shard}, {}{voters}", stamps(*s, start))
        }
        Event::Truncated { shard, from } => format!("cuts the log of {shard} off from {from} on"),
        Event::Purged { shard, upto } => format!("gives up the log of {shard} up to {upto}"),
        Event::Synced { shard, upto } => format!("says that {shard} is synced up to {upto}"),
        Event::VoteSaved { shard, leader, committed } => {
            let how = if *committed { "follows" } else { "votes for" };
            format!("{how} {leader} in {shard}, durably")
        }
        Event::Led { shard, leader, above } => {
            format!("leads {shard} as {leader}, will stamp above {}", at(*above, start))
        }
        Event::Deposed { shard, leader } => format!("no longer leads {shard} as {leader}"),
        Event::BarrierApplied { shard, leader, ts } => {
            format!("has applied the barrier of {leader} in {shard}, {}", at(*ts, start))
        }
        Event::Stamped { shard, leader, first, last, span: s } => {
            format!("as {leader} of {shard}: {}, touching {}", stamps(Some((*first, *last)), start), span(s))
        }
        Event::Refused { shard, leader, first } => {
            format!("as {leader} of {shard}: Raft refused what was stamped {}", at(*first, start))
        }
        Event::Committed { shard, id } => format!("considers {id} of {shard} committed"),
        Event::Applied { shard, id, stamps: s, stale, digest } => {
            let stale = if *stale { ", REFUSED as stale" } else { "" };
            format!("applies {id} of {shard}, {}{stale}, outcome {:08x}", stamps(*s, start), digest.0 >> 32)
        }
        Event::Decided { shard, request, ts, committed } => {
            let how = if *committed { "takes effect" } else { "has no effect" };
            format!("decides in {shard} at {}: request {}/{} {how}", at(*ts, start), request.client, request.sequence)
        }
        Event::Installed { shard, id, last_ts } => {
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            format!("installs a snapshot of {shard} up to {id}, {}", at(*last_ts, start))
        }
        Event::FloorRaised { shard, ts, floor } => {
            format!("raises the floor of {shard} to {} by the entry {}", at(*floor, start), at(*ts, start))
        }
        Event::LeadTime { shard, ts, lead } => {
            format!("sets the lead time of {shard} to {lead:?} by the entry {}", at(*ts, start))
        }
        Event::TimersAgreed { shard, ts, timing } => {
            format!("agrees on {timing:?} in {shard} by the entry {}", at(*ts, start))
        }
        Event::Rebuilt { shard, timing, held } => {
            format!("begins anew in {shard} with {timing:?}, bound for {held:?} by what it has promised")
        }
        Event::Collecting { shard, floor } => format!("collects {shard} below {}", at(*floor, start)),
        Event::Closed { shard, leader, closed, position } => {
            format!("as {leader} of {shard}: closes {} at position {}", at(*closed, start), at(*position, start))
        }
        Event::LeaseValid { shard, leader } => format!("finds its lease as {leader} of {shard} valid"),
        Event::Transferring { shard, leader, to } => format!("as {leader} of {shard}: begins to hand over to {to}"),
        Event::TransferGivenUp { shard, leader } => format!("as {leader} of {shard}: does not hand over after all"),
        Event::Read { shard, kind, at: ts, applied, span: s, began } => {
            let what = if *kind == ReadKind::ReadIndex { "hands out a read index" } else { "reads" };
            let (ts, applied) = (at(*ts, start), at(*applied, start));
            format!("{what} in {shard} ({kind:?}) at {ts}, applied {applied}: {}; began at #{began}", span(s))
        }
        Event::Released { ts } => format!("lets an answer go that reveals {}", at(*ts, start)),
        Event::ClockSafe { safe } => format!("calls its clock {}", if *safe { "safe" } else { "unsafe" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{LeaderId, NodeId, ShardId};

    #[test]
    fn a_line_says_who_what_and_when() {
        let leader = LeaderId { term: 2, node: NodeId(3) };
        let (first, last) = (Timestamp(1_500_000_007), Timestamp(1_500_000_009));
        let stamped = Event::Stamped { shard: ShardId(4), leader, first, last, span: KeySpan::key("k1".into()) };
        let text = tell(&What::Event(&stamped), 1_000_000_000);
        assert_eq!(text, "as T2/n3 of s4: stamped 0.500000007 to 0.500000009, touching k1");
        let closed =
            Event::Closed { shard: ShardId(4), leader, closed: Timestamp(999_999_999), position: Timestamp::ZERO };
        let text = tell(&What::Event(&closed), 1_000_000_000);
        assert_eq!(text, "as T2/n3 of s4: closes -0.000000001 at position 0");
    }
}
