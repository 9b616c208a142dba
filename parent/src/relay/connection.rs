//! One connection that is relayed: two sockets, two directions.
//!
//! Guarantees: bytes leave in the order in which they came; a direction is read only while it holds nothing; the end of a direction is
//! passed on after its last byte.
//! Assumes: it is told of every edge (epoll(7)). A read that is shorter than its buffer has drained the socket, unless its end was told
//! with the same edge, and a write that is cut short has filled the other; so neither is tried again before the next edge, which saves the
//! call that would only say so.

use core::time::Duration;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::{Outcome, Report};
use crate::limits::{HALF_CLOSED_IDLE, LINGER, LINGER_BYTES_MAX, RELAY_BUFFER, RELAY_HELD, RELAY_READ, RELAY_TURN};

/// Which of the two sockets an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Initiator,
    Responder,
}

/// A socket, as the lane's epoll knows it: by the connection's number and one bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) id: u64,
    pub(super) side: Side,
}

impl Token {
    pub(super) fn data(self) -> EventData {
        let bit = match self.side {
            Side::Initiator => 0,
            Side::Responder => 1,
        };
        EventData::new_u64(self.id << 1 | bit)
    }

    pub(super) fn of(data: EventData) -> Self {
        let number = data.u64();
        let side = if number & 1 == 0 { Side::Initiator } else { Side::Responder };
        Self { id: number >> 1, side }
    }
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) epoll: OwnedFd,
    /// Bytes are here only between a read and the write that follows it.
    buffer: Vec<u8>,
    /// Bytes that all connections hold together because their writers did not take them.
    held: usize,
    /// When the events came that are being dealt with.
    pub(super) now: Instant,
}

impl Desk {
    pub(super) fn new(epoll: OwnedFd) -> Self {
        Self { epoll, buffer: vec![0; RELAY_READ], held: 0, now: Instant::now() }
    }

    /// How much a connection may read at once, all of which it may then have to hold.
    fn read_max(&self) -> usize {
        if self.held < RELAY_HELD { RELAY_READ } else { RELAY_BUFFER }
    }

    fn receive(&mut self, from: &Socket, max: usize) -> Result<usize, Errno> {
        let space = self.buffer.get_mut(..max).unwrap_or_default();
        recv(&from.fd, space, RecvFlags::DONTWAIT).map(|(_, count)| count)
    }
}

/// One end of the connection.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    token: Token,
    /// Whether epoll tells when it can be written: only after a write was cut short, because each message that the other side takes from a
    /// Unix socket or from vsock would wake us.
    tells_space: bool,
}

impl Socket {
    fn interest(&self) -> EventFlags {
        let space = if self.tells_space { EventFlags::OUT } else { EventFlags::empty() };
        EventFlags::IN | EventFlags::RDHUP | EventFlags::ET | space
    }

    fn enter(&self, epoll: &OwnedFd) -> Result<(), Errno> {
        epoll::add(epoll, &self.fd, self.token.data(), self.interest())
    }

    /// Sets what epoll tells; what is true already is told at once, as if it had just become so.
    fn tell(&mut self, epoll: &OwnedFd, space: bool) -> Result<(), Errno> {
        self.tells_space = space;
        epoll::modify(epoll, &self.fd, self.token.data(), self.interest())
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            other => other,
        }
    }

    fn end_writing(&self) {
        // A connection that cannot be shut down is gone already.
        let _ = shutdown(&self.fd, Shutdown::Write);
    }
}

/// Bytes that a writer did not take.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    sent: usize,
}

impl Held {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives the memory back with the last byte.
    fn advance(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count);
        if self.sent >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// How one direction ended. In each case its writer was shut down, so that the other side learns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The reader's side sent its last byte.
    Eof,
    /// The reader's connection failed.
    ReadFailed,
    /// The writer's connection failed.
    WriteFailed,
}

/// What a direction does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It waits for an edge.
    Wait,
    /// It had its turn, and there is more.
    Again,
    /// It ended.
    End(End),
}

/// From one socket to the other.
#[derive(Debug)]
struct Direction {
    held: Held,
    /// Whether a read may find something.
    readable: bool,
    /// Whether the socket has told its end, which comes behind its last byte without another edge.
    ending: bool,
    moved: u64,
    moved_at: Instant,
    ended: bool,
}

impl Direction {
    fn new(first: Vec<u8>, now: Instant) -> Self {
        Self {
            held: Held { bytes: first, sent: 0 },
            readable: false,
            ending: false,
            moved: 0,
            moved_at: now,
            ended: false,
        }
    }

    fn pass(&mut self, from: &Socket, to: &Socket, desk: &mut Desk) -> Next {
        match self.pass_held(to, desk) {
            Err(_) => return Next::End(End::WriteFailed),
            Ok(()) if !self.held.is_empty() => return Next::Wait,
            Ok(()) => {}
        }
        let mut turn = RELAY_TURN;
        while self.readable {
            let max = desk.read_max();
            match desk.receive(from, max) {
                Ok(0) => return Next::End(End::Eof),
                Ok(count) => {
                    self.readable = self.ending || count >= max;
                    self.moved_at = desk.now;
                    match self.pass_new(count, to, desk) {
                        Err(_) => return Next::End(End::WriteFailed),
                        Ok(()) if !self.held.is_empty() => return Next::Wait,
                        Ok(()) => {}
                    }
                    turn = turn.saturating_sub(count);
                    if turn == 0 && self.readable {
                        return Next::Again;
                    }
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => return Next::End(End::ReadFailed),
            }
        }
        Next::Wait
    }

    /// Tries to get rid of what is held.
    fn pass_held(&mut self, to: &Socket, desk: &mut Desk) -> Result<(), Errno> {
        if self.held.is_empty() {
            return Ok(());
        }
        let sent = to.send(self.held.rest())?;
        self.held.advance(sent);
        desk.held = desk.held.saturating_sub(sent);
        self.count(sent, desk.now);
        Ok(())
    }

    /// Writes what was just read; holds what is not taken.
    fn pass_new(&mut self, count: usize, to: &Socket, desk: &mut Desk) -> Result<(), Errno> {
        let bytes = desk.buffer.get(..count).unwrap_or_default();
        let sent = to.send(bytes)?;
        if let Some(rest @ [_, ..]) = bytes.get(sent..) {
            self.held = Held { bytes: rest.to_vec(), sent: 0 };
            desk.held = desk.held.saturating_add(rest.len());
        }
        self.count(sent, desk.now);
        Ok(())
    }

    fn count(&mut self, sent: usize, now: Instant) {
        if sent > 0 {
            self.moved = self.moved.saturating_add(u64::try_from(sent).unwrap_or(u64::MAX));
            self.moved_at = now;
        }
    }
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Connection {
    initiator: Socket,
    responder: Socket,
    up: Direction,
    down: Direction,
    idle: Duration,
}

impl Connection {
    /// Starts to relay; `first` comes before whatever the initiator's socket has.
    pub(super) fn new(
        id: u64,
        (initiator, responder): (OwnedFd, OwnedFd),
        first: Vec<u8>,
        idle: Duration,
        desk: &mut Desk,
    ) -> Self {
        desk.held = desk.held.saturating_add(first.len());
        let socket = |fd, side| Socket { fd, token: Token { id, side }, tells_space: false };
        Self {
            initiator: socket(initiator, Side::Initiator),
            responder: socket(responder, Side::Responder),
            up: Direction::new(first, desk.now),
            down: Direction::new(Vec::new(), desk.now),
            idle,
        }
    }

    /// The first turn.
    pub(super) fn begin(&mut self, desk: &mut Desk) -> Option<Outcome> {
        // A socket that epoll does not take can only be closed.
        if self.initiator.enter(&desk.epoll).and_then(|()| self.responder.enter(&desk.epoll)).is_err() {
            return Some(Outcome::Broken);
        }
        self.turn_up(desk)
    }

    /// Moves what an event allows; says how the relay ended, if it did.
    pub(super) fn turn(&mut self, side: Side, flags: EventFlags, desk: &mut Desk) -> Option<Outcome> {
        // After an error or at the connection's end, reads and writes say what happened.
        let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let (reading, writing, socket) = match side {
            Side::Initiator => (&mut self.up, &self.down, &mut self.initiator),
            Side::Responder => (&mut self.down, &self.up, &mut self.responder),
        };
        let mut pass_from = false;
        if failed || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            reading.readable = true;
            reading.ending |= failed || flags.contains(EventFlags::RDHUP);
            // While it holds something, it waits for the other socket.
            pass_from = reading.held.is_empty();
        }
        let has_space = failed || flags.contains(EventFlags::OUT);
        let pass_to = has_space && !writing.held.is_empty();
        // Space that nobody waits for: the flood is over. Whether this works does not matter.
        if flags.contains(EventFlags::OUT) && !pass_to && socket.tells_space {
            let _ = socket.tell(&desk.epoll, false);
        }
        let (up, down) = match side {
            Side::Initiator => (pass_from, pass_to),
            Side::Responder => (pass_to, pass_from),
        };
        let outcome = if down { self.turn_down(desk) } else { None };
        if outcome.is_none() && up { self.turn_up(desk) } else { outcome }
    }

    fn turn_up(&mut self, desk: &mut Desk) -> Option<Outcome> {
        if self.up.ended {
            return None;
        }
        match self.up.pass(&self.initiator, &self.responder, desk) {
            Next::End(end) => {
                self.up.ended = true;
                self.release(desk);
                self.responder.end_writing();
                // The responder may have closed its reading side only to say why: its last bytes still count.
                self.up.moved_at = desk.now;
                (end == End::ReadFailed).then_some(Outcome::Broken)
            }
            next => settle(&self.up, next, &mut self.initiator, &mut self.responder, desk),
        }
    }

    fn turn_down(&mut self, desk: &mut Desk) -> Option<Outcome> {
        match self.down.pass(&self.responder, &self.initiator, desk) {
            Next::End(end) => {
                self.initiator.end_writing();
                Some(if end == End::WriteFailed { Outcome::Broken } else { Outcome::Closed })
            }
            next => settle(&self.down, next, &mut self.responder, &mut self.initiator, desk),
        }
    }

    /// Forgets what cannot be written any more.
    fn release(&mut self, desk: &mut Desk) {
        desk.held = desk.held.saturating_sub(self.up.held.rest().len());
        self.up.held = Held::default();
    }

    /// When the connection ends unless something moves.
    pub(super) fn deadline(&self) -> Instant {
        let limit = if self.up.ended { HALF_CLOSED_IDLE.min(self.idle) } else { self.idle };
        self.up.moved_at.max(self.down.moved_at) + limit
    }

    /// Closes the responder's side.
    pub(super) fn end(mut self, outcome: Outcome, desk: &mut Desk) -> (Report, Option<Lingering>) {
        self.release(desk);
        desk.held = desk.held.saturating_sub(self.down.held.rest().len());
        let report = Report { outcome, to_responder: self.up.moved, to_initiator: self.down.moved };
        let lingering = Lingering { socket: self.initiator, rest: LINGER_BYTES_MAX, until: desk.now + LINGER };
        (report, (outcome == Outcome::Closed).then_some(lingering))
    }
}

/// Sees to it that epoll tells what the direction waits for.
fn settle(direction: &Direction, next: Next, from: &mut Socket, to: &mut Socket, desk: &Desk) -> Option<Outcome> {
    let told = if next == Next::Again {
        // Its event comes again, behind those of others.
        let space = from.tells_space;
        from.tell(&desk.epoll, space)
    } else if !direction.held.is_empty() && !to.tells_space {
        to.tell(&desk.epoll, true)
    } else {
        Ok(())
    };
    told.err().map(|_| Outcome::Broken)
}

/// An initiator that has its last byte, and is read so that no reset destroys that byte on its way (see [`super::linger`]).
#[derive(Debug)]
pub(super) struct Lingering {
    socket: Socket,
    rest: usize,
    until: Instant,
}

impl Lingering {
    /// Reads and throws away; says whether that was the end.
    pub(super) fn turn(&mut self, desk: &mut Desk) -> bool {
        while self.rest > 0 {
            let max = self.rest.min(RELAY_READ);
            match desk.receive(&self.socket, max) {
                Ok(0) => return true,
                Ok(count) => self.rest = self.rest.saturating_sub(count),
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
        true
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }
}
