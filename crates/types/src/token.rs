//! Causality tokens: what a session has seen.

use crate::Timestamp;

/// The largest timestamp that a session has written or read. A read that includes it sees the session's own
/// writes and never goes back. On the wire it is opaque: one version byte, then the timestamp, big endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CausalityToken(pub Timestamp);

/// The bytes are no causality token of a version that this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a causality token of a known version")]
pub struct BadToken;

const VERSION: u8 = 1;

impl CausalityToken {
    /// Takes in what another reply has shown.
    pub fn merge(&mut self, other: Self) {
        *self = (*self).max(other);
    }

    /// The opaque form.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.0.0.to_be_bytes());
        out
    }

    /// Reads the opaque form. No bytes at all: the token of a session that has seen nothing.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadToken> {
        match bytes.split_first() {
            None => Ok(Self::default()),
            Some((&VERSION, ts)) => {
                let ts: [u8; 8] = ts.try_into().map_err(|_| BadToken)?;
                Ok(Self(Timestamp(u64::from_be_bytes(ts))))
            }
            Some(_) => Err(BadToken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        let token = CausalityToken(Timestamp(42));
        assert_eq!(CausalityToken::from_bytes(&token.to_bytes()), Ok(token));
        assert_eq!(CausalityToken::from_bytes(&[]), Ok(CausalityToken::default()));
        assert_eq!(CausalityToken::from_bytes(&[9, 0]), Err(BadToken));
        assert_eq!(CausalityToken::from_bytes(&[1, 0]), Err(BadToken));
    }
}
