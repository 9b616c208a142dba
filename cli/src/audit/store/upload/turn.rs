//! One log in one round.
//!
//! Guarantees: a log's checkpoints are read before its files are listed and sent after them, and only once all of these are there. What
//! is there is what was sent or read back, never what was only listed. A file that was compressed is followed to its compressed name:
//!
//! ```text
//! X.log                                   ─▶ object X.log
//! X.log.zst, and there is no object X.log ─▶ object X.log.zst, as it is
//! X.log.zst, and there is one             ─▶ decompressed, object X.log grows to all of it
//! ```
//! A file that is gone counts as there only if what was sent of it ends where the next file begins. Else it is named, and checkpoints wait.
//! Assumes: files only grow, and of a log's files only the newest does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use super::super::content::{Content, Part};
use super::super::ledger::{Page, Sent};
use super::super::names::{FileName, LogName};
use super::super::settle::{Known, Settled, settle};
use super::super::source::{Listed, LogFolder, Opened, Seen};
use super::super::{StoreError, Summary};
use super::{Pace, Rest, Uploader};
use crate::progress::Progress;

/// Bytes a second as which a file that grows is sent again, all of it each time: one of 16 MiB every other minute. A bucket with versions
/// keeps each of them.
const RESEND_PER_SECOND: u64 = 128 * 1024;
/// How long a file rests that could not be sent.
const FAILED_REST: Duration = Duration::from_mins(5);

/// See the module.
pub(super) struct Turn<'u, 'a> {
    pub(super) uploader: &'u mut Uploader<'a>,
    pub(super) log: LogName,
    pub(super) folder: LogFolder,
    pub(super) page: Page,
    /// Objects that were in a listing just now.
    pub(super) listed: BTreeSet<String>,
    pub(super) pace: Pace,
    pub(super) summary: &'u mut Summary,
    pub(super) progress: Option<&'u Progress>,
}

/// What there is to send of a file.
enum Ready {
    /// It is not there any more, under no name.
    Gone,
    /// Bytes, for an object.
    Content { object: FileName, content: Content, seen: Seen },
}

impl Turn<'_, '_> {
    /// Brings all files' objects up to date. `list` is [`LogFolder::files`].
    pub(super) async fn files(
        &mut self,
        mut files: Vec<Listed>,
        list: impl Fn(&LogFolder) -> io::Result<Vec<Listed>>,
    ) -> Result<(), StoreError> {
        let checkpoints = files.iter().find(|file| file.name == FileName::Checkpoints).cloned();
        let mut notes = None;
        if let Some(file) = checkpoints.as_ref().filter(|file| !is_as_sent(&self.page, file)) {
            // Before the entries are listed, so that none covers more than these.
            notes = Some(self.notes(file));
            files = match list(&self.folder) {
                Ok(files) => files,
                Err(error) => {
                    self.failed(String::new(), &format!("{}: cannot be listed: {error}", self.log));
                    return Ok(());
                }
            };
        }
        let are_all_there = self.all_entries(&files).await?;
        match (checkpoints, notes) {
            (Some(_), None) => self.summary.skip(),
            (Some(file), Some(Ok(Ready::Content { object, content, seen })))
                if are_all_there && !self.rests(&file.name, true) =>
            {
                self.settle(&file.name, (object, content, seen), true).await?;
            }
            (Some(file), Some(Ok(Ready::Gone))) => self.gone(&file.name),
            (Some(file), Some(Err(error))) => self.unreadable(&file.name, &error),
            _ => {}
        }
        Ok(())
    }

    /// Whether all entries are there that are in files of this listing, or were in files when something of them was sent.
    async fn all_entries(&mut self, files: &[Listed]) -> Result<bool, StoreError> {
        let here: BTreeMap<u64, &Listed> =
            files.iter().filter_map(|file| Some((file.name.first_index()?, file))).collect();
        let newest = here.last_key_value().map(|(first_index, _)| *first_index);
        let known: BTreeSet<u64> = self.page.files.keys().chain(here.keys()).copied().collect();
        let mut are_all_there = true;
        for first_index in known {
            let next = here.range(first_index.saturating_add(1)..).next().map(|(next, _)| *next);
            let is_there = match here.get(&first_index) {
                Some(file) => self.entries(file, first_index, newest == Some(first_index)).await?,
                None => self.is_past(first_index, next),
            };
            are_all_there &= is_there;
            if let Some(next) = next.filter(|_| is_there) {
                self.page.finish(first_index, next);
            }
        }
        Ok(are_all_there)
    }

    /// Whether all of a file is there.
    async fn entries(&mut self, file: &Listed, first_index: u64, is_newest: bool) -> Result<bool, StoreError> {
        if first_index < self.page.finished.until || self.is_up_to_date(file, is_newest) {
            self.summary.skip();
            return Ok(true);
        }
        let grows = is_newest && !file.seen.compressed;
        if self.rests(&file.name, grows) {
            return Ok(false);
        }
        match self.ready(file, first_index, grows).await? {
            Ok(Ready::Content { object, content, seen }) => {
                let is_damaged = content.is_damaged;
                let is_there = self.settle(&file.name, (object, content, seen), grows).await?;
                if is_damaged {
                    let reason = "has bytes that no entry begins with; what comes before them was sent, and this log's checkpoints wait";
                    self.failed_file(&file.name, reason);
                    if let Some(sent) = self.page.files.get_mut(&first_index) {
                        // Looked at again, and told again by the next program.
                        sent.seen = None;
                    }
                }
                Ok(is_there && !is_damaged)
            }
            Ok(Ready::Gone) => {
                self.gone(&file.name);
                Ok(false)
            }
            Err(error) => {
                self.unreadable(&file.name, &error);
                Ok(false)
            }
        }
    }

    /// Whether a file is as it was when it was sent. What a crash left at its end counts once another file follows.
    fn is_up_to_date(&self, file: &Listed, is_newest: bool) -> bool {
        let sent = file.name.first_index().and_then(|index| self.page.files.get(&index));
        is_as_sent(&self.page, file) && sent.is_some_and(|sent| is_newest || sent.is_whole)
    }

    /// Whether all of a file that is gone was sent: it ends where the next one begins.
    fn is_past(&mut self, first_index: u64, next: Option<u64>) -> bool {
        let is_past = next.is_some()
            && self.page.files.get(&first_index).is_some_and(|sent| sent.e_tag.is_some() && Some(sent.until) == next);
        if !is_past {
            self.gone(&FileName::entries(first_index, false));
        }
        is_past
    }

    /// Notes, whole ones.
    fn notes(&self, file: &Listed) -> io::Result<Ready> {
        let Some(Opened { file: opened, seen }) = self.folder.open(&file.name)? else { return Ok(Ready::Gone) };
        Ok(Ready::Content { object: FileName::Checkpoints, content: Content::read(&opened, Part::Notes)?, seen })
    }

    /// Entries, under whichever name they have by now.
    async fn ready(&self, file: &Listed, first_index: u64, grows: bool) -> Result<io::Result<Ready>, StoreError> {
        let plain = FileName::entries(first_index, false);
        let packed = FileName::entries(first_index, true);
        let opened = match self.folder.open(&file.name) {
            // Compressed since it was listed, or the reverse.
            Ok(None) if file.seen.compressed => self.folder.open(&plain),
            Ok(None) => self.folder.open(&packed),
            opened => opened,
        };
        let Opened { file: opened, seen } = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(Ok(Ready::Gone)),
            Err(error) => return Ok(Err(error)),
        };
        let (object, content) = if !seen.compressed {
            let part = if grows { Part::Entries } else { Part::All };
            (plain, Content::read(&opened, part))
        } else if self.has_plain(first_index, &plain).await? {
            (plain, Content::unpacked(&opened))
        } else {
            (packed, Content::packed(&opened))
        };
        Ok(content.map(|content| Ready::Content { object, content, seen }))
    }

    /// Whether entries were sent before they were compressed.
    async fn has_plain(&self, first_index: u64, plain: &FileName) -> Result<bool, StoreError> {
        match self.page.files.get(&first_index) {
            Some(sent) => Ok(!sent.compressed),
            None => self.uploader.bucket.has(self.log, plain).await,
        }
    }

    /// Whether the object holds it.
    async fn settle(
        &mut self,
        file: &FileName,
        (object, content, seen): (FileName, Content, Seen),
        grows: bool,
    ) -> Result<bool, StoreError> {
        let known = self.known(&object);
        if content.size == 0 && known == Known::Nothing {
            self.summary.skip();
            return Ok(true);
        }
        let settled = settle(&self.uploader.bucket, (self.log, &object), &content, known).await?;
        if let Some(progress) = self.progress {
            progress.add(seen.bytes);
        }
        let stored = match settled {
            Settled::Not(mismatch) => {
                self.failed_file(file, &mismatch.to_string());
                return Ok(false);
            }
            Settled::Same(stored) => {
                self.summary.skip();
                stored
            }
            Settled::Sent { stored, was_deleted } => {
                if was_deleted {
                    let name = object.as_str();
                    let line = format!("{}/{name}: the object was deleted in the bucket; it was sent again", self.log);
                    (self.uploader.tell)(&line);
                }
                self.summary.wrote(stored.size);
                if grows {
                    self.rest(key(file), Duration::from_secs(stored.size / RESEND_PER_SECOND), false);
                }
                stored
            }
        };
        match object {
            FileName::Checkpoints => self.page.checkpoints = Some(Sent::of(stored, &content, seen, (false, 0))),
            FileName::Entries { first_index, compressed, .. } => {
                let sent = Sent::of(stored, &content, seen, (compressed, first_index));
                self.page.files.insert(first_index, sent);
            }
        }
        self.uploader.told.remove(&(self.log, key(file)));
        Ok(true)
    }

    fn known(&self, object: &FileName) -> Known {
        let sent = match object {
            FileName::Checkpoints => self.page.checkpoints.as_ref(),
            FileName::Entries { first_index, compressed, .. } => {
                self.page.files.get(first_index).filter(|sent| sent.compressed == *compressed)
            }
        };
        match sent.and_then(Sent::stored) {
            Some(stored) => Known::Sent(stored),
            None if sent.is_some() || self.listed.contains(object.as_str()) => Known::Listed,
            None => Known::Nothing,
        }
    }

    /// Nothing can be sent of a file that was here.
    fn gone(&mut self, file: &FileName) {
        // With its folder, it was deleted because it is old.
        if !self.folder.is_deleted() {
            self.failed_file(file, "is gone, and not all of it was sent; this log's checkpoints wait for it");
        }
    }

    fn unreadable(&mut self, file: &FileName, error: &io::Error) {
        self.failed_file(file, &format!("cannot be read: {error}"));
    }

    fn failed_file(&mut self, file: &FileName, reason: &str) {
        self.failed(key(file), &format!("{}/{}: {reason}", self.log, file.as_str()));
    }

    fn failed(&mut self, key: String, line: &str) {
        self.summary.fail();
        self.uploader.complain((self.log, key.clone()), line);
        self.rest(key, FAILED_REST, true);
    }

    fn rest(&mut self, key: String, long: Duration, has_failed: bool) {
        if let Some(until) = Instant::now().checked_add(long) {
            self.uploader.rests.insert((self.log, key), Rest { until, has_failed });
        }
    }

    /// Whether a file is to rest now. One that does not grow any more waits only if it could not be sent.
    fn rests(&self, file: &FileName, grows: bool) -> bool {
        let rest = self.uploader.rests.get(&(self.log, key(file)));
        self.pace == Pace::Paced && rest.is_some_and(|rest| rest.until > Instant::now() && (grows || rest.has_failed))
    }
}

/// Whether a file is as it was when it was sent.
pub(super) fn is_as_sent(page: &Page, file: &Listed) -> bool {
    let sent = match file.name.first_index() {
        Some(first_index) if first_index < page.finished.until => return true,
        Some(first_index) => page.files.get(&first_index),
        None => page.checkpoints.as_ref(),
    };
    sent.is_some_and(|sent| sent.seen == Some(file.seen))
}

/// Under which a file is known, compressed or not.
fn key(file: &FileName) -> String {
    match file.first_index() {
        Some(first_index) => FileName::entries(first_index, false).as_str().to_owned(),
        None => file.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::super::place::{Place, Reach};
    use super::*;

    #[tokio::test]
    async fn a_folder_that_cannot_be_listed_is_not_empty() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let log = LogName { key_store_id: "ab".repeat(32).parse().unwrap(), boot_id: "cd".repeat(16).parse().unwrap() };
        let folder = path("audit").join(log.to_string());
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir(path("bucket")).unwrap();
        fs::write(folder.join("0000000000000000.log"), b"\0\0\0\x01a").unwrap();
        fs::write(folder.join("checkpoints"), "name\n1\nroot\n\n\u{2014} name signature\n\n").unwrap();
        let said = std::cell::RefCell::new(Vec::new());
        let tell = |line: &str| said.borrow_mut().push(line.to_owned());
        let bucket = Place::Folder(path("bucket"));
        let reach = Reach::default();
        let mut uploader = Uploader::open(&path("audit"), (&bucket, &reach), &path("state"), &tell).unwrap();
        let folder = uploader.source.log(log).unwrap().unwrap();
        let files = folder.files().unwrap();
        let mut summary = Summary::default();
        let mut turn = Turn {
            uploader: &mut uploader,
            log,
            folder,
            page: Page::default(),
            listed: BTreeSet::new(),
            pace: Pace::All,
            summary: &mut summary,
            progress: None,
        };
        turn.files(files, |_| Err(io::Error::other("no"))).await.unwrap();
        assert_eq!(turn.page, Page::default());
        assert_eq!(summary, Summary { failed: 1, ..Summary::default() });
        assert!(said.take().concat().contains("cannot be listed: no"));
        assert_eq!(fs::read_dir(path("bucket")).unwrap().count(), 0);
    }
}
