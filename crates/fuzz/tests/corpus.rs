//! The targets over the corpus, and over seeded changes of it; and that the folder `fuzz/` has all of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, as the tests themselves do")]

#[path = "corpus/seeds.rs"]
mod seeds;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// Changed inputs for each target.
const CHANGED: usize = 4_000;
/// Most bytes of seeds that one target goes through: of large files fewer are changed.
const BYTES_MAX: usize = 8 << 20;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = fuzz_folder().join("corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// What a disk or a peer could make of bytes that were right once.
fn change(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.random_range(0..=bytes.len());
    match rng.random_range(0..8) {
        0..3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.random();
            }
        }
        4 => bytes.truncate(at),
        5 => bytes.iter_mut().skip(at).take(rng.random_range(1..64)).for_each(|byte| *byte = 0),
        6 => bytes.insert(at, *[0, 1, 0x7f, 0x80, 0xff].get(rng.random_range(0..5_usize)).unwrap()),
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
    }
}

#[test]
fn every_target_survives_the_corpus_and_what_becomes_of_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for target in meridian_fuzz::targets() {
        let seeds = corpus(&target.to_string());
        seeds.iter().for_each(|seed| target.run(seed));
        let mut passed = 0;
        for _ in 0..CHANGED {
            let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
            let other = &seeds[rng.random_range(0..seeds.len())];
            for _ in 0..rng.random_range(1..5) {
                change(&mut rng, &mut bytes, other);
            }
            target.run(&bytes);
            passed += bytes.len();
            if passed > BYTES_MAX {
                break;
            }
        }
        for length in 0..200 {
            let mut bytes = vec![0; length];
            rng.fill_bytes(&mut bytes);
            target.run(&bytes);
        }
    }
}

#[test]
fn the_fuzz_folder_has_every_target_and_no_others() {
    let manifest = std::fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    let mut named: Vec<String> = meridian_fuzz::targets().map(|target| target.to_string()).collect();
    named.sort();
    assert!(named.len() > 30, "{named:?}");
    for name in &named {
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
        let source = std::fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("meridian_fuzz::run(\"{name}\", data)")), "{name}");
    }
    let listed = |folder: &str| -> Vec<String> {
        let files = std::fs::read_dir(fuzz_folder().join(folder)).unwrap();
        let mut names: Vec<String> =
            files.map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(listed("fuzz_targets"), named);
    assert_eq!(listed("corpus"), named);
}

#[test]
#[should_panic(expected = "there is no target `disk_nothing`")]
fn a_target_that_is_not_there_is_no_silence() {
    meridian_fuzz::run("disk_nothing", b"");
}

/// Writes the seeds and the binaries that are not there yet; `fuzz/Cargo.toml` is for a person to write.
#[test]
#[ignore = "writes into fuzz/"]
fn write_the_fuzz_folder() {
    for (target, name, bytes) in seeds::all() {
        let folder = fuzz_folder().join("corpus").join(&target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    for target in meridian_fuzz::targets() {
        let source = format!(
            "#![no_main]\n\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| meridian_fuzz::run(\"{target}\", data));\n"
        );
        std::fs::write(fuzz_folder().join(format!("fuzz_targets/{target}.rs")), source).unwrap();
    }
}
