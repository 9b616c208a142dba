//! The servers that are started for comparison.
//!
//! Guarantees: each ends with this process, however that ends: it reads from a pipe that closes with us.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName};

use super::cpu::pinned;
use super::server::HOST_NAME;
use super::target::{Door, Target, parse_place};
use super::wire::Place;

/// A `holdfast-dev load-server`.
pub(super) struct ServerChild {
    child: Child,
    pub(super) place: Place,
    certificate: Vec<u8>,
}

impl ServerChild {
    /// One that answers with so many bytes.
    pub(super) fn bare(listen: &Place, answer_bytes: usize, cores: &[usize]) -> io::Result<Self> {
        let arguments = [
            "bare".to_owned(),
            "--listen".to_owned(),
            listen.to_string(),
            "--answer-bytes".to_owned(),
            answer_bytes.to_string(),
        ];
        Self::start(&arguments, cores)
    }

    /// One that carries connections elsewhere.
    pub(super) fn relay(to: &Place, cores: &[usize]) -> io::Result<Self> {
        let arguments =
            ["relay".to_owned(), "--listen".to_owned(), any_port().to_string(), "--to".to_owned(), to.to_string()];
        Self::start(&arguments, cores)
    }

    fn start(arguments: &[String], cores: &[usize]) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load-server").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        // It inherits the processors of the thread that starts it, and makes as many threads as it has processors.
        let child = pinned(cores, || command.spawn())??;
        let mut server = Self { child, place: any_port(), certificate: Vec::new() };
        let mut line = String::new();
        if let Some(out) = server.child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let not_up = || io::Error::other("a load-server does not come up");
        let (address, certificate) = line.trim_end_matches('\n').split_once(' ').ok_or_else(not_up)?;
        server.place = parse_place(address).map_err(io::Error::other)?;
        server.certificate = hex::decode(certificate).map_err(io::Error::other)?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It as a target, reached at `place`, which may be a relay before it.
    pub(super) fn target(&self, name: &str, place: &Place) -> io::Result<Target> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.certificate.as_slice())).map_err(io::Error::other)?;
        let server_name = ServerName::try_from(HOST_NAME).map_err(io::Error::other)?;
        let door = Door { place: place.clone(), server_name, authority: HOST_NAME.to_owned(), roots: Arc::new(roots) };
        Ok(Target { name: name.to_owned(), door, sites: Vec::new(), state: None })
    }
}

impl Drop for ServerChild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port of this machine.
pub(super) fn any_port() -> Place {
    Place::Tcp("127.0.0.1:0".to_owned())
}
