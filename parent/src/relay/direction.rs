//! One direction of a connection.
//!
//! Guarantees: bytes leave in the order in which they came; a direction is read only while it holds nothing.
//! Assumes: it is told of every edge (epoll(7)). A read that is shorter than its buffer has drained the socket, unless its end or
//! urgent data was told with the same edge, and a write that is cut short has filled the other; so neither is tried again before the next edge, which saves the
//! call that would only say so.

use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::socket::{Desk, Socket};
use crate::limits::{RELAY_TURN, RELAY_TURN_LEAST};

/// Bytes that a writer did not take.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    sent: usize,
}

impl Held {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Bytes of memory, which are given back with the last byte and not before.
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Holds bytes, and says so to the desk.
    fn hold(bytes: Vec<u8>, desk: &mut Desk) -> Self {
        desk.held = desk.held.saturating_add(bytes.capacity());
        Self { bytes, sent: 0 }
    }

    /// Gives the memory back.
    fn release(&mut self, desk: &mut Desk) {
        desk.held = desk.held.saturating_sub(self.size());
        *self = Self::default();
    }

    /// Gives the memory back with the last byte.
    fn advance(&mut self, count: usize, desk: &mut Desk) {
        self.sent = self.sent.saturating_add(count);
        if self.sent >= self.bytes.len() {
            self.release(desk);
        }
    }
}

/// How one direction ended. In each case its writer was shut down, so that the other side learns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The reader's side sent its last byte.
    Eof,
    /// The reader's connection failed.
    ReadFailed,
    /// The writer's connection failed.
    WriteFailed,
}

/// What a direction does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It waits for an edge.
    Wait,
    /// It had its turn, and there is more.
    Again,
    /// It ended.
    End(End),
}

/// What a read is that is shorter than its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    /// The last before the next edge.
    Drained,
    /// Perhaps not the last: the socket has told of urgent data, at whose mark a read ends (RFC 6093 section 3.1).
    UpToMark,
    /// Not the last: the socket has told its end, which comes behind its last byte without another edge.
    BeforeEnd,
}

/// From one socket to the other.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) held: Held,
    /// Whether a read may find something.
    readable: bool,
    short: Short,
    pub(super) moved: u64,
    pub(super) moved_at: Instant,
    pub(super) ended: bool,
}

impl Direction {
    pub(super) fn new(first: Vec<u8>, desk: &mut Desk) -> Self {
        Self {
            held: Held::hold(first, desk),
            readable: false,
            short: Short::Drained,
            moved: 0,
            moved_at: desk.now,
            ended: false,
        }
    }

    /// Takes note of what epoll tells of the socket that is read.
    pub(super) fn hear(&mut self, flags: EventFlags) {
        self.readable = true;
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.short = Short::BeforeEnd;
        } else if flags.contains(EventFlags::PRI) && self.short == Short::Drained {
            self.short = Short::UpToMark;
        }
    }

    pub(super) fn pass(&mut self, from: &Socket, to: &Socket, desk: &mut Desk) -> Next {
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
                    self.readable = self.short != Short::Drained || count >= max;
                    self.moved_at = desk.now;
                    match self.pass_new(count, to, desk) {
                        Err(_) => return Next::End(End::WriteFailed),
                        Ok(()) if !self.held.is_empty() => return Next::Wait,
                        Ok(()) => {}
                    }
                    turn = turn.saturating_sub(count.max(RELAY_TURN_LEAST));
                    if turn == 0 && self.readable {
                        return Next::Again;
                    }
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    if self.short == Short::UpToMark {
                        self.short = Short::Drained;
                    }
                }
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
        self.held.advance(sent, desk);
        self.count(sent, desk.now);
        Ok(())
    }

    /// Writes what was just read; holds what is not taken.
    fn pass_new(&mut self, count: usize, to: &Socket, desk: &mut Desk) -> Result<(), Errno> {
        let bytes = desk.buffer.get(..count).unwrap_or_default();
        let sent = to.send(bytes)?;
        if let Some(rest @ [_, ..]) = bytes.get(sent..) {
            self.held = Held::hold(rest.to_vec(), desk);
        }
        self.count(sent, desk.now);
        Ok(())
    }

    /// Forgets what cannot be written any more.
    pub(super) fn forget(&mut self, desk: &mut Desk) {
        self.held.release(desk);
    }

    fn count(&mut self, sent: usize, now: Instant) {
        if sent > 0 {
            self.moved = self.moved.saturating_add(u64::try_from(sent).unwrap_or(u64::MAX));
            self.moved_at = now;
        }
    }
}
