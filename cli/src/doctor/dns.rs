//! One question to a DNS resolver (RFC 1035), for the types that an operating system's own resolver does not answer.
//!
//! Guarantees: records, and their absence, are those of an answer to the question, by its number and by the question in it, from the
//! address that was asked; every length in it is checked, and pointers in names lead nowhere. Assumes: the resolver recurses, and is
//! believed. Refuses: more than [`RECORDS_MAX`] records, and names of more than `LABELS_MAX` labels.

use core::net::{IpAddr, SocketAddr};
use std::io;
use std::time::Duration;

use holdfast_client::{Connect as _, Tcp};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

/// Bytes that fit into one packet everywhere (DNS flag day 2020).
const UDP_MAX: usize = 1232;
/// Bytes of an answer over TCP that is read.
const TCP_MAX: usize = 16 * 1024;
/// Records of an answer that are read.
pub const RECORDS_MAX: u16 = 64;
/// Labels of a name, with the one at its end: more do not fit into its 255 bytes (RFC 1035, section 2.3.4).
const LABELS_MAX: u8 = 128;
/// Bytes of a header.
const HEADER: usize = 12;
/// The internet's class.
const IN: u16 = 1;

/// Types of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An IPv4 address.
    A,
    /// An IPv6 address (RFC 3596).
    Aaaa,
    /// Who may issue certificates (RFC 8659).
    Caa,
}

impl Type {
    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Caa => 257,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The network.
    #[error("the resolver is not reached: {0}")]
    Io(#[from] io::Error),
    /// Nothing came in time.
    #[error("the resolver does not answer")]
    Timeout,
    /// What came is no answer to the question.
    #[error("the resolver's answer is malformed")]
    Malformed,
    /// What came says that there is no answer.
    #[error("the resolver fails with code {0}")]
    Failed(u8),
    /// It has no place in a question.
    #[error("the name cannot be asked for")]
    Name,
}

/// Asks `resolver` for the records of `kind`; none if there are none, or no such name.
pub(super) async fn ask(
    resolver: SocketAddr,
    name: &str,
    kind: Type,
    timeout: Duration,
) -> Result<Vec<Vec<u8>>, DnsError> {
    let mut id = [0; 2];
    SystemRandom::new().fill(&mut id).map_err(|_| io::Error::other("no randomness"))?;
    let query = query(id, name, kind).ok_or(DnsError::Name)?;
    let asking = async {
        let answer = over_udp(resolver, &query).await?;
        let is_cut = answer.get(2).is_some_and(|flags| flags & 2 != 0);
        let answer = if is_cut { over_tcp(resolver, &query).await? } else { answer };
        read(&answer, &query, kind)
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or(Err(DnsError::Timeout))
}

async fn over_udp(resolver: SocketAddr, query: &[u8]) -> Result<Vec<u8>, DnsError> {
    let any = if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if answer.get(..2) == query.get(..2) {
            return Ok(answer.to_vec());
        }
    }
}

async fn over_tcp(resolver: SocketAddr, query: &[u8]) -> Result<Vec<u8>, DnsError> {
    let mut stream = Tcp.connect(&resolver.to_string()).await?;
    let length = u16::try_from(query.len()).map_err(|_| DnsError::Name)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    if length > TCP_MAX {
        return Err(DnsError::Malformed);
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Header, question, and the record that admits longer answers (RFC 6891); nothing for a name that is none.
#[must_use]
pub fn query(id: [u8; 2], name: &str, kind: Type) -> Option<Vec<u8>> {
    let mut out = id.to_vec();
    // Recursion desired; one question; one additional record.
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        out.push(length);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(kind.number().to_be_bytes());
    out.extend(IN.to_be_bytes());
    // The root's name, type OPT, the bytes that we take, no flags, no options.
    out.extend([0, 0, 41]);
    out.extend(u16::try_from(UDP_MAX).ok()?.to_be_bytes());
    out.extend([0; 6]);
    Some(out)
}

/// The data of each record of `kind` in the answer to `query`; none if there are none, or no such name.
///
/// # Errors
/// [`DnsError::Malformed`] and [`DnsError::Failed`].
pub fn read(answer: &[u8], query: &[u8], kind: Type) -> Result<Vec<Vec<u8>>, DnsError> {
    const NO_SUCH_NAME: u8 = 3;
    let (Some(head), Some(flags)) = (answer.get(..HEADER), answer.get(2..4)) else { return Err(DnsError::Malformed) };
    if head.get(..2) != query.get(..2) || flags.first().is_none_or(|flags| flags & 0x80 == 0) {
        return Err(DnsError::Malformed);
    }
    let code = flags.last().map_or(0, |flags| flags & 0x0f);
    if !matches!(code, 0 | NO_SUCH_NAME) {
        // Who does not understand a question need not repeat it.
        return Err(DnsError::Failed(code));
    }
    let mut cursor = Cursor { bytes: answer, at: 4 };
    let records = cursor.question(query).ok_or(DnsError::Malformed)?;
    if code == NO_SUCH_NAME {
        return Ok(Vec::new());
    }
    cursor.records(records, kind).ok_or(DnsError::Malformed)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// Goes past a name; where a pointer leads is of no interest.
    fn skip_name(&mut self) -> Option<()> {
        for _ in 0..LABELS_MAX {
            match *self.take(1)?.first()? {
                0 => return Some(()),
                length @ 1..=63 => drop(self.take(usize::from(length))?),
                0xc0.. => return self.take(1).map(drop),
                _ => return None,
            }
        }
        None
    }

    /// Goes past the question, which must be the one that was asked: how many records follow.
    fn question(&mut self, query: &[u8]) -> Option<u16> {
        let (questions, records) = (self.number()?, self.number()?);
        if questions != 1 || records > RECORDS_MAX {
            return None;
        }
        self.at = HEADER;
        self.skip_name()?;
        self.take(4)?;
        let question = self.bytes.get(HEADER..self.at)?;
        query.get(HEADER..self.at)?.eq_ignore_ascii_case(question).then_some(records)
    }

    fn records(&mut self, count: u16, kind: Type) -> Option<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        for _ in 0..count {
            self.skip_name()?;
            let (number, class) = (self.number()?, self.number()?);
            self.take(4)?;
            let length = usize::from(self.number()?);
            let data = self.take(length)?;
            if (number, class) == (kind.number(), IN) {
                found.push(data.to_vec());
            }
        }
        Some(found)
    }
}

/// The address in the data of an A or AAAA record.
#[must_use]
pub fn address_of(data: &[u8]) -> Option<IpAddr> {
    let short = || <[u8; 4]>::try_from(data).ok().map(IpAddr::from);
    short().or_else(|| <[u8; 16]>::try_from(data).ok().map(IpAddr::from))
}

/// One CAA record (RFC 8659, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caa {
    /// `issue`, `issuewild`, `iodef`, in lower case.
    pub tag: String,
    /// The authority and its parameters.
    pub value: String,
}

impl Caa {
    /// From a record's data; nothing if it is none.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (_flags, rest) = data.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (tag, value) = rest.split_at_checked(usize::from(*length))?;
        let tag = core::str::from_utf8(tag).ok()?.to_ascii_lowercase();
        Some(Self { tag, value: String::from_utf8_lossy(value).into_owned() })
    }

    /// Whether it names an account at the authority (RFC 8657), or forbids everybody.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        let mut parts = self.value.split(';').map(str::trim);
        let is_nobody = parts.next().is_none_or(str::is_empty);
        is_nobody
            || parts.any(|part| part.strip_prefix("accounturi").is_some_and(|rest| rest.trim_start().starts_with('=')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(records: &[(u16, &[u8])]) -> Vec<u8> {
        let query = query([1, 2], "a.example", Type::Caa).unwrap();
        let mut out = query[..query.len() - 11].to_vec();
        out[2] = 0x81;
        out[7] = u8::try_from(records.len()).unwrap();
        out[11] = 0;
        for (kind, data) in records {
            out.extend([0xc0, 12]);
            out.extend(kind.to_be_bytes());
            out.extend([0, 1, 0, 0, 0, 60]);
            out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            out.extend(*data);
        }
        out
    }

    #[test]
    fn records_of_the_type_are_read_and_others_passed_over() {
        let query = query([1, 2], "a.example", Type::Caa).unwrap();
        let caa = b"\x00\x05issueca.example; accounturi=https://ca.example/1";
        let whole = answer(&[(5, b"\x01b\xc0\x0e"), (257, caa)]);
        assert_eq!(read(&whole, &query, Type::Caa).unwrap(), [caa.to_vec()]);
        for end in 0..whole.len() {
            assert!(read(&whole[..end], &query, Type::Caa).is_err(), "{end}");
        }
        let mut other = whole.clone();
        other[0] = 9;
        assert!(read(&other, &query, Type::Caa).is_err(), "another number");
        let mut other = whole.clone();
        other[13] = b'z';
        assert!(read(&other, &query, Type::Caa).is_err(), "another question");
        other[3] = 3;
        assert!(read(&other, &query, Type::Caa).is_err(), "another name is not there");
        let mut other = whole;
        other[3] = 3;
        assert_eq!(read(&other, &query, Type::Caa).unwrap(), Vec::<Vec<u8>>::new(), "the name is not there");
        other[3] = 1;
        assert!(matches!(read(&other[..12], &query, Type::Caa), Err(DnsError::Failed(1))), "not understood");
    }

    #[test]
    fn addresses_of_both_kinds() {
        assert_eq!(address_of(&[192, 0, 2, 7]), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(address_of(&[0; 16]), Some("::".parse().unwrap()));
        assert_eq!(address_of(&[0; 5]), None);
    }

    #[test]
    fn accounts_in_caa_records() {
        let table = [
            ("letsencrypt.org; accounturi=https://acme.example/acct/1", true),
            ("letsencrypt.org;validationmethods=dns-01; accounturi = https://acme.example/acct/1", true),
            (";", true),
            ("", true),
            ("letsencrypt.org", false),
            ("letsencrypt.org; validationmethods=dns-01", false),
        ];
        for (value, expected) in table {
            let record = Caa { tag: "issue".to_owned(), value: value.to_owned() };
            assert_eq!(record.is_bound(), expected, "{value}");
        }
        assert_eq!(Caa::parse(b"\x00\x09issue"), None);
    }
}
