//! How results are printed: tables for people, JSON for programs.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use std::io::{self, Write as _};
use std::time::Duration;

/// The two forms of every result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    #[default]
    #[value(alias = "table")]
    Human,
    /// One JSON document.
    Json,
}

/// Where data goes.
#[cfg(not(test))]
pub(crate) fn stdout() -> io::Stdout {
    io::stdout()
}

/// Nowhere: what is written to stdout directly is not captured by the test harness.
#[cfg(test)]
pub(crate) fn stdout() -> io::Sink {
    io::sink()
}

/// Writes a line of data to stdout.
pub(crate) fn data(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(stdout(), "{line}")
}

/// Writes bytes to stdout as they are.
pub(crate) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = stdout();
    out.write_all(bytes)?;
    out.write_all(b"\n")
}

/// Writes a JSON document to stdout.
pub(crate) fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    Ok(data(serde_json::to_string_pretty(value)?)?)
}

/// Writes a line about the work to stderr.
pub(crate) fn note(line: impl std::fmt::Display) {
    eprintln!("{line}");
}

/// A line under the headings, and nothing else: rows stay dense, and a table can be copied as text.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// An empty table with these headings; as wide as the terminal allows.
pub(crate) fn table<'a>(headings: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings);
    table
}

/// A cell with a number in it.
pub(crate) fn number(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

/// A duration in the unit that suits its size, three digits: `850 ns`, `12.3 ms`.
pub(crate) fn short(duration: Duration) -> String {
    const UNITS: [(&str, f64); 4] = [("ns", 1.0), ("\u{b5}s", 1e3), ("ms", 1e6), ("s", 1e9)];
    let nanos = duration.as_secs_f64() * 1e9;
    // The first unit in which the rounded number stays below 1000.
    let (unit, size) = UNITS.into_iter().find(|(_, size)| nanos / size < 999.5).unwrap_or(("s", 1e9));
    let value = nanos / size;
    let decimals = match value {
        _ if size == 1.0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// [`short`] for nanoseconds.
pub(crate) fn short_ns(nanos: u64) -> String {
    short(Duration::from_nanos(nanos))
}

/// `1 row`, `2 rows`.
pub(crate) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_fitting_unit() {
        for (nanos, text) in [
            (0, "0 ns"),
            (850, "850 ns"),
            (1_000, "1.00 \u{b5}s"),
            (12_345_678, "12.3 ms"),
            (70_000_000, "70.0 ms"),
            (312_400_000, "312 ms"),
            (999_600_000, "1.00 s"),
            (3_600_000_000_000, "3600 s"),
        ] {
            assert_eq!(short_ns(nanos), text);
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!((count(1, "row"), count(0, "row")), ("1 row".into(), "0 rows".into()));
    }

    #[test]
    fn tables_have_a_heading_and_a_line_per_row() {
        let mut t = table(["key", "n"]);
        t.add_row(vec![Cell::new("a"), number(1)]);
        let text = t.to_string();
        assert!(text.contains("key") && text.lines().any(|l| l.contains(" a ") && l.contains('1')), "{text}");
    }
}
