//! The emulator as a process: one Unix socket for enclaves, one for its settings, one for virtual machines.
//!
//! Guarantees: **a connection is an enclave.** The first byte after connecting comes from an enclave that just booted, its
//! registers are its own, and they are gone when it hangs up; so a restarted enclave process starts from clean registers
//! like a restarted enclave. Assumes: whoever can open the sockets (mode 0600) may do anything here. Refuses: frames and
//! lines over their bounds, and more than [`CONNECTIONS_MAX`] enclaves at once.

use std::future::Future;
use std::path::{Path, PathBuf};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Response};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::NsmError;
use super::emulator::{EmulatedDevice, Emulator};
use super::root::EmulatedRoot;
use super::settings::{Settings, SettingsChange};
use super::signer::UNSIGNED_MAX;
use super::wire::{REQUEST_MAX, decode_request, encode_response};
use crate::unix_socket::{self, SocketFile};

/// Enclaves and control connections at once.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes of one line on the control socket.
pub const CONTROL_LINE_MAX: u64 = 64 * 1024;

/// Where the emulator listens and keeps its root.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NsmConfig {
    /// The socket for enclaves.
    pub socket: PathBuf,
    /// The socket for settings, if they may change.
    #[serde(default)]
    pub control_socket: Option<PathBuf>,
    /// The socket for virtual machines whose documents are to be signed, if there are any.
    #[serde(default)]
    pub signer_socket: Option<PathBuf>,
    /// The folder of the root, which must outlive restarts.
    pub state_folder: PathBuf,
    /// The settings to start with.
    #[serde(default)]
    pub settings: Settings,
}

/// The emulator's answer to one line on the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAnswer {
    /// The settings now in force.
    Settings(Settings),
    /// Why nothing changed.
    Error(String),
}

/// An emulator that listens.
pub struct NsmServer {
    emulator: Emulator,
    enclaves: Socket,
    control: Option<Socket>,
    signer: Option<Socket>,
}

/// A listening socket whose file goes with it.
struct Socket {
    listener: UnixListener,
    _file: SocketFile,
}

/// Runs an emulator until `shutdown` is ready.
///
/// # Errors
/// It could not start.
pub async fn serve(config: NsmConfig, shutdown: impl Future<Output = ()> + Send) -> Result<(), NsmError> {
    NsmServer::bind(config)?.run(shutdown).await;
    Ok(())
}

impl NsmServer {
    /// Loads the root, or makes it, and listens.
    ///
    /// # Errors
    /// The root or a socket cannot be had, or a setting is refused.
    pub fn bind(config: NsmConfig) -> Result<Self, NsmError> {
        let root = EmulatedRoot::load_or_create(&config.state_folder)?;
        Ok(Self {
            emulator: Emulator::new(root, config.settings)?,
            enclaves: bind(&config.socket)?,
            control: config.control_socket.as_deref().map(bind).transpose()?,
            signer: config.signer_socket.as_deref().map(bind).transpose()?,
        })
    }

    /// The emulator behind the sockets.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// Serves until `shutdown` is ready. Enclaves that are connected then lose their device.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(_ended) = connections.join_next() => {}
                stream = accept(Some(&self.enclaves)), if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve_enclave(stream, self.emulator.boot()));
                }
                stream = accept(self.control.as_ref()), if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve_control(stream, self.emulator.clone()));
                }
                stream = accept(self.signer.as_ref()), if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve_machine(stream, self.emulator.clone()));
                }
            }
        }
    }
}

/// The next connection, if there is a socket at all.
async fn accept(socket: Option<&Socket>) -> UnixStream {
    loop {
        match socket {
            None => std::future::pending().await,
            Some(socket) => match socket.listener.accept().await {
                Ok((stream, _)) => return stream,
                // Out of descriptors, or the peer is gone already.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            },
        }
    }
}

/// One enclave's life. A socket error is the enclave's end, like any other.
async fn serve_enclave(mut stream: UnixStream, mut device: EmulatedDevice) {
    while let Ok(length) = stream.read_u32().await {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > REQUEST_MAX {
            // The rest cannot be skipped without reading it, so this is also goodbye.
            let refusal = encode_response(&Response::Error(ErrorCode::InputTooLarge));
            let _ = stream.write_all(&refusal).await;
            return;
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let answer = match decode_request(&body) {
            Ok(request) => device.answer(request),
            Err(code) => Some(Response::Error(code)),
        };
        let Some(answer) = answer else { return };
        if stream.write_all(&encode_response(&answer)).await.is_err() {
            return;
        }
    }
}

/// One document of a virtual machine, and the signed one in its place: each with its length before it, in four bytes. A document
/// that is refused gets no answer.
async fn serve_machine(mut stream: UnixStream, emulator: Emulator) {
    let Ok(length) = stream.read_u32().await else { return };
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= UNSIGNED_MAX) else { return };
    let mut document = vec![0; length];
    if stream.read_exact(&mut document).await.is_err() {
        return;
    }
    let Ok(signed) = emulator.sign(&document) else { return };
    let Ok(length) = u32::try_from(signed.len()) else { return };
    // A machine that is gone needs no document.
    let _ = stream.write_all(&[&length.to_be_bytes(), signed.as_slice()].concat()).await;
}

/// Settings, a line each way.
async fn serve_control(mut stream: UnixStream, emulator: Emulator) {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(CONTROL_LINE_MAX).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) || line.last() != Some(&b'\n') {
            return;
        }
        let answer = match serde_json::from_slice::<SettingsChange>(&line) {
            Ok(change) => match emulator.change(change) {
                Ok(settings) => ControlAnswer::Settings(settings),
                Err(error) => ControlAnswer::Error(error.to_string()),
            },
            Err(error) => ControlAnswer::Error(error.to_string()),
        };
        let mut answer = serde_json::to_vec(&answer).unwrap_or_default();
        answer.push(b'\n');
        if writer.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Listens on a path, in place of a socket that an earlier process left there.
fn bind(path: &Path) -> Result<Socket, NsmError> {
    let (listener, file) = unix_socket::bind(path)?;
    let listener = UnixListener::from_std(listener).map_err(NsmError::at(path))?;
    Ok(Socket { listener, _file: file })
}
