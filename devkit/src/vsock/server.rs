//! The sockets of the program, and one virtual machine after the other.
//!
//! Guarantees: a machine that goes takes all its connections with it and leaves the sockets to the next; clients that come while
//! there is none are turned away at once; a client that does not say where it wants to go costs a file descriptor for at most
//! [`GREETING_TIMEOUT`].

use std::future::Future;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::device::{Device, SOCKETS_EVENT};
use super::limits::{CONNECT_LINE_MAX, GREETING_TIMEOUT, GREETINGS_MAX};
use super::sockets::{Client, Inbox};
use super::{VsockError, VsockSettings, log};
use crate::unix_socket::{BindError, SocketFile, bind};

/// A device that listens for virtual machines and for clients.
pub struct VsockServer {
    machines: Machines,
    socket: PathBuf,
    listener: StdListener,
    clients: UnixListener,
    _files: [SocketFile; 2],
}

impl VsockServer {
    /// Listens. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A path cannot be listened at.
    pub fn bind(settings: VsockSettings) -> Result<Self, VsockError> {
        let at = |path: &PathBuf| {
            let path = path.clone();
            move |error| BindError::Io { path, error }
        };
        let (listener, listener_file) = bind(&settings.socket)?;
        // The framework waits in a thread of its own.
        listener.set_nonblocking(false).map_err(at(&settings.socket))?;
        let (clients, clients_file) = bind(&settings.guest)?;
        let clients = UnixListener::from_std(clients).map_err(at(&settings.guest))?;
        let machines = Machines {
            guest_cid: u64::from(settings.cid),
            guest_path: settings.guest,
            ending: Arc::default(),
            current: watch::Sender::new(None),
        };
        Ok(Self { machines, socket: settings.socket, listener, clients, _files: [listener_file, clients_file] })
    }

    /// Serves until `shutdown` is ready. A machine that is connected then loses its device.
    ///
    /// # Errors
    /// The system refuses what a device needs.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), VsockError> {
        tokio::pin!(shutdown);
        // The first look at it installs handlers of signals: whoever reads the line below may send one.
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            () = std::future::ready(()) => {}
        }
        let Machines { guest_cid, guest_path, .. } = &self.machines;
        let (socket, guest) = (self.socket.display(), guest_path.display());
        log(&format!("guest {guest_cid}: virtual machines connect to {socket}, clients to {guest}"));
        let current = self.machines.current.subscribe();
        let ending = Arc::clone(&self.machines.ending);
        let listener = self.listener.try_clone().map_err(VsockError::System)?;
        let mut serving = tokio::task::spawn_blocking(move || self.machines.serve(listener));
        tokio::select! {
            () = &mut shutdown => {}
            () = greet_all(&self.clients, &current) => {}
            ended = &mut serving => return ended.map_err(|error| VsockError::System(error.into()))?,
        }
        ending.store(true, Ordering::SeqCst);
        // Wakes the thread where it waits for a machine, and where it has one. It fails where neither is so any more.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
        if let Some(machine) = current.borrow().as_ref() {
            machine.shutdown.shutdown();
        }
        serving.await.map_err(|error| VsockError::System(error.into()))?
    }
}

/// The machine that is connected now.
struct Machine {
    inbox: Inbox,
    shutdown: ShutdownHandle,
}

/// One machine after the other, in a thread that waits.
struct Machines {
    guest_cid: u64,
    guest_path: PathBuf,
    ending: Arc<AtomicBool>,
    current: watch::Sender<Option<Machine>>,
}

impl Machines {
    fn serve(self, listener: StdListener) -> Result<(), VsockError> {
        let mut listener = Listener::from(listener);
        loop {
            let ended = self.serve_one(&mut listener);
            self.current.send_replace(None);
            if self.ending.load(Ordering::SeqCst) {
                return Ok(());
            }
            ended?;
        }
    }

    fn serve_one(&self, listener: &mut Listener) -> Result<(), VsockError> {
        let device = Device::new(self.guest_cid, self.guest_path.clone()).map_err(VsockError::System)?;
        let (inbox, sockets) = (device.sockets().inbox().clone(), device.sockets().epoll().as_raw_fd());
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("vhost-user".to_owned(), Arc::new(Mutex::new(device)), memory)
            .map_err(VsockError::Device)?;
        for handler in daemon.get_epoll_handlers() {
            handler.register_listener(sockets, EventSet::IN, SOCKETS_EVENT).map_err(VsockError::System)?;
        }
        daemon.start(listener).map_err(VsockError::Device)?;
        let Some(shutdown) = daemon.shutdown_handle() else { return Ok(()) };
        self.current.send_replace(Some(Machine { inbox, shutdown: shutdown.clone() }));
        if self.ending.load(Ordering::SeqCst) {
            shutdown.shutdown();
        }
        log(&format!("guest {}: a virtual machine is connected", self.guest_cid));
        match daemon.wait() {
            // A monitor may go at any time and in any way.
            Ok(()) | Err(DaemonError::HandleRequest(VhostUserError::Disconnected | VhostUserError::PartialMessage)) => {
                log(&format!("guest {}: the virtual machine is gone", self.guest_cid));
            }
            Err(error) => log(&format!("guest {}: the virtual machine is gone: {error}", self.guest_cid)),
        }
        Ok(())
    }
}

/// Hears every client.
async fn greet_all(clients: &UnixListener, current: &watch::Receiver<Option<Machine>>) {
    let mut greetings = JoinSet::new();
    loop {
        tokio::select! {
            Some(_done) = greetings.join_next() => {}
            client = accept(clients), if greetings.len() < GREETINGS_MAX => {
                greetings.spawn(greet(client, current.clone()));
            }
        }
    }
}

/// The next client.
async fn accept(clients: &UnixListener) -> UnixStream {
    loop {
        match clients.accept().await {
            Ok((stream, _)) => return stream,
            // Out of descriptors, or the client is gone already.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// Hears where a client wants to go. Who says anything else is hung up on, and who comes while there is no machine.
async fn greet(mut client: UnixStream, current: watch::Receiver<Option<Machine>>) {
    let Ok(Some(port)) = tokio::time::timeout(GREETING_TIMEOUT, requested_port(&mut client)).await else { return };
    let Ok(stream) = client.into_std() else { return };
    if let Some(machine) = current.borrow().as_ref() {
        machine.inbox.push(Client { stream, port });
    }
}

/// Reads `CONNECT PORT\n` byte by byte: what follows it belongs to the guest.
async fn requested_port(client: &mut (impl AsyncRead + Unpin)) -> Option<u32> {
    let mut line = Vec::with_capacity(CONNECT_LINE_MAX);
    while line.len() < CONNECT_LINE_MAX {
        match client.read_u8().await.ok()? {
            b'\n' => return parse_connect(&line),
            byte => line.push(byte),
        }
    }
    None
}

fn parse_connect(line: &[u8]) -> Option<u32> {
    let port = line.strip_prefix(b"CONNECT ")?;
    if !port.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(port).ok()?.parse().ok()
}
