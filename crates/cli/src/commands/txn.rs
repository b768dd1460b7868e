//! `meridian kv txn`: conditions, writes and reads that take effect together or not at all.

use super::kv::Options;
use crate::context::Context;
use crate::output::{self, Format};
use crate::reply;
use crate::text::{BadText, Encoding};
use meridian_client::{Timestamp, Transaction};
use serde_json::Value;

/// Check, read and write several keys of one shard at one timestamp.
///
/// All conditions must hold, or nothing is written and the exit code is 3.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The table.
    table: String,
    /// The key must have exactly this value.
    #[arg(long, value_name = "KEY=VALUE")]
    if_value: Vec<String>,
    /// The key must have no value.
    #[arg(long, value_name = "KEY")]
    if_absent: Vec<String>,
    /// The key must have a value.
    #[arg(long, value_name = "KEY")]
    if_exists: Vec<String>,
    /// The key must still be at this version; 0: it must have none.
    #[arg(long, value_name = "KEY=TIMESTAMP")]
    if_version: Vec<String>,
    /// Write a value.
    #[arg(long, value_name = "KEY=VALUE")]
    put: Vec<String>,
    /// Remove a key.
    #[arg(long, value_name = "KEY")]
    delete: Vec<String>,
    /// Print the value that the key had before the writes.
    #[arg(long, value_name = "KEY")]
    read: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  meridian kv txn accounts --if-value alice=10 --put alice=7 --put bob=3
  meridian kv txn jobs --if-absent lock --put lock=me
  meridian kv txn jobs --if-exists lock --delete lock --read lock";

/// Why the options make no transaction.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum BadTransaction {
    #[error(transparent)]
    Text(#[from] BadText),
    #[error("`{0}` is not KEY=TIMESTAMP")]
    Version(String),
    #[error("the transaction does nothing; give it a condition, a write or a read")]
    Empty,
}

pub(crate) async fn run(context: &Context, options: &Options, args: Args) -> anyhow::Result<()> {
    let encoding = options.encoding();
    let transaction = args.transaction(encoding)?;
    let session = options.session(context).await?;
    let reply = session.transact(&args.table, &transaction).await?;
    match context.format() {
        Format::Json => {
            let mut members = reply::members(&reply);
            let rows = reply.value.iter().map(|r| reply::row_json(r, encoding)).collect();
            members.insert("reads".into(), Value::Array(rows));
            output::json(&Value::Object(members))?;
        }
        Format::Human if args.read.is_empty() => {}
        Format::Human => output::data(reply::rows_table(&reply.value, encoding))?,
    }
    options.finish(context, &session, "committed", &reply)
}

impl Args {
    fn transaction(&self, encoding: Encoding) -> Result<Transaction, BadTransaction> {
        let mut t = Transaction::new();
        for text in &self.if_value {
            let (key, value) = encoding.pair(text)?;
            t = t.if_value(key, value);
        }
        for text in &self.if_absent {
            t = t.if_absent(encoding.decode(text)?);
        }
        for text in &self.if_exists {
            t = t.if_exists(encoding.decode(text)?);
        }
        for text in &self.if_version {
            let bad = || BadTransaction::Version(text.clone());
            let (key, version) = text.rsplit_once('=').ok_or_else(bad)?;
            t = t.if_version(encoding.decode(key)?, Timestamp(version.parse().map_err(|_| bad())?));
        }
        for text in &self.put {
            let (key, value) = encoding.pair(text)?;
            t = t.put(key, value);
        }
        for text in &self.delete {
            t = t.delete(encoding.decode(text)?);
        }
        for text in &self.read {
            t = t.read(encoding.decode(text)?);
        }
        if t.is_empty() { Err(BadTransaction::Empty) } else { Ok(t) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn transaction(line: &str) -> Result<Transaction, BadTransaction> {
        let line = ["txn", "t"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(line).unwrap().args.transaction(Encoding::Text)
    }

    #[test]
    fn options_become_the_transaction() {
        let line = "--put k=v=w --delete d --read r --if-value a=1 --if-absent b --if-exists c --if-version x=y=9";
        let expected = Transaction::new()
            .if_value("a", "1")
            .if_absent("b")
            .if_exists("c")
            .if_version("x=y", Timestamp(9))
            .put("k", "v=w")
            .delete("d")
            .read("r");
        assert_eq!(transaction(line), Ok(expected));
    }

    #[test]
    fn malformed_options_are_refused() {
        assert_eq!(transaction(""), Err(BadTransaction::Empty));
        assert_eq!(transaction("--put k"), Err(BadTransaction::Text(BadText::Pair("k".into()))));
        for line in ["--if-version k", "--if-version k=soon"] {
            assert!(matches!(transaction(line), Err(BadTransaction::Version(_))), "{line}");
        }
    }
}
