//! Answers of DNS resolvers: the first byte chooses the type that was asked for, the second `o` what follows the question.

use super::Seeds;

/// Flags of an answer, and of one that says that there is no such name.
const ANSWER: [u8; 2] = [0x81, 0x80];
const NO_SUCH_NAME: [u8; 2] = [0x81, 0x83];
/// Where the question's name starts, as a pointer.
const POINTER: &[u8] = &[0xc0, 12];

fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [name, &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 60], &length.to_be_bytes(), data].concat()
}

fn answer(kind: u8, flags: [u8; 2], records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap();
    [&[kind, b'o'], flags.as_slice(), &count.to_be_bytes(), &records.concat()].concat()
}

pub(super) fn answers(seeds: &mut Seeds) {
    let address = record(POINTER, 1, &[192, 0, 2, 7]);
    let alias = record(POINTER, 5, b"\x05other\xc0\x10");
    let caa = |value: &str| record(POINTER, 257, &[b"\x00\x05issue", value.as_bytes()].concat());
    let bound = caa("ca.example; accounturi=https://ca.example/account/1");
    let whole = answer(b'c', ANSWER, &[alias.clone(), bound.clone(), caa(";")]);
    for (name, seed) in [
        ("address", answer(b'a', ANSWER, std::slice::from_ref(&address))),
        ("address-behind-an-alias", answer(b'a', ANSWER, &[alias, address.clone()])),
        (
            "address-of-a-whole-name",
            answer(b'a', ANSWER, &[record(b"\x03xks\x07example\x03com\0", 1, &[192, 0, 2, 7])]),
        ),
        ("address-ipv6", answer(b'6', ANSWER, &[record(POINTER, 28, &[0x20; 16])])),
        ("address-too-short", answer(b'a', ANSWER, &[record(POINTER, 1, &[192, 0, 2])])),
        ("authorization", whole.clone()),
        ("authorization-torn", answer(b'c', ANSWER, &[record(POINTER, 257, b"\x00\x09issue")])),
        ("no-records", answer(b'c', ANSWER, &[])),
        ("no-such-name", answer(b'c', NO_SUCH_NAME, &[])),
        ("upper-case", b"cr\x12\x34\x81\x80\0\x01\0\0\0\0\0\0\x03XKS\x07Example\x03com\0\x01\x01\0\x01".to_vec()),
    ] {
        seeds.add("dns_answers", name, seed);
    }
    for (name, seed) in [
        ("no-answer", answer(b'a', [0x01, 0], std::slice::from_ref(&address))),
        ("server-failure", answer(b'a', [0x81, 0x82], &[])),
        ("torn", whole[..whole.len() - 1].to_vec()),
        ("too-many", answer(b'a', ANSWER, &vec![address; 65])),
        ("name-without-end", answer(b'a', ANSWER, &[record(&[1; 300], 1, &[192, 0, 2, 7])])),
        ("other-question", b"cr\x12\x34\x81\x80\0\x01\0\0\0\0\0\0\x03xks\x07example\x03org\0\x01\x01\0\x01".to_vec()),
        (
            "other-name-missing",
            b"cr\x12\x34\x81\x83\0\x01\0\0\0\0\0\0\x03xks\x07example\x03org\0\x01\x01\0\x01".to_vec(),
        ),
        ("other-number", b"cr\x12\x35\x81\x80\0\x01\0\0\0\0\0\0\x03xks\x07example\x03com\0\x01\x01\0\x01".to_vec()),
    ] {
        seeds.refuse("dns_answers", name, seed);
    }
}
