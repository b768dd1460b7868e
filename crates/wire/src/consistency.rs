//! Consistency levels of reads.

use bytes::Bytes;
use meridian_proto::v1::{self as pb, consistency::Level};
use meridian_types::{CausalityToken, Consistency, Error, Reason, Timestamp};
use std::time::Duration;

/// To the wire. A staleness bound of more nanoseconds than a u64 holds (584 years) is sent as the largest one.
pub fn encode(consistency: &Consistency) -> pb::Consistency {
    use pb::consistency as level;
    let level = match consistency {
        Consistency::Linearizable => Level::Linearizable(level::Linearizable {}),
        Consistency::Snapshot(at) => Level::Snapshot(level::Snapshot { timestamp: at.0 }),
        Consistency::BoundedStaleness(max) => Level::BoundedStaleness(level::BoundedStaleness {
            max_staleness_ns: u64::try_from(max.as_nanos()).unwrap_or(u64::MAX),
        }),
        Consistency::Causal(token) => Level::Causal(level::Causal { token: Bytes::from(token.to_bytes()) }),
        Consistency::Local => Level::Local(level::Local {}),
    };
    pb::Consistency { level: Some(level) }
}

/// From the wire; nothing set means linearizable.
///
/// Errors: [`Reason::BadRequest`] for a token that this build cannot read.
pub fn decode(message: Option<pb::Consistency>) -> Result<Consistency, Error> {
    Ok(match message.and_then(|m| m.level) {
        None | Some(Level::Linearizable(_)) => Consistency::Linearizable,
        Some(Level::Snapshot(s)) => Consistency::Snapshot(Timestamp(s.timestamp)),
        Some(Level::BoundedStaleness(b)) => Consistency::BoundedStaleness(Duration::from_nanos(b.max_staleness_ns)),
        Some(Level::Causal(c)) => Consistency::Causal(token(&c.token)?),
        Some(Level::Local(_)) => Consistency::Local,
    })
}

/// A causality token. No bytes at all: a session that has seen nothing.
pub(crate) fn token(bytes: &[u8]) -> Result<CausalityToken, Error> {
    CausalityToken::from_bytes(bytes).map_err(|e| {
        Error::new(Reason::BadRequest, format!("{e}; pass the token of an earlier reply unchanged, or none at all"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_round_trips() {
        for level in [
            Consistency::Linearizable,
            Consistency::Snapshot(Timestamp(7)),
            Consistency::BoundedStaleness(Duration::from_millis(500)),
            Consistency::Causal(CausalityToken(Timestamp(9))),
            Consistency::Local,
        ] {
            assert_eq!(decode(Some(encode(&level))), Ok(level));
        }
    }

    #[test]
    fn nothing_set_is_linearizable() {
        assert_eq!(decode(None), Ok(Consistency::Linearizable));
        assert_eq!(decode(Some(pb::Consistency { level: None })), Ok(Consistency::Linearizable));
    }

    #[test]
    fn a_strange_token_is_refused() {
        let level = Level::Causal(pb::consistency::Causal { token: Bytes::from_static(b"x") });
        assert_eq!(decode(Some(pb::Consistency { level: Some(level) })).unwrap_err().reason, Reason::BadRequest);
    }
}
