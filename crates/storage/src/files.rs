//! Small file operations whose results survive a power loss.

use crate::StorageError;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// Bytes read at a time when a file is checksummed.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes a whole file and syncs it. The folder's entry needs [`sync_dir`] as well.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut file = File::create(path).map_err(StorageError::file("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(StorageError::file("write", path))
}

/// Syncs a file that somebody else has written.
pub(crate) fn sync_file(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(StorageError::file("sync", path))
}

/// Makes created, renamed and removed names in a folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(StorageError::file("sync", path))
}

/// Removes a folder with everything in it; one that is not there counts as removed.
pub(crate) fn remove_dir(path: &Path) -> Result<(), StorageError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StorageError::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Length and crc32c of a file's content.
pub(crate) fn checksum(path: &Path) -> Result<(u64, u32), StorageError> {
    let mut file = File::open(path).map_err(StorageError::file("open", path))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut length, mut crc) = (0, 0);
    loop {
        let read = file.read(&mut chunk).map_err(StorageError::file("read", path))?;
        if read == 0 {
            return Ok((length, crc));
        }
        length += read as u64;
        crc = crc32c::crc32c_append(crc, &chunk[..read]);
    }
}
