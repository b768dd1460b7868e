//! Files beside the databases.

use super::disk::{Disk, SimDisk};
use crate::StorageError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

/// Access of one generation to the disk's files.
#[derive(Clone)]
pub(crate) struct SimFiles {
    disk: SimDisk,
    generation: u64,
}

impl SimFiles {
    pub(super) fn new(disk: SimDisk, generation: u64) -> Self {
        Self { disk, generation }
    }

    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.lock().map(drop)
    }

    pub(crate) fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.lock()?.files.create_dir(path);
        Ok(())
    }

    pub(crate) fn create_new_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.lock()?.files.create_new_dir(path).map_err(StorageError::file("create", path))
    }

    pub(crate) fn length(&self, path: &Path) -> Result<Option<u64>, StorageError> {
        Ok(self.lock()?.files.file(path).ok().map(|file| file.content.len() as u64))
    }

    pub(crate) fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.lock()?.files.nodes.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    /// Names in a folder, in order; none if it is not there.
    pub(crate) fn list(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        let disk = self.lock()?;
        let inside = disk.files.nodes.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.filter_map(|name| name.file_name()?.to_str().map(str::to_owned)).collect())
    }

    /// A second name for a file. Its content is copied: nothing is ever written to a file that has two names.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.lock()?.files.link(from, to).map_err(StorageError::file("link", from))
    }

    /// Gives a file another name, which is durable once its folder is synced. After a power loss before that it has none.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let mut disk = self.lock()?;
        disk.files.link(from, to).map_err(StorageError::file("rename", from))?;
        disk.files.nodes.remove(from);
        Ok(())
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.lock()?.files.nodes.remove(path);
        Ok(())
    }

    pub(crate) fn create(&self, path: &Path) -> Result<(), StorageError> {
        self.lock()?.files.create(path).map_err(StorageError::file("create", path))
    }

    pub(crate) fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        let mut disk = self.lock()?;
        let file = disk.files.file(path).map_err(StorageError::file("write", path))?;
        file.content.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn sync_file(&self, path: &Path) -> Result<(), StorageError> {
        let mut disk = self.lock()?;
        let file = disk.files.file(path).map_err(StorageError::file("sync", path))?;
        file.synced = Some(Bytes::copy_from_slice(&file.content));
        Ok(())
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.lock()?.files.sync_dir(path).map_err(StorageError::file("sync", path))
    }

    pub(crate) fn read(&self, path: &Path) -> Result<Bytes, StorageError> {
        let mut disk = self.lock()?;
        let file = disk.files.file(path).map_err(StorageError::file("read", path))?;
        Ok(Bytes::copy_from_slice(&file.content))
    }

    fn lock(&self) -> Result<MutexGuard<'_, Disk>, StorageError> {
        self.disk.alive(self.generation)
    }
}

/// All files and folders. A removal is durable at once.
pub(super) struct FileTree {
    nodes: BTreeMap<PathBuf, Node>,
}

/// A name in a folder.
struct Node {
    /// Whether the folder was synced since the name is in it.
    named: bool,
    /// `None`: it is a folder itself.
    file: Option<SimFile>,
}

#[derive(Clone)]
struct SimFile {
    content: Vec<u8>,
    /// What of it a power loss leaves, as long as its name survives.
    synced: Option<Bytes>,
}

impl FileTree {
    /// A tree with nothing in it but this folder.
    pub(super) fn new(root: &Path) -> Self {
        Self { nodes: BTreeMap::from([(root.to_owned(), Node { named: true, file: None })]) }
    }

    pub(super) fn names(&self) -> Vec<PathBuf> {
        self.nodes.iter().filter(|(_, node)| node.file.is_some()).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn content(&self, path: &Path) -> Option<Bytes> {
        let file = self.nodes.get(path)?.file.as_ref()?;
        Some(Bytes::copy_from_slice(&file.content))
    }

    pub(super) fn tamper(&mut self, path: &Path, content: Option<Bytes>) {
        match content {
            None => drop(self.nodes.remove(path)),
            Some(content) => {
                let file = SimFile { content: content.to_vec(), synced: Some(content) };
                self.nodes.insert(path.to_owned(), Node { named: true, file: Some(file) });
            }
        }
    }

    /// What a power loss leaves: names that were synced in folders whose names were, with the content synced.
    pub(super) fn crash(&mut self) {
        let unnamed: Vec<PathBuf> =
            self.nodes.iter().filter(|(_, node)| !node.named).map(|(name, _)| name.clone()).collect();
        self.nodes.retain(|name, _| !unnamed.iter().any(|gone| name.starts_with(gone)));
        self.nodes.retain(|_, node| node.file.as_ref().is_none_or(|file| file.synced.is_some()));
        for file in self.nodes.values_mut().filter_map(|node| node.file.as_mut()) {
            file.content = file.synced.as_deref().unwrap_or_default().to_vec();
        }
    }

    fn create_dir(&mut self, path: &Path) {
        for folder in path.ancestors() {
            self.nodes.entry(folder.to_owned()).or_insert(Node { named: folder.parent().is_none(), file: None });
        }
    }

    fn create_new_dir(&mut self, path: &Path) -> Result<(), Error> {
        if self.nodes.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|folder| self.is_folder(folder)) {
            return Err(ErrorKind::NotFound.into());
        }
        self.nodes.insert(path.to_owned(), Node { named: false, file: None });
        Ok(())
    }

    fn create(&mut self, path: &Path) -> Result<(), Error> {
        let in_folder = path.parent().is_some_and(|folder| self.is_folder(folder));
        if !in_folder || self.is_folder(path) {
            return Err(ErrorKind::NotFound.into());
        }
        let fresh = SimFile { content: Vec::new(), synced: None };
        let node = self.nodes.entry(path.to_owned()).or_insert(Node { named: false, file: Some(fresh) });
        // A file that was there keeps what was synced of it until the new content is.
        node.file.iter_mut().for_each(|file| file.content.clear());
        Ok(())
    }

    fn link(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        if !to.parent().is_some_and(|folder| self.is_folder(folder)) || self.is_folder(to) {
            return Err(ErrorKind::NotFound.into());
        }
        let file = self.file(from)?.clone();
        self.nodes.insert(to.to_owned(), Node { named: false, file: Some(file) });
        Ok(())
    }

    fn sync_dir(&mut self, path: &Path) -> Result<(), Error> {
        if !self.is_folder(path) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = self.nodes.iter_mut().filter(|(name, _)| name.parent() == Some(path));
        inside.for_each(|(_, node)| node.named = true);
        Ok(())
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.nodes.get(path).is_some_and(|node| node.file.is_none())
    }

    fn file(&mut self, path: &Path) -> Result<&mut SimFile, Error> {
        self.nodes.get_mut(path).and_then(|node| node.file.as_mut()).ok_or_else(|| ErrorKind::NotFound.into())
    }
}
