//! Answers of a DNS resolver to the doctor: whole ones, and what follows a header and a question that fit.

use holdfast_cli::doctor::dns::{Caa, DnsError, RECORDS_MAX, Type, address_of, query, read};

use super::Verdict;
use super::input::Input;

const ID: [u8; 2] = [0x12, 0x34];
const HEADER: usize = 12;
const LABELS_MAX: usize = 128;

/// Answers to a question of one of three types: what is read of them is what a second reader finds, and nothing of another question.
pub fn dns_answers(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let (kind, number) = match input.byte() {
        b'a' => (Type::A, 1),
        b'6' => (Type::Aaaa, 28),
        _ => (Type::Caa, 257),
    };
    let query = query(ID, "xks.example.com", kind).unwrap();
    let question = [b"\x03xks\x07example\x03com\0".as_slice(), &[number_bytes(number), [0, 1]].concat()].concat();
    assert_eq!(&query[HEADER..HEADER + question.len()], question);
    let answer = if input.byte() == b'o' {
        let (flags, count) = (input.number(), input.number());
        let head = [ID, number_bytes(flags), [0, 1], number_bytes(count), [0; 2], [0; 2]].concat();
        [&head, question.as_slice(), input.rest()].concat()
    } else {
        input.rest().to_vec()
    };
    let found = read(&answer, &query, kind);
    match (&found, second(&answer, &question, number)) {
        (Ok(found), Second::Records(second)) => assert_eq!(found, &second),
        (Err(DnsError::Failed(code)), Second::Failed(second)) => assert_eq!(*code, second),
        (Err(DnsError::Malformed), Second::Malformed) => {}
        (found, second) => panic!("{found:?}, and a second reader says {second:?}"),
    }
    let Ok(records) = found else { return Verdict::Refused };
    assert!(records.len() <= usize::from(RECORDS_MAX));
    for record in &records {
        match kind {
            Type::Caa => authorization(record),
            _ => assert_eq!(address_of(record).is_some(), matches!(record.len(), 4 | 16)),
        }
    }
    Verdict::Accepted
}

fn number_bytes(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap().to_be_bytes()
}

#[derive(Debug)]
enum Second {
    Records(Vec<Vec<u8>>),
    Failed(u8),
    Malformed,
}

/// Takes the message apart from the front, with nothing but slices of what is left.
fn second(answer: &[u8], question: &[u8], number: usize) -> Second {
    let Some((&[id_1, id_2, flags, code, q_1, q_2, r_1, r_2, ..], rest)) = answer.split_first_chunk::<HEADER>() else {
        return Second::Malformed;
    };
    let count = u16::from_be_bytes([r_1, r_2]);
    if [id_1, id_2] != ID || flags < 0x80 {
        return Second::Malformed;
    }
    if !matches!(code % 16, 0 | 3) {
        return Second::Failed(code % 16);
    }
    let is_asked = rest.to_ascii_lowercase().starts_with(question);
    if [q_1, q_2] != [0, 1] || count > RECORDS_MAX || !is_asked {
        return Second::Malformed;
    }
    if code % 16 == 3 {
        return Second::Records(Vec::new());
    }
    let mut rest = &rest[question.len()..];
    let mut records = Vec::new();
    for _ in 0..count {
        let Some((kind, data, tail)) = record(rest) else { return Second::Malformed };
        if kind == [number_bytes(number), [0, 1]].concat() {
            records.push(data.to_vec());
        }
        rest = tail;
    }
    Second::Records(records)
}

/// Type and class, data, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let after_name = past_name(bytes, LABELS_MAX)?;
    let (head, rest) = after_name.split_at_checked(10)?;
    let (data, rest) = rest.split_at_checked(usize::from(head[8]) * 256 + usize::from(head[9]))?;
    Some((&head[..4], data, rest))
}

fn past_name(bytes: &[u8], labels: usize) -> Option<&[u8]> {
    match *bytes {
        _ if labels == 0 => None,
        [0, ref rest @ ..] | [0xc0..=0xff, _, ref rest @ ..] => Some(rest),
        [length @ 1..64, ref rest @ ..] => past_name(rest.get(usize::from(length)..)?, labels - 1),
        _ => None,
    }
}

/// What a CAA record says, by RFC 8659, section 4.1, and RFC 8657, section 3.
fn authorization(data: &[u8]) {
    let second = match *data {
        [_, length, ref rest @ ..] if usize::from(length) <= rest.len() => {
            let (tag, value) = rest.split_at(usize::from(length));
            String::from_utf8(tag.to_ascii_lowercase()).ok().map(|tag| (tag, String::from_utf8_lossy(value)))
        }
        _ => None,
    };
    let first = Caa::parse(data);
    let Some((caa, (tag, value))) = first.as_ref().zip(second.as_ref()) else {
        return assert_eq!(first.is_some(), second.is_some());
    };
    assert_eq!((&caa.tag, caa.value.as_str()), (tag, value.as_ref()));
    let (issuer, parameters) = value.split_once(';').unwrap_or((value, ""));
    let names_account = |part: &str| part.split_once('=').is_some_and(|(name, _)| name.trim() == "accounturi");
    assert_eq!(caa.is_bound(), issuer.trim().is_empty() || parameters.split(';').any(names_account));
}
