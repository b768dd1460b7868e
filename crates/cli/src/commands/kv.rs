//! `meridian kv`: single keys, ranges, and transactions.

use super::txn;
use crate::consistency::{self, Freshness, Level};
use crate::context::Context;
use crate::exit::NotFound;
use crate::output::{self, Format};
use crate::reply;
use crate::text::Encoding;
use anyhow::Context as _;
use bytes::Bytes;
use meridian_client::{Consistency, KeyRange, Reply, ScanOptions, Session, Within};
use serde_json::Value;
use std::io::Read as _;
use std::path::PathBuf;

/// Read and write keys.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    command: Command,
}

/// What all of these commands understand.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Keys and values are hexadecimal, on the command line and in output.
    #[arg(long, global = true)]
    hex: bool,
    /// Show where the time went, next to the physical floor.
    #[arg(long, global = true)]
    receipt: bool,
    /// Carry the session's causality token from one command to the next in this file.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the value of a key.
    #[command(after_help = consistency::HELP)]
    Get {
        /// The table.
        table: String,
        /// The key.
        key: String,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Write a value.
    Put {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// The value; `-` reads it from stdin, bytes as they are.
        value: String,
    },
    /// Remove a key.
    Delete {
        /// The table.
        table: String,
        /// The key.
        key: String,
    },
    /// Print a range of keys.
    #[command(after_help = consistency::HELP)]
    Scan(ScanArgs),
    /// Check, read and write several keys at one timestamp.
    Txn(txn::Args),
}

#[derive(Debug, clap::Args)]
struct ScanArgs {
    /// The table.
    table: String,
    /// Only keys that begin like this.
    #[arg(long, conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// First key, included.
    #[arg(long)]
    start: Option<String>,
    /// Last key, excluded.
    #[arg(long)]
    end: Option<String>,
    /// Most rows to print; 0: all.
    #[arg(long, default_value_t = 0)]
    limit: u32,
    /// From the last key to the first.
    #[arg(long)]
    reverse: bool,
    /// The time of --within is for each page.
    #[command(flatten)]
    freshness: Freshness,
}

const EXAMPLES: &str = "\
Keys and values are text, or base64:... for other bytes.

Examples:
  meridian kv put cities lisbon 545000 --receipt
  meridian kv get cities lisbon --consistency local
  meridian kv get cities lisbon --within 40ms --weakest bounded:5s
  meridian kv put cities porto 231000 --token-file s.token --region us-east
  meridian kv get cities porto --token-file s.token --region eu-west --consistency causal
  meridian kv scan cities --start a --end m --limit 10
  meridian kv txn cities --if-value lisbon=545000 --put lisbon=545001 --read porto";

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let Args { options, command } = args;
    let encoding = options.encoding();
    match command {
        Command::Get { table, key, freshness } => {
            let key = encoding.decode(&key)?;
            get(context, &options, &table, key, freshness).await
        }
        Command::Put { table, key, value } => {
            let (key, value) = (encoding.decode(&key)?, value_bytes(encoding, &value)?);
            let session = options.session(context).await?;
            let reply = session.put(&table, key, value).await?;
            options.written(context, &session, "written", &reply)
        }
        Command::Delete { table, key } => {
            let key = encoding.decode(&key)?;
            let session = options.session(context).await?;
            let reply = session.delete(&table, key).await?;
            options.written(context, &session, "deleted", &reply)
        }
        Command::Scan(args) => scan(context, &options, args).await,
        Command::Txn(args) => txn::run(context, &options, args).await,
    }
}

impl Options {
    /// How keys and values are written.
    pub(crate) fn encoding(&self) -> Encoding {
        Encoding::from_flag(self.hex)
    }

    /// A session that continues the token file, if there is one.
    pub(crate) async fn session(&self, context: &Context) -> anyhow::Result<Session> {
        let session = context.connect().await?.session().with_receipts(self.receipt);
        let Some(path) = &self.token_file else { return Ok(session) };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let token = consistency::parse_token(text.trim()).map_err(anyhow::Error::msg);
                Ok(session.with_token(token.with_context(|| format!("{} holds no token", path.display()))?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(session),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Prints what a reply says of itself, after the data (people), and keeps the session's token.
    pub(crate) fn finish<T>(
        &self,
        context: &Context,
        session: &Session,
        verb: &str,
        reply: &Reply<T>,
    ) -> anyhow::Result<()> {
        if context.format() == Format::Human {
            output::note(reply::line(verb, reply));
            if let Some(receipt) = &reply.receipt {
                output::note(reply::receipt_table(receipt));
            }
        }
        if let Some(path) = &self.token_file {
            let token = crate::text::hex(&session.token().to_bytes());
            std::fs::write(path, token + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn written(&self, context: &Context, session: &Session, verb: &str, reply: &Reply<()>) -> anyhow::Result<()> {
        if context.format() == Format::Json {
            output::json(&Value::Object(reply::members(reply)))?;
        }
        self.finish(context, session, verb, reply)
    }

    fn level(&self, level: Level, session: &Session) -> anyhow::Result<Consistency> {
        match level {
            Level::Given(consistency) => Ok(consistency),
            Level::Session if self.token_file.is_some() => Ok(session.causal()),
            Level::Session => anyhow::bail!("causal needs a token: write causal:TOKEN, or pass --token-file FILE"),
        }
    }

    /// The consistency, and what the read may get instead within its time.
    fn freshness(&self, asked: Freshness, session: &Session) -> anyhow::Result<(Consistency, Option<Within>)> {
        let consistency = self.level(asked.consistency, session)?;
        let Some(budget) = asked.within else { return Ok((consistency, None)) };
        let mut within = Within::new(budget).including(session.token());
        if let Some(weakest) = asked.weakest {
            within = within.or_weaker(self.level(weakest, session)?);
        }
        Ok((consistency, Some(within)))
    }
}

async fn get(
    context: &Context,
    options: &Options,
    table: &str,
    key: Bytes,
    freshness: Freshness,
) -> anyhow::Result<()> {
    let session = options.session(context).await?;
    let (consistency, within) = options.freshness(freshness, &session)?;
    let reply = match within {
        None => session.get(table, key.clone(), consistency).await?,
        Some(within) => session.get_within(table, key.clone(), consistency, &within).await?,
    };
    let encoding = options.encoding();
    match (context.format(), &reply.value) {
        (Format::Json, row) => {
            let mut members = reply::members(&reply);
            members.insert("key".into(), encoding.encode(&key).into());
            members.insert("value".into(), row.as_ref().map(|r| encoding.encode(&r.value)).into());
            members.insert("version".into(), row.as_ref().map(|r| r.version.0).into());
            output::json(&Value::Object(members))?;
        }
        (Format::Human, Some(row)) if encoding == Encoding::Text => output::raw(&row.value)?,
        (Format::Human, Some(row)) => output::data(encoding.encode(&row.value))?,
        (Format::Human, None) => {}
    }
    options.finish(context, &session, "read", &reply)?;
    if reply.value.is_some() { Ok(()) } else { Err(NotFound.into()) }
}

async fn scan(context: &Context, options: &Options, args: ScanArgs) -> anyhow::Result<()> {
    let encoding = options.encoding();
    let range = args.range(encoding)?;
    let session = options.session(context).await?;
    let (consistency, within) = options.freshness(args.freshness, &session)?;
    let scan = ScanOptions { range, limit: args.limit, reverse: args.reverse, consistency, within };
    let reply = session.scan(&args.table, scan).collect().await?;
    match context.format() {
        Format::Json => {
            let mut members = reply::members(&reply);
            let rows = reply.value.iter().map(|r| reply::row_json(r, encoding)).collect();
            members.insert("rows".into(), Value::Array(rows));
            output::json(&Value::Object(members))?;
        }
        Format::Human => output::data(reply::rows_table(&reply.value, encoding))?,
    }
    let rows = output::count(reply.value.len().try_into()?, "row");
    options.finish(context, &session, &format!("{rows} read"), &reply)
}

impl ScanArgs {
    fn range(&self, encoding: Encoding) -> anyhow::Result<KeyRange> {
        if let Some(prefix) = &self.prefix {
            return Ok(KeyRange::prefix(encoding.decode(prefix)?));
        }
        let bound = |text: &Option<String>| text.as_deref().map(|t| encoding.decode(t)).transpose();
        Ok(KeyRange::new(bound(&self.start)?.unwrap_or_default(), bound(&self.end)?)?)
    }
}

fn value_bytes(encoding: Encoding, value: &str) -> anyhow::Result<Bytes> {
    if value != "-" {
        return Ok(encoding.decode(value)?);
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read the value from stdin")?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{self, Cli};
    use clap::Parser as _;

    fn scan_args(line: &str) -> Result<ScanArgs, clap::Error> {
        let cli = Cli::try_parse_from(format!("meridian kv scan t {line}").split_whitespace())?;
        match cli.command {
            args::Command::Kv(Args { command: Command::Scan(args), .. }) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().filter(|l| l.starts_with("  meridian")) {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn ranges_of_a_scan() {
        let range = |line| scan_args(line).unwrap().range(Encoding::Text);
        assert_eq!(range("").unwrap(), KeyRange::all());
        assert_eq!(range("--prefix ab").unwrap(), KeyRange::prefix("ab".into()));
        assert_eq!(range("--start a --end c").unwrap(), KeyRange::new("a".into(), Some("c".into())).unwrap());
        assert!(range("--start c --end a").is_err());
        assert!(scan_args("--prefix a --start b").is_err());
        assert!(scan_args("--limit -1").is_err());
    }

    #[test]
    fn a_wrong_consistency_is_a_usage_error() {
        assert_eq!(scan_args("--consistency fresh").unwrap_err().exit_code(), 2);
        assert_eq!(scan_args("--consistency causal").unwrap().freshness.consistency, Level::Session);
    }

    #[test]
    fn a_weakest_level_needs_a_budget() {
        assert_eq!(scan_args("--weakest local").unwrap_err().exit_code(), 2);
        let freshness = scan_args("--within 40ms --weakest local").unwrap().freshness;
        assert_eq!(freshness.within, Some(std::time::Duration::from_millis(40)));
        assert_eq!(freshness.weakest, Some(Level::Given(Consistency::Local)));
    }
}
