//! Sending: the files of all logs, again and again.
//!
//! Guarantees: a file that cannot be sent is named once and holds up no other log; what the store refuses as a whole ends the round. What is
//! done about one log is in `turn`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use self::turn::{Turn, is_as_sent};
use super::bucket::Bucket;
use super::ledger::{Finished, Ledger, Page, Sent};
use super::names::{FileName, LogName};
use super::place::{Place, Reach};
use super::source::{Listed, LogFolder, Source};
use super::{StoreError, Summary};
use crate::output::printable;
use crate::progress::Progress;

mod turn;

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

/// Why a file is not sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rest {
    until: Instant,
    /// That it could not be sent, and not only that it was sent just now.
    has_failed: bool,
}

/// Sends one folder to one place.
pub struct Uploader<'a> {
    source: Source,
    bucket: Bucket,
    ledger: Ledger,
    tell: &'a dyn Fn(&str),
    /// What was told of files that could not be sent, by their names.
    told: BTreeMap<(LogName, String), String>,
    /// Files that rest.
    rests: BTreeMap<(LogName, String), Rest>,
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
        let source = Source::open(folder)?;
        // Refuses an endpoint that must not be written down.
        let bucket = Bucket::open(place, reach)?;
        let to = match bucket.endpoint() {
            Some(endpoint) => format!("{place} at {endpoint}"),
            None => place.to_string(),
        };
        Ok(Self {
            source,
            bucket,
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
        self.rests.retain(|_, rest| rest.until > now);
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
            let bytes = files.iter().filter(|file| !is_as_sent(&page, file)).map(|file| file.seen.bytes);
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
        let mut listed = BTreeSet::new();
        if self.compared.insert(log) {
            if !self.is_first {
                (self.tell)(&format!("a new log: {log}"));
            }
            let compared = self.compare(log, &files, &mut known).await;
            if compared.is_err() {
                self.compared.remove(&log);
            }
            listed = compared?;
        }
        let mut turn = Turn { uploader: &mut *self, log, folder, page: known, listed, pace, summary, progress };
        let done = turn.files(files, LogFolder::files).await;
        let learned = turn.page;
        self.ledger.turn(log, learned);
        done
    }

    /// Holds the objects of this log against what is known of them, and returns which files have one. What was sent earlier and is not there as
    /// it was is looked at again.
    async fn compare(&self, log: LogName, files: &[Listed], page: &mut Page) -> Result<BTreeSet<String>, StoreError> {
        let of_finished = |first_index: u64| first_index < page.finished.until;
        let here: BTreeSet<u64> = files.iter().filter_map(|file| file.name.first_index()).collect();
        let (mut objects, mut listed) = (BTreeMap::new(), BTreeSet::new());
        let mut finished: BTreeMap<u64, (FileName, u64, Option<String>)> = BTreeMap::new();
        let mut listing = pin!(self.bucket.list(Some(log)));
        let mut is_same = true;
        while let Some(object) = listing.next().await.transpose()? {
            let first_index = object.name.first_index();
            if first_index.is_none_or(|index| here.contains(&index)) {
                listed.insert(object.name.as_str().to_owned());
            }
            match first_index {
                Some(first_index) if of_finished(first_index) => {
                    // Of two forms the one that is read: the one that is not compressed.
                    let name = object.name.clone();
                    if finished.get(&first_index).is_none_or(|(other, ..)| name < *other) {
                        finished.insert(first_index, (name, object.size, object.e_tag));
                    }
                }
                Some(first_index) if !page.files.contains_key(&first_index) => {}
                _ => drop(objects.insert(object.name.as_str().to_owned(), (object.size, object.e_tag))),
            }
            if u64::try_from(finished.len()).is_ok_and(|count| count > page.finished.count) {
                // More than were sent: to know that is enough.
                is_same = false;
                finished.clear();
            }
        }
        let mut found = Finished::default();
        for (name, size, e_tag) in finished.values() {
            found = found.with(name, *size, e_tag.as_deref().unwrap_or_default(), page.finished.until);
        }
        let here_finished = here.iter().filter(|index| of_finished(**index)).count();
        is_same &= page.finished.count == 0 || found == page.finished;
        is_same &= u64::try_from(here_finished).is_ok_and(|count| count <= page.finished.count);
        if !is_same {
            page.finished = Finished::default();
        }
        let is_there = |name: &FileName, sent: &Sent| {
            objects.get(name.as_str()).is_some_and(|(size, e_tag)| sent.is(*size, e_tag.as_deref()))
        };
        for (first_index, sent) in &mut page.files {
            if !is_there(&FileName::entries(*first_index, sent.compressed), sent) {
                sent.doubt();
            }
        }
        if let Some(sent) = page.checkpoints.as_mut().filter(|sent| !is_there(&FileName::Checkpoints, sent)) {
            sent.doubt();
        }
        Ok(listed)
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
