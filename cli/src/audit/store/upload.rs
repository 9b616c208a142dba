//! Sending: the files of all logs, again and again.
//!
//! Guarantees: a log's checkpoints are read before its entries and sent after them, and only once all of these are there. A file that cannot be
//! sent is named once and holds up no other log; what the store refuses as a whole ends the round. Assumes: files only grow, and of a log's
//! files only the newest does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::bucket::Bucket;
use super::content::{Content, Part};
use super::ledger::{Growing, Ledger, Page};
use super::names::{FileName, LogName};
use super::place::{Place, Reach};
use super::settle::{Settled, settle};
use super::source::{Listed, LogFolder, Source};
use super::{StoreError, Summary};
use crate::output::printable;
use crate::progress::Progress;

/// Bytes a second as which a file that grows is sent again, all of it each time: one of 16 MiB every other minute. A bucket with versions
/// keeps each of them.
const RESEND_PER_SECOND: u64 = 128 * 1024;
/// How long a file rests that could not be sent.
const FAILED_REST: Duration = Duration::from_mins(5);
/// How often what was sent is noted during a long round.
const SAVE_EACH: Duration = Duration::from_secs(5);

/// Whether files rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Everything is sent.
    All,
    /// What grows is sent now and then.
    Paced,
}

/// Sends one folder to one place.
pub struct Uploader<'a> {
    source: Source,
    bucket: Bucket,
    ledger: Ledger,
    tell: &'a dyn Fn(&str),
    /// What was told of files that could not be sent, by their names.
    told: BTreeMap<(LogName, String), String>,
    /// Until when files rest.
    rests: BTreeMap<(LogName, String), Instant>,
    /// Logs that were compared with their objects.
    compared: BTreeSet<LogName>,
    is_first: bool,
    saved: Instant,
}

impl<'a> Uploader<'a> {
    /// For the parent's folder. `state` is where is noted what was sent.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is asked of the store yet.
    pub fn open(
        folder: &Path,
        (place, reach): (&Place, &Reach),
        state: &Path,
        tell: &'a dyn Fn(&str),
    ) -> Result<Self, StoreError> {
        let to = match &reach.endpoint {
            Some(endpoint) => format!("{place} at {endpoint}"),
            None => place.to_string(),
        };
        Ok(Self {
            source: Source::open(folder)?,
            bucket: Bucket::open(place, reach)?,
            ledger: Ledger::open(state, &to)?,
            tell,
            told: BTreeMap::new(),
            rests: BTreeMap::new(),
            compared: BTreeSet::new(),
            is_first: true,
            saved: Instant::now(),
        })
    }

    /// Where things go.
    #[must_use]
    pub const fn place(&self) -> &Place {
        self.bucket.place()
    }

    /// Sends what there is.
    ///
    /// # Errors
    /// [`StoreError`] when nothing more can be sent now; what was sent until then stays sent.
    pub async fn round(&mut self, pace: Pace) -> Result<Summary, StoreError> {
        let now = Instant::now();
        self.rests.retain(|_, until| *until > now);
        let sent = self.send_all(pace).await;
        self.ledger.save()?;
        let sent = sent?;
        self.is_first = false;
        Ok(sent)
    }

    async fn send_all(&mut self, pace: Pace) -> Result<Summary, StoreError> {
        let logs = self.source.logs()?;
        self.ledger.keep_only(&logs);
        let progress = self.is_first.then(|| Progress::of("uploading", self.bytes_of(&logs)));
        let mut summary = Summary::default();
        for log in logs {
            self.log(log, pace, &mut summary, progress.as_ref()).await?;
            if self.saved.elapsed() > SAVE_EACH {
                self.ledger.save()?;
                self.saved = Instant::now();
            }
        }
        Ok(summary)
    }

    /// Bytes that are to be read, for the display alone.
    fn bytes_of(&self, logs: &[LogName]) -> u64 {
        let of_log = |log: &LogName| {
            let files = self.source.log(*log).ok().flatten()?.files().ok()?;
            let page = self.ledger.page(*log);
            let bytes = files.iter().filter(|file| !is_there(&page, file)).map(|file| file.bytes);
            Some(bytes.fold(0, u64::saturating_add))
        };
        logs.iter().filter_map(of_log).fold(0, u64::saturating_add)
    }

    async fn log(
        &mut self,
        log: LogName,
        pace: Pace,
        summary: &mut Summary,
        progress: Option<&Progress>,
    ) -> Result<(), StoreError> {
        let found = self.source.log(log).and_then(|folder| {
            let listed = folder.map(|folder| folder.files().map(|files| (files, folder)));
            listed.transpose()
        });
        let (files, folder) = match found {
            // Deleted meanwhile, as `audit.keep_days` wants it.
            Ok(None) => return Ok(()),
            Ok(Some(found)) => found,
            Err(error) => {
                summary.fail();
                self.complain((log, String::new()), &format!("{log}: cannot be read: {error}"));
                return Ok(());
            }
        };
        let mut known = self.ledger.page(log);
        if self.compared.insert(log) {
            if !self.is_first {
                (self.tell)(&format!("a new log: {log}"));
            }
            self.compare(log, &files, &mut known).await?;
        }
        let mut turn = Turn { uploader: &mut *self, log, folder, page: known, pace, summary, progress };
        let done = turn.files(files).await;
        let learned = turn.page;
        self.ledger.turn(log, learned);
        done
    }

    /// Whether the objects of this log are there: what was sent earlier and is not there as it was is looked at again.
    async fn compare(&self, log: LogName, files: &[Listed], page: &mut Page) -> Result<(), StoreError> {
        if *page == Page::default() {
            return Ok(());
        }
        let mut objects = BTreeMap::new();
        let mut listing = pin!(self.bucket.list(Some(log)));
        while let Some(object) = listing.next().await.transpose()? {
            objects.insert(object.name.as_str().to_owned(), (object.size, object.e_tag));
        }
        page.growing.retain(|name, known| {
            objects.get(name).is_some_and(|(size, e_tag)| (*size, e_tag) == (known.size, &known.e_tag))
        });
        for file in files {
            let FileName::Entries { first_index, name, .. } = &file.name else { continue };
            let is_there = match objects.get(name) {
                Some((size, _)) => *size == file.bytes,
                // Compressed here since it was sent.
                None => objects.contains_key(uncompressed(name)),
            };
            if *first_index < page.finished_below && !is_there {
                page.again.insert(*first_index);
            }
        }
        Ok(())
    }

    /// Tells why a file cannot be sent, once for each reason.
    fn complain(&mut self, file: (LogName, String), line: &str) {
        let line = printable(line);
        if self.told.get(&file) != Some(&line) {
            (self.tell)(&line);
            self.told.insert(file, line);
        }
    }
}

/// Whether a file needs no look.
fn is_there(page: &Page, file: &Listed) -> bool {
    match &file.name {
        FileName::Entries { first_index, .. } if *first_index < page.finished_below => {
            !page.again.contains(first_index)
        }
        name => page.growing.get(name.as_str()).is_some_and(|known| known.seen == file.bytes),
    }
}

fn uncompressed(name: &str) -> &str {
    name.strip_suffix(".zst").unwrap_or(name)
}

/// What was found of a file.
enum Found {
    /// Neither it nor its compressed copy is there: it counts as not sent.
    Gone,
    /// It has nothing that is whole.
    Nothing,
    /// This, under this name.
    Whole(Listed, Content),
}

/// One log in one round.
struct Turn<'u, 'a> {
    uploader: &'u mut Uploader<'a>,
    log: LogName,
    folder: LogFolder,
    page: Page,
    pace: Pace,
    summary: &'u mut Summary,
    progress: Option<&'u Progress>,
}

impl Turn<'_, '_> {
    async fn files(&mut self, mut files: Vec<Listed>) -> Result<(), StoreError> {
        let entries = |file: &&Listed| matches!(file.name, FileName::Entries { .. });
        let checkpoints = files.iter().find(|file| file.name == FileName::Checkpoints).cloned();
        let mut notes = Ok(None);
        if let Some(file) = checkpoints.as_ref().filter(|file| !is_there(&self.page, file)) {
            // Before the entries are looked at, so that none covers more than these.
            notes = self.read(file, Part::Notes);
            // What cannot be listed now, or is gone, is no reason to send checkpoints over it.
            files = match self.folder.files() {
                Ok(files) => files,
                Err(error) => {
                    self.failed(file, &format!("the folder cannot be listed: {error}"));
                    return Ok(());
                }
            };
        }
        if !files.iter().any(|file| entries(&file)) {
            return Ok(());
        }
        let newest = files.iter().rfind(entries).map(|file| &file.name);
        let mut are_all_there = true;
        for file in files.iter().filter(entries) {
            are_all_there &= self.entries(file, Some(&file.name) == newest).await?;
        }
        let Some(file) = checkpoints else { return Ok(()) };
        match notes {
            Ok(None) => self.summary.skip(),
            Err(error) => self.failed(&file, &format!("cannot be read: {error}")),
            Ok(Some(notes)) if are_all_there && !self.rests(&file) => {
                self.settle(&file, &notes, true).await?;
            }
            Ok(Some(_)) => {}
        }
        Ok(())
    }

    /// Whether all of a file is there.
    async fn entries(&mut self, file: &Listed, is_newest: bool) -> Result<bool, StoreError> {
        let FileName::Entries { first_index, name, .. } = &file.name else { return Ok(true) };
        let is_cut = |known: &Growing| known.size < known.seen;
        if is_there(&self.page, file) && (is_newest || !self.page.growing.get(name).is_some_and(is_cut)) {
            self.finish(*first_index, name, is_newest, true);
            self.summary.skip();
            return Ok(true);
        }
        // One that has become complete does not wait for its time.
        if self.rests(file) && (is_newest || self.page.again.contains(first_index)) {
            return Ok(false);
        }
        let is_there = match self.look(file, is_newest) {
            Ok(Found::Nothing) => true,
            Ok(Found::Gone) => false,
            Ok(Found::Whole(file, content)) => self.settle(&file, &content, is_newest).await?,
            Err(error) => {
                self.failed(file, &format!("cannot be read: {error}"));
                false
            }
        };
        self.finish(*first_index, name, is_newest, is_there);
        Ok(is_there)
    }

    /// What there is of a file of entries: under its name, or, if it was compressed since it was listed or sent, under the other.
    fn look(&self, file: &Listed, is_newest: bool) -> io::Result<Found> {
        let FileName::Entries { first_index, compressed, name } = &file.name else { return Ok(Found::Gone) };
        let plain =
            FileName::Entries { first_index: *first_index, compressed: false, name: uncompressed(name).to_owned() };
        let packed =
            FileName::Entries { first_index: *first_index, compressed: true, name: format!("{}.zst", plain.as_str()) };
        let found = |name: FileName, content: Content| {
            let listed = Listed { name, bytes: content.seen };
            if content.size > 0 { Found::Whole(listed, content) } else { Found::Nothing }
        };
        if !compressed && let Some(opened) = self.folder.open(&plain)? {
            return Ok(found(plain, Content::read(&opened, if is_newest { Part::Entries } else { Part::All })?));
        }
        let Some(opened) = self.folder.open(&packed)? else { return Ok(Found::Gone) };
        if self.page.growing.contains_key(plain.as_str()) {
            // Its object goes on as what it began as: beside it, a compressed copy would be overlooked.
            return Ok(found(plain, Content::unpack(&opened)?));
        }
        Ok(found(packed, Content::read(&opened, Part::All)?))
    }

    /// Notes of a file that does not grow any more that it is done with, or is to be tried again.
    fn finish(&mut self, first_index: u64, name: &str, is_newest: bool, is_there: bool) {
        if is_newest {
            return;
        }
        self.page.finished_below = self.page.finished_below.max(first_index.saturating_add(1));
        if is_there {
            self.page.again.remove(&first_index);
            self.page.growing.remove(name);
            self.page.growing.remove(uncompressed(name));
        } else {
            self.page.again.insert(first_index);
        }
    }

    /// What there is to send of the checkpoints; none where nothing is, or the file is gone.
    fn read(&self, file: &Listed, part: Part) -> io::Result<Option<Content>> {
        let Some(opened) = self.folder.open(&file.name)? else { return Ok(None) };
        let content = Content::read(&opened, part)?;
        Ok(Some(content).filter(|content| content.size > 0))
    }

    /// Whether the object holds it.
    async fn settle(&mut self, file: &Listed, content: &Content, grows: bool) -> Result<bool, StoreError> {
        let name = file.name.as_str();
        let known = self.page.growing.get(name).map(Growing::stored);
        let settled = settle(&self.uploader.bucket, (self.log, &file.name), content, known).await?;
        if let Some(progress) = self.progress {
            progress.add(content.seen);
        }
        let stored = match settled {
            Settled::Not(mismatch) => {
                self.failed(file, &mismatch.to_string());
                return Ok(false);
            }
            Settled::Same(stored) => {
                self.summary.skip();
                stored
            }
            Settled::Sent { stored, was_deleted } => {
                if was_deleted {
                    let line = format!("{}/{name}: the object was deleted in the bucket; it was sent again", self.log);
                    (self.uploader.tell)(&line);
                }
                self.summary.wrote(stored.size);
                if grows {
                    self.rest(file, Duration::from_secs(stored.size / RESEND_PER_SECOND));
                }
                stored
            }
        };
        self.page.growing.insert(name.to_owned(), Growing::of(stored, content.seen));
        self.uploader.told.remove(&self.key(file));
        Ok(true)
    }

    fn failed(&mut self, file: &Listed, reason: &str) {
        self.summary.fail();
        self.uploader.complain(self.key(file), &format!("{}/{}: {reason}", self.log, file.name.as_str()));
        self.rest(file, FAILED_REST);
    }

    fn rest(&mut self, file: &Listed, long: Duration) {
        if let Some(until) = Instant::now().checked_add(long) {
            self.uploader.rests.insert(self.key(file), until);
        }
    }

    fn key(&self, file: &Listed) -> (LogName, String) {
        (self.log, file.name.as_str().to_owned())
    }

    fn rests(&self, file: &Listed) -> bool {
        let until = self.uploader.rests.get(&self.key(file));
        self.pace == Pace::Paced && until.is_some_and(|until| *until > Instant::now())
    }
}
