//! Snapshot files of the simulated disk: `(key length u32 BE | key | value length u32 BE | value)* | crc32c u32 BE`.

use crate::StorageError;
use crate::physical::Damage;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use std::path::Path;

const CRC_LEN: usize = 4;

/// Collects records in order of their keys.
#[derive(Default)]
pub(super) struct Writer {
    out: BytesMut,
}

impl Writer {
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            self.out.put_u32(u32::try_from(part.len()).expect("a record is smaller than 4 GiB"));
            self.out.put_slice(part);
        }
    }

    /// Size so far.
    pub(super) fn bytes(&self) -> u64 {
        self.out.len() as u64
    }

    pub(super) fn finish(mut self) -> Bytes {
        let crc = crc32c::crc32c(&self.out);
        self.out.put_u32(crc);
        self.out.freeze()
    }
}

/// The records of a file; `None` if it is not one that a [`Writer`] has made.
pub(super) fn decode(file: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut body = file.slice(..file.len().checked_sub(CRC_LEN)?);
    if file[body.len()..] != crc32c::crc32c(&body).to_be_bytes() {
        return None;
    }
    let mut records = Vec::new();
    while !body.is_empty() {
        records.push((part(&mut body)?, part(&mut body)?));
    }
    Some(records)
}

/// Hands out a file's rows with their offsets; returns its damage.
pub(crate) fn read_rows(path: &Path, file: &Bytes, mut each: impl FnMut(u64, &[u8], &[u8])) -> Vec<Damage> {
    let Some(records) = decode(file) else { return vec![Damage::new(path, 0, "it is no file of the simulated disk")] };
    let mut offset = 0;
    for (key, value) in records {
        each(offset, &key, &value);
        offset += (key.len() + value.len() + 8) as u64;
    }
    Vec::new()
}

fn part(body: &mut Bytes) -> Option<Bytes> {
    let len = body.try_get_u32().ok()? as usize;
    (len <= body.len()).then(|| body.split_to(len))
}

/// The error for a file that cannot be decoded.
pub(super) fn broken(path: &Path) -> StorageError {
    StorageError::corrupt(format!("snapshot file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back_and_damage_is_found() {
        let mut writer = Writer::default();
        writer.put(b"k", b"");
        writer.put(b"", b"empty key");
        let file = writer.finish();
        let records = decode(&file).unwrap();
        assert_eq!(records, [("k".into(), "".into()), ("".into(), "empty key".into())]);
        for at in 0..file.len() {
            let mut damaged = file.to_vec();
            damaged[at] ^= 1;
            assert_eq!((decode(&damaged.into()), decode(&file.slice(..at))), (None, None), "byte {at}");
        }
    }
}
