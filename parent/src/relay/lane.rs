//! A thread that relays, with an epoll of its own.
//!
//! Guarantees: a connection is closed when its deadline has passed, when whoever wanted it has gone, or when it ended; one whose events
//! come late is never taken for another, because numbers are not used twice.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use tokio::sync::{mpsc, oneshot};

use super::connection::{Connection, Lingering};
use super::socket::{Desk, Token};
use super::{Outcome, Report};
use crate::limits::RELAY_EVENTS;

#[cfg(test)]
mod tests;

/// The events that tell of commands and of time: none of a connection's, of which there are never 2⁶³.
const BELL: u64 = u64::MAX;
const CLOCK: u64 = u64::MAX - 1;

/// What is to be relayed, and who wants to know.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) initiator: OwnedFd,
    pub(super) responder: OwnedFd,
    pub(super) first: Vec<u8>,
    pub(super) idle: Duration,
    /// Told when nothing is relayed any more.
    pub(super) report: oneshot::Sender<Report>,
    /// Dropped when both sides are closed.
    pub(super) gone: oneshot::Sender<Infallible>,
}

#[derive(Debug)]
enum Command {
    Start(u64, Job),
    Cut(u64),
}

/// The thread, seen from outside. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Lane {
    commands: Option<Sender<Command>>,
    bell: Arc<OwnedFd>,
    is_alive: Arc<AtomicBool>,
    next: AtomicU64,
    load: AtomicUsize,
}

/// The thread's life, seen from inside; dropped at its end, also where that is a panic.
#[derive(Debug)]
struct Life {
    is_alive: Arc<AtomicBool>,
    ended: mpsc::Sender<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.is_alive.store(false, Ordering::Release);
        if thread::panicking() {
            tracing::error!("a relaying thread panicked: its connections are closed");
        }
        // Whoever hears this hears it once.
        let _ = self.ended.try_send(());
    }
}

/// A connection in the lane, which is closed when this is dropped.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    lane: &'a Lane,
    id: u64,
    over: bool,
}

impl Lane {
    /// `ended` hears of the thread's end.
    ///
    /// # Errors
    /// When the system gives no thread or no file descriptor.
    pub(super) fn start(ended: mpsc::Sender<()>) -> io::Result<Self> {
        Self::start_with(ended, Worker::run)
    }

    fn start_with<F>(ended: mpsc::Sender<()>, run: F) -> io::Result<Self>
    where
        F: FnOnce(&mut Worker) -> Result<(), Errno> + Send + 'static,
    {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, orders) = channel();
        let mut worker = Worker::new(orders, Arc::clone(&bell))?;
        let is_alive = Arc::new(AtomicBool::new(true));
        let life = Life { is_alive: Arc::clone(&is_alive), ended };
        thread::Builder::new().name("relay".to_owned()).spawn(move || {
            // Ends before the worker and its connections do: whoever learns of their end finds the thread marked already.
            let _life = life;
            if let Err(error) = run(&mut worker) {
                tracing::error!(%error, "a relaying thread ends");
            }
        })?;
        Ok(Self { commands: Some(commands), bell, is_alive, next: AtomicU64::new(0), load: AtomicUsize::new(0) })
    }

    /// Whether the thread runs. One that does not has no connections, and so would seem the best to take the next.
    pub(super) fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::Acquire)
    }

    /// How many connections there are.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self, job: Job) -> Begun<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.load.fetch_add(1, Ordering::Relaxed);
        self.order(Command::Start(id, job));
        Begun { lane: self, id, over: false }
    }

    fn order(&self, command: Command) {
        // A thread that is gone took its connections with it: whoever waits for them learns that.
        if self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok()) {
            self.ring();
        }
    }

    fn ring(&self) {
        // It fails when 2⁶⁴ rings are unread, each of which is an edge (eventfd(2)).
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.commands = None;
        self.ring();
    }
}

impl Begun<'_> {
    /// The connection is closed already.
    pub(super) fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.lane.load.fetch_sub(1, Ordering::Relaxed);
        if !self.over {
            self.lane.order(Command::Cut(self.id));
        }
    }
}

/// A connection's life here.
#[derive(Debug)]
enum Stage {
    Relaying(Connection, oneshot::Sender<Report>),
    Lingering(Lingering),
}

#[derive(Debug)]
struct Seat {
    stage: Stage,
    /// When it is looked at next, at the latest; also in the worker's `deadlines`.
    look_at: Instant,
    gone: oneshot::Sender<Infallible>,
}

/// The thread's own.
struct Worker {
    desk: Desk,
    orders: Receiver<Command>,
    /// The last ring would not be heard if the bell went with whoever rings it.
    _bell: Arc<OwnedFd>,
    connections: HashMap<u64, Seat>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// A clock beside epoll, because a time limit for each wait would cost more: it is set only when the first deadline comes earlier.
    clock: OwnedFd,
    set_to: Option<Instant>,
}

impl Worker {
    fn new(orders: Receiver<Command>, bell: Arc<OwnedFd>) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // Edges: neither is ever read.
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, &clock, EventData::new_u64(CLOCK), EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            desk: Desk::new(epoll),
            orders,
            _bell: bell,
            connections: HashMap::new(),
            deadlines: BTreeSet::new(),
            clock,
            set_to: None,
        })
    }

    /// Returns once nobody can want anything any more.
    fn run(&mut self) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(RELAY_EVENTS);
        loop {
            self.set_clock()?;
            match epoll::wait(&self.desk.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            self.desk.now = Instant::now();
            if !self.heed(&mut events) {
                return Ok(());
            }
        }
    }

    /// Does what events ask for; says whether more can come.
    fn heed(&mut self, events: &mut Vec<Event>) -> bool {
        for event in events.drain(..) {
            let (data, flags) = (event.data, event.flags);
            match data.u64() {
                BELL if !self.obey() => return false,
                BELL => {}
                CLOCK => self.expire(),
                _ => self.turn(Token::of(data), flags),
            }
        }
        true
    }

    /// Sees to it that the first deadline is not missed.
    fn set_clock(&mut self) -> Result<(), Errno> {
        let Some((first, _)) = self.deadlines.first() else { return Ok(()) };
        if self.set_to.is_some_and(|set_to| set_to <= *first) {
            return Ok(());
        }
        // Zero would stop it.
        let rest = first.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        // The longest of the configuration is a day.
        let it_value = Timespec::try_from(rest).map_err(|_| Errno::INVAL)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &once)?;
        self.set_to = Some(*first);
        Ok(())
    }

    /// Does what was ordered; says whether more can come.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Command::Start(id, job)) => self.start(id, job),
                Ok(Command::Cut(id)) => self.cut(id),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn start(&mut self, id: u64, job: Job) {
        let Job { initiator, responder, first, idle, report, gone } = job;
        let mut connection = Connection::new(id, (initiator, responder), first, idle, &mut self.desk);
        let outcome = connection.begin(&mut self.desk);
        let look_at = connection.deadline();
        self.deadlines.insert((look_at, id));
        self.connections.insert(id, Seat { stage: Stage::Relaying(connection, report), look_at, gone });
        if let Some(outcome) = outcome {
            self.end(id, outcome);
        }
    }

    /// Moves what an event allows.
    fn turn(&mut self, token: Token, flags: EventFlags) {
        let Token { id, side } = token;
        let Some(seat) = self.connections.get_mut(&id) else { return };
        match &mut seat.stage {
            Stage::Relaying(connection, _) => {
                let outcome = connection.turn(side, flags, &mut self.desk);
                let deadline = connection.deadline();
                if let Some(outcome) = outcome {
                    self.end(id, outcome);
                } else if deadline < seat.look_at {
                    self.deadlines.remove(&(seat.look_at, id));
                    seat.look_at = deadline;
                    self.deadlines.insert((deadline, id));
                }
            }
            Stage::Lingering(lingering) => {
                if lingering.turn(&mut self.desk) {
                    self.cut(id);
                }
            }
        }
    }

    /// Takes a connection out.
    fn take(&mut self, id: u64) -> Option<Seat> {
        let seat = self.connections.remove(&id)?;
        self.deadlines.remove(&(seat.look_at, id));
        Some(seat)
    }

    /// Closes a connection without a word.
    fn cut(&mut self, id: u64) {
        if let Some(Seat { stage: Stage::Relaying(connection, _), .. }) = self.take(id) {
            connection.end(Outcome::Broken, &mut self.desk);
        }
    }

    /// Nothing is relayed any more; says so, and goes on reading where that is needed.
    fn end(&mut self, id: u64, outcome: Outcome) {
        let Some(Seat { stage: Stage::Relaying(connection, report), gone, .. }) = self.take(id) else { return };
        let (told, lingering) = connection.end(outcome, &mut self.desk);
        // Whoever wanted to know may have gone.
        let _ = report.send(told);
        let Some(mut lingering) = lingering else { return };
        if !lingering.turn(&mut self.desk) {
            let look_at = lingering.deadline();
            self.deadlines.insert((look_at, id));
            self.connections.insert(id, Seat { stage: Stage::Lingering(lingering), look_at, gone });
        }
    }

    /// Ends what did not move in time.
    fn expire(&mut self) {
        self.set_to = None;
        while let Some((look_at, id)) = self.deadlines.first().copied()
            && look_at <= self.desk.now
        {
            let Some(seat) = self.connections.get_mut(&id) else {
                self.deadlines.pop_first();
                continue;
            };
            match &seat.stage {
                Stage::Relaying(connection, _) => {
                    let deadline = connection.deadline();
                    if deadline <= self.desk.now {
                        self.end(id, Outcome::Idle);
                    } else {
                        self.deadlines.pop_first();
                        seat.look_at = deadline;
                        self.deadlines.insert((deadline, id));
                    }
                }
                Stage::Lingering(_) => self.cut(id),
            }
        }
    }
}
