//! Small file systems of a test's own, in a mount namespace of its own: nothing of them is seen outside, and they go with
//! the process.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set inside the namespace.
const INSIDE: &str = "MERIDIAN_TEST_MOUNTS";

/// Ways to make a mount namespace: as root, and as anybody where user namespaces are allowed.
const WAYS: [&[&str]; 2] = [&["-m"], &["-U", "-r", "-m"]];

/// Whether this process may mount. If not, the test of this name is run again in a process that may; its result is this
/// one's.
///
/// # Panics
/// When mounting is impossible here: a test of full disks that was not run must not look as if it had passed.
pub(crate) fn may_mount(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |way: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(way).args(["--propagation", "private"]);
        command
    };
    let works = |way: &&[&str]| unshare(way).arg("true").output().is_ok_and(|out| out.status.success());
    let way = WAYS.into_iter().find(works).expect(
        "NOT RUN: no mount namespace can be made here (`unshare -m`, `unshare -Urm`); run the test as root, or allow user \
         namespaces",
    );
    let exe = std::env::current_exe().expect("a running test has a file");
    let args = ["--exact", test, "--nocapture", "--test-threads", "1"];
    let out = unshare(way).arg(exe).args(args).env(INSIDE, "1").output().expect("`unshare` was found just now");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "in a mount namespace of its own:\n{text}");
    false
}

/// A file system in memory.
pub(crate) struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB on a folder.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub(crate) fn mount(dir: &Path, mib: u64) -> Self {
        std::fs::create_dir_all(dir).expect("a folder can be made");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], dir);
        Self { dir: dir.to_owned() }
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, mib: u64) {
        run("mount", &["-o", &format!("remount,size={mib}m")], &self.dir);
    }

    /// Fills it with a file until so many KiB are free, as another program would.
    pub(crate) fn fill(&self, leave_kib: u64) {
        let ballast = self.dir.join("ballast");
        for _ in 0..100 {
            let had = std::fs::metadata(&ballast).map_or(0, |m| m.len());
            let size = had + self.free().saturating_sub(leave_kib << 10);
            // Really taken: a hole takes no room. Whoever else writes there may be quicker; then it is tried again.
            let allocated = Command::new("fallocate").args(["-l", &size.to_string()]).arg(&ballast).output();
            if allocated.is_ok_and(|out| out.status.success()) {
                return;
            }
        }
        panic!("{} cannot be filled", self.dir.display());
    }

    /// Removes what filled it.
    pub(crate) fn relieve(&self) {
        std::fs::remove_file(self.dir.join("ballast")).expect("it was filled");
    }

    /// Free bytes.
    pub(crate) fn free(&self) -> u64 {
        let out = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(&self.dir).output().expect("`stat` runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.split_whitespace().map(|n| n.parse::<u64>().expect("a number")).product()
    }
}

fn run(program: &str, args: &[&str], dir: &Path) {
    let out = Command::new(program).args(args).arg(dir).output().expect("it can be run");
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}
