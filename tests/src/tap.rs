//! A proxy on one hop, in the test's own process: what a hostile parent, or a hostile network, can do to bytes.
//!
//! Guarantees: without a plan every byte passes unchanged; what a plan does depends on byte offsets and connection numbers
//! alone, so that the same seed does the same. What was sent (not what was delivered) is recorded for both directions.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::random::Random;

mod distorter;

use distorter::{Distorter, Step};

/// Bytes kept of each direction of each connection.
const RECORDED_MAX: usize = 4 * 1024 * 1024;
/// Bytes moved at a time.
const CHUNK: usize = 16 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to who listens.
    ToServer,
    /// The other way.
    ToClient,
}

/// What is done to the bytes of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// One bit of the byte at the offset is flipped.
    FlipBit(u8),
    /// The connection ends, both ways at once.
    Drop,
    /// This direction ends in order; what else is sent is thrown away.
    Truncate,
    /// Nothing moves in this direction for a while.
    Hold(Duration),
    /// The next so many bytes, and as many after them, change places.
    Swap(usize),
    /// From here on come the bytes of an earlier connection, by its number in the recording, and none of the real ones.
    Replay(usize),
    /// These bytes come in between.
    Insert(Vec<u8>),
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of the connection since the plan was set; none for every connection.
    pub connection: Option<usize>,
    /// Which way.
    pub direction: Direction,
    /// At which byte.
    pub offset: usize,
    /// What.
    pub action: Action,
}

impl Fault {
    /// A fault of a random kind at a random place in the first connections of a hop.
    pub fn random(random: &mut Random) -> Self {
        // Most of a hop's bytes are in its first kilobytes: handshakes, headers, one message.
        let offset = match random.below(3) {
            0 => random.below(16),
            1 => random.below(600),
            _ => random.below(8000),
        };
        let action = match random.below(7) {
            0 | 1 => Action::FlipBit(u8::try_from(random.below(8)).unwrap()),
            2 => Action::Drop,
            3 => Action::Truncate,
            4 => Action::Hold(random.pause(1500)),
            5 => Action::Swap(1 + random.below(200)),
            _ => Action::Replay(random.below(3)),
        };
        Self {
            connection: Some(random.below(4)),
            direction: *random.choose(&[Direction::ToServer, Direction::ToClient]),
            offset,
            action,
        }
    }
}

/// What was sent over one connection.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Sent by who connected.
    pub to_server: Vec<u8>,
    /// Sent by who listens.
    pub to_client: Vec<u8>,
}

impl Recorded {
    fn side(&mut self, direction: Direction) -> &mut Vec<u8> {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

/// Where a hop's server listens.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

#[derive(Default)]
struct Plan {
    faults: Vec<Fault>,
    connections: usize,
}

struct Shared {
    target: Mutex<Option<Target>>,
    plan: Mutex<Plan>,
    recording: Mutex<Vec<Arc<Mutex<Recorded>>>>,
    closed: AtomicBool,
    cut: watch::Sender<()>,
}

/// See the module.
pub struct Tap {
    name: String,
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tap({})", self.name)
    }
}

impl Tap {
    /// Between a Unix socket of its own and one that somebody else serves, now or later.
    #[must_use]
    pub fn unix(name: &str, listen: &Path, target: &Path) -> Self {
        let listener = UnixListener::bind(listen).unwrap();
        let shared = Shared::new(Some(Target::Unix(target.to_owned())));
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                while connections.try_join_next().is_some() {}
                connections.spawn(carry(Arc::clone(&accepting), stream));
            }
        });
        Self { name: name.to_owned(), shared, address: None, task }
    }

    /// Between a TCP port of its own and a target that is named later.
    pub async fn tcp(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::new(None);
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                while connections.try_join_next().is_some() {}
                stream.set_nodelay(true).unwrap();
                connections.spawn(carry(Arc::clone(&accepting), stream));
            }
        });
        Self { name: name.to_owned(), shared, address: Some(address), task }
    }

    /// Its own TCP address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("the tap is on a TCP hop")
    }

    /// Connections go there from now on.
    pub fn retarget(&self, target: Target) {
        *self.shared.target.lock().unwrap() = Some(target);
    }

    /// What goes wrong from now on. Connections are numbered anew.
    pub fn set_plan(&self, faults: Vec<Fault>) {
        *self.shared.plan.lock().unwrap() = Plan { faults, connections: 0 };
    }

    /// Ends every connection there is.
    pub fn cut(&self) {
        self.shared.cut.send_replace(());
    }

    /// While closed, a connection ends as soon as it is made. Closing ends those that there are.
    pub fn close(&self, closed: bool) {
        self.shared.closed.store(closed, Ordering::SeqCst);
        if closed {
            self.cut();
        }
    }

    /// What was sent so far, by connection.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.recording.lock().unwrap().iter().map(|connection| connection.lock().unwrap().clone()).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn new(target: Option<Target>) -> Arc<Self> {
        Arc::new(Self {
            target: Mutex::new(target),
            plan: Mutex::default(),
            recording: Mutex::default(),
            closed: AtomicBool::new(false),
            cut: watch::Sender::new(()),
        })
    }

    fn distorters(&self) -> (Distorter, Distorter) {
        let mut plan = self.plan.lock().unwrap();
        let number = plan.connections;
        plan.connections += 1;
        let of = |direction: Direction| {
            let ours = |fault: &&Fault| {
                fault.direction == direction && fault.connection.is_none_or(|connection| connection == number)
            };
            Distorter::new(plan.faults.iter().filter(ours).cloned().collect())
        };
        (of(Direction::ToServer), of(Direction::ToClient))
    }

    fn replayed(&self, number: usize, direction: Direction) -> Vec<u8> {
        let recording = self.recording.lock().unwrap();
        recording.get(number).map_or(Vec::new(), |recorded| recorded.lock().unwrap().side(direction).clone())
    }
}

/// One connection, from its beginning to its end.
async fn carry<S: AsyncRead + AsyncWrite>(shared: Arc<Shared>, client: S) {
    let mut cut = shared.cut.subscribe();
    if shared.closed.load(Ordering::SeqCst) {
        return;
    }
    let target = shared.target.lock().unwrap().clone();
    let (up, down) = shared.distorters();
    let recorded = Arc::new(Mutex::new(Recorded::default()));
    shared.recording.lock().unwrap().push(Arc::clone(&recorded));
    let (client_read, client_write) = tokio::io::split(client);
    let work = async {
        match target {
            None => {}
            Some(Target::Unix(path)) => {
                let Ok(server) = UnixStream::connect(path).await else { return };
                let (server_read, server_write) = tokio::io::split(server);
                both(
                    pump(client_read, server_write, up, Direction::ToServer, &shared, &recorded),
                    pump(server_read, client_write, down, Direction::ToClient, &shared, &recorded),
                )
                .await;
            }
            Some(Target::Tcp(address)) => {
                let Ok(server) = TcpStream::connect(address).await else { return };
                server.set_nodelay(true).unwrap();
                let (server_read, server_write) = tokio::io::split(server);
                both(
                    pump(client_read, server_write, up, Direction::ToServer, &shared, &recorded),
                    pump(server_read, client_write, down, Direction::ToClient, &shared, &recorded),
                )
                .await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = cut.changed() => {}
    }
}

/// Both directions to their ends, or until one says that the connection is over.
async fn both(up: impl Future<Output = Flow>, down: impl Future<Output = Flow>) {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        flow = &mut up => if flow == Flow::Goes { down.await; },
        flow = &mut down => if flow == Flow::Goes { up.await; },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// The other direction may go on.
    Goes,
    /// The connection is over.
    Over,
}

async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    mut distorter: Distorter,
    direction: Direction,
    shared: &Shared,
    recorded: &Mutex<Recorded>,
) -> Flow {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).await.unwrap_or(0);
        let bytes = &buffer[..count];
        {
            let mut recorded = recorded.lock().unwrap();
            let side = recorded.side(direction);
            let room = RECORDED_MAX.saturating_sub(side.len());
            side.extend(bytes.iter().take(room));
        }
        let steps = if count == 0 {
            distorter.end()
        } else {
            distorter.push(bytes, &|number| shared.replayed(number, direction))
        };
        for step in steps {
            let written = match step {
                Step::Write(bytes) => writer.write_all(&bytes).await,
                Step::Pause(duration) => {
                    tokio::time::sleep(duration).await;
                    Ok(())
                }
                Step::End => writer.shutdown().await,
                Step::Cut => return Flow::Over,
            };
            if written.is_err() {
                return Flow::Over;
            }
        }
        if count == 0 {
            return Flow::Goes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_and_are_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let (near, far) = (folder.path().join("near"), folder.path().join("far"));
        let server = UnixListener::bind(&far).unwrap();
        let tap = Tap::unix("test", &near, &far);
        for (plan, expected) in [(Vec::new(), b"ping"), (vec![flip(1)], b"phng")] {
            tap.set_plan(plan);
            let mut client = UnixStream::connect(&near).await.unwrap();
            client.write_all(b"ping").await.unwrap();
            let (mut stream, _) = server.accept().await.unwrap();
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, expected);
            stream.write_all(b"pong").await.unwrap();
            client.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"pong");
        }
        let recorded = tap.recorded();
        assert_eq!(recorded.len(), 2);
        assert!(recorded.iter().all(|both| both.to_server == b"ping" && both.to_client == b"pong"));
        tap.close(true);
        let mut client = UnixStream::connect(&near).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "a closed tap lets nothing through");
    }

    fn flip(offset: usize) -> Fault {
        Fault { connection: None, direction: Direction::ToServer, offset, action: Action::FlipBit(0) }
    }
}
