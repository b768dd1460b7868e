//! Ranges of keys. On the wire an empty `end` means "to the last key".

use bytes::Bytes;
use meridian_types::{Error, KeyRange, Reason};

/// `(start, end)` as messages hold them.
pub fn encode(range: &KeyRange) -> (Bytes, Bytes) {
    (range.start.clone(), range.end.clone().unwrap_or_default())
}

/// The range that a message's `start` and `end` mean.
///
/// Errors: [`Reason::BadRange`] when it ends before it starts.
pub fn decode(start: Bytes, end: Bytes) -> Result<KeyRange, Error> {
    let end = (!end.is_empty()).then_some(end);
    KeyRange::new(start, end)
        .map_err(|e| Error::new(Reason::BadRange, format!("{e}; swap them, or leave the end empty for no upper bound")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_end_is_no_end() {
        for range in [KeyRange::all(), KeyRange::prefix("a".into()), KeyRange::new("b".into(), None).unwrap()] {
            let (start, end) = encode(&range);
            assert_eq!(decode(start, end), Ok(range));
        }
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_refused() {
        assert_eq!(decode("b".into(), "a".into()).unwrap_err().reason, Reason::BadRange);
        assert_eq!(decode("b".into(), "b".into()).unwrap_err().reason, Reason::BadRange);
    }
}
