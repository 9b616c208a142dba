//! How keys on servers, and receivers of alarms, are reached: one TLS connection for each call.
//!
//! Guarantees: TLS 1.2 or 1.3 to a certificate under the configured roots; no session is kept, so that no answer can be taken
//! for that of another call; a few connections at a time. Assumes: the caller keeps the time. Refuses: connections without
//! TLS to anything but a loopback address. What servers say is shown as short printable text, whatever they say.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::TlsConnector;

use super::KekError;
use crate::state;

/// Connections at once. A release needs one for some milliseconds; more would only queue at the server.
const CONNECTIONS_MAX: usize = 8;
/// Bytes of a file with certificates: some dozens of them, or all roots of an operating system, which have some 250 KiB.
const CERTIFICATES_MAX: u64 = 1024 * 1024;

/// A byte stream to the server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, and the turn that it takes.
pub(crate) struct Connection<'a> {
    pub(crate) stream: Box<dyn Stream>,
    /// Held for as long as the stream is used.
    pub(crate) turn: SemaphorePermit<'a>,
}

/// A server: where it is, and what it must prove.
pub(crate) struct Endpoint {
    address: String,
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    turns: Semaphore,
}

/// What we prove to the server: files with a certificate and its key.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) certificate: &'a Path,
    pub(crate) private_key: &'a Path,
}

impl Endpoint {
    /// A server behind TLS at `host:port`.
    ///
    /// # Errors
    /// [`KekError::Misconfigured`] and [`KekError::File`], for files that cannot be used.
    pub(crate) fn tls(address: &str, roots: &Path, identity: Option<Identity<'_>>) -> Result<Self, KekError> {
        let mut store = RootCertStore::empty();
        for root in certificates(roots)? {
            store.add(root).map_err(|error| bad_file(roots, &error.to_string()))?;
        }
        Self::under(address, store, roots, identity)
    }

    /// The same, under those roots of an operating system's file that can be read: one that cannot is nobody's fault here.
    ///
    /// # Errors
    /// [`KekError::Misconfigured`], for a file without any.
    pub(crate) fn tls_under_system_roots(address: &str, roots: &Path) -> Result<Self, KekError> {
        let bytes = certificate_file(roots)?;
        let mut store = RootCertStore::empty();
        let found = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok);
        let (_, unreadable) = store.add_parsable_certificates(found);
        if store.is_empty() {
            return Err(bad_file(roots, "it holds no certificate in PEM that can be read"));
        }
        if unreadable > 0 {
            tracing::warn!(file = %roots.display(), unreadable, "some of the operating system's roots cannot be read");
        }
        Self::under(address, store, roots, None)
    }

    fn under(
        address: &str,
        store: RootCertStore,
        roots: &Path,
        identity: Option<Identity<'_>>,
    ) -> Result<Self, KekError> {
        let (host, _) = split(address).ok_or_else(|| unusable(address))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| unusable(address))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad_file(roots, &error.to_string()))?
            .with_root_certificates(store);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, private_key }) => {
                let chain = certificates(certificate)?;
                let key = state::read_private(private_key)?;
                let key = PrivateKeyDer::from_pem_slice(key.expose())
                    .map_err(|_| bad_file(private_key, "it holds no private key in PEM"))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| bad_file(certificate, &error.to_string()))?
            }
        };
        config.resumption = Resumption::disabled();
        Ok(Self::new(address, Some((name, Arc::new(config)))))
    }

    /// A server without TLS, such as an agent on the same machine.
    ///
    /// # Errors
    /// [`KekError::Misconfigured`] when it is not at a loopback address, by number.
    pub(crate) fn loopback(address: &str) -> Result<Self, KekError> {
        let (host, _) = split(address).ok_or_else(|| unusable(address))?;
        // `localhost` is a name like others: who answers for it is for the resolver to say.
        let ip: Option<IpAddr> = host.parse().ok();
        if !ip.is_some_and(|ip| ip.is_loopback()) {
            return Err(KekError::Misconfigured {
                what: format!("http:// is refused for {host}, since everybody on the way would see the shares"),
                remedy: "use https://, or http:// and 127.0.0.1 or [::1] for an agent on this machine".to_owned(),
            });
        }
        Ok(Self::new(address, None))
    }

    fn new(address: &str, tls: Option<(ServerName<'static>, Arc<ClientConfig>)>) -> Self {
        Self { address: address.to_owned(), tls, turns: Semaphore::new(CONNECTIONS_MAX) }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Connects.
    ///
    /// # Errors
    /// [`KekError::Unavailable`].
    pub(crate) async fn connect(&self) -> Result<Connection<'_>, KekError> {
        let turn = self.turns.acquire().await.map_err(|_| self.unavailable("no more calls are made", "restart"))?;
        let tcp = TcpStream::connect(&self.address).await.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let tcp = tcp.map_err(|error| {
            self.unavailable(
                &format!("cannot connect: {error}"),
                "see that the server runs and can be reached from here",
            )
        })?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some((name, config)) => {
                let tls = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await;
                Box::new(tls.map_err(|error| {
                    let remedy = "check the configured roots and the server's certificate, and ours where it wants one";
                    self.unavailable(&format!("TLS failed: {}", words(&error.to_string(), 200)), remedy)
                })?)
            }
        };
        Ok(Connection { stream, turn })
    }

    /// The server cannot be used for now.
    pub(super) fn unavailable(&self, what: &str, remedy: &str) -> KekError {
        KekError::Unavailable { what: format!("{}: {what}", self.address), remedy: remedy.to_owned() }
    }
}

/// Host, without the brackets of an IPv6 address, and port.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

fn unusable(address: &str) -> KekError {
    KekError::Misconfigured {
        what: format!("{address} is no host and port"),
        remedy: "name the server as host:port, such as vault.example.com:8200".to_owned(),
    }
}

fn bad_file(file: &Path, reason: &str) -> KekError {
    KekError::Misconfigured {
        what: format!("{}: {reason}", file.display()),
        remedy: "name a PEM file with what belongs there".to_owned(),
    }
}

fn certificate_file(file: &Path) -> Result<Vec<u8>, KekError> {
    let length = fs::metadata(file).map_err(|error| bad_file(file, &error.to_string()))?.len();
    if length > CERTIFICATES_MAX {
        return Err(bad_file(file, &format!("it is longer than {CERTIFICATES_MAX} bytes")));
    }
    fs::read(file).map_err(|error| bad_file(file, &error.to_string()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, KekError> {
    let bytes = certificate_file(file)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_file(file, &error.to_string()))?;
    if found.is_empty() { Err(bad_file(file, "it holds no certificate in PEM")) } else { Ok(found) }
}

/// What somebody else said, fit for a log: printable ASCII on one line, `max` characters at most.
pub(crate) fn words(text: &str, max: usize) -> String {
    let printable = text.chars().map(|character| match character {
        ' '..='~' => character,
        _ => ' ',
    });
    let line: String = printable.take(max).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_to_this_machine() {
        for address in ["127.0.0.1:8200", "127.8.8.8:1", "[::1]:8200"] {
            assert_eq!(Endpoint::loopback(address).unwrap().address(), address);
        }
        for address in ["localhost:8200", "10.0.0.1:8200", "0.0.0.0:8200", "vault.example.com:8200", "[::]:1", "::1"] {
            let error = Endpoint::loopback(address).err().unwrap();
            assert!(matches!(error, KekError::Misconfigured { .. }), "{address}: {error}");
        }
    }

    #[test]
    fn what_servers_say_is_one_short_line() {
        let table =
            [("1 error occurred:\n\t* denied\n\n", "1 error occurred: * denied"), ("\u{1b}[31mred\u{202e}", "[31mred")];
        for (said, shown) in table {
            assert_eq!(words(said, 200), shown);
        }
        assert_eq!(words(&"x".repeat(1000), 10), "x".repeat(10));
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("roots.pem");
        let refused = || Endpoint::tls("localhost:1", &file, None).err().unwrap().to_string();
        assert!(refused().contains("roots.pem"), "{}", refused());
        fs::write(&file, "nothing").unwrap();
        assert!(refused().contains("holds no certificate"), "{}", refused());
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&file, garbage).unwrap();
        assert!(refused().contains("roots.pem"), "{}", refused());
    }

    #[test]
    fn of_the_operating_systems_roots_those_count_that_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("roots.pem");
        let key = rcgen::KeyPair::generate().unwrap();
        let good = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let block = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let (no_base64, no_certificate) = (block("!!!!"), block("AAAA"));
        for (text, taken) in [
            (format!("{no_base64}{no_certificate}{good}"), true),
            (format!("{good}{no_base64}{no_certificate}"), true),
            (format!("{good}-----BEGIN CERTIFICATE-----\nAAAA"), true),
            (format!("{no_base64}{no_certificate}"), false),
            (String::new(), false),
        ] {
            fs::write(&file, &text).unwrap();
            assert_eq!(Endpoint::tls_under_system_roots("localhost:1", &file).is_ok(), taken, "{text}");
            assert!(
                Endpoint::tls("localhost:1", &file, None).is_err(),
                "a file that is named is taken whole or not at all"
            );
        }
    }
}
