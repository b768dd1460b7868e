//! `--consistency`, `--within` and `--weakest`: how fresh a read must be, and how long it may take, as text.

use crate::text;
use meridian_types::{CausalityToken, Consistency, Timestamp};
use std::time::Duration;

/// For the help of every command that reads.
pub(crate) const HELP: &str = "\
Consistency levels:
  linearizable     sees every write acknowledged before the read began (default)
  snapshot:TS      the state at timestamp TS, nanoseconds since 1970
  bounded:500ms    the newest local state that is at most this old
  causal           everything that --token-file has seen
  causal:TOKEN     everything that the token of an earlier reply has seen
  local            whatever the serving replica has

With --within the read gets the strongest level that fits into that time, from --consistency down to --weakest, and the
reply says which. If none of them fits, it fails at once and says what would. What --token-file has seen is included at
every level.
  kv get cities lisbon --within 40ms --weakest bounded:5s     the newest state if that takes less than 40 ms,
                                                              else one that is at most 5 s old
  kv get cities lisbon --within 40ms                          the newest state, or an error at once";

/// How fresh, and within which time.
#[derive(Debug, clap::Args)]
pub(crate) struct Freshness {
    /// How fresh the answer must be; with --within, at best.
    #[arg(long, default_value = "linearizable", value_parser = parse)]
    pub(crate) consistency: Level,
    /// How long the read may take at the gateway.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) within: Option<Duration>,
    /// The weakest consistency that will do, when a stronger one does not fit.
    #[arg(long, value_name = "CONSISTENCY", requires = "within", value_parser = parse)]
    pub(crate) weakest: Option<Level>,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| format!("`{text}` is not a time ({e}): 40ms"))?;
    if time.is_zero() { Err("no time at all".to_owned()) } else { Ok(time) }
}

/// What the option asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// A level that stands for itself.
    Given(Consistency),
    /// Everything that the session has seen.
    Session,
}

/// Reads one of the forms in [`HELP`].
pub(crate) fn parse(text: &str) -> Result<Level, String> {
    let (name, detail) = text.split_once(':').unwrap_or((text, ""));
    let level = match (name, detail) {
        ("linearizable", "") => Consistency::Linearizable,
        ("local", "") => Consistency::Local,
        ("causal", "") => return Ok(Level::Session),
        ("causal", token) => Consistency::Causal(parse_token(token)?),
        ("snapshot", at) => Consistency::Snapshot(Timestamp(
            at.parse().map_err(|_| format!("`{at}` is not a timestamp: snapshot:NANOSECONDS, as replies print it"))?,
        )),
        ("bounded", max) => Consistency::BoundedStaleness(
            humantime::parse_duration(max).map_err(|e| format!("`{max}` is not a time ({e}): bounded:500ms"))?,
        ),
        _ => {
            return Err(format!("`{text}` is none of linearizable, snapshot:TS, bounded:TIME, causal[:TOKEN], local"));
        }
    };
    Ok(Level::Given(level))
}

/// A level as [`parse`] reads it.
pub(crate) fn text(level: &Consistency) -> String {
    match level {
        Consistency::Linearizable | Consistency::Local => level.to_string(),
        Consistency::Snapshot(at) => format!("{level}:{at}"),
        Consistency::BoundedStaleness(max) => format!("{level}:{}", humantime::format_duration(*max)),
        Consistency::Causal(token) => format!("{level}:{}", text::hex(&token.to_bytes())),
    }
}

/// Reads a token as replies print it.
pub(crate) fn parse_token(text: &str) -> Result<CausalityToken, String> {
    let bytes = text::unhex(text).ok_or_else(|| format!("`{text}` is not hexadecimal"))?;
    CausalityToken::from_bytes(&bytes).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let token = CausalityToken(Timestamp(7));
        let causal = format!("causal:{}", text::hex(&token.to_bytes()));
        for (text, level) in [
            ("linearizable", Consistency::Linearizable),
            ("local", Consistency::Local),
            ("snapshot:12", Consistency::Snapshot(Timestamp(12))),
            ("bounded:1s 500ms", Consistency::BoundedStaleness(Duration::from_millis(1500))),
            (causal.as_str(), Consistency::Causal(token)),
        ] {
            assert_eq!(self::text(&level), text);
            assert_eq!(parse(text), Ok(Level::Given(level)), "{text}");
        }
        assert_eq!(parse("causal"), Ok(Level::Session));
    }

    #[test]
    fn a_budget_is_some_time() {
        assert_eq!(time("40ms"), Ok(Duration::from_millis(40)));
        for text in ["", "0s", "40", "soon"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_forms_there_are() {
        for text in
            ["", "fresh", "snapshot", "snapshot:now", "bounded", "bounded:5", "causal:xy", "causal:02", "local:1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("fresh").unwrap_err().contains("bounded:TIME"));
    }
}
