//! The Unix sockets behind a [`Multiplexer`]: carries out its actions and tells it what happens.
//!
//! Guarantees: nothing here waits; a socket that has hung up is not asked about again and again. Assumes: identifiers of one
//! multiplexer.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, SockAddr, Socket, Type};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::limits::PACKET_MAX;
use super::mux::{Action, ConnectionId, Multiplexer};

/// Token of the bell in the epoll set; connections count up from zero and never get there.
const BELL: u64 = u64::MAX;
/// Events that are taken from the epoll set at a time.
const EVENTS_MAX: usize = 256;

/// A client of the host that has said which port of the guest it wants.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) port: u32,
}

/// Where clients wait for the device. Cloning it gives another way to the same place.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    clients: Arc<Mutex<VecDeque<Client>>>,
    bell: Arc<EventNotifier>,
}

impl Inbox {
    /// Hands a client over. Where nobody comes for it, its socket is closed with the inbox.
    pub(super) fn push(&self, client: Client) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push_back(client);
        self.ring();
    }

    fn pop(&self) -> Option<Client> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn ring(&self) {
        // It fails when it has been rung 2⁶⁴ − 2 times without being heard.
        let _ = self.bell.notify();
    }
}

#[derive(Debug)]
struct Connected {
    socket: UnixStream,
    /// What the epoll set waits for; None after the socket hung up.
    interest: Option<EventSet>,
}

/// The sockets of one guest's connections.
#[derive(Debug)]
pub(super) struct Sockets {
    epoll: Epoll,
    heard: EventConsumer,
    inbox: Inbox,
    /// A guest's connection to port P goes to the socket at this path, `_` and P.
    guest_path: PathBuf,
    connected: HashMap<ConnectionId, Connected>,
    buffer: Vec<u8>,
}

impl Sockets {
    pub(super) fn new(guest_path: PathBuf) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let (heard, bell) = new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?;
        epoll.ctl(ControlOperation::Add, heard.as_raw_fd(), EpollEvent::new(EventSet::IN, BELL))?;
        let inbox = Inbox { clients: Arc::default(), bell: Arc::new(bell) };
        Ok(Self { epoll, heard, inbox, guest_path, connected: HashMap::new(), buffer: vec![0; PACKET_MAX] })
    }

    /// Readable when [`Self::poll`] has something to do.
    pub(super) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Makes [`Self::epoll`] readable, so that the device is called again.
    pub(super) fn call_again(&self) {
        self.inbox.ring();
    }

    /// Closes everything, clients that wait too.
    pub(super) fn clear(&mut self) {
        // Nothing to hear: nobody has rung.
        let _ = self.heard.consume();
        self.connected.clear();
        while self.inbox.pop().is_some() {}
    }

    /// Takes in what has happened at the sockets. True: something has.
    pub(super) fn poll(&mut self, mux: &mut Multiplexer) -> bool {
        let mut events = vec![EpollEvent::default(); EVENTS_MAX];
        // Interrupted: whoever calls comes again.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in events.iter().take(count) {
            if event.data() == BELL {
                // Nothing to hear: somebody heard it already.
                let _ = self.heard.consume();
                while let Some(client) = self.inbox.pop() {
                    self.open(client, mux);
                }
            } else {
                self.happened(ConnectionId::from_number(event.data()), event.event_set(), mux);
            }
        }
        self.act(mux);
        count > 0
    }

    fn open(&mut self, client: Client, mux: &mut Multiplexer) {
        if let Some(id) = mux.open(client.port) {
            self.insert(id, client.stream, mux);
        }
    }

    fn happened(&mut self, id: ConnectionId, events: EventSet, mux: &mut Multiplexer) {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            if !mux.is_open(id) {
                return mux.failed(id);
            }
            self.forget_interest(id);
            mux.unwritable(id);
        }
        self.transfer(id, mux);
    }

    /// Carries out what is to be done at the sockets.
    pub(super) fn act(&mut self, mux: &mut Multiplexer) {
        while let Some(action) = mux.next_action() {
            match action {
                Action::Connect(id, port) => match connect(&self.guest_path, port) {
                    Ok(socket) => {
                        if self.insert(id, socket, mux) {
                            mux.connected(id);
                        }
                    }
                    Err(_) => mux.refused(id),
                },
                Action::Accepted(id, port) => self.greet(id, port, mux),
                Action::Transfer(id) => self.transfer(id, mux),
                Action::EndWriting(id) => self.shut_down(id, Shutdown::Write),
                Action::EndReading(id) => self.shut_down(id, Shutdown::Read),
                Action::Close(id) => {
                    // Closing it takes it out of the epoll set.
                    self.connected.remove(&id);
                }
            }
        }
    }

    fn insert(&mut self, id: ConnectionId, socket: UnixStream, mux: &mut Multiplexer) -> bool {
        let interest = EventSet::empty();
        let added = socket.set_nonblocking(true).and_then(|()| {
            self.epoll.ctl(ControlOperation::Add, socket.as_raw_fd(), EpollEvent::new(interest, id.number()))
        });
        if added.is_err() {
            mux.failed(id);
            return false;
        }
        self.connected.insert(id, Connected { socket, interest: Some(interest) });
        true
    }

    /// `OK PORT\n`, as Firecracker answers. The socket is empty still, so there is room for it.
    fn greet(&mut self, id: ConnectionId, port: u32, mux: &mut Multiplexer) {
        let Some(connected) = self.connected.get_mut(&id) else { return };
        if connected.socket.write_all(format!("OK {port}\n").as_bytes()).is_err() {
            mux.failed(id);
        }
    }

    fn shut_down(&mut self, id: ConnectionId, direction: Shutdown) {
        if let Some(connected) = self.connected.get(&id) {
            // Fails where the other end is gone, which an event tells as well.
            let _ = connected.socket.shutdown(direction);
        }
    }

    /// Moves bytes both ways as far as sockets and buffers let it.
    fn transfer(&mut self, id: ConnectionId, mux: &mut Multiplexer) {
        let Some(connected) = self.connected.get_mut(&id) else { return };
        write(&mut connected.socket, id, mux);
        read(&mut connected.socket, &mut self.buffer, id, mux);
        self.update_interest(id, mux);
    }

    fn update_interest(&mut self, id: ConnectionId, mux: &mut Multiplexer) {
        let Some(connected) = self.connected.get_mut(&id) else { return };
        let Some(old) = connected.interest else { return };
        let mut new = EventSet::empty();
        new.set(EventSet::IN, mux.room(id) > 0);
        new.set(EventSet::OUT, !mux.to_host(id).is_empty());
        if new != old {
            let event = EpollEvent::new(new, id.number());
            if self.epoll.ctl(ControlOperation::Modify, connected.socket.as_raw_fd(), event).is_err() {
                return mux.failed(id);
            }
            connected.interest = Some(new);
        }
    }

    /// A socket that hung up would be reported for as long as it is open, though its last bytes may have to wait for the guest.
    fn forget_interest(&mut self, id: ConnectionId) {
        if let Some(connected) = self.connected.get_mut(&id)
            && connected.interest.take().is_some()
        {
            let event = EpollEvent::new(EventSet::empty(), id.number());
            // It is in the set.
            let _ = self.epoll.ctl(ControlOperation::Delete, connected.socket.as_raw_fd(), event);
        }
    }
}

fn write(socket: &mut UnixStream, id: ConnectionId, mux: &mut Multiplexer) {
    while !mux.to_host(id).is_empty() {
        match socket.write(mux.to_host(id)) {
            Ok(count) => mux.written(id, count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The other end has closed, or shut its reading half.
            Err(_) => return mux.unwritable(id),
        }
    }
}

fn read(socket: &mut UnixStream, buffer: &mut [u8], id: ConnectionId, mux: &mut Multiplexer) {
    loop {
        let room = mux.room(id).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else { return };
        match socket.read(buffer) {
            Ok(0) => return mux.ended(id),
            Ok(count) => mux.read(id, buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The other end closed with bytes unread (unix(7)): it is gone, and all that it sent has been read.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                mux.unwritable(id);
                return mux.ended(id);
            }
            Err(_) => return mux.failed(id),
        }
    }
}

/// The path at which programs of the host take the guest's connections to a port.
pub fn listener_path(guest_path: &Path, port: u32) -> PathBuf {
    let mut path = OsString::from(guest_path);
    path.push(format!("_{port}"));
    path.into()
}

/// Connects without waiting: a listener whose backlog is full refuses.
fn connect(guest_path: &Path, port: u32) -> io::Result<UnixStream> {
    let address = SockAddr::unix(listener_path(guest_path, port))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.connect(&address)?;
    Ok(socket.into())
}
