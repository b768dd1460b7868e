//! `meridian debug verify`: is everything as it was written?

use super::{Directory, progress};
use crate::exit::DamageFound;
use crate::output::{self, Format, count, number};
use comfy_table::Cell;
use indicatif::HumanBytes;
use meridian_storage::inspect::{self, FileKind, Finding, Place, Report};
use serde_json::{Value, json};
use std::path::Path;

/// Check a data directory: every checksum of every file, every record, and whether the two stores agree.
///
/// Write-ahead logs, MANIFESTs and tables are read without RocksDB, so that damage is named with file and offset, and
/// all of it, not only the first. Then everything is read as a node would read it. Nothing is changed.
///
/// What has no checksum cannot be checked: RocksDB's own message log, and its OPTIONS, which no node reads.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    directory: Directory,
    /// List every file, not only those with something to say.
    #[arg(long)]
    all: bool,
}

const HELP: &str = "\
Exit code 0 says that nothing is wrong, 5 that something is; findings go to stdout.

A torn end of a write-ahead log is what a crash leaves of a write that was never acknowledged. It is a finding only if the
node's own mark says that more than that was durable.

With a damaged replica: do not delete single files. Give the node an empty directory and a new id, and let it be filled from
the others.

Examples:
  meridian debug verify --data-dir n1
  meridian debug verify --data-dir n1 --format json | jq '.findings[] | .file, .offset'";

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    let bar = progress();
    let report = inspect::verify(&args.directory.data_dir, |path, read, total| {
        bar.set_length(total);
        bar.set_position(read);
        bar.set_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    });
    bar.finish_and_clear();
    let report = report?;
    match format {
        Format::Json => output::json(&report_json(&args.directory.data_dir, &report))?,
        Format::Human => print(&report, args.all)?,
    }
    match report.findings.len() {
        0 => Ok(()),
        findings => Err(DamageFound(findings.try_into()?).into()),
    }
}

fn print(report: &Report, all: bool) -> anyhow::Result<()> {
    let mut files = output::table(["file", "kind", "bytes", "checked", "state"]);
    let mut shown = 0;
    for file in &report.files {
        let state = match (file.findings, &file.note) {
            (0, None) if file.kind == FileKind::Unread => String::new(),
            (0, None) => "ok".to_owned(),
            (0, Some(note)) => note.clone(),
            (_, _) => "DAMAGED".to_owned(),
        };
        if all || file.findings > 0 || file.note.is_some() {
            shown += 1;
            files.add_row(vec![
                Cell::new(file.path.display()),
                Cell::new(file.kind.name()),
                number(file.bytes),
                number(file.checked),
                Cell::new(state),
            ]);
        }
    }
    if shown > 0 {
        output::data(files)?;
    }
    for finding in &report.findings {
        output::data(finding)?;
    }
    for skipped in &report.skipped {
        output::note(format!("not checked: {skipped}"));
    }
    let bytes: u64 = report.files.iter().map(|file| file.bytes).sum();
    let checked: u64 = report.files.iter().map(|file| file.checked).sum();
    let files = count(report.files.len().try_into()?, "file");
    output::note(format!(
        "{files}, {}: {checked} checksums of blocks and records compared, {} decoded; {}",
        HumanBytes(bytes),
        count(report.records, "record"),
        count(report.findings.len().try_into()?, "finding"),
    ));
    Ok(())
}

fn report_json(dir: &Path, report: &Report) -> Value {
    let files = report.files.iter().map(|file| {
        json!({
            "file": file.path.display().to_string(),
            "kind": file.kind.name(),
            "bytes": file.bytes,
            "checked": file.checked,
            "findings": file.findings,
            "note": file.note,
        })
    });
    json!({
        "data_dir": dir.display().to_string(),
        "ok": report.findings.is_empty(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "skipped": report.skipped,
        "records": report.records,
        "files": files.collect::<Vec<_>>(),
    })
}

fn finding_json(finding: &Finding) -> Value {
    let (file, offset, place) = match &finding.place {
        Place::File(path, offset) => (Some(path.display().to_string()), *offset, None),
        Place::Record(name) | Place::Agreement(name) => (None, None, Some(name)),
    };
    json!({ "file": file, "offset": offset, "place": place, "what": finding.what })
}
