//! A socket that is relayed, and what the sockets of one thread share.
//!
//! Guarantees: nothing here ever waits.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::Outcome;
use crate::limits::{RELAY_BUFFER, RELAY_HELD, RELAY_READ};

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
    pub(super) buffer: Vec<u8>,
    /// Bytes of memory that all connections hold together because their writers did not take what is in it.
    pub(super) held: usize,
    /// From when on each may only add little.
    pub(super) held_much: usize,
    /// Whether epoll refused something already.
    failing: bool,
    /// When the events came that are being dealt with.
    pub(super) now: Instant,
}

impl Desk {
    pub(super) fn new(epoll: OwnedFd) -> Self {
        Self { epoll, buffer: vec![0; RELAY_READ], held: 0, held_much: RELAY_HELD, failing: false, now: Instant::now() }
    }

    /// Epoll refused something, which is never a client's doing. Each is counted by whoever relays; the log has the first, because anybody can
    /// connect, and must not fill it.
    pub(super) fn refused(&mut self, error: Errno) -> Outcome {
        if !self.failing {
            tracing::warn!(%error, "epoll refuses a connection, which ends; further ones are counted");
        }
        self.failing = true;
        Outcome::Failed
    }

    /// How much a connection may read at once, all of which it may then have to hold.
    pub(super) fn read_max(&self) -> usize {
        if self.held < self.held_much { RELAY_READ } else { RELAY_BUFFER }
    }

    pub(super) fn receive(&mut self, from: &Socket, max: usize) -> Result<usize, Errno> {
        let space = self.buffer.get_mut(..max).unwrap_or_default();
        recv(&from.fd, space, RecvFlags::DONTWAIT).map(|(_, count)| count)
    }
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) token: Token,
    /// Whether epoll tells when it can be written: only after a write was cut short, because each message that the other side takes from a
    /// Unix socket or from vsock would wake us.
    pub(super) tells_space: bool,
}

impl Socket {
    fn interest(&self) -> EventFlags {
        let space = if self.tells_space { EventFlags::OUT } else { EventFlags::empty() };
        // Urgent data comes with the edge of its bytes: to be told of it costs nothing.
        EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET | space
    }

    pub(super) fn enter(&self, epoll: &OwnedFd) -> Result<(), Errno> {
        epoll::add(epoll, &self.fd, self.token.data(), self.interest())
    }

    /// Sets what epoll tells; what is true already is told at once, as if it had just become so.
    pub(super) fn tell(&mut self, epoll: &OwnedFd, space: bool) -> Result<(), Errno> {
        self.tells_space = space;
        epoll::modify(epoll, &self.fd, self.token.data(), self.interest())
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            other => other,
        }
    }

    pub(super) fn end_writing(&self) {
        // A connection that cannot be shut down is gone already.
        let _ = shutdown(&self.fd, Shutdown::Write);
    }
}
