//! `--consistency`: how fresh a read must be, as text.

use crate::text;
use meridian_types::{CausalityToken, Consistency, Timestamp};

/// For the help of every command that reads.
pub(crate) const HELP: &str = "\
Consistency levels:
  linearizable     sees every write acknowledged before the read began (default)
  snapshot:TS      the state at timestamp TS, nanoseconds since 1970
  bounded:500ms    the newest local state that is at most this old
  causal           everything that --token-file has seen
  causal:TOKEN     everything that the token of an earlier reply has seen
  local            whatever the serving replica has";

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

/// Reads a token as replies print it.
pub(crate) fn parse_token(text: &str) -> Result<CausalityToken, String> {
    let bytes = text::unhex(text).ok_or_else(|| format!("`{text}` is not hexadecimal"))?;
    CausalityToken::from_bytes(&bytes).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
            assert_eq!(parse(text), Ok(Level::Given(level)), "{text}");
        }
        assert_eq!(parse("causal"), Ok(Level::Session));
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
