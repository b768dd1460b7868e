//! Keys of versions: `table u64 BE | escaped user key | 00 01 | !timestamp u64 BE`.
//!
//! Byte order of the encodings is the order of (table, key, newest version first), so a seek to
//! `(table, key, at)` lands on the newest version at or below `at`. To keep that order for keys of any length and
//! content, a zero byte inside the user key becomes `00 FF`, and `00 01` ends it: the end sorts before every
//! continuation.
//!
//! Everything before the timestamp is the *stem*. All versions of one key share it; bloom filters are built on
//! it ([`stem_of`] is RocksDB's prefix extractor), so a point read at any timestamp can use them.

use crate::StorageError;
use bytes::Bytes;
use meridian_types::{KeyRange, TableId, Timestamp};

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;

/// Bytes of the table id.
const TABLE_LEN: usize = 8;
/// Bytes of the timestamp.
const TIMESTAMP_LEN: usize = 8;
/// Bytes of the shortest encoding: table, terminator, timestamp.
const LEN_MIN: usize = TABLE_LEN + 2 + TIMESTAMP_LEN;

/// A half-open range of encoded keys; without an `end` it has no upper bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

impl Span {
    /// All versions of the keys in `range`.
    pub(crate) fn of(table: TableId, range: &KeyRange) -> Self {
        let end = match &range.end {
            Some(end) => Some(stem(table, end)),
            None => table.0.checked_add(1).map(|next| next.to_be_bytes().to_vec()),
        };
        Self { start: stem(table, &range.start), end }
    }
}

/// Table and user key, without the timestamp.
pub(crate) fn stem(table: TableId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEN_MIN + key.len());
    write_stem(&mut out, table, key);
    out
}

/// Appends the whole key of one version.
pub(crate) fn write_version(out: &mut Vec<u8>, table: TableId, key: &[u8], ts: Timestamp) {
    write_stem(out, table, key);
    push_timestamp(out, ts);
}

fn write_stem(out: &mut Vec<u8>, table: TableId, key: &[u8]) {
    out.extend_from_slice(&table.0.to_be_bytes());
    // Most keys have no zero byte and go in one piece.
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|byte| *byte == ESCAPE) {
        out.extend_from_slice(&rest[..=zero]);
        out.push(ESCAPED_ZERO);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[ESCAPE, TERMINATOR]);
}

/// Completes a stem to the key of one version.
pub(crate) fn push_timestamp(stem: &mut Vec<u8>, ts: Timestamp) {
    stem.extend_from_slice(&(!ts.0).to_be_bytes());
}

/// The stem of an encoded key. Anything too short to be one is its own stem, as RocksDB may ask about any bound.
pub(crate) fn stem_of(encoded: &[u8]) -> &[u8] {
    match encoded.len().checked_sub(TIMESTAMP_LEN) {
        Some(len) if has_stem(encoded) => &encoded[..len],
        _ => encoded,
    }
}

/// Whether `encoded` is long enough to hold a stem and a timestamp.
pub(crate) fn has_stem(encoded: &[u8]) -> bool {
    encoded.len() >= LEN_MIN
}

/// Splits a whole encoded key into its stem and its timestamp.
pub(crate) fn split(encoded: &[u8]) -> Result<(&[u8], Timestamp), StorageError> {
    match encoded.split_last_chunk::<TIMESTAMP_LEN>() {
        Some((stem, inverted)) if has_stem(encoded) => Ok((stem, Timestamp(!u64::from_be_bytes(*inverted)))),
        _ => Err(StorageError::corrupt(format!("version key of {} bytes", encoded.len()))),
    }
}

/// Table and user key of a stem.
///
/// * Errors: [`StorageError::Corrupt`] for bytes that no encoding produces.
pub(crate) fn decode_stem(stem: &[u8]) -> Result<(TableId, Bytes), StorageError> {
    let bad = || StorageError::corrupt("version key with a broken escape");
    let (table, escaped) = stem.split_first_chunk::<TABLE_LEN>().ok_or_else(bad)?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    loop {
        match *bytes.next().ok_or_else(bad)? {
            ESCAPE => match (*bytes.next().ok_or_else(bad)?, bytes.len()) {
                (ESCAPED_ZERO, _) => key.push(0),
                (TERMINATOR, 0) => return Ok((TableId(u64::from_be_bytes(*table)), key.into())),
                _ => return Err(bad()),
            },
            byte => key.push(byte),
        }
    }
}

/// The whole key of one version.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn version(table: TableId, key: &[u8], ts: Timestamp) -> Vec<u8> {
    let mut out = Vec::new();
    write_version(&mut out, table, key, ts);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;

    /// Few different bytes, the special ones among them, so that prefixes and equal keys are common.
    fn user_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0x00, 0x01, 0x02, b'a', 0xfe, 0xff]), 0..6)
    }

    fn timestamp() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), 0..4_u64, any::<u64>()]
    }

    proptest! {
        #[test]
        fn byte_order_is_table_then_key_then_newest_first(
            a in (0..3_u64, user_key(), timestamp()),
            b in (0..3_u64, user_key(), timestamp()),
        ) {
            let encode = |(table, key, ts): &(u64, Vec<u8>, u64)| version(TableId(*table), key, Timestamp(*ts));
            let rank = |(table, key, ts): &(u64, Vec<u8>, u64)| (*table, key.clone(), Reverse(*ts));
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), rank(&a).cmp(&rank(&b)));
        }

        #[test]
        fn decoding_gives_back_what_was_encoded(table in any::<u64>(), key in user_key(), ts in timestamp()) {
            let encoded = version(TableId(table), &key, Timestamp(ts));
            let (stem, found) = split(&encoded).unwrap();
            prop_assert_eq!(stem, stem_of(&encoded));
            prop_assert_eq!(found, Timestamp(ts));
            prop_assert_eq!(decode_stem(stem).unwrap(), (TableId(table), Bytes::from(key)));
        }

        #[test]
        fn a_span_holds_exactly_the_versions_of_its_range(
            table in prop_oneof![0..3_u64, Just(u64::MAX)],
            start in user_key(),
            end in prop::option::of(user_key()),
            probe in (prop_oneof![0..3_u64, Just(u64::MAX)], user_key(), timestamp()),
        ) {
            let Ok(range) = KeyRange::new(start.into(), end.map(Bytes::from)) else { return Ok(()) };
            let span = Span::of(TableId(table), &range);
            let encoded = version(TableId(probe.0), &probe.1, Timestamp(probe.2));
            let inside = encoded >= span.start && span.end.is_none_or(|end| encoded < end);
            prop_assert_eq!(inside, probe.0 == table && range.contains(&probe.1));
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((stem, _)) = split(&bytes)
                && let Ok((table, key)) = decode_stem(stem)
            {
                prop_assert_eq!(super::stem(table, &key), stem);
            }
        }
    }
}
