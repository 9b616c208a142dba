//! One connection that is relayed: two sockets, two directions.
//!
//! Guarantees: the end of a direction is passed on after its last byte.

use core::time::Duration;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::direction::{Direction, End, Next};
use super::socket::{Desk, Side, Socket, Token};
use super::{Outcome, Report};
use crate::limits::{HALF_CLOSED_IDLE, LINGER, LINGER_BYTES_MAX, RELAY_READ};

/// Both directions.
#[derive(Debug)]
pub(super) struct Connection {
    initiator: Socket,
    pub(super) responder: Socket,
    pub(super) up: Direction,
    pub(super) down: Direction,
    idle: Duration,
    /// Whether the initiator has closed both its directions, in order.
    left: bool,
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
        let socket = |fd, side| Socket { fd, token: Token { id, side }, tells_space: false };
        Self {
            initiator: socket(initiator, Side::Initiator),
            responder: socket(responder, Side::Responder),
            up: Direction::new(first, desk),
            down: Direction::new(Vec::new(), desk),
            idle,
            left: false,
        }
    }

    /// The first turn.
    pub(super) fn begin(&mut self, desk: &mut Desk) -> Option<Outcome> {
        match self.initiator.enter(&desk.epoll).and_then(|()| self.responder.enter(&desk.epoll)) {
            Ok(()) => self.turn_up(desk),
            // It can only be closed.
            Err(error) => Some(desk.refused(error)),
        }
    }

    /// Moves what an event allows; says how the relay ended, if it did.
    pub(super) fn turn(&mut self, side: Side, flags: EventFlags, desk: &mut Desk) -> Option<Outcome> {
        let outcome = self.pass(side, flags, desk);
        if outcome.is_none() && side == Side::Initiator { self.stays(flags, desk.now) } else { outcome }
    }

    /// Sees whether the initiator is still there. While the responder takes nothing and says nothing, no read and no write would tell.
    fn stays(&mut self, flags: EventFlags, now: Instant) -> Option<Outcome> {
        // The socket's error: a reset, or a peer that does not answer any more. What is left for the responder nobody waits for.
        if flags.contains(EventFlags::ERR) {
            return Some(Outcome::Broken);
        }
        // What it sent before it went still counts, if it is taken soon.
        if flags.contains(EventFlags::HUP) && !self.left {
            self.left = true;
            self.up.moved_at = now;
        }
        None
    }

    fn pass(&mut self, side: Side, flags: EventFlags, desk: &mut Desk) -> Option<Outcome> {
        // After an error or at the connection's end, reads and writes say what happened.
        let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let (reading, writing, socket) = match side {
            Side::Initiator => (&mut self.up, &self.down, &mut self.initiator),
            Side::Responder => (&mut self.down, &self.up, &mut self.responder),
        };
        let mut pass_from = false;
        if failed || flags.intersects(EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP) {
            reading.hear(flags);
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
                self.up.forget(desk);
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

    /// When the connection ends unless something moves.
    pub(super) fn deadline(&self) -> Instant {
        let limit = if self.up.ended || self.left { HALF_CLOSED_IDLE.min(self.idle) } else { self.idle };
        self.up.moved_at.max(self.down.moved_at) + limit
    }

    /// Closes the responder's side.
    pub(super) fn end(mut self, outcome: Outcome, desk: &mut Desk) -> (Report, Option<Lingering>) {
        self.up.forget(desk);
        self.down.forget(desk);
        let report = Report { outcome, to_responder: self.up.moved, to_initiator: self.down.moved };
        let lingering = Lingering { socket: self.initiator, rest: LINGER_BYTES_MAX, until: desk.now + LINGER };
        (report, (outcome == Outcome::Closed).then_some(lingering))
    }
}

/// Sees to it that epoll tells what the direction waits for.
fn settle(direction: &Direction, next: Next, from: &mut Socket, to: &mut Socket, desk: &mut Desk) -> Option<Outcome> {
    let told = if next == Next::Again {
        // Its event comes again, behind those of others.
        let space = from.tells_space;
        from.tell(&desk.epoll, space)
    } else if !direction.held.is_empty() && !to.tells_space {
        to.tell(&desk.epoll, true)
    } else {
        Ok(())
    };
    told.err().map(|error| desk.refused(error))
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
