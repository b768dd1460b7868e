//! A lab as tables.

use crate::output::{self, number, short};
use comfy_table::Cell;
use meridian_wan::lab::{LabStatus, WayStatus};
use std::time::Duration;

/// Hosts, then ways, then what is beside them.
pub(super) fn all(status: &LabStatus) -> String {
    let mut hosts = output::table(["host", "region", "zone", "address", "namespace"]);
    for host in &status.hosts {
        let (region, zone) = (host.region.as_str(), host.zone.as_str());
        hosts.add_row([&host.name, region, zone, &host.address.to_string(), &host.namespace].map(Cell::new));
    }
    let mut text = format!("{hosts}\n\n{}\n\n", ways(status));
    text += &format!("lab `{}`, topology {}, router: process {}", status.name, status.topology, status.router);
    if status.unroutable > 0 {
        text += &format!("\n{} packets had no host of the lab as destination", status.unroutable);
    }
    text
}

/// One line for each direction between two places.
pub(super) fn ways(status: &LabStatus) -> String {
    let headings = ["from", "to", "one-way delay", "packets", "bytes", "lost: cut", "full", "host", "state"];
    let mut table = output::table(headings);
    for way in &status.ways {
        table.add_row(vec![
            Cell::new(&way.from),
            Cell::new(&way.to),
            number(delay(way)),
            number(way.packets),
            number(way.bytes),
            number(way.lost_blocked),
            number(way.lost_full),
            number(way.lost_host),
            Cell::new(if way.blocked { "BLOCKED" } else { "open" }),
        ]);
    }
    table.to_string()
}

fn delay(way: &WayStatus) -> String {
    let delay = short(Duration::from_micros(way.delay_us));
    if way.jitter_us == 0 { delay } else { format!("{delay} + {}", short(Duration::from_micros(way.jitter_us))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_show_hosts_and_losses() {
        let status: LabStatus = serde_json::from_value(serde_json::json!({
            "schema": 1, "name": "wan", "topology": "three", "router": 42, "unroutable": 3,
            "hosts": [{"name": "n1", "node": 1, "region": "us-east", "zone": "a", "address": "10.77.1.1",
                       "namespace": "meridian-wan-n1"}],
            "ways": [{"from": "us-east/a", "to": "eu-west/a", "blocked": true, "delay_us": 35000, "jitter_us": 500,
                      "bandwidth_bytes_per_s": null, "packets": 10, "bytes": 1234, "lost_blocked": 7, "lost_full": 0,
                      "lost_host": 0, "on_the_way_bytes": 0}],
        }))
        .unwrap();
        let text = all(&status);
        for part in ["10.77.1.1", "meridian-wan-n1", "35.0 ms + 500", "1234", "BLOCKED", "process 42", "3 packets"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
