//! Keeps a node from running on a directory that is being read, and the other way round.

use crate::StorageError;
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs::File;
use std::path::Path;

/// Holds a shared lock on RocksDB's LOCK file, which an open RocksDB holds exclusively.
///
/// Such locks are a process's, not a handle's: within one process they exclude nothing, and dropping this one lets go of
/// the lock of a database that is open in the same process.
pub(super) struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// * Errors: [`StorageError::InUse`] while another process has the database open.
    pub(super) fn take(database: &Path) -> Result<Self, StorageError> {
        let path = database.join("LOCK");
        let file = match File::open(&path) {
            Ok(file) => file,
            // A copy may lack it; there is nothing to hold then, and nobody who holds it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self { _file: None }),
            Err(error) => return Err(StorageError::file("open", &path)(error)),
        };
        match fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                Err(StorageError::InUse { path: database.display().to_string() })
            }
            Err(error) => Err(StorageError::file("lock", &path)(error.into())),
        }
    }
}
