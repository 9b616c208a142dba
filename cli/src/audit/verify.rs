//! All logs of a key store, verified together.
//!
//! ```text
//! files ─ read, chunk by chunk ─▶ hash 4,096 leaves: one node ─▶ joined in order ─▶ held against checkpoints
//!            (in turn)              (all threads at once)            (in turn)
//! ```
//! Guarantees: entries are read once, in order, in as many threads as there are processors; memory is taken for the checkpoints and
//! for a chunk for each thread. See [`super::findings::Kind`] for what is told apart.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use holdfast_shared::audit::LogId;
use holdfast_shared::hpke::PrivateKey;

use super::boot::Boot;
use super::diagnose::{Diagnosis, diagnose};
use super::findings::{Finding, Kind, Report};
use super::folder::Folder;
use super::heads::Heads;
use super::parallel::{in_parallel, lock, threads};
use super::scan::{Chunk, FileReader, Piece, Scanned, scan};

/// What logs are held against.
pub struct Against<'a> {
    /// What custodians say, proven, and what did not hold of it.
    pub heads: (Heads, Vec<Finding>),
    /// Keys of readers, to tell apart what was done to records.
    pub readers: &'a [PrivateKey],
    /// Is told how many more bytes of files were read.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// Verifies the logs of a key store.
#[must_use]
pub fn verify(folder: &Folder, against: Against<'_>) -> Report {
    let (heads, findings) = against.heads;
    let mut boots = open(folder, &heads);
    let mut findings = [findings, missing(&boots, &heads)].concat();
    link(&mut boots, &mut findings);
    read(&mut boots, against.progress);
    let mut reports = Vec::new();
    for boot in &mut boots {
        let Diagnosis { findings: named, moved_up } = diagnose(boot, against.readers);
        boot.moved_up = moved_up;
        boot.findings.extend(named);
        reports.push(boot.finish(heads.running.contains(&boot.log.boot_id), heads.custodians));
        findings.append(&mut boot.findings);
    }
    findings.sort_by_key(|finding| (finding.boot_id, finding.kind, finding.from));
    Report {
        verified: findings.is_empty(),
        key_store_id: folder.key_store_id,
        custodians: heads.custodians,
        boots: reports,
        findings,
    }
}

fn open(folder: &Folder, heads: &Heads) -> Vec<Boot> {
    let open = |boot: &super::folder::BootFolder| {
        let log = LogId { key_store_id: folder.key_store_id, boot_id: boot.boot_id };
        Boot::open(log, boot.clone(), heads.boots.get(&boot.boot_id))
    };
    // Signatures of checkpoints cost most of what is not reading.
    let opened = in_parallel(folder.boots.len(), |at| folder.boots.get(at).map(open));
    opened.into_iter().flatten().collect()
}

/// Boots that custodians know, and that have no log.
fn missing(boots: &[Boot], heads: &Heads) -> Vec<Finding> {
    let is_there = |id| boots.binary_search_by_key(&id, |boot: &Boot| boot.log.boot_id).is_ok();
    let absent = heads.boots.iter().filter(|(id, _)| !is_there(**id));
    absent
        .map(|(id, said)| {
            let entries = said.checkpoints.iter().map(|checkpoint| checkpoint.size).max().unwrap_or(0);
            let what = format!("has no log here; custodians have seen {entries} entries");
            Finding { missing_at_most: None, ..Finding::new(Kind::MissingBoot, *id, what) }
        })
        .collect()
}

/// Tells each log what later boots were told of it.
fn link(boots: &mut [Boot], findings: &mut Vec<Finding>) {
    let openings: Vec<_> = boots.iter().filter_map(|boot| Some((boot.log, boot.opening.clone()?))).collect();
    for (log, opening) in openings {
        // Another log's opening says nothing here; that it is one was found already.
        if super::scan::log_of(&opening) != log {
            continue;
        }
        for head in &opening.previous {
            match boots.binary_search_by_key(&head.boot_id, |boot| boot.log.boot_id) {
                Ok(at) => {
                    if let Some(boot) = boots.get_mut(at) {
                        boot.claim(head.size, head.root, log.boot_id);
                    }
                }
                Err(_)
                    if findings
                        .iter()
                        .any(|known| known.kind == Kind::MissingBoot && known.boot_id == head.boot_id) => {}
                Err(_) => {
                    let what = format!("has no log here; boot {} names it, with {} entries", log.boot_id, head.size);
                    findings.push(Finding::new(Kind::MissingBoot, head.boot_id, what));
                }
            }
        }
    }
}

/// A file that is read by whoever has time, one piece at a time.
struct Job {
    boot: usize,
    file: usize,
    reader: Mutex<FileReader>,
}

/// Pieces on their way: hashed in any order, put together in theirs.
struct Merge<'a> {
    boots: &'a mut [Boot],
    jobs: &'a [Job],
    /// Which piece of which file comes next.
    next: (usize, u64),
    /// What came sooner. Some hundred bytes each, of files that were begun.
    waiting: BTreeMap<(usize, u64), (bool, io::Result<Scanned>)>,
    /// What the file holds so far.
    file: Option<io::Result<Scanned>>,
}

impl Merge<'_> {
    fn take(&mut self, place: (usize, u64), is_last: bool, scanned: io::Result<Scanned>) {
        self.waiting.insert(place, (is_last, scanned));
        while let Some((is_last, scanned)) = self.waiting.remove(&self.next) {
            let (at, number) = self.next;
            let file = match self.file.take() {
                None => scanned,
                Some(before) => before.and_then(|before| scanned.map(|next| before.followed_by(next))),
            };
            if !is_last {
                self.file = Some(file);
                self.next = (at, number.saturating_add(1));
                continue;
            }
            self.next = (at.saturating_add(1), 0);
            if let Some(job) = self.jobs.get(at)
                && let Some(boot) = self.boots.get_mut(job.boot)
            {
                boot.append(job.file, file);
            }
        }
    }
}

/// Reads all files. Each thread begins with a file of its own; where there is none left, it helps with those that others have begun, so
/// that one large file keeps all of them busy: reading a chunk takes its turn, hashing it does not.
fn read(boots: &mut [Boot], progress: &(dyn Fn(u64) + Sync)) {
    let marks: Vec<Vec<u64>> = boots.iter().map(Boot::marks).collect();
    let of = |(boot, it): (usize, &Boot)| {
        let files = it.folder.files.iter().cloned().enumerate();
        files.map(|(file, it)| Job { boot, file, reader: Mutex::new(FileReader::of(it)) }).collect::<Vec<_>>()
    };
    let jobs: Vec<Job> = boots.iter().enumerate().flat_map(of).collect();
    let merge = Mutex::new(Merge { boots, jobs: &jobs, next: (0, 0), waiting: BTreeMap::new(), file: None });
    let finish = |at: usize, job: &Job, chunk: &mut Chunk| {
        let marks = marks.get(job.boot).map_or(&[][..], Vec::as_slice);
        loop {
            let piece = lock(&job.reader).read(chunk);
            let Some(Piece { number, bytes, is_last, garbage }) = piece else { return };
            let scanned = garbage.map(|garbage| scan(chunk, marks, garbage));
            progress(bytes);
            lock(&merge).take((at, number), is_last, scanned);
        }
    };
    let begun = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut chunk = Chunk::default();
                let claim = || {
                    let at = begun.fetch_add(1, Ordering::Relaxed);
                    jobs.get(at).map(|job| (at, job))
                };
                while let Some((at, job)) = claim() {
                    finish(at, job, &mut chunk);
                }
                for (at, job) in jobs.iter().enumerate() {
                    finish(at, job, &mut chunk);
                }
            });
        }
    });
}
