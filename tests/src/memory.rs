//! Looks for bytes in the memory of another process, in files, and in anything else.
//!
//! Assumes: the process is a child of the test's, or the test may trace it; it goes on running, so a mapping may vanish while
//! it is read. Every search should be paired with one that finds the same bytes somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes read at a time.
const BLOCK: usize = 1024 * 1024;
/// Shorter needles are found by chance.
const NEEDLE_MIN: usize = 12;
/// Wherever a needle lies, one of the pairs of bytes in its beginning lies at a multiple of this: no other place need be looked at.
const STEP: usize = NEEDLE_MIN - 1;

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Needle {
    /// For the message when it is found.
    pub name: String,
    bytes: Vec<u8>,
}

/// Needles, ready for searching.
#[derive(Clone, Debug)]
pub struct Needles {
    all: Vec<Needle>,
    /// For each two bytes: in which needle's beginning they stand, and where.
    pairs: Vec<Vec<(usize, usize)>>,
    longest: usize,
}

/// The forms in which a secret could lie somewhere: itself, in hexadecimal, and in base64.
#[must_use]
pub fn forms(name: &str, secret: &[u8]) -> Vec<Needle> {
    let needle = |form: &str, bytes: Vec<u8>| Needle { name: format!("{name} ({form})"), bytes };
    let standard = STANDARD.encode(secret);
    let mut all = vec![
        needle("raw", secret.to_vec()),
        needle("reversed", secret.iter().rev().copied().collect()),
        needle("hex", hex::encode(secret).into_bytes()),
        needle("HEX", hex::encode_upper(secret).into_bytes()),
        needle("base64", STANDARD_NO_PAD.encode(secret).into_bytes()),
    ];
    let url = URL_SAFE_NO_PAD.encode(secret);
    if !standard.starts_with(&url) {
        all.push(needle("base64url", url.into_bytes()));
    }
    all
}

/// The blocks in which HMAC, and so HKDF, takes up a key of at most 64 bytes (RFC 2104): as good as the key itself.
#[must_use]
pub fn hmac_pads(name: &str, key: &[u8]) -> Vec<Needle> {
    let pad = |which: &str, byte: u8| Needle {
        name: format!("{name} ({which} pad)"),
        bytes: key.iter().map(|own| own ^ byte).collect(),
    };
    vec![pad("inner", 0x36), pad("outer", 0x5c)]
}

impl Needles {
    /// Prepares a search.
    #[must_use]
    pub fn new(needles: Vec<Needle>) -> Self {
        let mut pairs = vec![Vec::new(); 0x1_0000];
        for (number, needle) in needles.iter().enumerate() {
            assert!(needle.bytes.len() >= NEEDLE_MIN, "{} is too short to search for", needle.name);
            for (offset, two) in needle.bytes.windows(2).take(STEP).enumerate() {
                pairs[pair(two)].push((number, offset));
            }
        }
        let longest = needles.iter().map(|needle| needle.bytes.len()).max().unwrap_or(0);
        Self { all: needles, pairs, longest }
    }

    /// The names of the needles in `hay`.
    #[must_use]
    pub fn found_in(&self, hay: &[u8]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for at in (0..hay.len().saturating_sub(1)).step_by(STEP) {
            for (number, offset) in &self.pairs[pair(&hay[at..])] {
                let needle = &self.all[*number];
                if at.checked_sub(*offset).is_some_and(|start| hay[start..].starts_with(&needle.bytes)) {
                    found.insert(needle.name.clone());
                }
            }
        }
        found
    }

    /// The names of the needles in the memory of a process: every readable mapping, heap, stacks and files alike.
    #[must_use]
    pub fn found_in_process(&self, id: u32) -> BTreeSet<String> {
        self.places_in_process(id).into_keys().collect()
    }

    /// The same, with the mappings in which each was found: for whoever looks for what left it there.
    #[must_use]
    pub fn places_in_process(&self, id: u32) -> BTreeMap<String, BTreeSet<String>> {
        let memory = File::open(format!("/proc/{id}/mem")).unwrap();
        let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
        let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut total = 0;
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
            // The kernel's own pages cannot be read.
            if !mode.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
            let mut found = BTreeSet::new();
            total += self.search_range(&memory, start, end, &mut found);
            for name in found {
                places.entry(name).or_default().insert(line.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
        assert!(total > 1024 * 1024, "only {total} bytes of process {id} could be read");
        places
    }

    fn search_range(&self, memory: &File, start: u64, end: u64, found: &mut BTreeSet<String>) -> usize {
        let mut buffer = vec![0; BLOCK + self.longest];
        let (mut at, mut total) = (start, 0);
        while at < end {
            let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            // A mapping may have gone meanwhile, or have no page behind it.
            let Ok(count @ 1..) = memory.read_at(&mut buffer[..want], at) else { break };
            found.extend(self.found_in(&buffer[..count]));
            total += count;
            at += u64::try_from(count.min(BLOCK)).unwrap();
        }
        total
    }

    /// The names of the needles in every file under a folder, with the file.
    #[must_use]
    pub fn found_in_files(&self, folder: &Path) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(self.found_in_files(&path));
            } else if path.is_file() {
                let names = self.found_in(&fs::read(&path).unwrap());
                found.extend(names.into_iter().map(|name| format!("{name} in {}", path.display())));
            }
        }
        found
    }
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random_bytes;

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let (secret, other) = (random_bytes::<32>(), random_bytes::<32>());
        let needles = Needles::new([forms("secret", &secret), forms("other", &other)].concat());
        for needle in forms("secret", &secret) {
            for before in 0..=STEP {
                let hay = [&vec![7; before], needle.bytes.as_slice(), &[9; 10]].concat();
                assert_eq!(needles.found_in(&hay), BTreeSet::from([needle.name.clone()]));
                assert!(needles.found_in(&hay[..hay.len() - 11]).is_empty(), "cut short");
            }
        }
    }

    #[test]
    fn the_memory_of_a_process_is_read() {
        let held = random_bytes::<32>();
        let needles = Needles::new(forms("held", &held));
        let found = needles.found_in_process(std::process::id());
        assert!(found.contains("held (raw)"), "{found:?}");
        assert!(std::hint::black_box(held).len() == 32);
    }

    #[test]
    fn files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let secret = random_bytes::<32>();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), hex::encode(secret)).unwrap();
        let found = Needles::new(forms("secret", &secret)).found_in_files(folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
