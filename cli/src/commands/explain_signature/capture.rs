//! A captured request: what a proxy, a packet dump or `curl -v` shows of it.
//!
//! Guarantees: header values are what the server sees (trimmed at both ends, otherwise as captured), repeated headers stay
//! repeated. Assumes: head in ASCII or bytes, lines ended by LF or CRLF. Refuses: what no server takes as one request.

use std::borrow::Cow;

use holdfast_shared::sigv4::Occurrence;

/// What is wrong with a capture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// The first line.
    #[error("the first line is not a request line such as: POST /kms/xks/v1/health HTTP/1.1")]
    RequestLine,
    /// A line of the head.
    #[error("line {0} of the head is not a header such as: Host: xks.example.com")]
    Header(usize),
    /// A chunked body.
    #[error("the body was sent in chunks; give the body alone with --body FILE, and the capture without it")]
    Chunked,
    /// Two bodies.
    #[error("the capture holds a body, and --body gives another; leave one out")]
    TwoBodies,
    /// `Content-Length` promises more.
    #[error(
        "Content-Length says {announced} bytes, but the capture holds {found}; give the whole body, or --body FILE"
    )]
    Truncated {
        /// What the header says.
        announced: usize,
        /// What is there.
        found: usize,
    },
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The method.
    pub method: String,
    /// Scheme and authority of an absolute target, if it is one.
    pub absolute: Option<String>,
    /// Path and query.
    pub target: String,
    /// Names in lower case, values trimmed.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// What was taken for granted while reading.
    pub notes: Vec<String>,
}

impl Capture {
    /// Reads a capture; `body` is the body where the capture holds none.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn parse(bytes: &[u8], body: Option<Vec<u8>>) -> Result<Self, CaptureError> {
        let bytes = of_curl(bytes);
        let mut rest = bytes.trim_ascii_start();
        let mut line = || {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, after) = end.map_or((rest, &[][..]), |end| {
                let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
                (line, after.get(1..).unwrap_or_default())
            });
            rest = after;
            line.strip_suffix(b"\r").unwrap_or(line)
        };
        let (method, target) = request_line(line()).ok_or(CaptureError::RequestLine)?;
        let mut headers = Vec::new();
        for number in 2.. {
            match line() {
                [] => break,
                header => headers.push(parse_header(header).ok_or(CaptureError::Header(number))?),
            }
        }
        let (absolute, target) = split_target(target);
        let mut capture = Self { method, absolute, target, headers, body: Vec::new(), notes: Vec::new() };
        capture.take_body(rest, body)?;
        Ok(capture)
    }

    fn take_body(&mut self, captured: &[u8], given: Option<Vec<u8>>) -> Result<(), CaptureError> {
        let Occurrence::Once(announced) = self.header("content-length") else {
            if given.is_none() && self.header("transfer-encoding") != Occurrence::Absent {
                return Err(CaptureError::Chunked);
            }
            return self.set_body(captured, given);
        };
        let announced = core::str::from_utf8(announced).ok().and_then(|text| text.parse().ok());
        self.set_body(captured, given)?;
        match announced {
            Some(announced) if announced < self.body.len() => {
                let found = self.body.len();
                self.body.truncate(announced);
                self.notes.push(format!(
                    "the body was cut from {found} to {announced} bytes, as Content-Length says; curl's --data @FILE \
                     sends a file without its line ends, --data-binary sends it as it is"
                ));
            }
            Some(announced) if announced > self.body.len() => {
                return Err(CaptureError::Truncated { announced, found: self.body.len() });
            }
            _ => {}
        }
        Ok(())
    }

    fn set_body(&mut self, captured: &[u8], given: Option<Vec<u8>>) -> Result<(), CaptureError> {
        self.body = match given {
            Some(_) if !captured.trim_ascii().is_empty() => return Err(CaptureError::TwoBodies),
            Some(given) => given,
            None => captured.to_vec(),
        };
        Ok(())
    }

    /// How often a header occurs, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Occurrence<'_> {
        let mut values = self.headers.iter().filter(|(header, _)| header == name);
        match (values.next(), values.next()) {
            (None, _) => Occurrence::Absent,
            (Some((_, value)), None) => Occurrence::Once(value),
            (Some(_), Some(_)) => Occurrence::Repeated,
        }
    }

    /// The host as the server takes it: from the target or from `Host`, which must agree where both are there.
    #[must_use]
    pub fn authority(&self) -> Option<String> {
        let host = match self.header("host") {
            Occurrence::Once(host) => Some(core::str::from_utf8(host).ok()?.to_owned()),
            Occurrence::Absent => None,
            Occurrence::Repeated => return None,
        };
        match (&self.absolute, host) {
            (Some(absolute), Some(host)) if *absolute != host => None,
            (absolute, host) => absolute.clone().or(host),
        }
    }
}

/// The request within what `curl -v` prints, where sent lines begin with `>` and everything else with another mark.
fn of_curl(bytes: &[u8]) -> Cow<'_, [u8]> {
    let lines = || bytes.split_inclusive(|byte| *byte == b'\n');
    let sent = |line: &&[u8]| line.starts_with(b"> ") || line.trim_ascii_end() == b">";
    if !lines().any(|line| line.strip_prefix(b"> ").and_then(request_line).is_some()) {
        return Cow::Borrowed(bytes);
    }
    let sent = lines().skip_while(|line| line.strip_prefix(b"> ").and_then(request_line).is_none()).filter(sent);
    let mut request = Vec::with_capacity(bytes.len());
    for line in sent {
        let line = line.strip_prefix(b"> ").or_else(|| line.strip_prefix(b">")).unwrap_or(line);
        let end = line.trim_ascii().is_empty();
        request.extend_from_slice(if end { b"\n" } else { line });
        if end {
            break;
        }
    }
    Cow::Owned(request)
}

fn request_line(line: &[u8]) -> Option<(String, String)> {
    let text = core::str::from_utf8(line.trim_ascii_end()).ok()?;
    let mut words = text.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let known = matches!(version, "HTTP/1.0" | "HTTP/1.1" | "HTTP/2" | "HTTP/2.0");
    let token = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    (known && token && !target.is_empty() && words.next().is_none()).then(|| (method.to_owned(), target.to_owned()))
}

fn parse_header(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    let name = core::str::from_utf8(name).ok()?;
    // A space before the colon or at the line's start is what a strict server refuses, too.
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return None;
    }
    Some((name.to_ascii_lowercase(), value.get(1..)?.trim_ascii().to_vec()))
}

/// `http://host/path` has its host in the target.
fn split_target(target: String) -> (Option<String>, String) {
    let Some((_, rest)) = target.split_once("://").filter(|(scheme, _)| !scheme.contains('/')) else {
        return (None, target);
    };
    let path = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(path).unwrap_or((rest, ""));
    (Some(authority.to_owned()), if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Capture, CaptureError> {
        Capture::parse(text.as_bytes(), None)
    }

    #[test]
    fn forms_of_one_request() {
        let curl = "* Connected to xks.example.com\n> POST /a/health HTTP/2\r\n> Host: h.example\r\n> X-Note:  a  b \r\n> \r\n\
                    * upload completely sent off\n< HTTP/2 401\r\n< \r\n{\"a\":1}";
        let expected = parsed("POST /a/health HTTP/1.1\r\nHost: h.example\r\nX-Note:  a  b \r\n\r\n").unwrap();
        assert_eq!(expected.headers[1], ("x-note".to_owned(), b"a  b".to_vec()));
        for text in ["\nPOST /a/health HTTP/1.1\nhost: h.example\nx-note:a  b\n\n", curl] {
            assert_eq!(parsed(text).unwrap(), expected, "{text}");
        }
        let absolute = parsed("POST https://h.example/a/health HTTP/1.1\n\n").unwrap();
        assert_eq!((absolute.authority().as_deref(), &*absolute.target), (Some("h.example"), "/a/health"));
    }

    #[test]
    fn bodies() {
        let head = "POST / HTTP/1.1\nHost: h\n";
        let with = |header: &str, body: &str| parsed(&format!("{head}{header}\n{body}"));
        assert_eq!(with("", "{}\n").unwrap().body, b"{}\n");
        assert_eq!(with("Content-Length: 2\n", "{}\n").unwrap().body, b"{}");
        assert_eq!(with("Content-Length: 2\n", "{}\n").unwrap().notes.len(), 1);
        assert_eq!(with("Content-Length: 5\n", "{}\n"), Err(CaptureError::Truncated { announced: 5, found: 3 }));
        assert_eq!(with("Transfer-Encoding: chunked\n", "2\r\n{}\r\n0\r\n\r\n"), Err(CaptureError::Chunked));
        let separate = |text: &str| Capture::parse(text.as_bytes(), Some(b"{}".to_vec()));
        assert_eq!(separate(head).unwrap().body, b"{}");
        assert_eq!(separate(&format!("{head}\n{{}}")), Err(CaptureError::TwoBodies));
    }

    #[test]
    fn what_is_no_request() {
        let cases = [
            ("", CaptureError::RequestLine),
            ("{}", CaptureError::RequestLine),
            ("POST /\n\n", CaptureError::RequestLine),
            ("POST / HTTP/3\n\n", CaptureError::RequestLine),
            ("POST  / HTTP/1.1\n\n", CaptureError::RequestLine),
            ("HTTP/1.1 200 OK\n\n", CaptureError::RequestLine),
            ("POST / HTTP/1.1\nHost\n\n", CaptureError::Header(2)),
            ("POST / HTTP/1.1\nHost: h\n folded\n\n", CaptureError::Header(3)),
            ("POST / HTTP/1.1\nHost : h\n\n", CaptureError::Header(2)),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn one_authority_and_no_contradiction() {
        let cases = [
            ("POST / HTTP/1.1\nHost: a\n\n", Some("a")),
            ("POST / HTTP/1.1\n\n", None),
            ("POST / HTTP/1.1\nHost: a\nHost: a\n\n", None),
            ("POST https://a/ HTTP/1.1\nHost: a\n\n", Some("a")),
            ("POST https://a/ HTTP/1.1\nHost: b\n\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text).unwrap().authority().as_deref(), expected, "{text}");
        }
    }
}
