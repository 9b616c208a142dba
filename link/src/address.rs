//! Where a socket is: `vsock://CID:PORT`, `unix:///PATH` or `hybrid:///PATH:PORT`.
//!
//! Guarantees: an [`Address`] has exactly one spelling, and reading that spelling gives the same address.
//! Refuses: relative paths, paths that a Unix socket cannot have, characters that would need quoting, ports 0 and
//! 2³² − 1 (vsock(7): "any port"), numbers with signs or leading zeros.

use core::fmt::{self, Display};
use core::str::FromStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::limits::{ADDRESS_TEXT_MAX, SOCKET_PATH_MAX};

/// Where a socket of the link is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A vsock address (vsock(7)). CID 2 is the host, 2³² − 1 any (to listen at).
    Vsock {
        /// Context id of the machine.
        cid: u32,
        /// Port on it.
        port: u32,
    },
    /// A Unix stream socket.
    Unix {
        /// The socket's file.
        path: SocketPath,
    },
    /// The host's end of a virtual machine's vsock as Firecracker and vhost-device-vsock offer it. To connect: the Unix
    /// socket at the path, then `CONNECT PORT\n`, answered by `OK …\n`. To listen: the Unix socket at `PATH_PORT`.
    HybridUnix {
        /// The virtual machine monitor's socket file.
        path: SocketPath,
        /// The vsock port in the machine (to connect to) or of the host (to listen at).
        port: u32,
    },
}

/// A path that a Unix socket can have and that has one spelling in an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketPath(String);

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// None of the three forms.
    #[error("expected vsock://CID:PORT, unix:///PATH or hybrid:///PATH:PORT")]
    Form,
    /// The address is longer than any can be.
    #[error("longer than {ADDRESS_TEXT_MAX} bytes")]
    Length,
    /// Not a port.
    #[error("a port is a decimal number from 1 to 4294967294 without leading zeros")]
    Port,
    /// Not a context id.
    #[error("a vsock CID is a decimal number from 0 to 4294967295 without leading zeros")]
    Cid,
    /// Not a socket's path.
    #[error(
        "a socket's path is absolute, names a file and holds printable ASCII other than space, quotes, \\, %, ? and #"
    )]
    Path,
    /// Too long for a socket's path.
    #[error("a socket's path (in the hybrid form with _PORT) has at most {SOCKET_PATH_MAX} bytes")]
    PathLength,
}

impl SocketPath {
    fn new(path: &str) -> Result<Self, AddressError> {
        let printable =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b'%' | b'?' | b'#');
        if !path.starts_with('/') || path.ends_with('/') || !path.bytes().all(printable) {
            return Err(AddressError::Path);
        }
        if path.len() > SOCKET_PATH_MAX {
            return Err(AddressError::PathLength);
        }
        Ok(Self(path.to_owned()))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Address {
    /// The address of a Unix socket.
    ///
    /// # Errors
    /// When a socket cannot have that path, or the path would need quoting.
    pub fn unix(path: &Path) -> Result<Self, AddressError> {
        let path = SocketPath::new(path.to_str().ok_or(AddressError::Path)?)?;
        Ok(Self::Unix { path })
    }

    /// The address of a port behind a virtual machine monitor's Unix socket.
    ///
    /// # Errors
    /// When a socket cannot have that path, the path would need quoting, or the port is no port.
    pub fn hybrid(path: &Path, port: u32) -> Result<Self, AddressError> {
        let path = SocketPath::new(path.to_str().ok_or(AddressError::Path)?)?;
        check_port(port)?;
        SocketPath::new(&hybrid_listen_text(&path, port))?;
        Ok(Self::HybridUnix { path, port })
    }

    /// A vsock address.
    ///
    /// # Errors
    /// When the port is no port.
    pub fn vsock(cid: u32, port: u32) -> Result<Self, AddressError> {
        check_port(port)?;
        Ok(Self::Vsock { cid, port })
    }

    /// The file at which a listener of this address appears, if it has one.
    pub fn listen_path(&self) -> Option<PathBuf> {
        match self {
            Self::Vsock { .. } => None,
            Self::Unix { path } => Some(path.as_path().to_owned()),
            Self::HybridUnix { path, port } => Some(PathBuf::from(hybrid_listen_text(path, *port))),
        }
    }
}

fn hybrid_listen_text(path: &SocketPath, port: u32) -> String {
    format!("{}_{port}", path.0)
}

fn check_port(port: u32) -> Result<u32, AddressError> {
    if port == 0 || port == u32::MAX { Err(AddressError::Port) } else { Ok(port) }
}

/// Decimal digits without a sign or leading zeros; `str::parse` alone would take `+1` and `01`.
fn parse_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn parse_port(text: &str) -> Result<u32, AddressError> {
    check_port(parse_number(text).ok_or(AddressError::Port)?)
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_TEXT_MAX {
            return Err(AddressError::Length);
        }
        if let Some(rest) = text.strip_prefix("vsock://") {
            let (cid, port) = rest.split_once(':').ok_or(AddressError::Form)?;
            Self::vsock(parse_number(cid).ok_or(AddressError::Cid)?, parse_port(port)?)
        } else if let Some(path) = text.strip_prefix("unix://") {
            Self::unix(Path::new(path))
        } else if let Some(rest) = text.strip_prefix("hybrid://") {
            let (path, port) = rest.rsplit_once(':').ok_or(AddressError::Form)?;
            Self::hybrid(Path::new(path), parse_port(port)?)
        } else {
            Err(AddressError::Form)
        }
    }
}

impl Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(formatter, "vsock://{cid}:{port}"),
            Self::Unix { path } => write!(formatter, "unix://{}", path.0),
            Self::HybridUnix { path, port } => write!(formatter, "hybrid://{}:{port}", path.0),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_one_spelling_of_each_form() {
        for text in [
            "vsock://3:9001",
            "vsock://4294967295:1",
            "unix:///run/holdfast/control.sock",
            "unix:///a:b",
            "hybrid:///run/vm.sock:9001",
            "hybrid:///run/a:b:4294967294",
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn refuses_every_other_spelling() {
        use AddressError::{Cid, Form, Length, Path, PathLength, Port};
        let long = format!("unix:///{}", "a".repeat(SOCKET_PATH_MAX));
        let longest_hybrid = format!("hybrid:///{}:1", "a".repeat(SOCKET_PATH_MAX - 2));
        let endless = format!("unix:///{}", "a".repeat(ADDRESS_TEXT_MAX));
        for (text, expected) in [
            ("", Form),
            ("tcp://127.0.0.1:80", Form),
            ("/run/x.sock", Form),
            ("VSOCK://3:9001", Form),
            ("vsock://3", Form),
            ("vsock://:9001", Cid),
            ("vsock://+3:9001", Cid),
            ("vsock://03:9001", Cid),
            ("vsock://4294967296:9001", Cid),
            ("vsock://3:0", Port),
            ("vsock://3:4294967295", Port),
            ("vsock://3:09001", Port),
            ("vsock://3:9001/", Port),
            ("unix://", Path),
            ("unix:///", Path),
            ("unix://relative", Path),
            ("unix:///a b", Path),
            ("unix:///a%20b", Path),
            ("unix:///a\n", Path),
            ("unix:///caf\u{e9}", Path),
            ("hybrid:///run/vm.sock", Form),
            ("hybrid:///run/vm.sock:", Port),
            ("hybrid://vm.sock:9", Path),
            (long.as_str(), PathLength),
            (longest_hybrid.as_str(), PathLength),
            (endless.as_str(), Length),
        ] {
            assert_eq!(text.parse::<Address>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_hybrid_address_listens_beside_the_monitors_socket() {
        let address: Address = "hybrid:///run/vm.sock:52".parse().unwrap();
        assert_eq!(address.listen_path(), Some(PathBuf::from("/run/vm.sock_52")));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in any::<String>()) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }

        #[test]
        fn near_addresses_are_read_and_written_the_same(
            text in "(vsock|unix|hybrid)://[0-9/a-c:_.+ -]{0,24}(:[0-9]{1,6})?"
        ) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }

        #[test]
        fn addresses_round_trip_through_text_and_json(cid in any::<u32>(), port in 1..u32::MAX, path in "(/[a-z0-9._-]{1,8}){1,6}") {
            for address in [
                Address::vsock(cid, port).unwrap(),
                Address::unix(Path::new(&path)).unwrap(),
                Address::hybrid(Path::new(&path), port).unwrap(),
            ] {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address.clone()));
                let json = serde_json::to_string(&address).unwrap();
                prop_assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
            }
        }
    }
}
