//! What a reply says about itself, printed: where it was served, when, how stale, and where its time went.

use crate::consistency;
use crate::output::{number, short, short_ns, table};
use crate::text::{Encoding, hex, printable};
use comfy_table::Cell;
use meridian_client::{Reply, Row};
use meridian_types::{CommitPath, Receipt};
use serde_json::{Map, Value, json};

/// The parts of a receipt on the critical path, in order, with their names.
fn parts(r: &Receipt) -> [(&'static str, u64); 7] {
    [
        ("gateway", r.gateway),
        ("forward", r.forward),
        ("queue", r.queue),
        ("fsync", r.fsync),
        ("quorum", r.quorum),
        ("apply", r.apply),
        ("commit wait", r.commit_wait),
    ]
}

/// One line for people.
pub(crate) fn line<T>(verb: &str, reply: &Reply<T>) -> String {
    let mut text = format!("{verb} at {} by {} in {}", reply.timestamp, reply.served_by, reply.region);
    if let Some(given) = &reply.given {
        text += &format!(", {}", consistency::text(given));
    }
    if !reply.staleness.is_zero() {
        text += &format!(", at most {} old", short(reply.staleness));
    }
    if reply.attempts > 1 {
        text += &format!(", {} attempts", reply.attempts);
    }
    text + &format!(", token {}", hex(&reply.token.to_bytes()))
}

/// The members that every reply has in JSON.
pub(crate) fn members<T>(reply: &Reply<T>) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("timestamp".into(), reply.timestamp.0.into());
    members.insert("served_by".into(), reply.served_by.0.into());
    members.insert("region".into(), reply.region.as_str().into());
    members.insert("staleness_ns".into(), u64::try_from(reply.staleness.as_nanos()).unwrap_or(u64::MAX).into());
    if let Some(given) = &reply.given {
        members.insert("given".into(), consistency::text(given).into());
    }
    members.insert("token".into(), hex(&reply.token.to_bytes()).into());
    members.insert("attempts".into(), reply.attempts.into());
    if let Some(receipt) = &reply.receipt {
        members.insert("receipt".into(), receipt_json(receipt));
    }
    members
}

/// One row in JSON.
pub(crate) fn row_json(row: &Row, encoding: Encoding) -> Value {
    json!({ "key": encoding.encode(&row.key), "value": encoding.encode(&row.value), "version": row.version.0 })
}

/// Rows as a table.
pub(crate) fn rows_table(rows: &[Row], encoding: Encoding) -> String {
    let mut t = table(["key", "value", "version"]);
    for row in rows {
        let text = |bytes| Cell::new(printable(&encoding.encode(bytes)));
        t.add_row(vec![text(&row.key), text(&row.value), number(row.version)]);
    }
    t.to_string()
}

/// Where the time went, next to the least that it could have been.
pub(crate) fn receipt_table(r: &Receipt) -> String {
    let mut t = table(["part", "time", "share"]);
    for (name, nanos) in parts(r).into_iter().filter(|(_, nanos)| *nanos > 0) {
        t.add_row(vec![Cell::new(name), number(short_ns(nanos)), number(ratio(nanos, r.total, 100.0, "%"))]);
    }
    t.add_row(vec![Cell::new("total"), number(short_ns(r.total)), Cell::new("")]);
    if let Some(path) = path(r.path) {
        t.add_row(vec![Cell::new("acknowledged"), Cell::new(path), Cell::new("")]);
    }
    t.add_row(vec![
        Cell::new("physical floor"),
        number(short_ns(r.floor)),
        number(if r.floor == 0 { String::new() } else { format!("total is {}", ratio(r.total, r.floor, 1.0, "x")) }),
    ]);
    t.to_string()
}

/// Which way a write was acknowledged.
fn path(path: CommitPath) -> Option<&'static str> {
    match path {
        CommitPath::Leader => Some("by the leader"),
        CommitPath::OneRoundTrip => Some("in one round trip"),
        CommitPath::NotSaid => None,
    }
}

fn receipt_json(r: &Receipt) -> Value {
    let mut members: Map<_, _> =
        parts(r).into_iter().map(|(name, nanos)| (format!("{}_ns", name.replace(' ', "_")), nanos.into())).collect();
    members.insert("total_ns".into(), r.total.into());
    members.insert("floor_ns".into(), r.floor.into());
    if let Some(path) = path(r.path) {
        members.insert("acknowledged".into(), path.into());
    }
    Value::Object(members)
}

/// `part / whole` times `scale`, with its unit; a dash when there is no whole.
#[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
fn ratio(part: u64, whole: u64, scale: f64, unit: &str) -> String {
    if whole == 0 {
        return "-".into();
    }
    let decimals = if unit == "%" { 1 } else { 2 };
    format!("{:.decimals$} {unit}", part as f64 / whole as f64 * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{CausalityToken, Consistency, NodeId, Timestamp};
    use std::time::Duration;

    fn reply() -> Reply<()> {
        Reply {
            value: (),
            timestamp: Timestamp(5),
            served_by: NodeId(2),
            region: "eu-west".into(),
            staleness: Duration::from_millis(300),
            token: CausalityToken(Timestamp(5)),
            receipt: Some(Receipt { quorum: 70_000_000, total: 80_000_000, floor: 70_000_000, ..Receipt::default() }),
            given: None,
            attempts: 2,
        }
    }

    #[test]
    fn the_level_that_a_budget_was_enough_for_is_said() {
        let given = Some(Consistency::BoundedStaleness(Duration::from_secs(5)));
        let reply = Reply { given, receipt: None, attempts: 1, ..reply() };
        let text = line("read", &reply);
        assert_eq!(text, "read at 5 by n2 in eu-west, bounded:5s, at most 300 ms old, token 010000000000000005");
        assert_eq!(members(&reply)["given"], "bounded:5s");
        assert_eq!(members(&self::reply()).get("given"), None);
    }

    #[test]
    fn the_line_says_where_when_how_stale_and_how_often() {
        assert_eq!(
            line("read", &reply()),
            "read at 5 by n2 in eu-west, at most 300 ms old, 2 attempts, token 010000000000000005"
        );
    }

    #[test]
    fn json_has_every_member_and_every_part() {
        let members = members(&reply());
        assert_eq!(members["served_by"], 2);
        assert_eq!(members["staleness_ns"], 300_000_000);
        let receipt = &members["receipt"];
        assert_eq!((&receipt["quorum_ns"], &receipt["commit_wait_ns"]), (&json!(70_000_000), &json!(0)));
        assert_eq!((&receipt["total_ns"], &receipt["floor_ns"]), (&json!(80_000_000), &json!(70_000_000)));
    }

    #[test]
    fn a_receipt_compares_its_total_with_the_floor() {
        let text = receipt_table(&reply().receipt.unwrap());
        assert!(text.contains("87.5 %") && text.contains("1.14 x"), "{text}");
        assert!(!text.contains("fsync"), "parts that took no time are left out: {text}");
        let local = Receipt { total: 1000, ..Receipt::default() };
        assert!(receipt_table(&local).contains("0 ns"));
    }
}
