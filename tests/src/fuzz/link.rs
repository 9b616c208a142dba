//! What crosses the link between parent and enclave: frames, their messages, and the small texts in them.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::cell::RefCell;
use std::io;

use holdfast_link::audit;
use holdfast_link::control::{ToEnclave, ToParent};
use holdfast_link::egress::{Destination, EgressAnswer, EgressRequest};
use holdfast_link::{Address, Frame, FrameReader, Hex, PrintableText, write_frame};
use holdfast_shared::static_configuration::StaticConfiguration;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};

use super::Verdict;
use super::input::Input;
use super::json;

/// Frames of a connection. First byte: whose messages (`p` to the parent, `e` to the enclave, `q` and `a` of egress, `u` and `d` of audit). Second: `r`,
/// the rest is the stream; `j`, the rest is the payload of one message. Third: bytes that arrive at a time.
pub fn link_frames(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let (whose, how, at_a_time) = (input.byte(), input.byte(), usize::from(input.byte()).max(1));
    let stream = if how == b'j' {
        let length = u32::try_from(input.rest().len()).unwrap();
        [&length.to_be_bytes(), input.rest()].concat()
    } else {
        input.rest().to_vec()
    };
    match whose {
        b'p' => frames::<ToParent>(&stream, at_a_time, is_json),
        b'e' => frames::<ToEnclave>(&stream, at_a_time, is_json),
        b'q' => frames::<EgressRequest>(&stream, at_a_time, is_json),
        b'u' => frames::<audit::ToParent>(&stream, at_a_time, is_of_audit),
        b'd' => frames::<audit::ToEnclave>(&stream, at_a_time, is_of_audit),
        _ => frames::<EgressAnswer>(&stream, at_a_time, is_json),
    }
}

fn is_json(payload: &[u8]) -> bool {
    json::read(payload).is_ok()
}

/// By the lengths alone: what the kinds of frame of the audit connection have.
fn is_of_audit(payload: &[u8]) -> bool {
    let (kind, body) = payload.split_first().unwrap();
    match kind {
        1 => body.len() == 16,
        2 | 5 => body.len() == 40,
        4 => {
            (33..=32 + 1024).contains(&body.len()) && body.ends_with(b"\n") && std::str::from_utf8(&body[32..]).is_ok()
        }
        3 | 6 => {
            let mut rest = &body[40..];
            while rest.len() > 4 {
                let length = usize::try_from(u32::from_be_bytes(rest[..4].try_into().unwrap())).unwrap();
                assert!((1..=32 * 1024).contains(&length));
                rest = &rest[4 + length..];
            }
            body.len() > 40 && rest.is_empty()
        }
        _ => false,
    }
}

fn frames<M: Frame + PartialEq + core::fmt::Debug>(
    stream: &[u8],
    at_a_time: usize,
    is_right: fn(&[u8]) -> bool,
) -> Verdict {
    let (messages, error) = read_all::<M>(stream, usize::MAX);
    assert_eq!((&messages, &error), (&read_all::<M>(stream, at_a_time).0, &read_all::<M>(stream, at_a_time).1));
    let mut rest = stream;
    for message in &messages {
        let (head, tail) = rest.split_at(4);
        let (payload, tail) = tail.split_at(usize::try_from(u32::from_be_bytes(head.try_into().unwrap())).unwrap());
        assert!((1..=M::PAYLOAD_MAX).contains(&payload.len()));
        assert!(is_right(payload), "what has another form is understood");
        // Written by us it is read as the same, and written the same again.
        let mut written = Vec::new();
        run(write_frame(&mut written, message)).unwrap();
        assert_eq!(read_all::<M>(&written, 3).0.as_slice(), core::slice::from_ref(message));
        rest = tail;
    }
    if error.is_empty() {
        assert!(rest.is_empty(), "bytes are lost");
    }
    assert!(error.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{error:?}");
    Verdict::from(!messages.is_empty())
}

/// All messages up to the end or the first error, and that error.
fn read_all<M: Frame>(stream: &[u8], at_a_time: usize) -> (Vec<M>, String) {
    let mut reader = FrameReader::new(Trickle { rest: stream, at_a_time });
    let mut messages = Vec::new();
    loop {
        match run(reader.next()) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, String::new()),
            Err(error) => return (messages, error.to_string()),
        }
    }
}

/// A stream that gives so many bytes at a time.
struct Trickle<'a> {
    rest: &'a [u8],
    at_a_time: usize,
}

impl AsyncRead for Trickle<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.at_a_time.min(self.rest.len()).min(into.remaining());
        let (head, tail) = self.rest.split_at(count);
        into.put_slice(head);
        self.rest = tail;
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
}

/// Runs a future to its end on this thread.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// Addresses, destinations, identifiers and texts.
pub fn link_text(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Verdict::Refused };
    let address = text.parse::<Address>();
    if let Ok(address) = &address {
        assert_eq!(address.to_string(), text, "one spelling");
        assert!(address.listen_path().is_none_or(|path| path.as_os_str().len() <= 107));
        assert_eq!(through_json::<Address>(text).as_ref(), Some(address));
    }
    let destination = text.parse::<Destination>();
    if let Ok(destination) = &destination {
        assert_eq!((destination.as_str(), destination.to_string().as_str()), (text, text), "one spelling");
        assert!(!text.contains(|character: char| character.is_uppercase() || character.is_whitespace()));
        assert_eq!(through_json::<Destination>(text).as_ref(), Some(destination));
    }
    let id = text.parse::<Hex<16>>();
    if let Ok(id) = &id {
        assert_eq!((id.to_string().as_str(), hex::encode(id.as_bytes()).as_str()), (text, text));
    }
    let printable = PrintableText::<64>::new(text);
    assert!(printable.as_str().len() <= 64);
    assert!(printable.as_str().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    assert_eq!(PrintableText::<64>::new(printable.as_str()), printable);
    let plain = text.len() <= 64 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    assert_eq!(printable.as_str() == text, plain);
    Verdict::from(address.is_ok() || destination.is_ok() || id.is_ok())
}

fn through_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

/// The static configuration, which the parent hands over.
pub fn static_configuration(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Verdict::Refused };
    match StaticConfiguration::parse(text) {
        Ok(configuration) => {
            let Ok(json::Value::Object(members)) = json::read(data) else { panic!("no JSON object: {text}") };
            let mut names: Vec<_> = members.iter().map(|(name, _)| name.clone().unwrap()).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), members.len(), "a member twice");
            assert!((1..=64).contains(&configuration.regions.len()));
            assert!((1..=65_536).contains(&configuration.connections_max));
            assert!(
                configuration.regions.iter().all(|region| region.parse::<holdfast_shared::sigv4::Region>().is_ok())
            );
            Verdict::Accepted
        }
        Err(error) => {
            assert!(error.to_string().starts_with("static configuration: "));
            Verdict::Refused
        }
    }
}
