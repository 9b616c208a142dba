//! The model: custodians, enclaves, one message at a time.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_shared::ids::{BlobId, KeyStoreId};
use holdfast_shared::labels;
use holdfast_shared::quorum::{self, Answer, Copied, Quorum, Reading};
use holdfast_shared::register::RegisterEntry;
use holdfast_tests::random::Random;

/// Who lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) liars: usize,
    /// Whether home is one of them.
    pub(super) home_lies: bool,
}

/// An invariant that does not hold.
#[derive(Debug)]
#[expect(dead_code, reason = "shown when a test fails")]
pub(super) enum Broken {
    /// An enclave would serve a version on which a committed one does not lie.
    Lost { committed: u64, read: u64 },
    /// Two versions of one number were committed.
    Twice { version: u64 },
    /// With everybody up and honest, nothing moves.
    Stuck,
}

struct Custodian {
    lies: bool,
    up: bool,
    newest: Option<RegisterEntry>,
    committed: u64,
}

/// What an enclave is in the middle of.
#[derive(Clone)]
enum Task {
    /// Asking custodian after custodian. Holds the newest version that was committed when it began.
    Read {
        began: u64,
        left: Vec<usize>,
        answers: Vec<Answer>,
    },
    /// Copying a version until enough hold it; then its next is made, or it is served.
    Spread {
        entry: RegisterEntry,
        holders: BTreeSet<usize>,
        left: Vec<usize>,
        began: u64,
    },
    /// Telling custodians that enough hold it.
    Tell {
        entry: RegisterEntry,
        left: Vec<usize>,
    },
    Serve {
        entry: Option<RegisterEntry>,
    },
}

pub(super) struct Model {
    quorum: Quorum,
    write: usize,
    random: Random,
    custodians: Vec<Custodian>,
    enclaves: Vec<Task>,
    /// All blobs that enclaves made: the one before each.
    blobs: Vec<RegisterEntry>,
    /// What was acknowledged, by number.
    committed: BTreeMap<u64, BlobId>,
}

fn blob(number: usize) -> BlobId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
    BlobId(id)
}

impl Model {
    pub(super) fn new(quorum: Quorum, write: usize, faults: Faults, mut random: Random) -> Self {
        let mut liars: BTreeSet<usize> = faults.home_lies.then_some(0).into_iter().collect();
        while liars.len() < faults.liars.min(quorum.custodians()) {
            let chosen = random.below(quorum.custodians());
            if chosen != 0 || faults.home_lies || quorum.custodians() == faults.liars {
                liars.insert(chosen);
            }
        }
        let custodian = |place| Custodian { lies: liars.contains(&place), up: true, newest: None, committed: 0 };
        let custodians = (0..quorum.custodians()).map(custodian).collect();
        let mut model = Self {
            quorum,
            write,
            random,
            custodians,
            enclaves: Vec::new(),
            blobs: Vec::new(),
            committed: BTreeMap::new(),
        };
        model.enclaves = (0..3).map(|_| model.begin_reading()).collect();
        model
    }

    /// How many versions were acknowledged.
    pub(super) fn committed(&self) -> u64 {
        u64::try_from(self.committed.len()).unwrap()
    }

    fn newest_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(version, _)| *version)
    }

    fn begin_reading(&mut self) -> Task {
        let mut left: Vec<usize> = (0..self.custodians.len()).collect();
        for index in (1..left.len()).rev() {
            left.swap(index, self.random.below(index + 1));
        }
        Task::Read { began: self.newest_committed(), left, answers: Vec::new() }
    }

    /// One message of one enclave, or one thing that befalls a machine.
    pub(super) fn step(&mut self) -> Result<(), Broken> {
        match self.random.below(20) {
            0 => {
                let place = self.random.below(self.custodians.len());
                self.custodians[place].up = !self.custodians[place].up;
            }
            1 => {
                let crashed = self.random.below(self.enclaves.len());
                self.enclaves[crashed] = self.begin_reading();
            }
            _ => {
                let mover = self.random.below(self.enclaves.len());
                self.advance(mover)?;
            }
        }
        Ok(())
    }

    /// Lets everybody come up and finish.
    pub(super) fn settle(&mut self) -> Result<(), Broken> {
        self.custodians.iter_mut().for_each(|custodian| custodian.up = true);
        let before = self.committed();
        for round in 0..400 {
            self.advance(round % self.enclaves.len())?;
            if self.committed() > before + 1 {
                return Ok(());
            }
        }
        Err(Broken::Stuck)
    }

    fn advance(&mut self, mover: usize) -> Result<(), Broken> {
        let task = self.enclaves[mover].clone();
        self.enclaves[mover] = match task {
            Task::Read { began, left, answers } => self.read(began, left, answers)?,
            Task::Spread { entry, holders, left, began } => self.spread(entry, holders, left, began)?,
            Task::Tell { entry, left } => self.tell(entry, left),
            Task::Serve { entry } => self.publish(entry),
        };
        Ok(())
    }

    fn read(&mut self, began: u64, mut left: Vec<usize>, mut answers: Vec<Answer>) -> Result<Task, Broken> {
        if let Some(asked) = left.pop() {
            answers.extend(self.answer(asked));
        }
        Ok(match quorum::read(self.quorum, &answers) {
            Reading::Committed(entry) => {
                self.check_read(began, &entry)?;
                Task::Serve { entry: Some(entry) }
            }
            Reading::Empty if began == 0 => Task::Serve { entry: None },
            // Somebody serves a ceremony again: as bad as an old version.
            Reading::Empty => return Err(Broken::Lost { committed: began, read: 0 }),
            // Later answers may say more; without any left, what is known is finished, or asked again.
            Reading::Unfinished { entry, holders } if left.is_empty() => {
                let holders: BTreeSet<_> = holders.into_iter().collect();
                let lacking = (0..self.custodians.len()).filter(|place| !holders.contains(place)).collect();
                Task::Spread { entry, holders, left: lacking, began }
            }
            _ if left.is_empty() => self.begin_reading(),
            _ => Task::Read { began, left, answers },
        })
    }

    fn answer(&mut self, asked: usize) -> Option<Answer> {
        let custodian = &self.custodians[asked];
        if !custodian.up {
            return None;
        }
        let (entry, is_committed) = if custodian.lies {
            // Whatever home ever signed, or nothing; and a home that lies signs whatever an enclave made.
            let any =
                (!self.blobs.is_empty() && self.random.below(4) > 0).then(|| self.random.choose(&self.blobs).clone());
            (any, self.random.below(2) == 0)
        } else {
            let entry = custodian.newest.clone();
            let is_committed = entry.as_ref().is_some_and(|entry| entry.version <= custodian.committed);
            (entry, is_committed)
        };
        Some(Answer { custodian: asked, entry, is_committed })
    }

    /// What is served must lie on the line of everything that was acknowledged when the reading began.
    fn check_read(&self, began: u64, entry: &RegisterEntry) -> Result<(), Broken> {
        let lost = Broken::Lost { committed: began, read: entry.version };
        if entry.version < began {
            return Err(lost);
        }
        let mut at = entry.clone();
        loop {
            if self.committed.get(&at.version).is_some_and(|blob_id| *blob_id != at.blob_id) {
                return Err(lost);
            }
            let Some(previous) = at.previous else { return Ok(()) };
            at = self.blobs.iter().find(|made| made.blob_id == previous).unwrap().clone();
        }
    }

    fn publish(&mut self, entry: Option<RegisterEntry>) -> Task {
        let next = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: KeyStoreId([1; 32]),
            version: entry.as_ref().map_or(1, |entry| entry.version + 1),
            blob_id: blob(self.blobs.len()),
            previous: entry.as_ref().map(|entry| entry.blob_id),
            recorded_ms: 0,
        };
        let home = &mut self.custodians[0];
        if !home.up {
            return Task::Serve { entry };
        }
        let held = home.newest.as_ref().map(|held| held.blob_id);
        // A home that lies signs for everybody, and keeps what it likes.
        if !home.lies && held != next.previous {
            return self.begin_reading();
        }
        home.newest = Some(next.clone());
        self.blobs.push(next.clone());
        let began = self.newest_committed();
        let left = (1..self.custodians.len()).collect();
        Task::Spread { entry: next, holders: BTreeSet::from([0]), left, began }
    }

    fn spread(
        &mut self,
        entry: RegisterEntry,
        mut holders: BTreeSet<usize>,
        mut left: Vec<usize>,
        began: u64,
    ) -> Result<Task, Broken> {
        if holders.contains(&0) && holders.len() >= self.write {
            let known = *self.committed.entry(entry.version).or_insert(entry.blob_id);
            if known != entry.blob_id {
                return Err(Broken::Twice { version: entry.version });
            }
            self.check_read(began, &entry)?;
            return Ok(Task::Tell { entry, left: (0..self.custodians.len()).collect() });
        }
        if left.is_empty() {
            return Ok(self.begin_reading());
        }
        let place = left.remove(self.random.below(left.len()));
        let custodian = &mut self.custodians[place];
        if !custodian.up {
            return Ok(Task::Spread { entry, holders, left, began });
        }
        let held = custodian.newest.as_ref().map(|held| (held.version, held.blob_id));
        match quorum::judge_copy(held, &entry) {
            // One that lies says so and keeps nothing.
            _ if custodian.lies => {}
            Copied::Keep => custodian.newest = Some(entry.clone()),
            Copied::Same => {}
            // Somebody is ahead, or home signed two: look again.
            Copied::Older | Copied::Fork => return Ok(self.begin_reading()),
        }
        holders.insert(place);
        Ok(Task::Spread { entry, holders, left, began })
    }

    fn tell(&mut self, entry: RegisterEntry, mut left: Vec<usize>) -> Task {
        let Some(place) = left.pop() else { return Task::Serve { entry: Some(entry) } };
        let custodian = &mut self.custodians[place];
        if custodian.up && custodian.newest.as_ref() == Some(&entry) {
            custodian.committed = entry.version;
        }
        Task::Tell { entry, left }
    }
}
