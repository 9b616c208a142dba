//! Ramdisks: cpio archives in the format that the kernel unpacks (`newc`, `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Guarantees: the same entries give the same bytes. Everything that a file system would add is fixed: times are zero, the
//! owner is root, inode numbers count up, entries are sorted by name.

use std::collections::BTreeMap;

/// An archive that is being put together.
#[derive(Debug, Default)]
pub struct Archive(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Folder,
    Program(Vec<u8>),
    File(Vec<u8>),
    CharacterDevice { major: u32, minor: u32 },
}

/// The name that ends an archive.
const END: &str = "TRAILER!!!";

impl Archive {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder that only root may enter.
    #[must_use]
    pub fn folder(self, name: &str) -> Self {
        self.with(name, Entry::Folder)
    }

    /// Adds a file that may be executed and not changed.
    #[must_use]
    pub fn program(self, name: &str, content: Vec<u8>) -> Self {
        self.with(name, Entry::Program(content))
    }

    /// Adds a file that may be read.
    #[must_use]
    pub fn file(self, name: &str, content: Vec<u8>) -> Self {
        self.with(name, Entry::File(content))
    }

    /// Adds a character device.
    #[must_use]
    pub fn character_device(self, name: &str, major: u32, minor: u32) -> Self {
        self.with(name, Entry::CharacterDevice { major, minor })
    }

    fn with(mut self, name: &str, entry: Entry) -> Self {
        self.0.insert(name.to_owned(), entry);
        self
    }

    /// The archive. A file of 4 GiB and more has no place in the format; the program and modules are far below.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (name, entry)) in (1_u32..).zip(&self.0) {
            let (mode, links, content, device) = match entry {
                Entry::Folder => (0o04_0700, 2, [].as_slice(), (0, 0)),
                Entry::Program(content) => (0o10_0500, 1, content.as_slice(), (0, 0)),
                Entry::File(content) => (0o10_0400, 1, content.as_slice(), (0, 0)),
                Entry::CharacterDevice { major, minor } => (0o02_0600, 1, [].as_slice(), (*major, *minor)),
            };
            append(&mut out, name, [inode, mode, links, device.0, device.1], content);
        }
        append(&mut out, END, [0, 0, 1, 0, 0], &[]);
        out
    }
}

/// Header of 13 numbers in hexadecimal, name with a zero, content; each padded to a multiple of four bytes.
fn append(out: &mut Vec<u8>, name: &str, [inode, mode, links, major, minor]: [u32; 5], content: &[u8]) {
    let size = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    // inode, mode, uid, gid, links, mtime, size, device's major and minor, the node's major and minor, name's length, check
    let numbers = [inode, mode, 0, 0, links, 0, size(content.len()), 0, 0, major, minor, size(name.len() + 1), 0];
    out.extend(b"070701");
    for number in numbers {
        out.extend(format!("{number:08X}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn the_order_of_adding_changes_nothing() {
        let one = Archive::new().folder("dev").file("a", vec![1, 2, 3]).program("init", vec![4]);
        let other = Archive::new().program("init", vec![4]).file("a", vec![1, 2, 3]).folder("dev");
        assert_eq!(one.to_bytes(), other.to_bytes());
        assert_eq!(one.to_bytes().len() % 4, 0);
    }

    /// GNU cpio reads what we wrote: names, modes, owner, times and sizes.
    #[test]
    fn another_program_reads_the_archive() {
        let archive = Archive::new()
            .folder("dev")
            .character_device("dev/console", 5, 1)
            .program("init", vec![0x7f; 4097])
            .file("nsm.ko", b"module".to_vec());
        let mut child = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is among the prerequisites of the tests");
        child.stdin.take().unwrap().write_all(&archive.to_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let lines: Vec<Vec<String>> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        let expected = [
            "drwx------ 2 0 0 0 Jan 1 1970 dev",
            "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
            "-r-x------ 1 0 0 4097 Jan 1 1970 init",
            "-r-------- 1 0 0 6 Jan 1 1970 nsm.ko",
        ];
        let expected: Vec<Vec<String>> =
            expected.iter().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        assert_eq!(lines, expected);
    }
}
