//! The enclave's side of the emulator: blocking calls on a Unix socket.
//!
//! Guarantees: every call ends within [`TIMEOUT`] per read or write; whatever goes wrong with the socket is an internal
//! error of the device, as AWS's driver reports it. Assumes: one connection is one enclave, so the registers are lost
//! with it; a connection that broke is never opened again.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use holdfast_enclave::nsm::NsmDevice;

use super::NsmError;
use super::emulator::EmulatedDevice;
use super::server::{CONTROL_LINE_MAX, ControlAnswer};
use super::settings::{Settings, SettingsChange};
use super::wire::{RESPONSE_MAX, decode_response, encode_request};

/// Longest wait for the emulator, per read or write.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The emulator, seen from one enclave.
pub struct EmulatedNsm {
    /// `None` once the connection broke.
    stream: Option<UnixStream>,
}

impl EmulatedNsm {
    /// Starts an enclave's life at the emulator on this socket.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> std::io::Result<Self> {
        Ok(Self { stream: Some(connect(path)?) })
    }

    /// Carries out one request.
    pub fn process_request(&mut self, request: &Request) -> Response {
        let frame = match encode_request(request) {
            Ok(frame) => frame,
            Err(code) => return Response::Error(code),
        };
        let answer = self.stream.as_mut().and_then(|stream| exchange(stream, &frame).ok());
        answer.unwrap_or_else(|| {
            self.stream = None;
            Response::Error(ErrorCode::InternalError)
        })
    }
}

impl NsmDevice for EmulatedNsm {
    fn process_request(&mut self, request: Request) -> Response {
        Self::process_request(self, &request)
    }
}

impl NsmDevice for EmulatedDevice {
    fn process_request(&mut self, request: Request) -> Response {
        Self::process_request(self, request)
    }
}

/// Changes settings through the emulator's control socket.
///
/// # Errors
/// Nobody listens there, or the change is refused.
pub fn change_settings(path: &Path, change: &SettingsChange) -> Result<Settings, NsmError> {
    let mut stream = connect(path).map_err(NsmError::at(path))?;
    let mut line = serde_json::to_string(change).map_err(|_| NsmError::Control)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(NsmError::at(path))?;
    let mut answer = String::new();
    let mut limited = BufReader::new(stream).take(CONTROL_LINE_MAX);
    limited.read_line(&mut answer).map_err(NsmError::at(path))?;
    match serde_json::from_str(&answer).map_err(|_| NsmError::Control)? {
        ControlAnswer::Settings(settings) => Ok(settings),
        ControlAnswer::Error(error) => Err(NsmError::Refused(error)),
    }
}

fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn exchange(stream: &mut UnixStream, frame: &[u8]) -> std::io::Result<Response> {
    stream.write_all(frame)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > RESPONSE_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(decode_response(&body))
}
