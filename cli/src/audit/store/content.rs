//! What of a file is sent: everything of one that is finished, whole entries or whole notes of one that grows.
//!
//! Guarantees: what is read is on this machine's disk before it is sent, so that no crash leaves less here than there. What a crash left
//! of an entry or note is not sent: the parent cuts it off and goes on with other bytes.
//! Refuses: files over [`FILE_MAX`].

use std::fs::File;
use std::io::{self, BufReader, Read as _};

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use crate::audit::folder::{FILE_MAX, LENGTH, entry_length};

/// Bytes that are read at once.
const CHUNK: usize = 1024 * 1024;
/// With which the lines begin that end a note: its signatures (C2SP signed-note).
const SIGNATURE: [u8; 4] = [0xe2, 0x80, 0x94, b' '];

/// Which bytes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All.
    All,
    /// Whole entries, from the start on.
    Entries,
    /// Whole notes with their empty lines, from the start on.
    Notes,
}

/// Bytes, in memory.
#[derive(Clone, Debug)]
pub(super) struct Content {
    chunks: Vec<Bytes>,
    /// How many they are.
    pub(super) size: u64,
    /// SHA-256 of them, in hexadecimal.
    pub(super) sha256: String,
    /// Bytes of the file, when it was read.
    pub(super) seen: u64,
}

impl Content {
    pub(super) fn read(mut file: &File, part: Part) -> io::Result<Self> {
        let seen = file.metadata()?.len();
        if seen > FILE_MAX {
            return Err(too_large());
        }
        file.sync_data()?;
        let mut chunks = chunks_of(&mut file, seen)?;
        let size = match part {
            Part::All => len(&chunks),
            Part::Entries => whole(&chunks, Entries::default()),
            Part::Notes => whole(&chunks, Notes::default()),
        };
        truncate(&mut chunks, size);
        let sha256 = hash(chunks.iter());
        Ok(Self { chunks, size, sha256, seen })
    }

    /// What a compressed file holds.
    pub(super) fn unpack(file: &File) -> io::Result<Self> {
        let seen = file.metadata()?.len();
        file.sync_data()?;
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(file))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let chunks = chunks_of(&mut decoder, FILE_MAX.saturating_add(1))?;
        let size = len(&chunks);
        if size > FILE_MAX {
            return Err(too_large());
        }
        let sha256 = hash(chunks.iter());
        Ok(Self { chunks, size, sha256, seen })
    }

    /// For the store.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Bytes> {
        self.chunks.iter().cloned()
    }

    /// Whether the content of `size` bytes with this hash is what this one begins with.
    pub(super) fn begins_with(&self, size: u64, sha256: &str) -> bool {
        if size >= self.size {
            return size == self.size && sha256 == self.sha256;
        }
        let mut first = self.chunks.clone();
        truncate(&mut first, size);
        hash(first.iter()) == sha256
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "has more than 1 GiB, so it is no file of a log")
}

/// So many bytes at most, piece by piece.
fn chunks_of(source: &mut impl io::Read, max: u64) -> io::Result<Vec<Bytes>> {
    let (mut chunks, mut left) = (Vec::new(), max);
    loop {
        let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = Vec::with_capacity(wanted);
        let most = u64::try_from(wanted).unwrap_or(u64::MAX);
        let read = source.by_ref().take(most).read_to_end(&mut chunk)?;
        if read == 0 {
            return Ok(chunks);
        }
        left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        chunks.push(Bytes::from(chunk));
    }
}

fn len(chunks: &[Bytes]) -> u64 {
    chunks.iter().map(|chunk| u64::try_from(chunk.len()).unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
}

fn hash<'a>(chunks: impl Iterator<Item = &'a Bytes>) -> String {
    let mut context = Context::new(&SHA256);
    chunks.for_each(|chunk| context.update(chunk));
    hex::encode(context.finish())
}

fn truncate(chunks: &mut Vec<Bytes>, size: u64) {
    let mut left = size;
    chunks.retain_mut(|chunk| {
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left = left.saturating_sub(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        !chunk.is_empty()
    });
}

/// Looks for ends in bytes that come piece by piece.
trait Ends {
    /// Takes a byte or more of these, and returns how many; none where nothing that follows can be whole. The flag says whether
    /// what ends with them is whole.
    fn take(&mut self, bytes: &[u8]) -> Option<(usize, bool)>;
}

/// Where the last whole thing ends.
fn whole(chunks: &[Bytes], mut ends: impl Ends) -> u64 {
    let (mut at, mut end) = (0_u64, 0);
    for chunk in chunks {
        let mut rest: &[u8] = chunk;
        while !rest.is_empty() {
            let Some((taken, is_end)) = ends.take(rest) else { return end };
            at = at.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
            if is_end {
                end = at;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
    end
}

/// Entries, each behind its length.
#[derive(Default)]
struct Entries {
    /// What has come of the length.
    header: Vec<u8>,
    /// Bytes of the entry that are still to come.
    left: usize,
}

impl Ends for Entries {
    fn take(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        if self.left > 0 {
            let taken = self.left.min(bytes.len());
            self.left = self.left.saturating_sub(taken);
            return Some((taken, self.left == 0));
        }
        self.header.push(*bytes.first()?);
        if let Ok(length) = <[u8; LENGTH]>::try_from(self.header.as_slice()) {
            self.left = entry_length(length)?;
            self.header.clear();
        }
        Some((1, false))
    }
}

/// Notes: an empty line after a signature ends one.
#[derive(Default)]
struct Notes {
    /// What the line begins with.
    line: Vec<u8>,
    /// Whether the line before it was a signature.
    is_signed: bool,
}

impl Ends for Notes {
    fn take(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        let byte = *bytes.first()?;
        if byte != b'\n' {
            if self.line.len() < SIGNATURE.len() {
                self.line.push(byte);
            }
            return Some((1, false));
        }
        let is_end = self.is_signed && self.line.is_empty();
        self.is_signed = self.line == SIGNATURE;
        self.line.clear();
        Some((1, is_end))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(bytes: &[u8], part: Part) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        Content::read(&file, part).unwrap()
    }

    fn bytes(content: &Content) -> Vec<u8> {
        content.chunks().flat_map(|chunk| chunk.to_vec()).collect()
    }

    #[test]
    fn a_file_that_was_cut_anywhere_gives_whole_entries_or_notes() {
        let entries = [&b"\0\0\0\x01a"[..], b"\0\0\0\x03bcd", b"\0\0\0\x02ef"];
        let notes =
            ["n\n1\nr\n\n\u{2014} n s\n\n", "n\n2\nr\n\n\u{2014} n s\n\u{2014} m s\n\n", "n\n3\nr\n\n\u{2014} n s\n\n"];
        let notes = notes.map(str::as_bytes);
        for (part, pieces) in [(Part::Entries, entries), (Part::Notes, notes)] {
            let all = pieces.concat();
            let ends: Vec<_> = (0..=pieces.len()).map(|count| pieces[..count].concat().len()).collect();
            for cut in 0..=all.len() {
                let whole = *ends.iter().rfind(|end| **end <= cut).unwrap();
                let (content, all_of) = (read(&all[..cut], part), read(&all[..cut], Part::All));
                assert_eq!(bytes(&content), all[..whole], "{part:?} cut at {cut}");
                let (whole, cut) = (u64::try_from(whole).unwrap(), u64::try_from(cut).unwrap());
                assert_eq!((content.size, content.seen, all_of.size), (whole, cut, cut));
            }
        }
    }

    #[test]
    fn what_no_entry_can_be_ends_it() {
        for garbage in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\0\x10\0\x01"] {
            let content = read(&[b"\0\0\0\x01a", garbage, b"\0\0\0\x01b"].concat(), Part::Entries);
            assert_eq!(bytes(&content), b"\0\0\0\x01a", "{garbage:?}");
        }
    }

    #[test]
    fn pieces_and_prefixes() {
        let large: Vec<u8> = (0..=250).cycle().take(3 * CHUNK + 17).collect();
        let content = read(&large, Part::All);
        assert_eq!(bytes(&content), large);
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, large.len()] {
            let first = read(&large[..size], Part::All);
            assert!(content.begins_with(first.size, &first.sha256), "{size}");
            let mut other = large[..size].to_vec();
            if let Some(last) = other.last_mut() {
                *last ^= 1;
                assert!(!content.begins_with(first.size, &read(&other, Part::All).sha256), "{size}");
            }
        }
        let longer = read(&[&large[..], b"x"].concat(), Part::All);
        assert!(!content.begins_with(longer.size, &longer.sha256));
        let empty = read(b"", Part::Entries);
        assert_eq!((empty.size, empty.sha256.as_str()), (0, &*hex::encode(ring::digest::digest(&SHA256, b""))));
    }
}
