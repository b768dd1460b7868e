//! Crashes, as seen from the files. Shared by the unit tests and the integration tests.

use std::path::{Path, PathBuf};

/// What a crash at this moment would leave: a copy of all files as they are, without closing the store. Compactions
/// go on meanwhile, so it is done again until nothing has changed under it.
pub(crate) fn crash(from: &Path, to: &Path) {
    loop {
        let before = listing(from);
        let copied = before.iter().all(|(file, _)| copy(from, to, file).is_ok());
        if copied && listing(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
    }
}

/// Paths below `dir` and lengths of all files, in order.
fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(path),
                Ok(meta) => files.push((path.strip_prefix(dir).unwrap().to_owned(), meta.len())),
                // Removed since it was listed; the second listing will show it.
                Err(_) => {}
            }
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path, file: &Path) -> std::io::Result<u64> {
    let target = to.join(file);
    std::fs::create_dir_all(target.parent().unwrap())?;
    std::fs::copy(from.join(file), target)
}
