//! Server names as bytes: no TLS library sends the wrong ones.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{HOST, World};
use crate::wire::pipe;

type Names = Option<Vec<Vec<u8>>>;

/// What comes back first: a handshake message, or a fatal alert.
#[derive(Debug, PartialEq, Eq)]
enum First {
    ServerHello,
    Alert(u8),
}

const UNRECOGNIZED_NAME: First = First::Alert(112);
const DECODE_ERROR: First = First::Alert(50);
const ILLEGAL_PARAMETER: First = First::Alert(47);

/// A length before its content.
fn counted(width: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = length.last_chunk::<8>().unwrap().iter().skip(8 - width);
    length.chain(content).copied().collect()
}

fn extension(number: u16, content: &[u8]) -> Vec<u8> {
    [number.to_be_bytes().to_vec(), counted(2, content)].concat()
}

/// One name of a list: its type, and the name.
fn name(kind: u8, text: &[u8]) -> Vec<u8> {
    [vec![kind], counted(2, text)].concat()
}

/// A `ClientHello` of TLS 1.3 (RFC 8446, section 4.1.2) in one record, with these entries in its list of server names.
fn client_hello(names: Option<&[Vec<u8>]>) -> Vec<u8> {
    let mut extensions = vec![
        extension(43, &counted(1, &[3, 4])),       // supported_versions: 1.3
        extension(10, &counted(2, &[0, 29])),      // supported_groups: x25519
        extension(13, &counted(2, &[4, 3, 8, 4])), // signature_algorithms
        extension(51, &counted(2, &[vec![0, 29], counted(2, &[9; 32])].concat())), // key_share
    ];
    if let Some(names) = names {
        extensions.push(extension(0, &counted(2, &names.concat())));
    }
    let hello = [
        vec![3, 3],
        vec![7; 32],
        counted(1, &[8; 32]),
        counted(2, &[0x13, 2]),
        counted(1, &[0]),
        counted(2, &extensions.concat()),
    ]
    .concat();
    let message = [vec![1], counted(3, &hello)].concat();
    // A record holds at most 2¹⁴ bytes.
    message.chunks(16_384).flat_map(|part| [vec![22, 3, 1], counted(2, part)].concat()).collect()
}

async fn first(world: &World, hello: &[u8]) -> First {
    let (mut stream, _served) = pipe(world.context());
    stream.write_all(hello).await.unwrap();
    let mut record = [0; 7];
    stream.read_exact(&mut record).await.unwrap();
    match record {
        [22, 3, 3, _, _, 2, _] => First::ServerHello,
        [21, 3, 3, 0, 2, 2, alert] => First::Alert(alert),
        [kind, .., alert] => unreachable!("a record of type {kind} that ends in {alert}"),
    }
}

/// SNI names a host that we serve; everything else ends before a key is touched, with an alert that says why: a name that
/// could be somebody's, bytes that are no host name, or an extension that cannot be read.
#[tokio::test]
async fn a_server_name_is_a_host_name_that_is_served() {
    let world = World::new();
    let long = format!("{}.example.com", "a".repeat(64));
    let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
    let cases: Vec<(&str, Names, First)> = vec![
        ("as it is", Some(vec![name(0, HOST.as_bytes())]), First::ServerHello),
        ("upper case", Some(vec![name(0, b"XKS.EXAMPLE.COM")]), First::ServerHello),
        ("mixed case", Some(vec![name(0, b"xKs.example.Com")]), First::ServerHello),
        ("none", None, UNRECOGNIZED_NAME),
        ("unknown", Some(vec![name(0, b"xks.example.org")]), UNRECOGNIZED_NAME),
        ("a name above", Some(vec![name(0, b"example.com")]), UNRECOGNIZED_NAME),
        ("a name below", Some(vec![name(0, b"a.xks.example.com")]), UNRECOGNIZED_NAME),
        ("a trailing dot", Some(vec![name(0, b"xks.example.com.")]), UNRECOGNIZED_NAME),
        ("a leading dot", Some(vec![name(0, b".xks.example.com")]), ILLEGAL_PARAMETER),
        ("a port", Some(vec![name(0, b"xks.example.com:443")]), ILLEGAL_PARAMETER),
        ("a wildcard", Some(vec![name(0, b"*.example.com")]), ILLEGAL_PARAMETER),
        ("an IPv4 address", Some(vec![name(0, b"192.0.2.1")]), UNRECOGNIZED_NAME),
        ("an IPv6 address", Some(vec![name(0, b"2001:db8::1")]), UNRECOGNIZED_NAME),
        ("UTF-8", Some(vec![name(0, "xks.exämple.com".as_bytes())]), ILLEGAL_PARAMETER),
        ("no UTF-8", Some(vec![name(0, b"xks.example.com\xff")]), ILLEGAL_PARAMETER),
        ("a zero byte", Some(vec![name(0, b"xks.example.com\0")]), ILLEGAL_PARAMETER),
        ("a space", Some(vec![name(0, b"xks.example.com ")]), ILLEGAL_PARAMETER),
        ("a label of 64", Some(vec![name(0, long.as_bytes())]), ILLEGAL_PARAMETER),
        ("254 characters", Some(vec![name(0, longest.as_bytes())]), ILLEGAL_PARAMETER),
        ("60,000 characters", Some(vec![name(0, &[b'a'; 60_000])]), ILLEGAL_PARAMETER),
        ("another type of name", Some(vec![name(1, HOST.as_bytes())]), ILLEGAL_PARAMETER),
        ("two names", Some(vec![name(0, HOST.as_bytes()), name(0, HOST.as_bytes())]), DECODE_ERROR),
        ("an empty name", Some(vec![name(0, b"")]), DECODE_ERROR),
        ("an empty list", Some(vec![]), DECODE_ERROR),
        ("bytes behind", Some(vec![name(0, HOST.as_bytes()), vec![0]]), DECODE_ERROR),
    ];
    for (what, names, expected) in cases {
        let met = first(&world, &client_hello(names.as_deref())).await;
        assert_eq!(met, expected, "{what}");
    }
    assert_eq!(world.context().connections(), 0);
}
