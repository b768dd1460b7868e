//! The files of snapshots: on the file system for RocksDB, on the simulated disk for a simulated store. Operations
//! say what of their result survives a power loss.
//!
//! The operations of this crate block. Those that other crates use to send and receive snapshots are asynchronous.

use crate::StorageError;
use crate::physical::Damage;
use crate::physical::table::{self, Table};
#[cfg(feature = "simulation")]
use crate::sim::{SimDb, SimFiles};
use bytes::Bytes;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes read at a time when a file is checksummed.
const CHUNK_BYTES: usize = 1 << 20;

/// Access to the files beside a store, drawn from it with [`Store::files`](crate::Store::files). Clones are equal.
#[derive(Clone)]
pub struct Files {
    place: Place,
}

#[derive(Clone)]
enum Place {
    Real,
    #[cfg(feature = "simulation")]
    Simulated(SimFiles),
}

impl Files {
    /// The file system.
    pub fn real() -> Self {
        Self { place: Place::Real }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn simulated(db: &SimDb) -> Self {
        Self { place: Place::Simulated(db.files()) }
    }

    /// Whether it is the file system, not a simulated disk.
    pub(crate) fn is_real(&self) -> bool {
        matches!(self.place, Place::Real)
    }

    /// Makes a folder and those that it is in. Its name needs [`Files::sync_dir`] to survive.
    pub fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => std::fs::create_dir_all(path).map_err(StorageError::file("create", path)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.create_dir(path),
        }
    }

    /// Makes a folder that is not there yet, in one that is.
    ///
    /// * Errors: [`std::io::ErrorKind::AlreadyExists`] inside [`StorageError::File`] if anything has its name.
    pub(crate) fn create_new_dir(&self, path: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => std::fs::create_dir(path).map_err(StorageError::file("create", path)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.create_new_dir(path),
        }
    }

    /// Removes a file; one that is not there counts as removed. Its folder needs [`Files::sync_dir`].
    pub(crate) fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => gone(path, std::fs::remove_file(path)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.remove(path),
        }
    }

    /// Removes a folder with everything in it; one that is not there counts as removed.
    pub fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => match std::fs::remove_dir_all(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StorageError::file("remove", path)(e)),
                _ => Ok(()),
            },
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.remove_dir(path),
        }
    }

    /// Names in a folder, in order; none if it is not there.
    pub(crate) fn list(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        match &self.place {
            Place::Real => list(path).map_err(StorageError::file("list", path)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.list(path),
        }
    }

    /// Gives a file a second name on the same file system: no byte is copied.
    ///
    /// * Errors: [`StorageError::File`], also where the file system knows no such thing.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => std::fs::hard_link(from, to).map_err(StorageError::file("link", from)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.link(from, to),
        }
    }

    /// Gives a file another name in its folder, durably.
    pub(crate) async fn rename_synced(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let folder = to.parent().unwrap_or(Path::new(""));
        match &self.place {
            Place::Real => {
                tokio::fs::rename(from, to).await.map_err(StorageError::file("rename", from))?;
                let opened = tokio::fs::File::open(folder).await.map_err(StorageError::file("open", folder))?;
                opened.sync_all().await.map_err(StorageError::file("sync", folder))
            }
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => {
                files.rename(from, to)?;
                files.sync_dir(folder)
            }
        }
    }

    /// As [`Files::remove_file`], without holding up the asynchronous runtime.
    pub(crate) async fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => gone(path, tokio::fs::remove_file(path).await),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.remove(path),
        }
    }

    /// Makes a new file, or empties the one that is there.
    pub async fn create(&self, path: &Path) -> Result<FileWriter, StorageError> {
        let file = match &self.place {
            Place::Real => {
                let file = tokio::fs::File::create(path).await.map_err(StorageError::file("create", path))?;
                Writing::Real(file)
            }
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => {
                files.create(path)?;
                Writing::Simulated(files.clone())
            }
        };
        Ok(FileWriter { path: path.to_owned(), file })
    }

    /// Opens a file for reading from its beginning.
    pub async fn open(&self, path: &Path) -> Result<FileReader, StorageError> {
        let file = match &self.place {
            Place::Real => Reading::Real(tokio::fs::File::open(path).await.map_err(StorageError::file("open", path))?),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => Reading::Simulated { rest: files.read(path)?, files: files.clone() },
        };
        Ok(FileReader { path: path.to_owned(), file })
    }

    /// Writes a whole file and syncs it. The folder's entry needs [`Files::sync_dir`] as well.
    pub(crate) fn write_synced(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => {
                let mut file = File::create(path).map_err(StorageError::file("create", path))?;
                file.write_all(bytes).and_then(|()| file.sync_all()).map_err(StorageError::file("write", path))
            }
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => {
                files.create(path)?;
                files.append(path, bytes)?;
                files.sync_file(path)
            }
        }
    }

    /// Syncs a file that somebody else has written.
    pub(crate) fn sync_file(&self, path: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => File::open(path).and_then(|f| f.sync_all()).map_err(StorageError::file("sync", path)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.sync_file(path),
        }
    }

    /// Makes created, renamed and removed names in a folder durable. Blocks for the disk.
    pub fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::Real => File::open(path).and_then(|f| f.sync_all()).map_err(StorageError::file("sync", path)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.sync_dir(path),
        }
    }

    /// As [`Files::sync_dir`], and makes the folder's own name durable.
    pub(crate) fn sync_dir_and_name(&self, path: &Path) -> Result<(), StorageError> {
        self.sync_dir(path)?;
        match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => self.sync_dir(Path::new(".")),
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }

    /// The whole content of a small file.
    pub(crate) fn read(&self, path: &Path) -> Result<Bytes, StorageError> {
        match &self.place {
            Place::Real => std::fs::read(path).map(Bytes::from).map_err(StorageError::file("read", path)),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.read(path),
        }
    }

    /// Length of a file; `None`: it is not there.
    pub(crate) fn length(&self, path: &Path) -> Result<Option<u64>, StorageError> {
        match &self.place {
            Place::Real => match std::fs::metadata(path) {
                Ok(meta) => Ok(Some(meta.len())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(StorageError::file("look at", path)(e)),
            },
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.length(path),
        }
    }

    /// Hands out the rows of a snapshot file's content, each with its place in the file, and returns what of the file
    /// is not as an engine has written it.
    pub(crate) fn rows(&self, path: &Path, content: &Bytes, mut each: impl FnMut(u64, &[u8], &[u8])) -> Vec<Damage> {
        match &self.place {
            Place::Real => match table::check_rows(path, &content[..], content.len() as u64, &mut each) {
                Ok(Table { unchecked: Some(why), damage, .. }) if damage.is_empty() => vec![Damage::new(path, 0, why)],
                Ok(Table { damage, .. }) => damage,
                // Inside the file everything can be read: something leads out of it.
                Err(error) => vec![Damage::new(path, 0, error.to_string())],
            },
            #[cfg(feature = "simulation")]
            Place::Simulated(_) => crate::sim::read_rows(path, content, each),
        }
    }

    /// Length and crc32c of a file's content.
    pub(crate) fn checksum(&self, path: &Path) -> Result<(u64, u32), StorageError> {
        match &self.place {
            Place::Real => checksum(path),
            #[cfg(feature = "simulation")]
            Place::Simulated(files) => files.read(path).map(|bytes| (bytes.len() as u64, crc32c::crc32c(&bytes))),
        }
    }
}

/// Whether a removal has left nothing of a file.
fn gone(path: &Path, removed: std::io::Result<()>) -> Result<(), StorageError> {
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StorageError::file("remove", path)(e)),
        _ => Ok(()),
    }
}

fn list(path: &Path) -> std::io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 is none of ours.
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn checksum(path: &Path) -> Result<(u64, u32), StorageError> {
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

/// A new file that is being written.
pub struct FileWriter {
    path: PathBuf,
    file: Writing,
}

enum Writing {
    Real(tokio::fs::File),
    #[cfg(feature = "simulation")]
    Simulated(SimFiles),
}

impl FileWriter {
    /// Appends bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        match &mut self.file {
            Writing::Real(file) => file.write_all(bytes).await.map_err(StorageError::file("write", &self.path)),
            #[cfg(feature = "simulation")]
            Writing::Simulated(files) => files.append(&self.path, bytes),
        }
    }

    /// Ends the file; its content is durable on return.
    pub async fn finish(self) -> Result<(), StorageError> {
        match self.file {
            Writing::Real(mut file) => {
                let failed = || StorageError::file("sync", &self.path);
                file.flush().await.map_err(failed())?;
                file.sync_all().await.map_err(failed())
            }
            #[cfg(feature = "simulation")]
            Writing::Simulated(files) => files.sync_file(&self.path),
        }
    }
}

/// A file that is being read.
pub struct FileReader {
    path: PathBuf,
    file: Reading,
}

enum Reading {
    Real(tokio::fs::File),
    #[cfg(feature = "simulation")]
    Simulated {
        files: SimFiles,
        rest: Bytes,
    },
}

impl FileReader {
    /// The next bytes: as many as asked for, fewer at the end, `None` after it.
    pub async fn chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StorageError> {
        let chunk: Bytes = match &mut self.file {
            Reading::Real(file) => {
                let mut chunk = Vec::with_capacity(bytes_max);
                let read = file.take(bytes_max as u64).read_to_end(&mut chunk).await;
                read.map_err(StorageError::file("read", &self.path))?;
                chunk.into()
            }
            #[cfg(feature = "simulation")]
            Reading::Simulated { files, rest } => {
                files.check()?;
                rest.split_to(bytes_max.min(rest.len()))
            }
        };
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}
