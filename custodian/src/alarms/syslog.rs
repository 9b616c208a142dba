//! Syslog: messages of RFC 5424, by Unix datagram, UDP (RFC 5426) or TCP with octet counting (RFC 6587, section 3.4.1).
//!
//! Guarantees: a message has at most some 2,000 bytes, whatever callers are called. Assumes: a receiver that says nothing has it. What
//! can be known is: over TCP, that the receiver took the connection and did not break it off; over UDP, that nobody said at once that
//! nothing listens there; on this machine, that the socket took it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, lookup_host};

use super::DeliveryError;
use super::message::Message;
use crate::config::{SyslogAddress, SyslogConfig};
use crate::kek::words;

/// `warning` (RFC 5424, table 2).
const SEVERITY: u16 = 4;
/// How long to wait for word that nothing listens.
const REFUSAL_WAIT: Duration = Duration::from_millis(200);
/// How long to wait until the receiver closes its side too.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Syslog {
    address: SyslogAddress,
    priority: u16,
    host: String,
}

impl Syslog {
    pub(super) fn new(config: &SyslogConfig, host: &str) -> Self {
        let priority = u16::from(config.facility).saturating_mul(8).saturating_add(SEVERITY);
        Self { address: config.address.clone(), priority, host: host.to_owned() }
    }

    pub(super) async fn send(&self, message: &Message) -> Result<(), DeliveryError> {
        let line = self.line(&message.short());
        let sent = match &self.address {
            SyslogAddress::Unix(path) => to_socket(path, &line).await,
            SyslogAddress::Udp(address) => by_datagram(address, &line).await,
            SyslogAddress::Tcp(address) => by_stream(address, &line).await,
        };
        sent.map_err(|error| DeliveryError::Failed(format!("cannot send: {}", words(&error.to_string(), 200))))
    }

    /// `PRI VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG` (RFC 5424, section 6).
    fn line(&self, message: &Message) -> Vec<u8> {
        let (Self { priority, host, .. }, Message { at, kind, .. }) = (self, message);
        let mut line = format!("<{priority}>1 {at} {host} holdfast-custodian - {kind} - ").into_bytes();
        line.extend(message.json());
        line
    }
}

async fn to_socket(path: &Path, line: &[u8]) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(line, path).await.map(drop)
}

async fn by_datagram(address: &str, line: &[u8]) -> io::Result<()> {
    let receiver = lookup_host(address).await?.next().ok_or(io::ErrorKind::NotFound)?;
    let own = match receiver {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(receiver).await?;
    socket.send(line).await?;
    match tokio::time::timeout(REFUSAL_WAIT, socket.recv(&mut [0; 1])).await {
        Ok(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

async fn by_stream(address: &str, line: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut frame = format!("{} ", line.len()).into_bytes();
    frame.extend(line);
    stream.write_all(&frame).await?;
    stream.shutdown().await?;
    tokio::time::timeout(CLOSE_WAIT, until_closed(&mut stream)).await.unwrap_or(Ok(()))
}

/// Receivers have nothing to say; what they say all the same is thrown away.
async fn until_closed(stream: &mut TcpStream) -> io::Result<()> {
    let mut thrown_away = [0; 256];
    while stream.read(&mut thrown_away).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_of_rfc_5424() {
        for (facility, priority) in [(10, 84), (16, 132), (0, 4), (23, 188)] {
            let address = SyslogAddress::Udp("127.0.0.1:514".to_owned());
            let syslog =
                Syslog::new(&SyslogConfig { name: address.to_string(), address, facility }, "vault-1.example.com");
            let message = Message::test("vault-1", 1_700_000_000_123);
            let line = String::from_utf8(syslog.line(&message)).unwrap();
            let expected = format!(
                "<{priority}>1 2023-11-14T22:13:20.123Z vault-1.example.com holdfast-custodian - test - {{\"id\":0,"
            );
            assert!(line.starts_with(&expected), "{line}");
            assert!(line.ends_with('}') && line.is_ascii());
        }
    }
}
