//! `holdfast attest`

use core::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueHint};
use holdfast_shared::attestation::measurements::{PCR_LEN, pcr_from_hex};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::xks::HostName;

/// Where HTTPS is, unless the URL says otherwise.
const HTTPS_PORT: u16 = 443;

/// `holdfast attest`
#[derive(Debug, Args)]
pub struct AttestArguments {
    /// The endpoint that KMS calls, `https://HOST` or `https://HOST:PORT`, without the path
    #[arg(value_name = "URL")]
    pub url: HttpsUrl,
    /// Id of the key store that should be held there, learnt from its owner: the SHA-256 of its manifest
    #[arg(long, value_name = "ID")]
    pub key_store: KeyStoreId,
    /// Measurements that are accepted: what a build of the image wrote; or registers (PCR 0, 1, 2 and 16), one set or a list
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub measurements: PathBuf,
    /// The static configuration that the enclave should have: PCR 16, where the file is what a build of the image wrote
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub configuration: Option<PathBuf>,
    /// PCR 16 itself, instead of the static configuration
    #[arg(long, value_name = "HEX", conflicts_with = "configuration", value_parser = parse_pcr)]
    pub pcr16: Option<Pcr>,
    /// PEM file of the certificate authorities for the TLS certificate [default: those of this system]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
    /// Connect to this address instead of what the DNS says
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    pub resolve: Option<Resolution>,
    /// PEM file of an emulator's attestation root: the proof is then worth nothing but for development
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub trust_root: Option<PathBuf>,
}

/// A register as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcr(pub [u8; PCR_LEN]);

pub(super) fn parse_pcr(text: &str) -> Result<Pcr, String> {
    pcr_from_hex(text).map(Pcr).map_err(|error| error.to_string())
}

/// Host and port of an `https` URL without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsUrl {
    /// The host.
    pub host: HostName,
    /// The port.
    pub port: u16,
}

impl HttpsUrl {
    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            HTTPS_PORT => write!(f, "https://{}", self.host),
            port => write!(f, "https://{}:{port}", self.host),
        }
    }
}

impl FromStr for HttpsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected https://HOST or https://HOST:PORT, without a path";
        let authority = text.strip_prefix("https://").ok_or(EXPECTED)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or(EXPECTED)?),
            None => (authority, HTTPS_PORT),
        };
        let host = HostName::parse(host).map_err(|error| format!("{error}; {EXPECTED}"))?;
        Ok(Self { host, port })
    }
}

/// Which address a host and a port are to be reached at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Whose address it is: `host:port`, as [`HttpsUrl::address`] writes it.
    pub asked: String,
    /// Where it is.
    pub address: SocketAddr,
}

impl FromStr for Resolution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected HOST:PORT:ADDRESS, such as xks.example.com:443:192.0.2.7";
        let mut parts = text.splitn(3, ':');
        let (Some(host), Some(port), Some(address)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(EXPECTED.to_owned());
        };
        let host = HostName::parse(host).map_err(|_| EXPECTED)?;
        let port: u16 = port.parse().map_err(|_| EXPECTED)?;
        let address = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
        let address: IpAddr = address.parse().map_err(|_| EXPECTED)?;
        Ok(Self { asked: format!("{host}:{port}"), address: SocketAddr::new(address, port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_hosts_with_or_without_a_port() {
        let table = [
            ("https://xks.example.com", Some("xks.example.com:443")),
            ("https://xks.example.com/", Some("xks.example.com:443")),
            ("https://xks.example.com:8443", Some("xks.example.com:8443")),
            ("https://localhost:8443/", Some("localhost:8443")),
            ("http://xks.example.com", None),
            ("xks.example.com", None),
            ("https://", None),
            ("https://xks.example.com:", None),
            ("https://xks.example.com:0", None),
            ("https://xks.example.com:65536", None),
            ("https://xks.example.com/payments", None),
            ("https://xks.example.com//", None),
            ("https://user@xks.example.com", None),
            ("https://192.0.2.7", None),
            ("https://[2001:db8::7]", None),
        ];
        for (text, expected) in table {
            let read = text.parse::<HttpsUrl>().ok().map(|url| url.address());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn an_address_takes_the_place_of_the_dns() {
        let read = |text: &str| text.parse::<Resolution>().ok().map(|read| (read.asked, read.address.to_string()));
        let found = |asked: &str, address: &str| Some((asked.to_owned(), address.to_owned()));
        assert_eq!(read("a.example.com:443:192.0.2.7"), found("a.example.com:443", "192.0.2.7:443"));
        assert_eq!(read("a.example.com:443:::1"), found("a.example.com:443", "[::1]:443"));
        assert_eq!(read("a.example.com:443:[::1]"), found("a.example.com:443", "[::1]:443"));
        for bad in [
            "",
            "a.example.com",
            "a.example.com:443",
            "A.example.com:443:192.0.2.7",
            "a b:443:192.0.2.7",
            "a.example.com:x:192.0.2.7",
            "a.example.com:443:b.example.com",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
