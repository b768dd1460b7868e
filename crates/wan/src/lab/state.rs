//! What a lab leaves on the disk while it exists: one folder, in which its router is found.
//!
//! | file | what |
//! | --- | --- |
//! | `pid` | the router's process id; locked for as long as the router lives |
//! | `lab.json` | the plan: hosts, addresses, namespaces |
//! | `control` | the router's unix socket |
//!
//! The lock and not the number says whether a router lives: numbers are given again after a crash.

use super::LabError;
use super::plan::{Plan, check_name};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the lock is tried: whoever looks whether a router lives holds it for a moment.
const LOCK_TRIES: u32 = 20;

/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Where labs are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabFolder {
    /// The folder of this lab, which need not exist.
    path: PathBuf,
    name: String,
}

/// The right to make or remove a lab; it ends when this is dropped, or with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl LabFolder {
    /// The folder of the lab with this name: in `/run/meridian-wan` for root, else in the user's runtime folder.
    pub fn new(name: &str) -> Result<Self, LabError> {
        let own =
            std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty() && !rustix::process::geteuid().is_root());
        Self::inside(&PathBuf::from(own.unwrap_or_else(|| "/run".into())).join("meridian-wan"), name)
    }

    /// The same in another folder.
    pub fn inside(root: &Path, name: &str) -> Result<Self, LabError> {
        check_name(name)?;
        Ok(Self { path: root.join(name), name: name.to_owned() })
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a router in the background writes what it has to say.
    pub fn log(&self) -> PathBuf {
        self.path.with_extension("log")
    }

    /// The router's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("control")
    }

    /// Makes the folder and takes its lock; `Err(IsUp)` while a router lives.
    pub(crate) fn lock(&self) -> Result<Lock, LabError> {
        std::fs::create_dir_all(&self.path).map_err(|e| self.failed("make", &self.path, e))?;
        // Whoever reaches the socket can break the network.
        let own = std::fs::set_permissions(&self.path, Permissions::from_mode(0o700));
        own.map_err(|e| self.failed("keep others out of", &self.path, e))?;
        let path = self.path.join("pid");
        // Not truncated: the number in it is another's until the lock is ours.
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = file.map_err(|e| self.failed("open", &path, e))?;
        let mut tries = 1;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            match error {
                Errno::WOULDBLOCK if tries < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
                Errno::WOULDBLOCK => return Err(self.is_up()),
                error => return Err(self.failed("lock", &path, error.into())),
            }
            tries += 1;
        }
        let own = format!("{}\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.write_all(own.as_bytes()));
        written.map_err(|e| self.failed("write", &path, e))?;
        Ok(Lock { _file: file })
    }

    /// The living router's process id.
    pub(crate) fn router(&self) -> Result<Option<u32>, LabError> {
        let path = self.path.join("pid");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("open", &path, error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(None),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(self.failed("lock", &path, error.into())),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| self.failed("read", &path, e))?;
        // Empty for the moment between the lock and the number.
        Ok(Some(text.trim().parse().unwrap_or_default()))
    }

    /// Whether anything of a lab is here.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Keeps the plan.
    pub(crate) fn save(&self, plan: &Plan) -> Result<(), LabError> {
        let path = self.path.join("lab.json");
        let text = serde_json::to_vec_pretty(plan).expect("names, numbers and texts can always be written as JSON");
        std::fs::write(&path, text).map_err(|e| self.failed("write", &path, e))
    }

    /// The plan that was kept, if one was.
    pub(crate) fn load(&self) -> Result<Option<Plan>, LabError> {
        let path = self.path.join("lab.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| LabError::State { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", &path, error)),
        }
    }

    /// Removes the folder and the log. Neither need exist.
    pub(crate) fn remove(&self) -> Result<(), LabError> {
        for (path, removed) in
            [(self.log(), std::fs::remove_file(self.log())), (self.path.clone(), std::fs::remove_dir_all(&self.path))]
        {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The refusal that names the router.
    pub(crate) fn is_up(&self) -> LabError {
        let pid = self.router().ok().flatten().unwrap_or_default();
        LabError::IsUp { name: self.name.clone(), pid }
    }

    fn failed(&self, verb: &str, path: &Path, source: io::Error) -> LabError {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return LabError::Privilege;
        }
        LabError::system(format!("{verb} {}", path.display()), source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topology;

    #[test]
    fn the_lock_says_whether_a_router_lives() {
        let dir = tempfile::tempdir().unwrap();
        let folder = LabFolder::inside(dir.path(), "t").unwrap();
        assert_eq!((folder.router().unwrap(), folder.exists()), (None, false));
        let lock = folder.lock().unwrap();
        assert_eq!(folder.router().unwrap(), Some(std::process::id()));
        let refused = folder.lock().unwrap_err();
        assert!(matches!(&refused, LabError::IsUp { pid, .. } if *pid == std::process::id()), "{refused}");
        drop(lock);
        // The number is still there, as after a crash.
        assert_eq!((folder.router().unwrap(), folder.exists()), (None, true));
        folder.lock().unwrap();
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn the_plan_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = LabFolder::inside(dir.path(), "t").unwrap();
        let _lock = folder.lock().unwrap();
        assert_eq!(folder.load().unwrap(), None);
        let plan = Plan::new("t", Topology::preset("five").unwrap(), 7).unwrap();
        folder.save(&plan).unwrap();
        assert_eq!(folder.load().unwrap(), Some(plan));
        std::fs::write(folder.path.join("lab.json"), "{").unwrap();
        assert!(matches!(folder.load(), Err(LabError::State { .. })));
    }

    #[test]
    fn names_are_no_paths() {
        for name in ["..", "a/b", ""] {
            assert!(matches!(LabFolder::new(name), Err(LabError::BadName(_))), "{name}");
        }
    }
}
