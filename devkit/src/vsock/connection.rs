//! One connection between a guest and a Unix socket: buffers, credit, and which directions are still open.
//!
//! Guarantees: no buffer grows beyond its bound whatever the guest sends; the guest is sent no more than it has said it can take;
//! bytes keep their order, and an end of stream comes after the last byte.
//! Refuses: data beyond the credit that the guest was given, data after its end.

use std::collections::VecDeque;

use super::limits::{PACKET_MAX, TO_GUEST_MAX, TO_HOST_MAX};
use super::packet::{Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// What a connection is known by in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The context id that the guest sees at this end: 2 or 3.
    pub(super) host_cid: u64,
    /// The port at this end.
    pub(super) host_port: u32,
    /// The guest's port.
    pub(super) guest_port: u32,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The host asked; the guest has not been told yet.
    Requesting,
    /// The guest was asked and has not answered.
    Requested,
    /// The guest asked; the Unix socket is not connected yet.
    Connecting,
    /// The guest asked and is to be told yes.
    Accepting,
    /// Bytes may flow.
    Established,
    /// The guest is to be told that it is over.
    Resetting,
    /// Over for the guest; bytes that it sent are still on their way to the Unix socket.
    Draining,
}

/// Directions of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// It receives no more.
    pub(super) receive: bool,
    /// It sends no more.
    pub(super) send: bool,
}

impl Ended {
    pub(super) fn both(self) -> bool {
        self.receive && self.send
    }

    fn flags(self) -> u32 {
        (if self.receive { SHUTDOWN_RECEIVE } else { 0 }) | (if self.send { SHUTDOWN_SEND } else { 0 })
    }
}

/// The guest broke the protocol; its connection is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) state: State,
    /// It stands in the line of those that have a packet for the guest.
    pub(super) queued: bool,
    /// It stands in the line of those whose Unix socket is to be looked at.
    pub(super) touched: bool,
    to_host: VecDeque<u8>,
    to_guest: VecDeque<u8>,
    /// Bytes passed on to the Unix socket, modulo 2³².
    forwarded: u32,
    /// The `forwarded` that the guest knows of.
    announced: u32,
    credit_update_owed: bool,
    /// Bytes sent to the guest, modulo 2³².
    sent: u32,
    guest_buf_alloc: u32,
    guest_fwd_cnt: u32,
    credit_requested: bool,
    /// What the guest has ended.
    pub(super) guest: Ended,
    /// What the host's side has ended.
    host: Ended,
    /// The `host` that the guest knows of.
    told: Ended,
    /// The Unix socket was told that the guest sends no more.
    end_passed_on: bool,
}

impl Connection {
    pub(super) fn new(key: Key, state: State) -> Self {
        Self {
            key,
            state,
            queued: false,
            touched: false,
            to_host: VecDeque::new(),
            to_guest: VecDeque::new(),
            forwarded: 0,
            announced: 0,
            credit_update_owed: false,
            sent: 0,
            guest_buf_alloc: 0,
            guest_fwd_cnt: 0,
            credit_requested: false,
            guest: Ended::default(),
            host: Ended::default(),
            told: Ended::default(),
            end_passed_on: false,
        }
    }

    // --- From the guest -------------------------------------------------------------------------------------------------

    /// Every packet of a connection tells what the guest can take.
    pub(super) fn note_credit(&mut self, header: &Header) {
        self.guest_buf_alloc = header.buf_alloc;
        self.guest_fwd_cnt = header.fwd_cnt;
        if self.credit() > 0 {
            self.credit_requested = false;
        }
    }

    /// Bytes that the guest can take now. A guest that claims to have passed on what it was never sent can take nothing.
    fn credit(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.guest_fwd_cnt);
        usize::try_from(self.guest_buf_alloc.saturating_sub(in_flight)).unwrap_or(usize::MAX)
    }

    pub(super) fn note_data(&mut self, payload: &[u8]) -> Result<(), Violation> {
        let room = usize::try_from(TO_HOST_MAX).unwrap_or(usize::MAX).saturating_sub(self.to_host.len());
        if self.guest.send || payload.len() > room {
            return Err(Violation);
        }
        if self.host.receive {
            // Sent before the guest heard of it. Nobody will read it, and its credit goes back.
            self.forwarded = self.forwarded.wrapping_add(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        } else {
            self.to_host.extend(payload);
        }
        Ok(())
    }

    pub(super) fn note_credit_request(&mut self) {
        self.credit_update_owed = true;
    }

    pub(super) fn note_shutdown(&mut self, flags: u32) {
        self.guest.receive |= flags & SHUTDOWN_RECEIVE != 0;
        self.guest.send |= flags & SHUTDOWN_SEND != 0;
        if self.guest.receive {
            self.to_guest = VecDeque::new();
        }
    }

    /// All that the guest has sent has reached the Unix socket. True: it will send no more, which is said once.
    pub(super) fn pass_on_end(&mut self) -> bool {
        let now = self.guest.send && !self.end_passed_on;
        self.end_passed_on |= now;
        now
    }

    // --- From and to the Unix socket ------------------------------------------------------------------------------------

    /// Bytes that may be read from the Unix socket now.
    pub(super) fn room(&self) -> usize {
        if self.state != State::Established || self.guest.receive || self.host.send {
            return 0;
        }
        TO_GUEST_MAX.saturating_sub(self.to_guest.len())
    }

    pub(super) fn note_read(&mut self, bytes: &[u8]) {
        self.to_guest.extend(bytes);
    }

    pub(super) fn note_host_sends_no_more(&mut self) {
        self.host.send = true;
    }

    pub(super) fn note_host_receives_no_more(&mut self) {
        self.host.receive = true;
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(self.to_host.len()).unwrap_or(u32::MAX));
        self.to_host = VecDeque::new();
    }

    /// The next bytes for the Unix socket.
    pub(super) fn to_host(&self) -> &[u8] {
        self.to_host.as_slices().0
    }

    pub(super) fn owes_host(&self) -> bool {
        !self.to_host.is_empty()
    }

    pub(super) fn note_written(&mut self, count: usize) {
        let count = count.min(self.to_host.len());
        self.to_host.drain(..count);
        if self.to_host.is_empty() && self.to_host.capacity() > PACKET_MAX {
            self.to_host = VecDeque::new();
        }
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        // The guest believes it has this much less room than it has. Telling it at half keeps it sending without a packet
        // for each write.
        if self.forwarded.wrapping_sub(self.announced) >= TO_HOST_MAX / 2 {
            self.credit_update_owed = true;
        }
    }

    pub(super) fn drop_buffers(&mut self) {
        self.to_host = VecDeque::new();
        self.to_guest = VecDeque::new();
    }

    // --- To the guest ---------------------------------------------------------------------------------------------------

    /// What the guest is to be sent next. Data need a buffer with room for at least one byte.
    pub(super) fn next_operation(&self) -> Option<Operation> {
        match self.state {
            State::Resetting => return Some(Operation::Reset),
            State::Requesting => return Some(Operation::Request),
            State::Accepting => return Some(Operation::Response),
            State::Requested | State::Connecting | State::Draining => return None,
            State::Established => {}
        }
        if self.tellable() != self.told {
            Some(Operation::Shutdown)
        } else if !self.to_guest.is_empty() && self.credit() > 0 {
            Some(Operation::Data)
        } else if self.credit_update_owed {
            Some(Operation::CreditUpdate)
        } else {
            (!self.to_guest.is_empty() && !self.credit_requested).then_some(Operation::CreditRequest)
        }
    }

    /// What the guest may hear of what the host's side has ended: the end of its bytes only after the last of them.
    fn tellable(&self) -> Ended {
        Ended { receive: self.host.receive, send: self.host.send && self.to_guest.is_empty() }
    }

    /// Makes the packet of [`Self::next_operation`] with at most `capacity` bytes of payload, which are put into `payload`.
    pub(super) fn emit(
        &mut self,
        operation: Operation,
        guest_cid: u64,
        capacity: usize,
        payload: &mut Vec<u8>,
    ) -> Header {
        payload.clear();
        let mut flags = 0;
        match operation {
            Operation::Request => self.state = State::Requested,
            Operation::Response => self.state = State::Established,
            Operation::Data => {
                let count = self.to_guest.len().min(self.credit()).min(capacity).min(PACKET_MAX);
                payload.extend(self.to_guest.drain(..count));
                self.sent = self.sent.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
                if self.to_guest.is_empty() {
                    // A connection that rests costs no buffer.
                    self.to_guest = VecDeque::new();
                }
            }
            Operation::Shutdown => {
                self.told = self.tellable();
                flags = self.told.flags();
            }
            Operation::CreditRequest => self.credit_requested = true,
            Operation::Reset | Operation::CreditUpdate => {}
        }
        self.announced = self.forwarded;
        self.credit_update_owed = false;
        Header {
            src_cid: self.key.host_cid,
            dst_cid: guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            kind: TYPE_STREAM,
            operation: operation.number(),
            flags,
            buf_alloc: TO_HOST_MAX,
            fwd_cnt: self.forwarded,
        }
    }
}

#[cfg(test)]
impl Connection {
    /// As if this many bytes had been exchanged in each direction.
    pub(super) fn set_counters(&mut self, count: u32) {
        (self.forwarded, self.announced, self.sent, self.guest_fwd_cnt) = (count, count, count, count);
    }

    pub(super) fn buffered(&self) -> usize {
        self.to_host.len() + self.to_guest.len()
    }
}
