//! `meridian import`: loads a file into a table, one record a key.
//!
//! Every record is one put of its own, so that an import can be repeated: what is there already is written again
//! with the same value. The report counts every record exactly once.

use super::table::split_keys;
use crate::context::Context;
use crate::exit::SomeUnknown;
use crate::output::{self, Format, count};
use crate::records::{self, BadRecord, InputFormat, Place, Record, Records};
use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use meridian_client::{Client, Error, Fate, Placement, Reason, Session};
use meridian_clock::Mono;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Bad records that are described one by one; more are only counted.
const DESCRIBED_MAX: u64 = 20;
/// How often the progress display moves.
const TICK: Duration = Duration::from_millis(120);

/// Load a CSV or JSON file into a table: the key is one field of each record, the value the record as JSON.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file.
    file: PathBuf,
    /// The table.
    #[arg(long)]
    table: String,
    /// The field whose value becomes the key.
    #[arg(long, value_name = "FIELD")]
    key: String,
    /// How the file is written; without it the name's ending decides.
    #[arg(long, value_enum)]
    format_in: Option<InputFormat>,
    /// Writes under way at the same time.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Create the table if it does not exist.
    #[arg(long)]
    create: bool,
    /// Where the created table's data lives.
    #[arg(long, default_value = "global", value_parser = Placement::parse, requires = "create")]
    placement: Placement,
    /// A key at which to split the created table into shards; may be repeated.
    #[arg(long, value_name = "KEY", requires = "create")]
    split: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  meridian import iso_3166-1.json --table countries --key alpha_2 --create
  meridian import people.csv --table people --key email --concurrency 128";

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let format = args.format_in.map_or_else(|| InputFormat::of(&args.file), Ok)?;
    let records = records::open(&args.file, format)?;
    let client = context.connect().await?;
    prepare_table(&client, &args).await?;
    let start = Mono::now();
    let bar = progress(records.total);
    let target = Target { table: &args.table, key: &args.key, concurrency: usize::from(args.concurrency) };
    let tally = write_all(&client.session(), &target, records, &bar).await;
    bar.finish_and_clear();
    tally.report(context.format(), &args.table, start.elapsed())
}

/// Makes sure that the table exists, before anything is read or written.
async fn prepare_table(client: &Client, args: &Args) -> anyhow::Result<()> {
    match client.describe_table(&args.table).await {
        Ok(_) => Ok(()),
        Err(e) if e.reason() == Reason::UnknownTable && args.create => {
            match client.create_table(&args.table, &args.placement, split_keys(&args.split)?).await {
                Err(e) if e.reason() != Reason::TableExists => Err(e.into()),
                Ok(_) | Err(_) => Ok(()),
            }
        }
        Err(e) if e.reason() == Reason::UnknownTable => {
            Err(e).context("no table to import into; create it first, or pass --create")
        }
        Err(e) => Err(e.into()),
    }
}

/// Where records go.
pub(crate) struct Target<'a> {
    pub(crate) table: &'a str,
    /// The field that becomes the key.
    pub(crate) key: &'a str,
    /// Writes under way at the same time.
    pub(crate) concurrency: usize,
}

/// Writes every record that can be written.
pub(crate) async fn write_all(session: &Session, to: &Target<'_>, records: Records, bar: &ProgressBar) -> Tally {
    let mut seen = HashMap::new();
    let stop = Cell::new(false);
    let puts = records
        .take_while(|_| !stop.get())
        .map(|record| record.map_err(Failure::from).and_then(|r| r.into_put(to.key, &mut seen)))
        .map(|put| async {
            let put = put?;
            let written = session.put(to.table, put.key, put.value).await;
            written.map(drop).map_err(|error| Failure::Write { at: put.at, error })
        });
    let mut outcomes = stream::iter(puts).buffer_unordered(to.concurrency);
    let mut tally = Tally::default();
    while let Some(outcome) = outcomes.next().await {
        bar.inc(1);
        if let Err(failure) = &outcome
            && tally.failed + tally.unknown < DESCRIBED_MAX
        {
            bar.suspend(|| output::note(failure));
        }
        tally.add(outcome);
        stop.set(tally.stopped.is_some());
    }
    tally
}

/// One record, ready to be written.
struct Put {
    at: Place,
    key: String,
    value: Vec<u8>,
}

impl Record {
    /// The record under its key. `seen` has the keys of earlier records: a second record of one key is a mistake in
    /// the file, and which of them would win depends on chance.
    fn into_put(self, field: &str, seen: &mut HashMap<String, Place>) -> Result<Put, Failure> {
        let key = self.key(field)?;
        let at = self.at;
        if let Some(first) = seen.insert(key.clone(), at) {
            seen.insert(key.clone(), first);
            return Err(Failure::Duplicate { at, key, first });
        }
        let value = Value::Object(self.fields).to_string().into_bytes();
        Ok(Put { at, key, value })
    }
}

/// Why a record is not in the table.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Record(#[from] BadRecord),
    #[error("{at}: the key `{key}` was in {first} already")]
    Duplicate { at: Place, key: String, first: Place },
    #[error("{at}: {error}")]
    Write { at: Place, error: Error },
}

impl Failure {
    /// Whether the rest of the file would fail in the same way.
    fn is_general(&self) -> bool {
        match self {
            Self::Record(record) => record.is_fatal(),
            Self::Duplicate { .. } => false,
            Self::Write { error, .. } => !matches!(
                error.reason(),
                Reason::BadRequest | Reason::KeyTooLarge | Reason::ValueTooLarge | Reason::RequestTooLarge
            ),
        }
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::Write { error, .. } if error.fate() == Fate::Unknown)
    }
}

/// What became of the records.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    imported: u64,
    failed: u64,
    unknown: u64,
    /// Why the rest of the file was not attempted.
    stopped: Option<Failure>,
}

impl Tally {
    fn add(&mut self, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => self.imported += 1,
            Err(failure) => {
                *(if failure.is_unknown() { &mut self.unknown } else { &mut self.failed }) += 1;
                if failure.is_general() && self.stopped.is_none() {
                    self.stopped = Some(failure);
                }
            }
        }
    }

    fn report(self, format: Format, table: &str, took: Duration) -> anyhow::Result<()> {
        match format {
            Format::Json => output::json(&json!({
                "table": table,
                "imported": self.imported,
                "failed": self.failed,
                "unknown": self.unknown,
                "complete": self.stopped.is_none(),
                "seconds": took.as_secs_f64(),
            }))?,
            Format::Human => output::note(self.line(table, took)),
        }
        self.imported().map(drop)
    }

    /// How many records were written.
    ///
    /// Errors: when any was not.
    pub(crate) fn imported(&self) -> anyhow::Result<u64> {
        if let (Some(failure), false) = (&self.stopped, self.unknown > 0) {
            anyhow::bail!("stopped before the end of the file ({failure}); running the same import again is safe");
        }
        match (self.unknown, self.failed) {
            (0, 0) => Ok(self.imported),
            (0, failed) => anyhow::bail!("{} not imported", count(failed, "record")),
            (unknown, _) => Err(SomeUnknown(unknown).into()),
        }
    }

    fn line(&self, table: &str, took: Duration) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = self.imported as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        let mut line = format!(
            "{} imported into {table} in {} ({rate:.0}/s)",
            count(self.imported, "record"),
            output::short(took)
        );
        if self.failed > 0 {
            line += &format!(", {} failed", self.failed);
        }
        if self.unknown > 0 {
            line += &format!(", {} of unknown outcome", self.unknown);
        }
        line
    }
}

/// A display on stderr; hidden when that is no terminal.
fn progress(total: Option<u64>) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template = match total {
        Some(_) => "{bar:32} {pos}/{len} records, {per_sec}, {eta} left",
        None => "{spinner} {pos} records, {per_sec}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;

    fn record(line: u64, json: Value) -> Record {
        let Value::Object(fields) = json else { panic!("an object") };
        Record { at: Place::Line(line), fields }
    }

    fn write(reason: Reason) -> Failure {
        let cause = meridian_types::Error::new(reason, "why");
        Failure::Write { at: Place::Line(9), error: Error { cause, request_id: None, attempts: 1 } }
    }

    #[test]
    fn the_value_is_the_record_as_compact_json_in_its_order() {
        let put = record(2, json!({ "z": 1, "id": "PT" })).into_put("id", &mut HashMap::new()).ok().unwrap();
        assert_eq!((put.key.as_str(), &put.value[..]), ("PT", &br#"{"z":1,"id":"PT"}"#[..]));
    }

    #[test]
    fn a_key_counts_once() {
        let mut seen = HashMap::new();
        assert!(record(2, json!({ "id": "a" })).into_put("id", &mut seen).is_ok());
        for line in [3, 4] {
            let failure = record(line, json!({ "id": "a" })).into_put("id", &mut seen).err().unwrap();
            assert_eq!(failure.to_string(), format!("line {line}: the key `a` was in line 2 already"));
        }
    }

    #[test]
    fn the_tally_counts_each_record_once_and_stops_for_general_faults() {
        let mut tally = Tally::default();
        tally.add(Ok(()));
        tally.add(Err(write(Reason::KeyTooLarge)));
        assert!(tally.stopped.is_none(), "the next record may fit");
        tally.add(Err(write(Reason::OutcomeUnknown)));
        tally.add(Err(write(Reason::NoQuorum)));
        assert_eq!((tally.imported, tally.failed, tally.unknown), (1, 2, 1));
        assert!(
            matches!(tally.stopped, Some(Failure::Write { ref error, .. }) if error.reason() == Reason::OutcomeUnknown)
        );
        let line = tally.line("t", Duration::from_secs(1));
        assert_eq!(line, "1 record imported into t in 1.00 s (1/s), 2 failed, 1 of unknown outcome");
    }

    #[test]
    fn the_exit_code_says_whether_anything_is_missing_or_unknown() {
        let code = |tally: Tally| tally.report(Format::Human, "t", Duration::ZERO).map_err(|e| crate::exit::code(&e));
        assert_eq!(code(Tally { imported: 1, ..Tally::default() }), Ok(()));
        assert_eq!(code(Tally { failed: 1, ..Tally::default() }), Err(crate::exit::ERROR));
        let mut lost = Tally::default();
        lost.add(Err(write(Reason::OutcomeUnknown)));
        assert_eq!(code(lost), Err(crate::exit::UNKNOWN));
    }

    #[test]
    fn arguments() {
        for line in EXAMPLES.lines().skip(1) {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for wrong in ["--concurrency 0", "--placement global", "--format-in xml"] {
            let line = format!("meridian import f.csv --table t --key k {wrong}");
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
