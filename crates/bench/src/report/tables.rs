//! The report as terminal tables.

use super::schema::{Report, ResultRow};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

const HEADINGS: [&str; 15] = [
    "region",
    "op",
    "consistency",
    "count",
    "errors",
    "per s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "floor",
    "p50/floor",
    "p99/floor",
    "staleness p50/p99",
];

/// Columns before this one hold text.
const FIRST_NUMBER: usize = 3;

/// The results, then the errors if there were any. Times are in milliseconds.
pub fn tables(report: &Report) -> String {
    let mut table = new_table(HEADINGS.to_vec());
    for column in table.column_iter_mut().skip(FIRST_NUMBER) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in &report.results {
        table.add_row(cells(row));
    }
    let mut out = format!(
        "{} on {}, {:.1} s measured, times in ms{}\n{table}\n",
        report.workload,
        report.topology,
        report.measured_s,
        if report.interrupted { ", stopped early" } else { "" },
    );
    if report.in_flight_limit_met > 0 {
        let met = report.in_flight_limit_met;
        out.push_str(&format!("The limit of operations in flight was met {met} times: starts were late, and count.\n"));
    }
    if !report.errors.is_empty() {
        let mut errors = new_table(vec!["error", "count"]);
        for (reason, count) in &report.errors {
            errors.add_row([reason.clone(), count.to_string()]);
        }
        out.push_str(&format!("{errors}\n"));
    }
    out
}

fn new_table(headings: Vec<&str>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled).set_header(headings);
    table
}

fn cells(row: &ResultRow) -> Vec<String> {
    let latency = row.latency_us;
    let staleness = row.staleness_us.map(|s| format!("{} / {}", millis(Some(s.p50)), millis(Some(s.p99))));
    vec![
        row.region.clone(),
        row.op.clone(),
        row.consistency.clone().unwrap_or_else(none),
        row.count.to_string(),
        row.errors.to_string(),
        format!("{:.1}", row.throughput_per_s),
        millis(latency.map(|l| l.p50)),
        millis(latency.map(|l| l.p90)),
        millis(latency.map(|l| l.p99)),
        millis(latency.map(|l| l.p999)),
        millis(latency.map(|l| l.max)),
        millis(row.floor_us),
        ratio(row.p50_over_floor),
        ratio(row.p99_over_floor),
        staleness.unwrap_or_else(none),
    ]
}

fn millis(micros: Option<f64>) -> String {
    micros.map_or_else(none, |us| format!("{:.2}", us / 1e3))
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(none, |r| format!("{r:.3}"))
}

fn none() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::build::tests::sample;
    use super::*;

    #[test]
    fn a_person_finds_the_figures() {
        let text = tables(&sample());
        let line = |word: &str| text.lines().find(|l| l.contains(word)).unwrap().to_owned();
        let write = line("write ");
        for part in ["us-east", "70.0", "70.00", "1.00"] {
            assert!(write.contains(part), "{part} in {write}");
        }
        assert!(line("local").contains("1.02 / 1.02"), "{}", line("local"));
        assert!(line("NO_QUORUM").contains('1'));
    }
}
