//! A DNS resolver that knows one name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// Types of address records, and of one that says who may issue certificates.
const A: u16 = 1;
const AAAA: u16 = 28;
const CAA: u16 = 257;
/// Where the question starts, and what follows its name.
const QUESTION: usize = 12;
const TYPE_AND_CLASS: usize = 4;
/// The bit in the third byte that says that the answer did not fit.
const TRUNCATED: u8 = 2;

/// What a resolver knows of the name.
#[derive(Clone, Copy, Debug)]
pub struct Zone {
    /// Its address, if it has one.
    pub address: Option<IpAddr>,
    /// Values of its CAA records with the tag `issue`.
    pub caa: &'static [&'static str],
    /// Whether answers over UDP are cut, and only those over TCP whole.
    pub is_cut: bool,
}

impl Zone {
    /// This machine, with these CAA records.
    #[must_use]
    pub const fn here(caa: &'static [&'static str]) -> Self {
        Self { address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), caa, is_cut: false }
    }
}

/// See the module. Ends when dropped.
pub struct Resolver {
    /// Where it listens, over UDP and TCP.
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Answers for `name` with what the zone says, for others with nothing.
    pub async fn start(name: &'static str, zone: Zone) -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut query).await {
                let mut answer = answer(&query[..length], name, zone);
                if zone.is_cut {
                    answer[2] |= TRUNCATED;
                    answer.truncate(end_of_question(&answer));
                    answer[7] = 0;
                }
                let _ = udp.send_to(&answer, from).await;
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let answer = answer(&query, name, zone);
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Self { address, _tasks: tasks }
    }
}

/// Both at one port.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // Somebody else may have the port over TCP.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

fn end_of_question(message: &[u8]) -> usize {
    QUESTION + message[QUESTION..].iter().position(|byte| *byte == 0).unwrap() + 1 + TYPE_AND_CLASS
}

fn answer(query: &[u8], name: &str, zone: Zone) -> Vec<u8> {
    let end = end_of_question(query) - TYPE_AND_CLASS;
    let asked: String =
        query[QUESTION..end].iter().map(|byte| if *byte < b'!' { '.' } else { char::from(*byte) }).collect();
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let records: Vec<Vec<u8>> = match kind {
        _ if asked.trim_matches('.') != name => Vec::new(),
        A | AAAA => match zone.address {
            Some(IpAddr::V4(address)) if kind == A => vec![address.octets().to_vec()],
            Some(IpAddr::V6(address)) if kind == AAAA => vec![address.octets().to_vec()],
            _ => Vec::new(),
        },
        CAA => zone.caa.iter().map(|value| [b"\x00\x05issue", value.as_bytes()].concat()).collect(),
        _ => Vec::new(),
    };
    let mut out = query[..end + TYPE_AND_CLASS].to_vec();
    out[2..4].copy_from_slice(&[0x81, 0x80]);
    out[6..12].copy_from_slice(&[0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
    for record in records {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        out.extend(record);
    }
    out
}
