//! The functions of the C library that change files, replaced for this program: what they do below one folder is
//! journaled, nothing there is ever synced, and the process ends at the operation that it was told.
//!
//! A symbol that the program itself defines goes before the library's. RocksDB is linked into the program and Rust's
//! standard library is too, so both call these. What calls the kernel by itself, or comes from inside the C library
//! (`fopen`), passes by: RocksDB writes its informational `LOG` that way, which nothing is read from. Whether something
//! else passed by is checked after every life: what the journal says must be what lies on the real disk.
//!
//! Files are known by their inode, which every call looks up: no table of descriptors has to follow what `dup`,
//! `closedir` and the like do.
//!
//! One lock is held around an operation and its record, so the journal's order is the order of events. A sync is two
//! records, and the time between them is spent without the lock: it covers what was written before it began.

#![expect(unsafe_code, reason = "defines functions of the C library, which is unsafe by nature")]

use libc::{c_char, c_int, c_long, c_uint, mode_t, off_t, size_t, ssize_t};
use meridian_power::journal::{Kind, encode};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A sync takes up to so many microseconds.
const SYNC_MAX_US: u64 = 400;

/// Files that RocksDB writes about itself for people, by the beginning of their names.
const UNWATCHED: &[u8] = b"LOG";

static SHIM: OnceLock<Shim> = OnceLock::new();

struct Shim {
    /// The watched folder, without a slash at its end.
    root: Vec<u8>,
    journal: c_int,
    /// The operation before which the process ends.
    stop_at: u64,
    /// Syncs of write-ahead logs succeed and do nothing.
    lies: bool,
    state: Mutex<State>,
}

struct State {
    operations: u64,
    syncs: u64,
    /// State of a small generator, for how long syncs take.
    random: u64,
    /// Inodes below the root.
    known: HashMap<u64, Known>,
}

#[derive(Clone)]
struct Known {
    /// Relative to the root.
    path: Vec<u8>,
    folder: bool,
}

/// Watches a folder from now on. To be called once, before anything is opened in it.
pub(crate) fn watch(root: &Path, journal: &Path, stop_at: u64, seed: u64, lies: bool) -> std::io::Result<()> {
    let name = CString::new(journal.as_os_str().as_bytes())?;
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC | libc::O_CLOEXEC;
    let journal = openat_really(libc::AT_FDCWD, name.as_ptr(), flags, 0o644);
    if journal < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let state = State { operations: 0, syncs: 0, random: seed | 1, known: HashMap::new() };
    let root = root.as_os_str().as_bytes().to_vec();
    let shim = Shim { root, journal, stop_at, lies, state: Mutex::new(state) };
    SHIM.set(shim).map_err(|_| std::io::Error::other("a folder is watched already"))
}

/// Writes a note of the workload into the journal.
pub(crate) fn note(bytes: &[u8]) {
    if let Some(shim) = SHIM.get() {
        let _state = shim.lock();
        shim.record(Kind::Note, 0, 0, b"", bytes);
    }
}

impl Shim {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation that is about to happen; the process ends here if it is the one. Everybody else waits for the
    /// lock by then: nothing more is done or journaled.
    fn tick(&self, state: &mut State) {
        state.operations += 1;
        if state.operations >= self.stop_at {
            loop {
                // SAFETY: ends this process, no memory is involved.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
        }
    }

    fn record(&self, kind: Kind, a: u64, b: u64, name: &[u8], data: &[u8]) {
        let record = encode(kind, a, b, name, data);
        let mut rest = &record[..];
        while !rest.is_empty() {
            // SAFETY: the pointer and length are those of a living slice.
            let written = unsafe { libc::syscall(libc::SYS_write, self.journal, rest.as_ptr(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = &rest[written..],
                // Without the journal nothing can be said about this life: the parent sees how it ended.
                Err(_) => std::process::abort(),
            }
        }
    }

    /// The path of a name relative to the root, if it lies below it and is watched.
    fn below(&self, state: &State, folder: c_int, name: *const c_char) -> Option<Vec<u8>> {
        // SAFETY: the caller of the C function passes a string that ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        let path = if name.starts_with(b"/") {
            let rest = name.strip_prefix(&self.root[..])?;
            if !rest.is_empty() && !rest.starts_with(b"/") {
                return None;
            }
            rest.to_vec()
        } else {
            let (inode, _) = inode(folder)?;
            [&state.known.get(&inode)?.path[..], b"/", name].concat()
        };
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let path = parts.collect::<Vec<_>>().join(&b'/');
        let file = path.rsplit(|byte| *byte == b'/').next()?;
        (!file.starts_with(UNWATCHED)).then_some(path)
    }

    /// The inode of a descriptor, if it is watched.
    fn watched<'a>(&self, state: &'a State, descriptor: c_int) -> Option<(u64, &'a Known)> {
        let (inode, _) = inode(descriptor)?;
        Some((inode, state.known.get(&inode)?))
    }
}

/// Inode and status of an open file.
fn inode(descriptor: c_int) -> Option<(u64, libc::stat)> {
    let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `fstat` fills the structure if it succeeds, and it is read only then.
    let found = unsafe { (libc::fstat(descriptor, found.as_mut_ptr()) == 0).then(|| found.assume_init()) }?;
    Some((found.st_ino, found))
}

/// Status of a name, without following a link.
fn status(folder: c_int, name: *const c_char) -> Option<libc::stat> {
    let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: as above; the name is the caller's and ends with a zero.
    unsafe { (libc::fstatat(folder, name, found.as_mut_ptr(), flags) == 0).then(|| found.assume_init()) }
}

fn openat_really(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the arguments are the caller's, or made by this file.
    unsafe { libc::syscall(libc::SYS_openat, folder, name, flags, c_uint::from(mode)) as c_int }
}

fn open_in(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let Some(shim) = SHIM.get() else { return openat_really(folder, name, flags, mode) };
    let mut state = shim.lock();
    let Some(path) = shim.below(&state, folder, name) else { return openat_really(folder, name, flags, mode) };
    let before = status(folder, name);
    let creates = flags & libc::O_CREAT != 0 && before.is_none();
    let empties = flags & libc::O_TRUNC != 0 && before.is_some_and(|found| found.st_size > 0);
    if creates || empties {
        shim.tick(&mut state);
    }
    let descriptor = openat_really(folder, name, flags, mode);
    // A failed call leaves its reason behind, which another one must not replace.
    if let Some((inode, found)) = if descriptor < 0 { None } else { inode(descriptor) } {
        let is_folder = found.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if creates {
            shim.record(Kind::Create, inode, 0, &path, b"");
        }
        if empties {
            shim.record(Kind::SetLength, inode, 0, b"", b"");
        }
        state.known.insert(inode, Known { path, folder: is_folder });
    }
    descriptor
}

/// Does an operation on an open file, and journals it if the file is watched and it succeeded.
fn on_file(descriptor: c_int, operation: impl FnOnce() -> c_long, record: impl FnOnce(&Shim, u64, c_long)) -> c_long {
    let Some(shim) = SHIM.get() else { return operation() };
    let mut state = shim.lock();
    let Some((inode, _)) = shim.watched(&state, descriptor) else {
        drop(state);
        return operation();
    };
    shim.tick(&mut state);
    let result = operation();
    if result >= 0 {
        record(shim, inode, result);
    }
    result
}

/// Where the descriptor stands.
fn position(descriptor: c_int) -> u64 {
    // SAFETY: no memory is involved.
    u64::try_from(unsafe { libc::lseek(descriptor, 0, libc::SEEK_CUR) }).unwrap_or(0)
}

/// The bytes at `data`.
///
/// # Safety
/// `data` points to that many readable bytes, which do not change meanwhile.
unsafe fn bytes<'a>(data: *const u8, length: c_long) -> &'a [u8] {
    // SAFETY: as required of the caller.
    unsafe { std::slice::from_raw_parts(data, usize::try_from(length).unwrap_or(0)) }
}

fn sync(descriptor: c_int, number: c_long) -> c_int {
    // SAFETY: no memory is involved.
    let really = || unsafe { libc::syscall(number, descriptor) as c_int };
    let Some(shim) = SHIM.get() else { return really() };
    let mut state = shim.lock();
    let Some((inode, known)) = shim.watched(&state, descriptor) else {
        drop(state);
        return really();
    };
    let known = known.clone();
    if shim.lies && known.path.ends_with(b".log") {
        return 0;
    }
    shim.tick(&mut state);
    state.syncs += 1;
    let sync = state.syncs;
    match known.folder {
        true => shim.record(Kind::SyncFolder, 0, sync, &known.path, b""),
        false => shim.record(Kind::SyncFile, inode, sync, b"", b""),
    }
    // Xorshift.
    state.random ^= state.random << 13;
    state.random ^= state.random >> 7;
    state.random ^= state.random << 17;
    let takes = Duration::from_micros(state.random % SYNC_MAX_US);
    drop(state);
    std::thread::sleep(takes);
    let mut state = shim.lock();
    shim.tick(&mut state);
    shim.record(Kind::Synced, 0, sync, b"", b"");
    0
}

/// Does an operation on names and journals it if it succeeded and concerns what is watched.
fn on_names(
    kind: Kind,
    (folder, name): (c_int, *const c_char),
    other: Option<(c_int, *const c_char)>,
    operation: impl FnOnce() -> c_long,
) -> c_int {
    let Some(shim) = SHIM.get() else { return operation() as c_int };
    let mut state = shim.lock();
    let Some(path) = shim.below(&state, folder, name) else {
        drop(state);
        return operation() as c_int;
    };
    let other = other.and_then(|(folder, name)| shim.below(&state, folder, name)).unwrap_or_default();
    let before = status(folder, name);
    shim.tick(&mut state);
    let result = operation();
    if result == 0 {
        shim.record(kind, 0, 0, &path, &other);
        let last = before.filter(|found| found.st_nlink == 1 || kind == Kind::RemoveFolder);
        if let Some(found) = last.filter(|_| matches!(kind, Kind::Unlink | Kind::RemoveFolder)) {
            // Its inode may be given to any other file from now on.
            state.known.remove(&found.st_ino);
        }
        if let Some(known) =
            before.and_then(|found| state.known.get_mut(&found.st_ino)).filter(|_| kind == Kind::Rename)
        {
            known.path = other;
        }
    }
    result as c_int
}

#[unsafe(no_mangle)]
extern "C" fn open(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_in(libc::AT_FDCWD, name, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn open64(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_in(libc::AT_FDCWD, name, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn __open_2(name: *const c_char, flags: c_int) -> c_int {
    open_in(libc::AT_FDCWD, name, flags, 0)
}

#[unsafe(no_mangle)]
extern "C" fn __open64_2(name: *const c_char, flags: c_int) -> c_int {
    open_in(libc::AT_FDCWD, name, flags, 0)
}

#[unsafe(no_mangle)]
extern "C" fn openat(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_in(folder, name, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn openat64(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_in(folder, name, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn creat(name: *const c_char, mode: mode_t) -> c_int {
    open_in(libc::AT_FDCWD, name, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(descriptor: c_int, data: *const u8, length: size_t) -> ssize_t {
    // SAFETY: the arguments are the caller's.
    let really = || unsafe { libc::syscall(libc::SYS_write, descriptor, data, length) };
    on_file(descriptor, really, |shim, inode, written| {
        let at = position(descriptor).saturating_sub(u64::try_from(written).unwrap_or(0));
        // SAFETY: the kernel has just read these bytes.
        shim.record(Kind::Write, inode, at, b"", unsafe { bytes(data, written) });
    }) as ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(descriptor: c_int, parts: *const libc::iovec, count: c_int) -> ssize_t {
    // SAFETY: the arguments are the caller's.
    let really = || unsafe { libc::syscall(libc::SYS_writev, descriptor, parts, count) };
    on_file(descriptor, really, |shim, inode, written| {
        let at = position(descriptor).saturating_sub(u64::try_from(written).unwrap_or(0));
        let mut all = Vec::new();
        for n in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the kernel has just read these parts.
            let part = unsafe { &*parts.add(n) };
            // SAFETY: as above.
            all.extend(unsafe { bytes(part.iov_base.cast(), part.iov_len as c_long) });
        }
        all.truncate(usize::try_from(written).unwrap_or(0));
        shim.record(Kind::Write, inode, at, b"", &all);
    }) as ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(descriptor: c_int, data: *const u8, length: size_t, at: off_t) -> ssize_t {
    // SAFETY: the arguments are the caller's.
    let really = || unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, data, length, at) };
    on_file(descriptor, really, |shim, inode, written| {
        let at = u64::try_from(at).unwrap_or(0);
        // SAFETY: the kernel has just read these bytes.
        shim.record(Kind::Write, inode, at, b"", unsafe { bytes(data, written) });
    }) as ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(descriptor: c_int, data: *const u8, length: size_t, at: off_t) -> ssize_t {
    // SAFETY: as the caller promises.
    unsafe { pwrite(descriptor, data, length, at) }
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate(descriptor: c_int, length: off_t) -> c_int {
    // SAFETY: no memory is involved.
    let really = || unsafe { libc::syscall(libc::SYS_ftruncate, descriptor, length) };
    let length = u64::try_from(length).unwrap_or(0);
    on_file(descriptor, really, |shim, inode, _| shim.record(Kind::SetLength, inode, length, b"", b"")) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(descriptor: c_int, length: off_t) -> c_int {
    ftruncate(descriptor, length)
}

#[unsafe(no_mangle)]
extern "C" fn fallocate(descriptor: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    // SAFETY: no memory is involved.
    let really = || unsafe { libc::syscall(libc::SYS_fallocate, descriptor, mode, offset, length) };
    on_file(descriptor, really, |shim, inode, _| {
        // Room alone is no content; a new length shows in the status.
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0
            && let Some((_, found)) = self::inode(descriptor)
        {
            shim.record(Kind::SetLength, inode, u64::try_from(found.st_size).unwrap_or(0), b"", b"");
        }
    }) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn fallocate64(descriptor: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    fallocate(descriptor, mode, offset, length)
}

#[unsafe(no_mangle)]
extern "C" fn fsync(descriptor: c_int) -> c_int {
    sync(descriptor, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    sync(descriptor, libc::SYS_fdatasync)
}

/// Promises nothing about durability, so nothing is journaled.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(descriptor: c_int, offset: off_t, length: off_t, flags: c_uint) -> c_int {
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_sync_file_range, descriptor, offset, length, flags) as c_int }
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    renameat2(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0)
}

#[unsafe(no_mangle)]
extern "C" fn renameat(from_in: c_int, from: *const c_char, to_in: c_int, to: *const c_char) -> c_int {
    renameat2(from_in, from, to_in, to, 0)
}

#[unsafe(no_mangle)]
extern "C" fn renameat2(from_in: c_int, from: *const c_char, to_in: c_int, to: *const c_char, flags: c_uint) -> c_int {
    // SAFETY: the arguments are the caller's.
    let really = || unsafe { libc::syscall(libc::SYS_renameat2, from_in, from, to_in, to, flags) };
    on_names(Kind::Rename, (from_in, from), Some((to_in, to)), really)
}

#[unsafe(no_mangle)]
extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    linkat(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0)
}

#[unsafe(no_mangle)]
extern "C" fn linkat(from_in: c_int, from: *const c_char, to_in: c_int, to: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the arguments are the caller's.
    let really = || unsafe { libc::syscall(libc::SYS_linkat, from_in, from, to_in, to, flags) };
    on_names(Kind::Link, (from_in, from), Some((to_in, to)), really)
}

#[unsafe(no_mangle)]
extern "C" fn unlink(name: *const c_char) -> c_int {
    unlinkat(libc::AT_FDCWD, name, 0)
}

#[unsafe(no_mangle)]
extern "C" fn rmdir(name: *const c_char) -> c_int {
    unlinkat(libc::AT_FDCWD, name, libc::AT_REMOVEDIR)
}

#[unsafe(no_mangle)]
extern "C" fn unlinkat(folder: c_int, name: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the arguments are the caller's.
    let really = || unsafe { libc::syscall(libc::SYS_unlinkat, folder, name, flags) };
    let kind = if flags & libc::AT_REMOVEDIR == 0 { Kind::Unlink } else { Kind::RemoveFolder };
    on_names(kind, (folder, name), None, really)
}

#[unsafe(no_mangle)]
extern "C" fn mkdir(name: *const c_char, mode: mode_t) -> c_int {
    mkdirat(libc::AT_FDCWD, name, mode)
}

#[unsafe(no_mangle)]
extern "C" fn mkdirat(folder: c_int, name: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the arguments are the caller's.
    let really = || unsafe { libc::syscall(libc::SYS_mkdirat, folder, name, c_uint::from(mode)) };
    on_names(Kind::MakeFolder, (folder, name), None, really)
}
