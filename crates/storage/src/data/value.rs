//! Values of versions: `format u8 | tag u8 | payload`. RocksDB's block checksums cover them.

use crate::StorageError;
use bytes::Bytes;

/// Format of the value's frame; a later one may add fields before the payload.
const FORMAT: u8 = 1;
const PUT: u8 = 1;
const TOMBSTONE: u8 = 2;

/// Appends the encoding of what a version holds; `None` is a tombstone.
pub(super) fn write(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let (tag, payload) = value.map_or((TOMBSTONE, [].as_slice()), |v| (PUT, v));
    out.extend_from_slice(&[FORMAT, tag]);
    out.extend_from_slice(payload);
}

/// Decodes what a version holds, without copying it.
pub(super) fn decode(encoded: &[u8]) -> Result<Option<&[u8]>, StorageError> {
    match encoded {
        [FORMAT, PUT, payload @ ..] => Ok(Some(payload)),
        [FORMAT, TOMBSTONE] => Ok(None),
        _ => Err(StorageError::corrupt(format!("version value that begins with {:?}", encoded.get(..2)))),
    }
}

/// [`decode`], copied out of the block.
pub(super) fn to_owned(encoded: &[u8]) -> Result<Option<Bytes>, StorageError> {
    Ok(decode(encoded)?.map(Bytes::copy_from_slice))
}

/// The encoding of what a version holds.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn encode(value: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        for value in [None, Some(b"".as_slice()), Some(b"\x02"), Some(b"payload")] {
            assert_eq!(decode(&encode(value)).unwrap(), value);
        }
        for bad in [b"".as_slice(), b"\x01", b"\x01\x02x", b"\x02\x01x", b"\x01\x03"] {
            assert!(matches!(decode(bad), Err(StorageError::Corrupt { .. })), "{bad:?}");
        }
    }
}
