//! The signed checkpoints of a log: one note after another in the file `checkpoints`, each followed by an empty line.
//!
//! Guarantees: the file holds whole notes; what a crash left of one is cut before the next is written.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use holdfast_link::audit::CheckpointText;
use holdfast_link::limits::AUDIT_CHECKPOINT_MAX;

use super::log::{options, sync_folder};

/// The name of the file.
const FILE: &str = "checkpoints";
/// With which the lines begin that end a note: its signatures (C2SP signed-note).
const SIGNATURE: &[u8] = "\u{2014} ".as_bytes();

/// Adds a note, and waits until it is on disk.
pub(super) fn write(folder: &Path, note: &CheckpointText) -> io::Result<()> {
    let mut file = options().read(true).write(true).create(true).truncate(false).open(folder.join(FILE))?;
    let length = file.metadata()?.len();
    // A whole note and a torn one are within this many bytes of the end.
    let window = u64::try_from(2 * (AUDIT_CHECKPOINT_MAX + 1)).unwrap_or(u64::MAX).min(length);
    file.seek(SeekFrom::Start(length - window))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let torn = u64::try_from(tail.len() - whole(&tail)).unwrap_or(u64::MAX);
    let end = length.saturating_sub(torn);
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    file.write_all(format!("{}\n", note.as_str()).as_bytes())?;
    file.sync_data()?;
    if length == 0 { sync_folder(folder) } else { Ok(()) }
}

/// Where the last whole note in these bytes ends, its empty line included.
fn whole(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    while let Some(head) = bytes.get(..end).filter(|head| !head.is_empty()) {
        let last_line = head.strip_suffix(b"\n\n").map(|text| text.rsplit(|byte| *byte == b'\n').next());
        if last_line.flatten().is_some_and(|line| line.starts_with(SIGNATURE)) {
            return end;
        }
        end -= 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(number: u32) -> CheckpointText {
        CheckpointText::new(&format!("name\n{number}\nroot\n\n\u{2014} name signature{number}\n")).unwrap()
    }

    #[test]
    fn a_torn_note_gives_way_to_the_next() {
        let (first, second) = (note(1), note(2));
        let whole = format!("{}\n", first.as_str());
        for torn in 0..second.as_str().len() {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &first).unwrap();
            let mut file = options().append(true).open(folder.path().join(FILE)).unwrap();
            file.write_all(&second.as_str().as_bytes()[..torn]).unwrap();
            write(folder.path(), &second).unwrap();
            let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
            assert_eq!(text, format!("{whole}{}\n", second.as_str()), "{torn} bytes of the second were written");
        }
    }

    #[test]
    fn many_notes_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..100 {
            write(folder.path(), &note(number)).unwrap();
        }
        let expected: Vec<_> = (0..100).map(|number| note(number).as_str().to_owned() + "\n").collect();
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE)).unwrap(), expected.concat());
    }
}
