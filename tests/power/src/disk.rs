//! A disk that knows what was synced: what may be left of a directory when the power goes.
//!
//! The model keeps two states of everything, what was written and what is durable, and the changes in between:
//!
//! * A sync of a file makes its content durable as it was when the sync began, once it has succeeded.
//! * A sync of a folder does the same for the names in it: made, given and taken ones.
//! * Neither does the other's work: a synced file whose name was never synced is gone.
//!
//! What happens to changes that are not durable is up to the [`Loss`]. Four things hold for all:
//!
//! * bytes that are durable stay while nobody writes over them;
//! * a name leads to the file that it was given to;
//! * a folder that is lost takes along what is in it;
//! * a name that was moved is there only with all that happened in its folder before: file systems with a journal (ext4, XFS,
//!   Btrfs) keep that order, and RocksDB rests on it where CURRENT is moved to the name of a MANIFEST that is new.

use crate::journal::{Kind, Record};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The beginning of the names of files that are not watched; see the shim.
const UNWATCHED: &str = "LOG";

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Loss {
    /// Nothing of any content survives; of the names a prefix, in the order in which they changed.
    Ordered,
    /// Of each file a prefix of what was written, the last write maybe in part; each name by chance.
    Nasty,
    /// Each sector or page of what was written survives by chance, the length with any of them: what is missing in
    /// between reads as zeros.
    Chaotic,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ordered, Self::Nasty, Self::Chaotic];
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "ordered",
            Self::Nasty => "nasty",
            Self::Chaotic => "chaotic",
        })
    }
}

/// What is behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    /// Index of a file.
    File(usize),
}

#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    written: Vec<u8>,
    /// What leads from the one to the other, with the number of each record.
    pending: Vec<(u64, Change)>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Length(usize),
}

/// A change of names.
#[derive(Clone)]
struct Naming {
    number: u64,
    /// The folder whose sync makes it durable.
    folder: PathBuf,
    gone: Option<PathBuf>,
    given: Option<(PathBuf, Node)>,
}

/// A sync that has begun.
#[derive(Clone)]
struct Begun {
    of: Synced,
    /// Number of the record with which it began.
    number: u64,
}

#[derive(Clone)]
enum Synced {
    File(usize),
    Folder(PathBuf),
}

/// A directory on a disk that may lose power.
#[derive(Clone, Default)]
pub struct Disk {
    files: Vec<Content>,
    by_inode: HashMap<u64, usize>,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending_names: Vec<Naming>,
    syncs: HashMap<u64, Begun>,
    number: u64,
}

/// What is left of a directory; folders have no content.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Disk {
    /// A directory as it lies on the real disk, all of it durable.
    pub fn load(dir: &Path) -> std::io::Result<Self> {
        let mut disk = Self::default();
        for (path, real) in walk(dir)? {
            let node = if real.is_dir() {
                Node::Folder
            } else {
                let content = std::fs::read(&real)?;
                disk.by_inode.insert(real.metadata()?.ino(), disk.files.len());
                disk.files.push(Content { durable: content.clone(), written: content, pending: Vec::new() });
                Node::File(disk.files.len() - 1)
            };
            disk.names.insert(path.clone(), node);
            disk.durable_names.insert(path, node);
        }
        Ok(disk)
    }

    /// Follows one record.
    pub fn follow(&mut self, record: &Record) {
        self.number += 1;
        let number = self.number;
        let to = || PathBuf::from(std::ffi::OsStr::new(std::str::from_utf8(&record.data).unwrap_or_default()));
        match record.kind {
            Kind::Create => {
                self.by_inode.insert(record.a, self.files.len());
                self.files.push(Content::default());
                self.give(record.name.clone(), Node::File(self.files.len() - 1));
            }
            Kind::Write => self.change(record.a, Change::Write { at: size(record.b), data: record.data.clone() }),
            Kind::SetLength => self.change(record.a, Change::Length(size(record.b))),
            Kind::SyncFile => {
                if let Some(file) = self.by_inode.get(&record.a) {
                    self.syncs.insert(record.b, Begun { of: Synced::File(*file), number });
                }
            }
            Kind::SyncFolder => {
                self.syncs.insert(record.b, Begun { of: Synced::Folder(record.name.clone()), number });
            }
            Kind::Synced => {
                if let Some(begun) = self.syncs.remove(&record.b) {
                    self.synced(&begun);
                }
            }
            Kind::Rename => {
                if let Some(node) = self.names.get(&record.name).copied() {
                    self.renamed(&record.name, &to(), node);
                }
            }
            Kind::Link => {
                if let Some(node) = self.names.get(&record.name).copied() {
                    self.give(to(), node);
                }
            }
            Kind::Unlink | Kind::RemoveFolder => self.name(Some(record.name.clone()), None),
            Kind::MakeFolder => self.give(record.name.clone(), Node::Folder),
            Kind::Note => {}
        }
    }

    fn change(&mut self, inode: u64, change: Change) {
        // A file that has no name any more, or never had one here, is not seen again.
        if let Some(file) = self.by_inode.get(&inode).and_then(|file| self.files.get_mut(*file)) {
            change.apply(&mut file.written, usize::MAX);
            file.pending.push((self.number, change));
        }
    }

    fn give(&mut self, path: PathBuf, node: Node) {
        self.name(None, Some((path, node)));
    }

    /// A folder takes along what is in it.
    fn renamed(&mut self, from: &Path, to: &Path, node: Node) {
        let inside: Vec<_> = self.names.iter().filter(|(path, _)| path.starts_with(from) && *path != from).collect();
        let moved: Vec<_> = inside.into_iter().map(|(path, node)| (path.clone(), *node)).collect();
        self.name(Some(from.to_owned()), Some((to.to_owned(), node)));
        for (path, node) in moved {
            if let Ok(rest) = path.strip_prefix(from) {
                self.name(Some(path.clone()), Some((to.join(rest), node)));
            }
        }
    }

    fn name(&mut self, gone: Option<PathBuf>, given: Option<(PathBuf, Node)>) {
        let of = given.as_ref().map(|(path, _)| path).or(gone.as_ref());
        let folder = of.and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned();
        let naming = Naming { number: self.number, folder, gone, given };
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }

    fn synced(&mut self, begun: &Begun) {
        match &begun.of {
            Synced::File(file) => {
                let file = &mut self.files[*file];
                let covered = file.pending.partition_point(|(number, _)| *number < begun.number);
                for (_, change) in file.pending.drain(..covered) {
                    change.apply(&mut file.durable, usize::MAX);
                }
            }
            Synced::Folder(folder) => {
                let (covered, left) = std::mem::take(&mut self.pending_names)
                    .into_iter()
                    .partition(|naming| naming.folder == *folder && naming.number < begun.number);
                let covered: Vec<Naming> = covered;
                covered.iter().for_each(|naming| naming.apply(&mut self.durable_names));
                self.pending_names = left;
            }
        }
    }

    /// What is on the disk while the power is there.
    pub fn whole(&self) -> Image {
        self.image(&self.names, |file| file.written.clone())
    }

    /// What may be left when the power goes now.
    pub fn crash(&self, loss: Loss, rng: &mut ChaCha8Rng) -> Image {
        let mut names = self.durable_names.clone();
        let prefix = rng.random_range(0..=self.pending_names.len());
        let chance = [0.1, 0.5, 0.9][rng.random_range(0..3)];
        let chosen: Vec<bool> = (0..self.pending_names.len())
            .map(|n| match loss {
                Loss::Ordered => n < prefix,
                Loss::Nasty | Loss::Chaotic => rng.random_bool(chance),
            })
            .collect();
        for (n, naming) in self.pending_names.iter().enumerate() {
            let mut later = self.pending_names.iter().zip(&chosen).skip(n);
            let survives = chosen[n] || later.any(|(moved, chosen)| *chosen && moved.moves_after(naming));
            if survives {
                naming.apply(&mut names);
            }
        }
        let mut contents = HashMap::new();
        for node in names.values() {
            if let Node::File(file) = node {
                contents.entry(*file).or_insert_with(|| self.files[*file].crash(loss, rng));
            }
        }
        let mut image = Image::new();
        for (path, node) in &names {
            let parent = path.parent().unwrap_or(Path::new(""));
            // Names are in order: a folder comes before what is in it.
            let reachable = parent == Path::new("") || image.get(parent) == Some(&None);
            if reachable {
                let content = match node {
                    Node::Folder => None,
                    Node::File(file) => contents.get(file).cloned(),
                };
                image.insert(path.clone(), content);
            }
        }
        image
    }

    fn image(&self, names: &BTreeMap<PathBuf, Node>, content: impl Fn(&Content) -> Vec<u8>) -> Image {
        let of = |node: &Node| match node {
            Node::Folder => None,
            Node::File(file) => Some(content(&self.files[*file])),
        };
        names.iter().map(|(path, node)| (path.clone(), of(node))).collect()
    }
}

impl Naming {
    /// Whether it moves a name in the folder in which `earlier` happened.
    fn moves_after(&self, earlier: &Self) -> bool {
        self.gone.is_some() && self.given.is_some() && self.folder == earlier.folder
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((path, node)) = &self.given {
            names.insert(path.clone(), *node);
        }
    }
}

impl Change {
    /// Applies the change, of a write at most the first `most` bytes.
    fn apply(&self, content: &mut Vec<u8>, most: usize) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Write { at, data } => {
                let data = &data[..data.len().min(most)];
                if content.len() < at + data.len() {
                    content.resize(at + data.len(), 0);
                }
                content[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Content {
    fn crash(&self, loss: Loss, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut left = self.durable.clone();
        if self.pending.is_empty() {
            return left;
        }
        match loss {
            Loss::Ordered => {}
            Loss::Nasty => {
                // Nothing and everything are as likely as something in between.
                let whole = rng.random_range(0..self.pending.len() * 2).min(self.pending.len());
                self.pending[..whole].iter().for_each(|(_, change)| change.apply(&mut left, usize::MAX));
                if let Some((_, change @ Change::Write { data, .. })) = self.pending.get(whole) {
                    change.apply(&mut left, rng.random_range(0..=data.len()));
                }
            }
            Loss::Chaotic => {
                let unit = [512, 4096][rng.random_range(0..2)];
                let chance = [0.1, 0.5, 0.9][rng.random_range(0..3)];
                left = self.some_units(unit, |_| rng.random_bool(chance));
            }
        }
        left
    }

    /// What was written where `survives` says so, by number of the unit, and what was durable elsewhere. The length
    /// covers the last unit that survives.
    fn some_units(&self, unit: usize, mut survives: impl FnMut(usize) -> bool) -> Vec<u8> {
        let (old, new) = (&self.durable, &self.written);
        let mut left = old.clone();
        for n in 0..new.len().div_ceil(unit) {
            let part = n * unit..((n + 1) * unit).min(new.len());
            if old.get(part.clone()) != Some(&new[part.clone()]) && survives(n) {
                if left.len() < part.end {
                    left.resize(part.end, 0);
                }
                left[part.clone()].copy_from_slice(&new[part]);
            }
        }
        if new.len() < old.len() && survives(new.len().div_ceil(unit)) {
            left.truncate(new.len());
        }
        left
    }
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Everything watched in a directory: relative and real paths, folders before what is in them.
fn walk(dir: &Path) -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let real = entry?.path();
            if real.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNWATCHED)) {
                continue;
            }
            if real.is_dir() {
                folders.push(real.clone());
            }
            if let Ok(path) = real.strip_prefix(dir) {
                found.push((path.to_owned(), real.clone()));
            }
        }
    }
    Ok(found)
}

/// Where an image and a real directory differ, as lines for a reader.
pub fn differences(image: &Image, dir: &Path) -> std::io::Result<Vec<String>> {
    let mut differences = Vec::new();
    let mut real = BTreeMap::new();
    for (path, place) in walk(dir)? {
        real.insert(path, if place.is_dir() { None } else { Some(std::fs::read(&place)?) });
    }
    for path in image.keys().chain(real.keys()) {
        let lengths = |of: &Image| of.get(path).map(|content| content.as_ref().map(Vec::len));
        if image.get(path) != real.get(path) {
            let line = format!("{}: {:?} in the model, {:?} really", path.display(), lengths(image), lengths(&real));
            differences.push(line);
        }
    }
    differences.dedup();
    Ok(differences)
}

/// Writes an image into a directory, which is emptied first.
pub fn write(image: &Image, dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => std::fs::create_dir_all(dir)?,
    }
    for (path, content) in image {
        let path = dir.join(path);
        match content {
            None => std::fs::create_dir(&path)?,
            Some(content) => std::fs::write(&path, content)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::collections::BTreeSet;

    fn record(kind: Kind, a: u64, b: u64, name: &str, data: &[u8]) -> Record {
        Record { kind, a, b, name: name.into(), data: data.to_vec() }
    }

    fn disk(records: &[Record]) -> Disk {
        let mut disk = Disk::default();
        records.iter().for_each(|record| disk.follow(record));
        disk
    }

    /// Everything that may be left.
    fn outcomes(records: &[Record], loss: Loss) -> BTreeSet<Vec<(String, String)>> {
        let disk = disk(records);
        let shown = |content: Option<Vec<u8>>| {
            content.map_or("/".to_owned(), |bytes| String::from_utf8_lossy(&bytes).replace('\0', "."))
        };
        let outcome = |seed| {
            let image = disk.crash(loss, &mut ChaCha8Rng::seed_from_u64(seed));
            image.into_iter().map(|(path, content)| (path.display().to_string(), shown(content))).collect()
        };
        (0..300).map(outcome).collect()
    }

    fn all(files: &[&[(&str, &str)]]) -> BTreeSet<Vec<(String, String)>> {
        let owned = |files: &[(&str, &str)]| files.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        files.iter().map(|files| owned(files)).collect()
    }

    #[test]
    fn a_file_needs_its_content_and_its_name_synced() {
        let mut records = vec![
            record(Kind::Create, 1, 0, "f", b""),
            record(Kind::Write, 1, 0, "", b"ab"),
            record(Kind::SyncFile, 1, 1, "", b""),
            record(Kind::Write, 1, 2, "", b"cd"),
            record(Kind::Synced, 0, 1, "", b""),
        ];
        assert_eq!(outcomes(&records, Loss::Ordered), all(&[&[], &[("f", "ab")]]));
        records.push(record(Kind::SyncFolder, 0, 2, "", b""));
        assert_eq!(outcomes(&records, Loss::Ordered), all(&[&[], &[("f", "ab")]]), "begun only");
        records.push(record(Kind::Synced, 0, 2, "", b""));
        assert_eq!(outcomes(&records, Loss::Ordered), all(&[&[("f", "ab")]]));
        let prefixes = all(&[&[("f", "ab")], &[("f", "abc")], &[("f", "abcd")]]);
        assert_eq!(outcomes(&records, Loss::Nasty), prefixes);
        assert_eq!(outcomes(&records, Loss::Chaotic), all(&[&[("f", "ab")], &[("f", "abcd")]]));
        let files = disk(&records).whole();
        assert_eq!(files.get(Path::new("f")), Some(&Some(b"abcd".to_vec())));
    }

    #[test]
    fn a_later_page_may_survive_without_an_earlier_one() {
        let mut file = Content { written: [[b'a'; 512], [b'b'; 512]].concat(), ..Content::default() };
        assert_eq!(file.some_units(512, |n| n == 1), [[0; 512], [b'b'; 512]].concat());
        file.durable = vec![b'a'; 100];
        let left = file.some_units(512, |n| n == 1);
        assert_eq!((&left[..100], left[100], left[512]), (&[b'a'; 100][..], 0, b'b'), "what is durable stays");
    }

    #[test]
    fn names_are_lost_one_by_one_and_never_lead_elsewhere() {
        let records = [
            record(Kind::Create, 1, 0, "old", b""),
            record(Kind::Write, 1, 0, "", b"o"),
            record(Kind::SyncFile, 1, 1, "", b""),
            record(Kind::Synced, 0, 1, "", b""),
            record(Kind::SyncFolder, 0, 2, "", b""),
            record(Kind::Synced, 0, 2, "", b""),
            record(Kind::Rename, 0, 0, "old", b"new"),
            record(Kind::MakeFolder, 0, 0, "d", b""),
            // An inode that is given again belongs to the new file.
            record(Kind::Create, 1, 0, "d/g", b""),
            record(Kind::Write, 1, 0, "", b"g"),
        ];
        let ordered = outcomes(&records, Loss::Ordered);
        let expected = all(&[
            &[("old", "o")],
            &[("new", "o")],
            &[("d", "/"), ("new", "o")],
            &[("d", "/"), ("d/g", ""), ("new", "o")],
        ]);
        assert_eq!(ordered, expected);
        let nasty = outcomes(&records, Loss::Nasty);
        assert!(nasty.contains(&vec![("d".into(), "/".into()), ("old".into(), "o".into())]), "{nasty:?}");
        assert!(nasty.iter().all(|files| files.iter().all(|(name, _)| name != "d/g") || files[0].0 == "d"));
    }

    #[test]
    fn a_moved_name_brings_along_what_happened_in_its_folder_before() {
        let records = [
            record(Kind::Create, 1, 0, "current", b""),
            record(Kind::SyncFolder, 0, 2, "", b""),
            record(Kind::Synced, 0, 2, "", b""),
            record(Kind::Create, 2, 0, "list", b""),
            record(Kind::Create, 3, 0, "new", b""),
            record(Kind::Write, 3, 0, "", b"list"),
            record(Kind::SyncFile, 3, 3, "", b""),
            record(Kind::Synced, 0, 3, "", b""),
            record(Kind::Rename, 0, 0, "new", b"current"),
        ];
        for files in outcomes(&records, Loss::Chaotic) {
            let has = |name: &str| files.iter().find(|(found, _)| found == name).map(|(_, content)| content.as_str());
            assert!(has("current") != Some("list") || has("list").is_some(), "{files:?}");
        }
    }

    #[test]
    fn an_image_is_written_and_compared() {
        let dir = tempfile::tempdir().expect("a folder");
        let image = Image::from([("d".into(), None), ("d/f".into(), Some(b"x".to_vec()))]);
        write(&image, dir.path()).expect("written");
        assert!(differences(&image, dir.path()).expect("readable").is_empty());
        std::fs::write(dir.path().join("d/f"), b"y").expect("written");
        std::fs::write(dir.path().join("LOG"), b"y").expect("written");
        assert_eq!(differences(&image, dir.path()).expect("readable").len(), 1);
        assert_eq!(Disk::load(dir.path()).expect("readable").whole().len(), 2);
    }
}
