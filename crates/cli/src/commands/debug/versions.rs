//! `meridian debug versions`: what is stored of a table's keys.

use super::Directory;
use crate::output::{self, Format, number};
use crate::text::{Encoding, printable};
use comfy_table::Cell;
use meridian_storage::inspect::StoredVersion;
use meridian_types::{KeyRange, TableId, Timestamp};
use serde_json::{Value, json};

/// Show the versions that are stored of a table's keys, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    directory: Directory,
    /// The table's id, as `meridian table list` shows it; 0 is the catalog.
    #[arg(long, value_name = "ID")]
    table: u64,
    /// Only keys that begin like this.
    #[arg(long, visible_alias = "key-prefix", conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// First key, included.
    #[arg(long)]
    start: Option<String>,
    /// Last key, excluded.
    #[arg(long)]
    end: Option<String>,
    /// Of each key only the version that a read at this timestamp sees, nanoseconds since 1970.
    #[arg(long, value_name = "TIMESTAMP")]
    at: Option<u64>,
    /// Most versions to show; 0: all.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    /// Keys and values as hexadecimal digits.
    #[arg(long)]
    hex: bool,
}

const HELP: &str = "\
These are the versions on the disk of this one node: what it had applied and not yet flushed when it stopped is in its log
instead, and is applied again at the next start.

Examples:
  meridian debug versions --data-dir n1 --table 3 --prefix lis
  meridian debug versions --data-dir n1 --table 3 --start a --end b --at 1700000000000000000 --format json";

/// Bytes of a value that a table shows.
const VALUE_SHOWN: usize = 60;

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    let node = args.directory.open()?;
    let encoding = Encoding::from_flag(args.hex);
    let range = args.range(encoding)?;
    let (mut shown, mut more) = (Vec::new(), 0_u64);
    node.versions(TableId(args.table), &range, args.at.map(Timestamp), |version| {
        if args.limit == 0 || shown.len() < args.limit {
            shown.push(version);
        } else {
            more += 1;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    match format {
        Format::Json => {
            let versions = shown.iter().map(|version| version_json(version, encoding));
            output::json(&json!({ "table": args.table, "versions": versions.collect::<Vec<_>>(), "not_shown": more }))
        }
        Format::Human => {
            let mut table = output::table(["key", "timestamp", "bytes", "value"]);
            for version in &shown {
                table.add_row(cells(version, encoding));
            }
            output::data(table)?;
            if more > 0 {
                output::note(format!("{more} more; narrow the range, or use --limit 0"));
            }
            Ok(())
        }
    }
}

impl Args {
    fn range(&self, encoding: Encoding) -> anyhow::Result<KeyRange> {
        if let Some(prefix) = &self.prefix {
            return Ok(KeyRange::prefix(encoding.decode(prefix)?));
        }
        let bound = |text: &Option<String>| text.as_deref().map(|t| encoding.decode(t)).transpose();
        Ok(KeyRange::new(bound(&self.start)?.unwrap_or_default(), bound(&self.end)?)?)
    }
}

fn cells(version: &StoredVersion, encoding: Encoding) -> Vec<Cell> {
    let key = Cell::new(printable(&encoding.encode(&version.key)));
    let (bytes, value) = match &version.value {
        None => (String::new(), "(removed)".to_owned()),
        Some(value) => {
            let mut text = printable(&encoding.encode(value));
            if let Some((end, _)) = text.char_indices().nth(VALUE_SHOWN) {
                text.truncate(end);
                text.push('\u{2026}');
            }
            (value.len().to_string(), text)
        }
    };
    vec![key, number(version.ts), number(bytes), Cell::new(value)]
}

fn version_json(version: &StoredVersion, encoding: Encoding) -> Value {
    json!({
        "key": encoding.encode(&version.key),
        "ts": version.ts.0,
        "removed": version.value.is_none(),
        "value": version.value.as_ref().map(|value| encoding.encode(value)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_are_told_from_empty_values_and_long_values_are_cut() {
        let version = |value: Option<&str>| StoredVersion {
            key: "k".into(),
            ts: Timestamp(7),
            value: value.map(|v| v.to_owned().into()),
        };
        let shown = |value| cells(&version(value), Encoding::Text)[3].content();
        assert_eq!((shown(None), shown(Some(""))), ("(removed)".to_owned(), String::new()));
        assert_eq!(shown(Some(&"x".repeat(100))).chars().count(), VALUE_SHOWN + 1);
        assert_eq!(version_json(&version(None), Encoding::Text)["removed"], true);
    }
}
