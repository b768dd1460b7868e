//! What is printed and written in the end of a comparison over distance.

use super::clusters::{ETCD_ELECTION_MS, ETCD_HEARTBEAT_MS};
use super::loads::Load;
use super::rounds::{WanResults, WanSample};
use crate::args::Args;
use crate::report::{Setting, new_table, none, number, times};
use crate::statistics::{median, ratio, ratio_range};
use crate::system::System;
use comfy_table::{CellAlignment, Table};
use meridian_types::RegionId;
use meridian_wan::Topology;

/// All of it, for people.
pub(crate) fn tables(args: &Args, setting: &Setting, topology: &Topology, results: &WanResults) -> String {
    format!(
        "{}\n\nLatency, ms: medians of the rounds; a ratio is Meridian's to etcd's\n{}\n\nThroughput, operations/s\n{}\n{}",
        heading(args, setting, topology),
        latencies(args, topology, results),
        throughputs(args, results),
        notes(setting, results),
    )
}

fn heading(args: &Args, setting: &Setting, topology: &Topology) -> String {
    let versions: Vec<_> = setting.versions.values().map(String::as_str).collect();
    let rtts = topology.rtt.iter().map(|pair| {
        let [a, b] = &pair.between;
        format!("{a} - {b} {}", humantime::format_duration(pair.rtt))
    });
    format!(
        "{}\n\
         one node of each in every region of a WAN lab, topology {}: {}; led from {}\n\
         clients in every region at the node there; {} rounds of {:?}; one machine ({} cores) for all, data on {}, syncs on\n\
         {}-byte values, {} keys, {} connections from each region\n\
         etcd: heartbeat {ETCD_HEARTBEAT_MS} ms, election after {ETCD_ELECTION_MS} ms; Meridian: clock bound {:?}\n\
         floor: round trips alone, a put answered as soon as its origin can know of a quorum;\n\
         via leader: the same for a put that the leader answers when it has heard of its quorum",
        versions.join(" and "),
        topology.name,
        rtts.collect::<Vec<_>>().join(", "),
        topology.shard0.leader,
        args.rounds,
        args.duration,
        setting.cores,
        setting.file_system,
        args.value_size,
        args.keys,
        args.connections,
        args.clock_bound,
    )
}

/// Values of one figure in all rounds.
fn values(
    results: &WanResults,
    (load, system, region): (Load, System, &RegionId),
    of: fn(&WanSample) -> Option<f64>,
) -> Vec<f64> {
    let those = results.taken.iter().filter(|s| s.load == load && s.system == system && s.region == *region);
    those.filter_map(of).collect()
}

/// Both systems' medians and the ratio, for each figure.
fn compare(results: &WanResults, load: Load, region: &RegionId, of: fn(&WanSample) -> Option<f64>) -> [String; 4] {
    let [etcd, meridian] = [System::Etcd, System::Meridian].map(|s| values(results, (load, s, region), of));
    let medians = [median(&etcd), median(&meridian)];
    let of_medians = medians[0].zip(medians[1]).and_then(|(etcd, meridian)| ratio(meridian, etcd));
    let range = ratio_range(&meridian, &etcd).map(|(low, high)| format!("{} .. {}", times(low), times(high)));
    let [etcd, meridian] = medians.map(|m| m.map_or_else(none, number));
    [etcd, meridian, of_medians.map_or_else(none, times), range.unwrap_or_else(none)]
}

fn latencies(args: &Args, topology: &Topology, results: &WanResults) -> Table {
    let mut table = table(&[
        "floor",
        "via leader",
        "etcd p50",
        "meridian p50",
        "ratio",
        "ratio by round",
        "etcd p99",
        "meridian p99",
    ]);
    for load in Load::ALL.into_iter().filter(|load| !load.is_at_home()) {
        let mut title = load.title(args);
        for region in topology.regions.iter().map(|r| &r.name) {
            let millis = |d: std::time::Duration| number(d.as_secs_f64() * 1e3);
            let floors =
                [millis(load.floor(topology, region)), load.classic(topology, region).map_or_else(none, millis)];
            let [etcd, meridian, ratio, range] = compare(results, load, region, |s| s.p50_us.map(|us| us / 1e3));
            let [etcd_p99, meridian_p99, ..] = compare(results, load, region, |s| s.p99_us.map(|us| us / 1e3));
            let figures = [etcd, meridian, ratio, range, etcd_p99, meridian_p99];
            table.add_row([std::mem::take(&mut title), region.0.clone()].into_iter().chain(floors).chain(figures));
        }
    }
    table
}

fn throughputs(args: &Args, results: &WanResults) -> Table {
    let mut table = table(&["etcd", "meridian", "ratio", "ratio by round", "etcd p50, ms", "meridian p50, ms"]);
    for load in Load::ALL.into_iter().filter(|load| load.is_at_home()) {
        let mut regions: Vec<_> = results.taken.iter().filter(|s| s.load == load).map(|s| &s.region).collect();
        regions.dedup();
        for region in regions.into_iter().take(1) {
            let throughput = compare(results, load, region, |s| Some(s.throughput_per_s));
            let [etcd, meridian, ..] = compare(results, load, region, |s| s.p50_us.map(|us| us / 1e3));
            table.add_row([load.title(args), region.0.clone()].into_iter().chain(throughput).chain([etcd, meridian]));
        }
    }
    table
}

/// An empty table for these figures of a load in a region.
fn table(figures: &[&str]) -> Table {
    let mut table = new_table(["measure", "region"], figures.iter().map(|title| (*title).to_owned()).collect());
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What a reader has to know beside the numbers.
fn notes(setting: &Setting, results: &WanResults) -> String {
    let mut notes = String::new();
    for &system in setting.versions.keys() {
        let errors: u64 = results.taken.iter().filter(|s| s.system == system).map(|s| s.errors).sum();
        if errors > 0 {
            notes += &format!("{}: {errors} operations failed; they count in no figure\n", system.name());
        }
    }
    if results.led_from_elsewhere > 0 {
        notes += &format!("in {} runs a leader was not in its home region\n", results.led_from_elsewhere);
    }
    if setting.interrupted {
        notes += "stopped early: the last round is not complete\n";
    }
    notes
}

/// Everything as JSON, format 1. Within a format fields are only added.
pub(crate) fn json(args: &Args, setting: &Setting, topology: &Topology, results: &WanResults) -> serde_json::Value {
    let floors = Load::ALL.iter().flat_map(|load| {
        topology.regions.iter().map(move |region| {
            let us = |d: std::time::Duration| d.as_secs_f64() * 1e6;
            serde_json::json!({
                "load": load,
                "region": region.name,
                "floor_us": us(load.floor(topology, &region.name)),
                "via_leader_us": load.classic(topology, &region.name).map(us),
            })
        })
    });
    serde_json::json!({
        "schema": 1,
        "setting": setting,
        "topology": topology,
        "options": {
            "rounds": args.rounds,
            "duration_s": args.duration.as_secs_f64(),
            "warm_up_s": args.warm_up.as_secs_f64(),
            "clients": args.clients,
            "rate_per_s": args.rate,
            "connections_per_region": args.connections,
            "keys": args.keys,
            "value_bytes": args.value_size,
            "clock_bound_us": args.clock_bound.as_secs_f64() * 1e6,
            "etcd_heartbeat_ms": ETCD_HEARTBEAT_MS,
            "etcd_election_ms": ETCD_ELECTION_MS,
            "seed": args.seed,
        },
        "floors": floors.collect::<Vec<_>>(),
        "runs": results.taken,
        "led_from_elsewhere": results.led_from_elsewhere,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn sample(round: u32, load: Load, system: System, region: &str, p50_ms: f64) -> WanSample {
        let p50_us = Some(p50_ms * 1e3);
        WanSample {
            round,
            load,
            system,
            region: region.into(),
            operations: 1,
            errors: 0,
            throughput_per_s: 1e3 / p50_ms,
            p50_us,
            p99_us: Some(p50_ms * 2e3),
        }
    }

    #[test]
    fn medians_stand_next_to_the_floors() {
        let args = Args::parse_from(["meridian-peers", "--wan", "three"]);
        let versions = [System::Etcd, System::Meridian].into_iter().map(|s| (s, s.name().to_owned())).collect();
        let setting = Setting { versions, cores: 2, file_system: "ext4".to_owned(), interrupted: true };
        let topology = Topology::preset("three").unwrap();
        let mut taken = Vec::new();
        for (round, etcd, meridian) in [(1, 150.0, 75.0), (2, 160.0, 72.0), (3, 141.0, 141.0)] {
            taken.push(sample(round, Load::PutOne, System::Etcd, "eu-west", etcd));
            taken.push(sample(round, Load::PutOne, System::Meridian, "eu-west", meridian));
        }
        taken.push(sample(1, Load::PutMany, System::Etcd, "us-east", 0.5));
        taken.push(sample(1, Load::PutMany, System::Meridian, "us-east", 0.25));
        let results = WanResults { taken, led_from_elsewhere: 2 };
        let text = tables(&args, &setting, &topology, &results);
        let row = text.lines().find(|line| line.contains("eu-west") && line.contains('┆')).unwrap();
        for part in ["70.0", "140", "150", "75.0", "0.50x", "0.45x .. 1.00x", "300"] {
            assert!(row.contains(part), "{part}: {row}");
        }
        let row = text.lines().find(|line| line.contains("1024 clients")).unwrap();
        for part in ["2000", "4000", "2.00x", "0.50", "0.25"] {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert!(text.contains("in 2 runs a leader") && text.contains("stopped early"), "{text}");
        let json = json(&args, &setting, &topology, &results);
        assert_eq!(json["runs"].as_array().unwrap().len(), 8);
        assert_eq!(json["floors"][1]["via_leader_us"], 140_000.0);
    }
}
