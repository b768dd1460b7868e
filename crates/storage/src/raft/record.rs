//! The frame of every value in the raft store: `crc32c u32 BE | payload`. The checksum covers the key as well, so
//! a value that turns up under another key is found too.

use crate::StorageError;
use bytes::Bytes;

const CRC_LEN: usize = 4;

/// Frames a payload for its key.
pub(crate) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(CRC_LEN + payload.len());
    seal_into(&mut out, key, payload);
    out
}

/// As [`seal`], into a buffer whose content goes.
pub(super) fn seal_into(out: &mut Vec<u8>, key: &[u8], payload: &[u8]) {
    out.clear();
    out.extend_from_slice(&checksum(key, payload).to_be_bytes());
    out.extend_from_slice(payload);
}

/// Checks a value read under `key` and returns its payload.
///
/// * Errors: [`StorageError::Corrupt`] naming what the caller says it was.
pub(super) fn open(key: &[u8], value: &[u8], what: impl FnOnce() -> String) -> Result<Bytes, StorageError> {
    match value.split_first_chunk::<CRC_LEN>() {
        Some((crc, payload)) if u32::from_be_bytes(*crc) == checksum(key, payload) => {
            Ok(Bytes::copy_from_slice(payload))
        }
        _ => Err(StorageError::corrupt(format!("{}: checksum mismatch", what()))),
    }
}

/// [`open`] for those who only ask whether it can be opened.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn open_record(key: &[u8], value: &[u8]) -> Option<Bytes> {
    open(key, value, String::new).ok()
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_a_foreign_key_are_found() {
        let sealed = seal(b"key", b"payload");
        assert_eq!(open(b"key", &sealed, String::new).unwrap(), "payload");
        assert!(open(b"kez", &sealed, String::new).is_err());
        assert!(open(b"key", &sealed[..3], String::new).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(b"key", &damaged, String::new), Err(StorageError::Corrupt { .. })), "bit {bit}");
        }
    }
}
