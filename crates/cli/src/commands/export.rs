//! `meridian export`: a table as it was at one instant.

use crate::context::Context;
use crate::output::{self, Format, count};
use crate::text::Encoding;
use anyhow::Context as _;
use meridian_client::{Consistency, KeyRange, Row, ScanOptions, Timestamp};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Write all rows of a table, as they were at one timestamp.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The table.
    #[arg(long)]
    table: String,
    /// The file; without it rows go to stdout. It appears when it is complete.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How rows are written.
    #[arg(long, value_enum, default_value_t = OutputFormat::Jsonl)]
    format_out: OutputFormat,
    /// Only the values, one a line: gives back the records of an import.
    #[arg(long, conflicts_with = "format_out")]
    values: bool,
    /// As the table was at this timestamp, nanoseconds since 1970; without it, as it is now.
    #[arg(long, value_name = "TIMESTAMP")]
    at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OutputFormat {
    /// One JSON object a line: key, value, version.
    Jsonl,
    /// The same as comma-separated values.
    Csv,
}

const EXAMPLES: &str = "\
A value that is a JSON object or array is written as such, text as text, other bytes as base64:...

Examples:
  meridian export --table countries --output countries.jsonl
  meridian export --table countries --values > again.jsonl
  meridian export --table countries --format-out csv";

/// How each row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Objects,
    Values,
    Csv,
}

/// Two pages of one export were read at different timestamps.
#[derive(Debug, thiserror::Error)]
#[error("the table changed between pages ({first}, then {then}); nothing was kept, pass --at {first} to fix the time")]
struct Torn {
    first: Timestamp,
    then: Timestamp,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let layout = args.layout();
    let session = context.connect().await?.session();
    let consistency = args.at.map_or(Consistency::Linearizable, |at| Consistency::Snapshot(Timestamp(at)));
    let options = ScanOptions { range: KeyRange::all(), consistency, ..ScanOptions::default() };
    let mut scan = session.scan(&args.table, options);
    let mut sink = Sink::open(args.output.as_deref(), layout)?;
    let (mut rows, mut read_at) = (0, None);
    while let Some(page) = scan.next_page().await? {
        let first = *read_at.get_or_insert(page.timestamp);
        if page.timestamp != first {
            return Err(Torn { first, then: page.timestamp }.into());
        }
        sink.rows(&page.value)?;
        rows += u64::try_from(page.value.len())?;
    }
    sink.finish()?;
    let at = read_at.unwrap_or_default();
    let to_file = args.output.as_deref().map(|p| p.display().to_string());
    match (context.format(), to_file) {
        (Format::Json, Some(file)) => {
            output::json(&json!({ "table": args.table, "rows": rows, "timestamp": at.0, "file": file }))
        }
        (_, file) => {
            let place = file.map_or_else(String::new, |f| format!(" to {f}"));
            output::note(format!("{} of {} as of {at} written{place}", count(rows, "row"), args.table));
            Ok(())
        }
    }
}

impl Args {
    fn layout(&self) -> Layout {
        match (self.values, self.format_out) {
            (true, _) => Layout::Values,
            (false, OutputFormat::Jsonl) => Layout::Objects,
            (false, OutputFormat::Csv) => Layout::Csv,
        }
    }
}

/// Where rows go.
struct Sink {
    out: BufWriter<Box<dyn Write>>,
    layout: Layout,
    pending: Option<Pending>,
}

/// A file under a name of its own until it is complete; removed if that never happens.
struct Pending {
    file: File,
    partial: PathBuf,
    place: PathBuf,
    complete: bool,
}

impl Sink {
    fn open(path: Option<&Path>, layout: Layout) -> anyhow::Result<Self> {
        let pending = path.map(Pending::create).transpose()?;
        let out: Box<dyn Write> = match &pending {
            Some(pending) => Box::new(pending.file.try_clone()?),
            None => Box::new(output::stdout()),
        };
        let mut out = BufWriter::new(out);
        if layout == Layout::Csv {
            writeln!(out, "key,value,version")?;
        }
        Ok(Self { out, layout, pending })
    }

    fn rows(&mut self, rows: &[Row]) -> anyhow::Result<()> {
        write_rows(&mut self.out, self.layout, rows)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.out.flush()?;
        self.pending.map_or(Ok(()), Pending::complete)
    }
}

impl Pending {
    fn create(place: &Path) -> anyhow::Result<Self> {
        let mut partial = place.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
        Ok(Self { file, partial, place: place.to_owned(), complete: false })
    }

    fn complete(mut self) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", self.place.display());
        self.file.sync_all().with_context(failed)?;
        std::fs::rename(&self.partial, &self.place).with_context(failed)?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.complete
            && let Err(error) = std::fs::remove_file(&self.partial)
        {
            output::note(format!("cannot remove {}: {error}", self.partial.display()));
        }
    }
}

fn write_rows(out: &mut impl Write, layout: Layout, rows: &[Row]) -> anyhow::Result<()> {
    let text = |bytes| Encoding::Text.encode(bytes);
    match layout {
        Layout::Objects => {
            for row in rows {
                let object = json!({ "key": text(&row.key), "value": value(&row.value), "version": row.version.0 });
                writeln!(out, "{object}")?;
            }
        }
        Layout::Values => {
            for row in rows {
                anyhow::ensure!(
                    !row.value.contains(&b'\n'),
                    "the value of {} has several lines; export without --values",
                    text(&row.key)
                );
                out.write_all(&row.value)?;
                out.write_all(b"\n")?;
            }
        }
        Layout::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            for row in rows {
                let version = row.version.to_string();
                csv.write_record([&text(&row.key), &text(&row.value), &version]).map_err(io::Error::from)?;
            }
            csv.flush()?;
        }
    }
    Ok(())
}

/// A value as a member of a JSON object: embedded if it is an object or array and would read back as the same
/// bytes, else its text.
fn value(bytes: &[u8]) -> Value {
    match serde_json::from_slice(bytes) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) if value.to_string().as_bytes() == bytes => value,
        Ok(_) | Err(_) => Encoding::Text.encode(bytes).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &'static str, value: &'static [u8]) -> Row {
        Row { key: key.into(), value: value.into(), version: Timestamp(7) }
    }

    fn written(layout: Layout, rows: &[Row]) -> String {
        let mut out = Vec::new();
        write_rows(&mut out, layout, rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn objects_hold_values_that_read_back_as_the_same_bytes() {
        for (stored, shown) in [
            (&br#"{"b":1,"a":[2]}"#[..], r#"{"b":1,"a":[2]}"#),
            (br#"{ "b": 1 }"#, r#""{ \"b\": 1 }""#),
            (b"12", r#""12""#),
            (b"\xff", r#""base64:/w==""#),
        ] {
            let line = format!("{{\"key\":\"k\",\"value\":{shown},\"version\":7}}\n");
            assert_eq!(written(Layout::Objects, &[row("k", stored)]), line);
        }
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let rows = [row("a,b", b"say \"x\""), row("c", b"d")];
        assert_eq!(written(Layout::Csv, &rows), "\"a,b\",\"say \"\"x\"\"\",7\nc,d,7\n");
    }

    #[test]
    fn values_stand_one_a_line() {
        assert_eq!(written(Layout::Values, &[row("a", b"{}"), row("b", b"[]")]), "{}\n[]\n");
        assert!(write_rows(&mut Vec::new(), Layout::Values, &[row("a", b"x\ny")]).is_err());
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.csv");
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        drop(Sink::open(Some(&path), Layout::Csv).unwrap());
        assert_eq!(files(), 0, "an export that failed leaves nothing");
        let mut sink = Sink::open(Some(&path), Layout::Csv).unwrap();
        sink.rows(&[row("a", b"1")]).unwrap();
        assert!(!path.exists());
        sink.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "key,value,version\na,1,7\n");
        assert_eq!(files(), 1);
    }
}
