//! A DNS resolver that knows one name.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Type of an address record, and of one that says who may issue certificates.
const A: u16 = 1;
const CAA: u16 = 257;
/// Where the question starts, and what follows its name.
const QUESTION: usize = 12;
const TYPE_AND_CLASS: usize = 4;

/// See the module. Ends when dropped.
pub struct Resolver {
    /// Where it listens, over UDP.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolver {
    /// Answers for `name` with this machine's address, if it `is_there`, and with CAA records of these values.
    pub async fn start(name: &'static str, is_there: bool, caa: &'static [&'static str]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let answer = answer(&query[..length], name, is_there, caa);
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Self { address, task }
    }
}

fn answer(query: &[u8], name: &str, is_there: bool, caa: &[&str]) -> Vec<u8> {
    let end = QUESTION + query[QUESTION..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let asked: String =
        query[QUESTION..end].iter().map(|byte| if *byte < b'!' { '.' } else { char::from(*byte) }).collect();
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let records: Vec<Vec<u8>> = match kind {
        _ if asked.trim_matches('.') != name => Vec::new(),
        A if is_there => vec![vec![127, 0, 0, 1]],
        CAA => caa.iter().map(|value| [b"\x00\x05issue", value.as_bytes()].concat()).collect(),
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
