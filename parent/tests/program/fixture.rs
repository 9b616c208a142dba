//! Starts the program in a folder of its own and speaks its protocols from the other side.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use holdfast_link::control::{Hello, Status, ToEnclave, ToParent, receive_configuration};
use holdfast_link::{Address, BootId, FrameReader, Listener, Stream, connect, write_frame};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Only so that a broken build fails instead of hanging.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// Waits for a future with a deadline.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it did not happen in time")
}

/// Waits until `question` says yes.
pub(crate) async fn until<F: Future<Output = bool>>(mut question: impl FnMut() -> F) {
    soon(async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// What differs from the usual configuration.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Lines for the top of the file.
    pub(crate) top: String,
    /// Lines for `[enclave]`.
    pub(crate) enclave: String,
    /// Lines for `[egress]`.
    pub(crate) egress: String,
    /// Lines for `[audit]`.
    pub(crate) audit: String,
}

/// The running program.
pub(crate) struct Parent {
    pub(crate) child: Child,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) listen: SocketAddr,
    pub(crate) ready_listen: SocketAddr,
}

pub(crate) const STATIC_CONFIGURATION: &str = "{ \"b\":1,\r\n\t\"a\" : \"\u{e9}\\u0000\" }\n\n";

/// Writes the files of a parent into `folder`.
pub(crate) fn write_files(folder: &Path, options: &Options) -> PathBuf {
    let Options { top, enclave, egress, audit } = options;
    let root = folder.display();
    std::fs::create_dir_all(folder.join("key-stores")).unwrap();
    std::fs::write(folder.join("static.json"), STATIC_CONFIGURATION).unwrap();
    let text = format!(
        "listen = \"127.0.0.1:0\"\nready_listen = \"127.0.0.1:0\"\nstatic_configuration = \"static.json\"\n\
         key_stores = \"key-stores\"\nports_file = \"ports.json\"\nlog_level = \"debug\"\n{top}\n\
         [enclave]\ningress = \"unix://{root}/ingress.sock\"\n{enclave}\n\
         [control]\nlisten = \"unix://{root}/control.sock\"\n\
         [egress]\nlisten = \"unix://{root}/egress.sock\"\n{egress}\n\
         [audit]\nlisten = \"unix://{root}/audit.sock\"\nfolder = \"audit\"\n{audit}\n"
    );
    let file = folder.join("parent.toml");
    std::fs::write(&file, text).unwrap();
    file
}

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_holdfast-parent"))
}

impl Parent {
    pub(crate) async fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = write_files(folder.path(), &options);
        Self::start_in(folder, &file).await
    }

    pub(crate) async fn start_in(folder: tempfile::TempDir, file: &Path) -> Self {
        Self::start_as(program(), folder, file).await
    }

    /// As a command that runs the program in its own process.
    pub(crate) async fn start_as(mut command: Command, folder: tempfile::TempDir, file: &Path) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child =
            command.arg("--config").arg(file).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        soon(output.read_line(&mut line)).await.unwrap();
        let field = |name: &str| -> SocketAddr {
            let start = line.find(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in {line:?}"));
            line[start..].split_whitespace().next().unwrap().split_once('=').unwrap().1.parse().unwrap()
        };
        let (listen, ready_listen) = (field("listen"), field("ready_listen"));
        Self { child, folder, listen, ready_listen }
    }

    pub(crate) fn address(&self, name: &str) -> Address {
        Address::unix(&self.folder.path().join(name)).unwrap()
    }

    /// Listens where the program expects the enclave.
    pub(crate) async fn enclave_ingress(&self) -> Listener {
        Listener::bind(&self.address("ingress.sock")).await.unwrap()
    }

    pub(crate) async fn client(&self) -> TcpStream {
        soon(TcpStream::connect(self.listen)).await.unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Sends a signal to this very process.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().expect("the program has ended already");
        let status = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon(self.child.wait()).await.unwrap()
    }

    pub(crate) async fn request(&self, text: &str) -> (u16, String) {
        let mut stream = soon(TcpStream::connect(self.ready_listen)).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A refused request may end in a reset; what came before it counts.
        let _ = soon(stream.read_to_end(&mut bytes)).await;
        let answer = String::from_utf8(bytes).unwrap();
        let status = answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
        (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    pub(crate) async fn page(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.request(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    pub(crate) async fn status(&self) -> Value {
        self.page("/status").await.1
    }

    /// Waits until a counter has a value.
    pub(crate) async fn counted(&self, name: &str, value: u64) {
        assert!(self.status().await["counters"][name].is_u64(), "no counter {name}");
        until(|| async { self.status().await["counters"][name] == value }).await;
    }

    pub(crate) async fn control(&self, boot_id: u8) -> Control {
        let mut control = self.silent_control().await;
        control.tell(&ToParent::Hello(Hello::new(BootId::from([boot_id; 16])))).await;
        control.static_configuration = soon(receive_configuration(&mut control.reader)).await.unwrap();
        control
    }

    /// A control connection that has not said anything.
    pub(crate) async fn silent_control(&self) -> Control {
        let (read, writer) = tokio::io::split(soon(connect(&self.address("control.sock"))).await.unwrap());
        Control { reader: FrameReader::new(read), writer, static_configuration: String::new() }
    }
}

/// The enclave's end of a control connection.
pub(crate) struct Control {
    pub(crate) reader: FrameReader<ReadHalf<Stream>>,
    pub(crate) writer: WriteHalf<Stream>,
    pub(crate) static_configuration: String,
}

impl Control {
    pub(crate) async fn tell(&mut self, message: &ToParent) {
        soon(write_frame(&mut self.writer, message)).await.unwrap();
    }

    pub(crate) async fn tell_ready(&mut self, ready: bool) {
        self.tell(&ToParent::Status(Status { ready, ..Status::default() })).await;
    }

    /// The next message, or `None` at the end or at a fault of the connection.
    pub(crate) async fn hear(&mut self) -> Option<ToEnclave> {
        soon(self.reader.next()).await.unwrap_or(None)
    }

    /// The manifests in the next message.
    pub(crate) async fn hear_manifests(&mut self) -> Vec<String> {
        match self.hear().await {
            Some(ToEnclave::KeyStores { manifests }) => {
                manifests.iter().map(|manifest| String::from_utf8(manifest.as_bytes().to_vec()).unwrap()).collect()
            }
            other => panic!("expected manifests, not {other:?}"),
        }
    }
}

/// Bytes without a pattern that a lost or doubled block could hide in.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        // xorshift64 (Marsaglia, 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) async fn read_all(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}
