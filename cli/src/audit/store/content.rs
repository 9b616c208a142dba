//! What of a file is sent: everything of one that is finished, whole entries or whole notes of one that grows.
//!
//! Guarantees: what is read is on this machine's disk before it is sent, so that no crash leaves less here than there. What a crash left
//! of an entry or note is not sent: the parent cuts it off and goes on with other bytes. A compressed file is not sent before it is whole.
//! Refuses: files over [`FILE_MAX`], decompressed or not.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use ruzstd::decoding::StreamingDecoder;

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
    /// Whole entries in them, one behind the other from the start on; of a compressed file, those that it decompresses to.
    pub(super) entries: u64,
    /// Whether the file had no more.
    pub(super) is_whole: bool,
    /// Whether something follows that no entry can begin with: damage, and not what a crash left of one.
    pub(super) is_damaged: bool,
}

impl Content {
    pub(super) fn read(file: &File, part: Part) -> io::Result<Self> {
        Ok(Self::of(read(file)?, part))
    }

    /// What a compressed file decompresses to.
    pub(super) fn unpacked(file: &File) -> io::Result<Self> {
        file.sync_data()?;
        let mut chunks = Vec::new();
        unpack(file, |chunk| chunks.push(chunk))?;
        Ok(Self::of(chunks, Part::All))
    }

    /// A compressed file as it is, if it can be decompressed.
    pub(super) fn packed(mut file: &File) -> io::Result<Self> {
        let mut entries = Scan::of(Entries::default());
        unpack(file, |chunk| entries.take(&chunk))?;
        file.rewind()?;
        Ok(Self { entries: entries.count, ..Self::of(read(file)?, Part::All) })
    }

    fn of(mut chunks: Vec<Bytes>, part: Part) -> Self {
        let all = length(&chunks);
        let entries = Scan::over(&chunks, Entries::default());
        let (size, is_damaged) = match part {
            Part::All => (all, false),
            Part::Entries => (entries.end, entries.ends.is_none()),
            Part::Notes => (Scan::over(&chunks, Notes::default()).end, false),
        };
        truncate(&mut chunks, size);
        let sha256 = hash(chunks.iter());
        Self { chunks, size, sha256, entries: entries.count, is_whole: size == all, is_damaged }
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

/// All of a file, once it is on disk.
fn read(file: &File) -> io::Result<Vec<Bytes>> {
    let mut left = file.metadata()?.len();
    if left > FILE_MAX {
        return Err(too_large());
    }
    file.sync_data()?;
    let mut chunks = Vec::new();
    while let Some(chunk) = next(file, usize::try_from(left).unwrap_or(CHUNK).min(CHUNK))? {
        left = left.saturating_sub(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        chunks.push(chunk);
    }
    Ok(chunks)
}

/// The next bytes, `max` of them if there are as many; none at the end.
fn next(source: impl io::Read, max: usize) -> io::Result<Option<Bytes>> {
    let mut chunk = Vec::with_capacity(max);
    source.take(u64::try_from(max).unwrap_or(u64::MAX)).read_to_end(&mut chunk)?;
    Ok(Some(chunk).filter(|chunk| !chunk.is_empty()).map(Bytes::from))
}

/// Gives what a file decompresses to, piece by piece: that of all its frames, of which there is one at least, and each is whole.
fn unpack(file: &File, mut take: impl FnMut(Bytes)) -> io::Result<()> {
    let mut source = BufReader::with_capacity(CHUNK, file);
    let (mut left, mut frames) = (FILE_MAX, 0_u64);
    while frames == 0 || !source.fill_buf()?.is_empty() {
        frames = frames.saturating_add(1);
        let mut frame = StreamingDecoder::new(&mut source).map_err(|error| broken(&error.to_string()))?;
        while let Some(chunk) = next(&mut frame, CHUNK).map_err(|error| broken(&error.to_string()))? {
            let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(bytes).ok_or_else(too_large)?;
            take(chunk);
        }
    }
    Ok(())
}

fn broken(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot be decompressed: {reason}"))
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "has more than 1 GiB, so it is no file of a log")
}

fn length(chunks: &[Bytes]) -> u64 {
    chunks.iter().fold(0, |sum, chunk| sum.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX)))
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

/// Whole things, one behind the other.
struct Scan<E> {
    /// None where nothing that follows can be whole.
    ends: Option<E>,
    at: u64,
    /// Where the last one ends.
    end: u64,
    count: u64,
}

impl<E: Ends> Scan<E> {
    const fn of(ends: E) -> Self {
        Self { ends: Some(ends), at: 0, end: 0, count: 0 }
    }

    fn over(chunks: &[Bytes], ends: E) -> Self {
        let mut scan = Self::of(ends);
        for chunk in chunks {
            scan.take(chunk);
        }
        scan
    }

    fn take(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let Some(ends) = self.ends.as_mut().filter(|_| !rest.is_empty()) {
            let Some((taken, is_end)) = ends.take(rest) else {
                self.ends = None;
                return;
            };
            self.at = self.at.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
            if is_end {
                self.end = self.at;
                self.count = self.count.saturating_add(1);
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
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
                assert_eq!((content.size, all_of.size, content.is_whole), (whole, cut, whole == cut));
            }
        }
    }

    #[test]
    fn compressed_files() {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let compress = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, level);
        let file = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            file
        };
        let (one, two) = (b"\0\0\0\x01a".repeat(400_000), b"\0\0\0\x02bc".to_vec());
        // Two frames, as `pzstd` and `cat` make them.
        for (packed, all, count) in [
            (compress(&one), one.clone(), 400_000),
            ([compress(&one), compress(&two)].concat(), [one, two].concat(), 400_001),
        ] {
            let content = Content::packed(&file(&packed)).unwrap();
            assert!(bytes(&content) == packed && content.is_whole);
            assert_eq!(content.entries, count);
            let content = Content::unpacked(&file(&packed)).unwrap();
            assert!(bytes(&content) == all && content.is_whole);
            assert_eq!(content.entries, count);
            for broken in [&packed[..packed.len() - 1], &packed[..1], b"", b"no frame", &[&packed[..], b"x"].concat()] {
                let refused = [Content::packed(&file(broken)), Content::unpacked(&file(broken))];
                for refused in refused.map(|read| read.unwrap_err().to_string()) {
                    assert!(refused.contains("cannot be decompressed"), "{refused}");
                }
            }
        }
    }

    #[test]
    fn what_no_entry_can_be_ends_it() {
        for garbage in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\0\x10\0\x01"] {
            let content = read(&[b"\0\0\0\x01a", garbage, b"\0\0\0\x01b"].concat(), Part::Entries);
            assert_eq!(bytes(&content), b"\0\0\0\x01a", "{garbage:?}");
            assert!(content.is_damaged && !read(b"\0\0\0\x01a\0\0", Part::Entries).is_damaged);
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
