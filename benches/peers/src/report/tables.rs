//! The report for people: the setting, every value, then medians, ratios and goals.

use super::Comparison;
use crate::args::Args;
use crate::disk::{SYNCS, SyncTimes};
use crate::rounds::Results;
use crate::statistics::median;
use crate::system::{Contender, System};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use std::collections::BTreeMap;

/// What was compared, where.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Setting {
    /// Versions as the programs say them.
    pub(crate) versions: BTreeMap<System, String>,
    /// Cores of the machine.
    pub(crate) cores: usize,
    /// Type of the file system of the data.
    pub(crate) file_system: String,
    /// Whether it was stopped before the last round.
    pub(crate) interrupted: bool,
}

/// All of it.
pub(crate) fn tables(args: &Args, setting: &Setting, results: &Results, compared: &[Comparison]) -> String {
    let contenders: Vec<_> =
        Contender::ALL.into_iter().filter(|c| compared.iter().any(|of| of.column(*c).is_some())).collect();
    let disk = disk_median(results);
    let values = values_table(args, &contenders, compared);
    let medians = medians_table(args, &contenders, compared, &disk);
    format!(
        "{}\n\nEvery value\n{values}\n\nMedians; a ratio is Meridian's to etcd's\n{medians}\n{}",
        heading(args, setting, &disk),
        notes(setting, results)
    )
}

fn heading(args: &Args, setting: &Setting, disk: &SyncTimes) -> String {
    let versions: Vec<_> = setting.versions.values().map(String::as_str).collect();
    format!(
        "{}\n\
         three members each on this machine ({} cores, also used by the load generator), data on {}, syncs on\n\
         {}-byte values, {} keys, {} connections to each member, one client = one operation at a time\n\
         Meridian: {} shards, clock bound {:?}; every write waits out twice that bound, beside its replication\n\
         disk: 4 KiB and fdatasync take {:.0} us appended, {:.0} us overwritten (median of rounds of {SYNCS})",
        versions.join(" and "),
        setting.cores,
        setting.file_system,
        args.value_size,
        args.keys,
        args.connections,
        args.shards,
        args.clock_bound,
        disk.append_us,
        disk.overwrite_us,
    )
}

fn values_table(args: &Args, contenders: &[Contender], compared: &[Comparison]) -> Table {
    let headings = contenders.iter().map(|c| format!("{}: each round", c.name()));
    let mut table = new_table(FIGURES, headings.collect());
    rows(args, compared, |title, c| {
        let values = contenders.iter().map(|who| {
            let values = c.column(*who).map(|column| &column.values[..]).unwrap_or_default();
            values.iter().map(|v| number(*v)).collect::<Vec<_>>().join("  ")
        });
        table.add_row(title.into_iter().chain(values));
    });
    table
}

fn medians_table(args: &Args, contenders: &[Contender], compared: &[Comparison], disk: &SyncTimes) -> Table {
    let columns = |who: &Contender| match who {
        Contender::Etcd => vec![who.name().to_owned()],
        _ => vec![who.name().to_owned(), "ratio".to_owned(), "ratio by round".to_owned()],
    };
    let mut headings: Vec<_> = contenders.iter().flat_map(columns).collect();
    headings.push("goal: reached".to_owned());
    let numbers = headings.len() - 1;
    let mut table = new_table(FIGURES, headings);
    for column in table.column_iter_mut().skip(TITLES).take(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    rows(args, compared, |title, c| {
        let medians = contenders.iter().flat_map(|who| {
            let column = c.column(*who);
            let median = column.map_or_else(none, |column| number(column.median));
            if *who == Contender::Etcd {
                return vec![median];
            }
            let ratio = column.and_then(|column| column.ratio).map_or_else(none, times);
            let range = column.and_then(|column| column.ratio_of_rounds);
            vec![median, ratio, range.map_or_else(none, |(low, high)| format!("{} .. {}", times(low), times(high)))]
        });
        let judged = c.columns.iter().filter(|column| column.contender.has_goals());
        let goals = judged.flat_map(|column| {
            let goals = c.measure.goals(c.figure, args).into_iter();
            goals.map(|goal| goal.verdict(column.median, column.ratio, disk))
        });
        let goals = goals.collect::<Vec<_>>().join("\n");
        table.add_row(title.into_iter().chain(medians).chain([goals]));
    });
    table
}

/// Calls `add` for each comparison with the cells that name it; a measure is named in its first row only.
fn rows(args: &Args, compared: &[Comparison], mut add: impl FnMut([String; TITLES], &Comparison)) {
    let mut last = None;
    for c in compared {
        let measure = if last == Some(c.measure) { String::new() } else { c.measure.title(args) };
        last = Some(c.measure);
        add([measure, c.figure.title().to_owned()], c);
    }
}

/// The median of what each round found of the disk.
fn disk_median(results: &Results) -> SyncTimes {
    let of = |get: fn(&SyncTimes) -> f64| median(&results.disk.iter().map(get).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    SyncTimes { append_us: of(|d| d.append_us), overwrite_us: of(|d| d.overwrite_us) }
}

/// What a reader has to know beside the numbers, one line for each system and fact.
fn notes(setting: &Setting, results: &Results) -> String {
    let mut notes = Vec::new();
    for &system in setting.versions.keys() {
        let name = system.name();
        let samples = || results.taken.iter().filter(|t| t.contender.system() == system).map(|t| &t.sample);
        let mut leaders: Vec<_> = samples().flat_map(|s| s.leaders).collect();
        leaders.dedup();
        let led: Vec<_> = leaders.iter().map(|l| l.map_or_else(|| "none".to_owned(), |l| l.to_string())).collect();
        if !led.is_empty() {
            let moved = if led.len() > 1 { " (it changed during the comparison)" } else { "" };
            notes.push(format!("{name}: led by member {}{moved}", led.join(", then ")));
        }
        let errors: u64 = samples().map(|s| s.errors).sum();
        if errors > 0 {
            notes.push(format!("{name}: {errors} operations failed; they count in no figure"));
        }
        let others = results.taken.iter().filter(|t| t.contender.system() != system);
        let idle: Vec<_> = others.filter_map(|t| t.sample.idle_other_cores).collect();
        if let Some(idle) = median(&idle) {
            notes.push(format!("{name}: its idle servers used {idle:.3} cores while the other system was measured"));
        }
    }
    if setting.interrupted {
        notes.push("stopped early: the last round is not complete".to_owned());
    }
    notes.into_iter().map(|note| note + "\n").collect()
}

/// Columns that name what the others are about.
const TITLES: usize = 2;
const FIGURES: [&str; TITLES] = ["measure", "figure"];

/// An empty table with these headings.
pub(crate) fn new_table(titles: [&str; TITLES], headings: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(titles.map(str::to_owned).into_iter().chain(headings));
    table
}

/// About three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.4}"),
    }
}

/// A ratio.
pub(crate) fn times(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

/// A figure that could not be had.
pub(crate) fn none() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::Measure;
    use crate::report::compare;
    use crate::sample::Taken;
    use crate::sample::tests::sample;
    use clap::Parser as _;

    fn setting(systems: &[System]) -> Setting {
        let versions = systems.iter().map(|s| (*s, format!("{} 1", s.name()))).collect();
        Setting { versions, cores: 2, file_system: "ext4".to_owned(), interrupted: false }
    }

    fn row<'a>(text: &'a str, figure: &str) -> &'a str {
        text.lines().rfind(|line| line.contains(figure)).unwrap()
    }

    #[test]
    fn the_report_has_values_medians_ratios_and_verdicts() {
        let args = Args::parse_from(["meridian-peers", "--measures", "put-many"]);
        let taken = |contender, throughput| Taken {
            round: 1,
            measure: Measure::PutMany,
            contender,
            sample: sample(throughput, 1500.0),
        };
        let disk = vec![SyncTimes { append_us: 100.0, overwrite_us: 50.0 }];
        let taken = vec![taken(Contender::Etcd, 1000.0), taken(Contender::Meridian, 2500.0)];
        let results = Results { taken, disk };
        let setting = setting(&[System::Etcd, System::Meridian]);
        let text = tables(&args, &setting, &results, &compare(&args, &results));
        assert!(text.starts_with("etcd 1 and meridian 1\n"), "{text}");
        let throughput = row(&text, "operations/s");
        for part in ["1000", "2500", "2.50x", "2.50x .. 2.50x", ">= 3.0x: no"] {
            assert!(throughput.contains(part), "{part}: {throughput}");
        }
        assert!(row(&text, "log syncs").contains("<= 0.05: yes"), "{text}");
        assert!(text.contains("100 us appended, 50 us overwritten"), "{text}");
        assert!(text.contains("etcd: led by member 2\n"), "{text}");
        assert!(text.contains("meridian: its idle servers used 0.010 cores"), "{text}");
    }

    #[test]
    fn one_system_alone_has_no_ratios_and_a_moved_leader_is_told() {
        let args = Args::parse_from(["meridian-peers", "--measures", "put-many", "--only", "meridian"]);
        let mut moved = sample(2500.0, 1500.0);
        moved.leaders = [Some(1), None];
        moved.errors = 3;
        let taken = vec![Taken { round: 1, measure: Measure::PutMany, contender: Contender::Meridian, sample: moved }];
        let results = Results { taken, disk: Vec::new() };
        let text = tables(&args, &setting(&[System::Meridian]), &results, &compare(&args, &results));
        let throughput = row(&text, "operations/s");
        assert!(throughput.contains(">= 3.0x") && !throughput.contains("no"), "{throughput}");
        assert!(text.contains("led by member 1, then none (it changed during the comparison)"), "{text}");
        assert!(text.contains("3 operations failed"), "{text}");
    }

    #[test]
    fn numbers_keep_what_tells_them_apart() {
        let texts = [12345.6, 42.42, 1.234, 0.0321, 0.0].map(number);
        assert_eq!(texts, ["12346", "42.4", "1.23", "0.0321", "0"]);
    }
}
