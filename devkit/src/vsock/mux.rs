//! All connections of one guest, without any input or output: packets and what happens at Unix sockets go in, packets for the
//! guest and [`Action`]s on Unix sockets come out.
//!
//! ```text
//! guest ─receive→ Multiplexer ─next_action→ Unix sockets      one Connection for each Key
//! guest ←transmit─ Multiplexer ←read, written, ended, …─ Unix sockets
//! ```
//!
//! Guarantees: every packet of the guest that belongs to no connection and is no reset is answered by a reset; a connection is
//! forgotten only when the guest knows that it is over; no state grows without bound, since the device takes no packets while
//! [`Multiplexer::takes_packets`] is false.
//! Refuses: connections to other context ids than the host's (2) and the parent's (3), kinds of sockets other than streams, packets
//! from another context id than the guest's, more connections than [`CONNECTIONS_MAX`].

use std::collections::{HashMap, VecDeque};

use super::connection::{Connection, Key, State, Violation};
use super::limits::{CONNECTIONS_MAX, REPLIES_MAX};
use super::packet::{Header, Operation, TYPE_STREAM};

/// Context id of the host (vsock(7), `VMADDR_CID_HOST`).
pub const HOST_CID: u64 = 2;
/// Context id of the parent as an enclave sees it (AWS Nitro Enclaves user guide: "the parent instance's CID is always 3").
pub const PARENT_CID: u64 = 3;
/// First of the ports that connections from the host come from: above what programs choose for themselves.
const FIRST_EPHEMERAL_PORT: u32 = 1 << 30;

/// One connection, among all that a multiplexer ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Its number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The connection with a number.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// What is to be done at a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to the listener for this port, then call [`Multiplexer::connected`] or [`Multiplexer::refused`].
    Connect(ConnectionId, u32),
    /// Tell the client that the guest accepted, at this port of ours.
    Accepted(ConnectionId, u32),
    /// Read while there is room, write what there is.
    Transfer(ConnectionId),
    /// The guest sends no more.
    EndWriting(ConnectionId),
    /// The guest reads no more.
    EndReading(ConnectionId),
    /// Close it; the connection is over.
    Close(ConnectionId),
}

/// All connections of one guest.
#[derive(Debug)]
pub struct Multiplexer {
    guest_cid: u64,
    connections: HashMap<ConnectionId, Connection>,
    by_key: HashMap<Key, ConnectionId>,
    /// Connections that have a packet for the guest, each once.
    ready: VecDeque<ConnectionId>,
    /// Resets for packets that belong to no connection.
    replies: VecDeque<Header>,
    actions: VecDeque<Action>,
    next_id: u64,
    next_port: u32,
}

impl Multiplexer {
    /// No connections yet.
    pub fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            connections: HashMap::new(),
            by_key: HashMap::new(),
            ready: VecDeque::new(),
            replies: VecDeque::new(),
            actions: VecDeque::new(),
            next_id: 0,
            next_port: FIRST_EPHEMERAL_PORT,
        }
    }

    /// Connections that are not forgotten yet.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// No connection is left.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    // --- From the guest -------------------------------------------------------------------------------------------------

    /// False while the guest is owed too many resets, or has left too many turns of connections that are gone: its packets wait
    /// until it offers buffers.
    pub fn takes_packets(&self) -> bool {
        self.replies.len() < REPLIES_MAX && self.ready.len() < CONNECTIONS_MAX.saturating_add(REPLIES_MAX)
    }

    /// A packet from the guest. `payload` is what came after the header, up to its `len`.
    pub fn receive(&mut self, header: &Header, payload: &[u8]) {
        if header.src_cid != self.guest_cid {
            // An answer would go to somebody else (virtio 1.2, section 5.10.6: packets with unexpected addresses).
            return;
        }
        let operation = Operation::from_number(header.operation);
        let key = Key { host_cid: header.dst_cid, host_port: header.dst_port, guest_port: header.src_port };
        let Some(&id) = self.by_key.get(&key) else {
            return self.receive_unknown(header, operation, key);
        };
        let well_formed = header.kind == TYPE_STREAM && u32::try_from(payload.len()) == Ok(header.len);
        let Some(operation) = operation.filter(|_| well_formed) else { return self.reset(id) };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.note_credit(header);
        if self.receive_known(id, operation, header, payload).is_err() {
            self.reset(id);
        }
        self.schedule(id);
    }

    fn receive_unknown(&mut self, header: &Header, operation: Option<Operation>, key: Key) {
        let host = matches!(header.dst_cid, HOST_CID | PARENT_CID);
        let request = operation == Some(Operation::Request) && header.kind == TYPE_STREAM;
        if request && host && self.connections.len() < CONNECTIONS_MAX {
            let id = self.insert(key, State::Connecting);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.note_credit(header);
            }
            self.actions.push_back(Action::Connect(id, key.host_port));
        } else if operation != Some(Operation::Reset) {
            self.replies.push_back(header.refusal());
        }
    }

    fn receive_known(
        &mut self,
        id: ConnectionId,
        operation: Operation,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        match (operation, connection.state) {
            (Operation::Reset, _) => self.end_by_guest(id),
            // The credit was noted; or it was sent before the guest heard of the end.
            (_, State::Resetting) | (Operation::CreditUpdate, State::Established) => {}
            (Operation::Response, State::Requested) => {
                connection.state = State::Established;
                self.actions.push_back(Action::Accepted(id, connection.key.host_port));
                self.touch(id);
            }
            (Operation::Data, State::Established) => {
                connection.note_data(payload)?;
                self.touch(id);
            }
            (Operation::CreditRequest, State::Established) => connection.note_credit_request(),
            (Operation::Shutdown, State::Established | State::Accepting | State::Connecting) => {
                let received = !connection.guest.receive;
                connection.note_shutdown(header.flags);
                if received && connection.guest.receive {
                    self.actions.push_back(Action::EndReading(id));
                }
                self.settle(id);
            }
            _ => return Err(Violation),
        }
        Ok(())
    }

    /// The guest has reset a connection. What it sent before an orderly end still reaches the Unix socket.
    fn end_by_guest(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        self.by_key.remove(&connection.key);
        if connection.guest.send && connection.owes_host() && connection.state != State::Resetting {
            connection.state = State::Draining;
        } else {
            self.connections.remove(&id);
            self.actions.push_back(Action::Close(id));
        }
    }

    // --- From the host --------------------------------------------------------------------------------------------------

    /// A client of the host wants to reach a port of the guest. None: there are too many connections.
    pub fn open(&mut self, guest_port: u32) -> Option<ConnectionId> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        loop {
            let key = Key { host_cid: PARENT_CID, host_port: self.next_port, guest_port };
            // Fewer connections than ports: the loop ends.
            self.next_port =
                self.next_port.checked_add(1).filter(|port| *port != u32::MAX).unwrap_or(FIRST_EPHEMERAL_PORT);
            if !self.by_key.contains_key(&key) {
                let id = self.insert(key, State::Requesting);
                self.schedule(id);
                return Some(id);
            }
        }
    }

    /// The listener that [`Action::Connect`] named has taken the connection.
    pub fn connected(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.state == State::Connecting {
            connection.state = State::Accepting;
            self.settle(id);
        }
    }

    /// Nobody listens, or the system refused.
    pub fn refused(&mut self, id: ConnectionId) {
        self.reset(id);
    }

    /// Bytes that may be read from the Unix socket now.
    pub fn room(&self, id: ConnectionId) -> usize {
        self.connections.get(&id).map_or(0, Connection::room)
    }

    /// Bytes were read, at most [`Self::room`].
    pub fn read(&mut self, id: ConnectionId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.note_read(bytes);
            self.schedule(id);
        }
    }

    /// The Unix socket's other end sends no more.
    pub fn ended(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.note_host_sends_no_more();
            self.schedule(id);
        }
    }

    /// The Unix socket's other end receives no more.
    pub fn unwritable(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.note_host_receives_no_more();
            self.settle(id);
        }
    }

    /// The Unix socket failed, or its client left before the guest answered.
    pub fn failed(&mut self, id: ConnectionId) {
        self.reset(id);
    }

    /// The guest has accepted, so an end of the Unix socket is an end of stream, no withdrawal.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| {
            matches!(connection.state, State::Accepting | State::Established | State::Draining)
        })
    }

    /// The next bytes for the Unix socket.
    pub fn to_host(&self, id: ConnectionId) -> &[u8] {
        self.connections.get(&id).map_or(&[], Connection::to_host)
    }

    /// Bytes of [`Self::to_host`] were written.
    pub fn written(&mut self, id: ConnectionId, count: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.note_written(count);
            self.settle(id);
        }
    }

    /// What is to be done at a Unix socket next.
    pub fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::Transfer(id) = action
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.touched = false;
        }
        Some(action)
    }

    // --- To the guest ---------------------------------------------------------------------------------------------------

    /// There may be a packet for the guest.
    pub fn has_packets(&self) -> bool {
        !self.ready.is_empty() || !self.replies.is_empty()
    }

    /// The next packet for a buffer with room for `capacity` bytes of payload, which are put into `payload`.
    pub fn transmit(&mut self, capacity: usize, payload: &mut Vec<u8>) -> Option<Header> {
        payload.clear();
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        loop {
            let id = self.ready.pop_front()?;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.queued = false;
            let Some(operation) = connection.next_operation() else { continue };
            if operation == Operation::Data && capacity == 0 {
                self.schedule(id);
                return None;
            }
            let header = connection.emit(operation, self.guest_cid, capacity, payload);
            if operation == Operation::Reset {
                self.forget(id);
            } else {
                self.settle(id);
                if matches!(operation, Operation::Data | Operation::Response) {
                    // There is room again.
                    self.touch(id);
                }
            }
            return Some(header);
        }
    }

    // --- Within ---------------------------------------------------------------------------------------------------------

    fn insert(&mut self, key: Key, state: State) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.connections.insert(id, Connection::new(key, state));
        self.by_key.insert(key, id);
        id
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.by_key.remove(&connection.key);
        }
    }

    /// Ends a connection at once. It is remembered until the guest has been told, which bounds what the guest is owed.
    fn reset(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.state {
            State::Resetting => return,
            // The guest knows nothing of it, or has forgotten it.
            State::Requesting | State::Draining => {
                let key = connection.key;
                let known = connection.state == State::Requesting;
                self.connections.remove(&id);
                if known {
                    self.by_key.remove(&key);
                }
            }
            _ => {
                connection.state = State::Resetting;
                connection.drop_buffers();
                self.schedule(id);
            }
        }
        self.actions.push_back(Action::Close(id));
    }

    /// Draws the conclusions from what has ended and what is still on its way to the Unix socket.
    fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !matches!(connection.state, State::Established | State::Draining) || connection.owes_host() {
            return self.schedule(id);
        }
        if connection.state == State::Draining || connection.guest.both() {
            // The reset is the answer to a shutdown of both directions (virtio 1.2, section 5.10.6.5).
            return self.reset(id);
        }
        if connection.pass_on_end() {
            self.actions.push_back(Action::EndWriting(id));
        }
        self.schedule(id);
    }

    fn touch(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.touched
        {
            connection.touched = true;
            self.actions.push_back(Action::Transfer(id));
        }
    }

    fn schedule(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.queued
            && connection.next_operation().is_some()
        {
            connection.queued = true;
            self.ready.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests;
