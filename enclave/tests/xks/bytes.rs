//! HTTP/1.1 as bytes: messages that no library would write, and a reader that takes nothing on trust.

use std::time::Duration;

use holdfast_enclave::xks::Outcome;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::fixture::{Call, HOST, World, health};
use crate::wire::connect;

/// The error names of the specification with the status that goes with each.
const TABLE: &str = include_str!("../../../tests/vectors/xks/errors.txt");
/// Statuses of HTTP that the specification's table lacks.
const OF_HTTP: [u16; 4] = [405, 414, 421, 431];

/// A message, one line per header.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    line: Vec<u8>,
    headers: Vec<Vec<u8>>,
    body: Vec<u8>,
    line_end: &'static str,
}

impl Message {
    /// What KMS would send.
    pub(crate) fn of(call: &Call) -> Self {
        let request = call.signed();
        let mut headers: Vec<Vec<u8>> = request
            .headers()
            .iter()
            .map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes()].concat())
            .collect();
        headers.push(format!("content-length: {}", call.body.len()).into_bytes());
        let line = format!("{} {} HTTP/1.1", call.method, call.path).into_bytes();
        Self { line, headers, body: call.body.clone().into_bytes(), line_end: "\r\n" }
    }

    /// A health request.
    pub(crate) fn health() -> Self {
        Self::of(&health())
    }

    pub(crate) fn line(mut self, line: impl AsRef<[u8]>) -> Self {
        self.line = line.as_ref().to_vec();
        self
    }

    /// Another request target.
    pub(crate) fn to(self, target: impl AsRef<[u8]>) -> Self {
        let line = [b"POST ", target.as_ref(), b" HTTP/1.1"].concat();
        self.line(line)
    }

    /// One more header line, last.
    pub(crate) fn with(mut self, header: impl AsRef<[u8]>) -> Self {
        self.headers.push(header.as_ref().to_vec());
        self
    }

    /// One more header line, first.
    pub(crate) fn led_by(mut self, header: impl AsRef<[u8]>) -> Self {
        self.headers.insert(0, header.as_ref().to_vec());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        let start = format!("{name}:").into_bytes();
        let before = self.headers.len();
        self.headers.retain(|line| !line.starts_with(&start));
        assert_ne!(self.headers.len(), before, "there is no header {name}");
        self
    }

    /// The value of a header.
    pub(crate) fn value(&self, name: &str) -> String {
        let start = format!("{name}: ");
        let line = self.headers.iter().find_map(|line| line.strip_prefix(start.as_bytes())).unwrap();
        String::from_utf8(line.to_vec()).unwrap()
    }

    /// One header changed in its place.
    pub(crate) fn instead(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let start = format!("{name}: ").into_bytes();
        let line = self.headers.iter_mut().find(|line| line.starts_with(&start)).unwrap();
        *line = [&start[..], value.as_ref()].concat();
        self
    }

    /// Another body; the announced length stays.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The body in chunks, written by hand: `{len}` and `{body}` stand for those of the message.
    pub(crate) fn chunks(self, form: &str) -> Self {
        let text = String::from_utf8(self.body.clone()).unwrap();
        let body = form.replace("{len}", &format!("{:x}", text.len())).replace("{body}", &text);
        self.without("content-length").with("transfer-encoding: chunked").body(body)
    }

    /// As [`Self::chunks`], well-formed.
    pub(crate) fn chunked(self) -> Self {
        self.chunks("{len}\r\n{body}\r\n0\r\n\r\n")
    }

    pub(crate) fn lines_end_in(self, line_end: &'static str) -> Self {
        Self { line_end, ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.line.clone();
        for header in &self.headers {
            bytes.extend_from_slice(self.line_end.as_bytes());
            bytes.extend_from_slice(header);
        }
        bytes.extend_from_slice(self.line_end.as_bytes());
        bytes.extend_from_slice(self.line_end.as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request on it is answered.
    Open,
    /// It ends.
    Closed,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Status, and error name if there is one; with every rule that an answer obeys checked on the way.
    pub(crate) fn summary(&self) -> String {
        if self.status == 100 {
            assert_eq!((self.headers.len(), self.body.len()), (0, 0));
            return "100".to_owned();
        }
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        assert_eq!(self.header("allow"), (self.status == 405).then_some("POST"), "{self:?}");
        let json: Value = serde_json::from_slice(&self.body).unwrap();
        if self.status == 200 {
            return "200".to_owned();
        }
        let name = json["errorName"].as_str().unwrap();
        let row = TABLE.lines().find_map(|line| line.strip_suffix(name)?.trim().parse::<u16>().ok());
        let expected = row.unwrap_or_else(|| panic!("{name} is not in the table"));
        assert!(self.status == expected || OF_HTTP.contains(&self.status), "{self:?}");
        let message = json["errorMessage"].as_str().unwrap();
        assert!((1..512).contains(&message.len()), "{message}");
        assert!(message.bytes().all(|byte| (0x20..=0x7e).contains(&byte)), "{message}");
        assert_eq!(json.as_object().unwrap().len(), 2, "{json}");
        format!("{} {name}", self.status)
    }
}

/// Reads one answer; nothing if the connection ended before it.
pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin), has_body: bool) -> Option<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return None,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap().strip_prefix("HTTP/1.").unwrap()[2..5].parse().unwrap();
    let headers: Vec<(String, String)> =
        lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.into(), value.into())).collect();
    let mut answer = Answer { status, headers, body: Vec::new() };
    if status != 100 && has_body {
        let len: usize = answer.header("content-length").unwrap().parse().unwrap();
        answer.body.resize(len, 0);
        stream.read_exact(&mut answer.body).await.unwrap();
    }
    Some(answer)
}

/// Sends bytes on a connection of their own, then a good request; gives the answers to the bytes, and whether the good
/// request was answered. Fails if the pipeline saw more requests than it answered with 200.
pub(crate) async fn exchange(world: &World, what: &str, bytes: &[u8], expected: usize) -> (Vec<Answer>, Then) {
    const LONG: Duration = Duration::from_secs(30);
    world.observer.0.lock().unwrap().clear();
    let (stream, _served) = connect(world, "http/1.1").await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let bytes = [bytes, &Message::health().with("connection: close").bytes()].concat();
    let writing = tokio::spawn(async move {
        // The server may have hung up by now.
        let _ = writer.write_all(&bytes).await;
        let _ = writer.flush().await;
        writer
    });
    let mut answers = Vec::new();
    let reading = async {
        while let Some(answer) = read_answer(&mut reader, true).await {
            answers.push(answer);
        }
    };
    assert!(timeout(LONG, reading).await.is_ok(), "{what}: no end after {answers:?}");
    drop(writing.await);
    let successes = answers.iter().filter(|answer| answer.status == 200).count();
    let events = world.observer.0.lock().unwrap();
    let seen = events.iter().filter(|event| event.outcome == Outcome::Success).count();
    assert_eq!(seen, successes, "{what}: {answers:?} {events:?}");
    let open = answers.len() > expected && answers.last().is_some_and(|answer| answer.status == 200);
    if open {
        answers.pop();
    }
    (answers, if open { Then::Open } else { Then::Closed })
}

/// One row of a table.
pub(crate) type Row = (&'static str, Vec<u8>, &'static [&'static str], Then);

/// Sends each row; names every one that is not as expected.
pub(crate) async fn check(rows: Vec<Row>) {
    let world = World::new();
    let mut wrong = Vec::new();
    for (what, bytes, expected, then) in rows {
        let (answers, actual_then) = exchange(&world, what, &bytes, expected.len()).await;
        let actual: Vec<String> = answers.iter().map(Answer::summary).collect();
        if actual != expected || actual_then != then {
            wrong.push(format!("{what}: expected {expected:?} {then:?}, was {actual:?} {actual_then:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Everything the same, for another host.
pub(crate) fn elsewhere() -> String {
    HOST.replace("xks", "other")
}
