//! Every committed corpus file through its target, and every seed; no target without both.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use holdfast_tests::fuzz::seeds::{Seed, corpora, seeds};
use holdfast_tests::fuzz::{TARGETS, Verdict};

/// Bounds of one target's corpus: files, bytes of one, bytes of all.
const FILES_MAX: usize = 200;
const FILE_MAX: u64 = 20 * 1024;
const BYTES_MAX: u64 = 300 * 1024;

fn files(folder: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = listing.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn names(paths: &[PathBuf]) -> BTreeSet<String> {
    paths.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_target_judges_its_seeds_rightly() {
    for seed in seeds() {
        let target = TARGETS.iter().find(|target| target.name == seed.target).unwrap();
        let verdict = catch_unwind(|| (target.run)(&seed.bytes));
        let verdict = verdict.unwrap_or_else(|_| panic!("{}/{}", seed.target, seed.name));
        assert_eq!(verdict, seed.verdict, "{}/{}", seed.target, seed.name);
    }
    for target in TARGETS {
        let accepted = |seed: &Seed| seed.target == target.name && seed.verdict == Verdict::Accepted;
        assert!(seeds().iter().any(accepted), "no seed leads into {}", target.name);
    }
}

#[test]
fn every_corpus_file_keeps_its_targets_properties() {
    let write = std::env::var_os("HOLDFAST_WRITE_CORPORA").is_some();
    for seed in seeds().iter().filter(|_| write) {
        let folder = corpora().join(seed.target);
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(&seed.name);
        if !file.exists() {
            std::fs::write(file, &seed.bytes).unwrap();
        }
    }
    let mut broken = Vec::new();
    for target in TARGETS {
        for file in files(&corpora().join(target.name)) {
            let bytes = std::fs::read(&file).unwrap();
            if catch_unwind(|| (target.run)(&bytes)).is_err() {
                eprintln!("^ {}", file.display());
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_target_has_a_corpus_within_bounds_and_a_binary() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&files(&corpora())), targets, "folders of tests/corpora");
    let binaries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    assert_eq!(names(&files(&binaries)), targets, "files of fuzz/fuzz_targets");
    let manifest = std::fs::read_to_string(binaries.join("../Cargo.toml")).unwrap();
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml does not name {target}");
        let source = std::fs::read_to_string(binaries.join(target).with_extension("rs")).unwrap();
        assert!(source.contains(&format!("holdfast_tests::fuzz::{target}(")), "{target}.rs runs another target");
        let sizes: Vec<u64> =
            files(&corpora().join(target)).iter().map(|file| file.metadata().unwrap().len()).collect();
        assert!((1..=FILES_MAX).contains(&sizes.len()), "{target}: {} files", sizes.len());
        assert!(sizes.iter().all(|size| *size <= FILE_MAX), "{target}: a file is too large");
        assert!(sizes.iter().sum::<u64>() <= BYTES_MAX, "{target}: {} bytes", sizes.iter().sum::<u64>());
    }
}
