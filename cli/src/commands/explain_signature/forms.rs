//! The two forms that a signature goes through, the client's own account of them, and where they differ.

use core::fmt;

use serde::Serialize;

/// Canonical request and string to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forms {
    /// Step one.
    #[serde(serialize_with = "serialize_lossy")]
    pub canonical_request: Vec<u8>,
    /// Step two.
    pub string_to_sign: String,
}

fn serialize_lossy<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// What a client says it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAccount {
    /// Its canonical request.
    pub canonical_request: Vec<u8>,
    /// Its string to sign, where it printed that.
    pub string_to_sign: Option<String>,
}

impl ClientAccount {
    /// Reads a canonical request, or what botocore, the AWS CLI (`--debug`) or newer versions of curl (`-v`) print around it.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let canonical = section(bytes, &[b"CanonicalRequest:", b"Canonical request (enclosed in []) - ["]);
        let text = section(bytes, &[b"StringToSign:", b"String to sign (enclosed in []) - ["]);
        Self {
            canonical_request: canonical.unwrap_or_else(|| without_last_line_end(bytes)),
            string_to_sign: text.map(|text| String::from_utf8_lossy(&text).into_owned()),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// What stands between a mark and the end of its log entry. The last one counts, since a request may have been tried before.
fn section(bytes: &[u8], marks: &[&[u8]]) -> Option<Vec<u8>> {
    let mut found = None;
    for mark in marks {
        let mut rest = bytes;
        while let Some(at) = find(rest, mark) {
            rest = rest.get(at.saturating_add(mark.len())..).unwrap_or_default();
            found = Some((rest, mark.ends_with(b"[")));
        }
    }
    let (rest, enclosed) = found?;
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
    if enclosed {
        return Some(rest.get(..find(rest, b"]")?)?.to_vec());
    }
    // The next entry of the log begins with its time; no line of either form ends with a colon and a name like these.
    let lines = rest.split_inclusive(|byte| *byte == b'\n');
    let marks: [&[u8]; 3] = [b"CanonicalRequest:", b"StringToSign:", b"Signature:"];
    let own = lines.take_while(|line| !marks.iter().any(|mark| line.trim_ascii_end().ends_with(mark)));
    let own: Vec<u8> = own.flatten().copied().collect();
    Some(without_last_line_end(&own))
}

fn without_last_line_end(bytes: &[u8]) -> Vec<u8> {
    // Editors and shells end the last line; the form itself ends with a digit.
    bytes.trim_ascii_end().iter().copied().filter(|byte| *byte != b'\r').collect()
}

/// The first place where two forms differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `canonical request` or `string to sign`.
    pub form: &'static str,
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// What stands in that line.
    pub part: String,
    /// The server's line, whitespace made visible.
    pub server: String,
    /// The client's line, whitespace made visible.
    pub client: String,
    /// Where in those two lines the caret stands, from 0, in characters.
    pub caret: usize,
}

/// Compares the canonical requests, then the strings to sign without the hash that follows from those.
#[must_use]
pub fn first_difference(server: &Forms, client: &Forms) -> Option<Difference> {
    compare("canonical request", &server.canonical_request, &client.canonical_request)
        .or_else(|| compare("string to sign", server.string_to_sign.as_bytes(), client.string_to_sign.as_bytes()))
}

fn compare(form: &'static str, server: &[u8], client: &[u8]) -> Option<Difference> {
    let mut lines = (server.split(|byte| *byte == b'\n'), client.split(|byte| *byte == b'\n'));
    let mut number = 0_usize;
    loop {
        number = number.saturating_add(1);
        let (ours, theirs) = match (lines.0.next(), lines.1.next()) {
            (None, None) => return None,
            (Some(ours), Some(theirs)) if ours == theirs => continue,
            (ours, theirs) => (ours, theirs),
        };
        let part = part_of(form, number, ours.or(theirs).unwrap_or_default());
        let (ours, theirs) = (ours.unwrap_or_default(), theirs.unwrap_or_default());
        let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
        let start = same.saturating_sub(CONTEXT);
        let (server, client) = (shown(ours, start), shown(theirs, start));
        let before = shown(ours.get(..same).unwrap_or_default(), start);
        let caret = before.chars().count();
        return Some(Difference { form, line: number, column: same.saturating_add(1), part, server, client, caret });
    }
}

/// Bytes shown before a difference in a long line.
const CONTEXT: usize = 60;
/// Bytes shown of a line.
const SHOWN_MAX: usize = 110;

fn shown(line: &[u8], start: usize) -> String {
    let mark = if start > 0 { "…" } else { "" };
    let rest = line.get(start..).unwrap_or_default();
    let end = if rest.len() > SHOWN_MAX { "…" } else { "" };
    format!("{mark}{}{end}", visible(rest.get(..SHOWN_MAX).unwrap_or(rest)))
}

/// A line in which nothing is invisible, and nothing steers a terminal.
#[must_use]
pub fn visible(line: &[u8]) -> String {
    let mut out = String::with_capacity(line.len());
    for byte in line {
        match byte {
            b' ' => out.push('·'),
            b'\t' => out.push('→'),
            b'!'..=b'~' => out.push(char::from(*byte)),
            other => out.extend(["\\x", &hex::encode([*other])]),
        }
    }
    out
}

fn part_of(form: &str, line: usize, text: &[u8]) -> String {
    if form == "string to sign" {
        let part = match line {
            1 => "the algorithm",
            2 => "x-amz-date",
            3 => "the credential scope: day, region, service",
            _ => "the hash of the canonical request",
        };
        return part.to_owned();
    }
    match line {
        1 => "the method".to_owned(),
        2 => "the path".to_owned(),
        3 => "the query".to_owned(),
        _ if text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit) => "the hash of the body".to_owned(),
        _ => match header_name(text) {
            Some(name) => format!("the header {}", visible(name)),
            None => "the names of the signed headers".to_owned(),
        },
    }
}

/// The name in `name:value`; one name begins with a colon itself (`:authority`).
fn header_name(text: &[u8]) -> Option<&[u8]> {
    let start = usize::from(text.starts_with(b":"));
    let end = text.get(start..)?.iter().position(|byte| *byte == b':')?;
    text.get(..start.saturating_add(end))
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "first difference: {}, line {}, column {}: {}", self.form, self.line, self.column, self.part)?;
        writeln!(f, "  server  {}", self.server)?;
        writeln!(f, "  client  {}", self.client)?;
        write!(f, "          {}^", " ".repeat(self.caret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANONICAL: &str = "POST\n/kms/xks/v1/health\n\nhost:h.example\nx-amz-date:20240101T000000Z\n\nhost;x-amz-date\n\
                             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn forms(canonical: &str) -> Forms {
        Forms { canonical_request: canonical.into(), string_to_sign: "a\nb\nc\nd".into() }
    }

    #[test]
    fn the_first_difference_is_marked() {
        let cases = [
            ("POST\n", "PUT\n", (1, 2, "the method"), "POST", "PUT"),
            ("health\n", "health/\n", (2, 19, "the path"), "/kms/xks/v1/health", "/kms/xks/v1/health/"),
            ("\n\nhost:", "\na=b\nhost:", (3, 1, "the query"), "", "a=b"),
            ("h.example\n", "h.example:443\n", (4, 15, "the header host"), "host:h.example", "host:h.example:443"),
            ("h.example\n", "h.example \t\n", (4, 15, "the header host"), "host:h.example", "host:h.example·→"),
            (
                "host;x",
                "host;range;x",
                (7, 6, "the names of the signed headers"),
                "host;x-amz-date",
                "host;range;x-amz-date",
            ),
        ];
        for (from, to, (line, column, part), server, client) in cases {
            let found = first_difference(&forms(CANONICAL), &forms(&CANONICAL.replacen(from, to, 1))).unwrap();
            assert_eq!((found.line, found.column, &*found.part), (line, column, part), "{to}");
            assert_eq!((&*found.server, &*found.client), (server, client));
            assert!(found.to_string().ends_with(&format!("\n{}^", " ".repeat(10 + column - 1))), "{found}");
        }
        assert_eq!(first_difference(&forms(CANONICAL), &forms(CANONICAL)), None);
        let shorter = CANONICAL.rsplit_once('\n').unwrap().0;
        let found = first_difference(&forms(CANONICAL), &forms(shorter)).unwrap();
        assert_eq!((found.line, &*found.part), (8, "the hash of the body"));
        let mut other = forms(CANONICAL);
        other.string_to_sign = "a\nb\nC\nd".into();
        let found = first_difference(&forms(CANONICAL), &other).unwrap();
        assert_eq!((found.form, found.line, found.caret), ("string to sign", 3, 0));
    }

    #[test]
    fn long_lines_are_shown_around_the_difference() {
        let long = |end: &str| forms(&format!("POST\n/{}{end}", "p".repeat(300)));
        let found = first_difference(&long("a"), &long("b")).unwrap();
        assert_eq!((found.column, found.caret), (302, 61));
        assert_eq!(found.server, format!("…{}a", "p".repeat(60)));
        assert_eq!(visible(b"a b\t\r\x1b\xe9"), "a·b→\\x0d\\x1b\\xe9");
    }

    #[test]
    fn accounts_of_clients() {
        let plain = format!("{CANONICAL}\n");
        let botocore = format!(
            "2024-01-01 00:00:00,000 - MainThread - botocore.auth - DEBUG - CanonicalRequest:\nolder\n\
             2024-01-01 00:00:00,000 - MainThread - botocore.auth - DEBUG - CanonicalRequest:\n{CANONICAL}\n\
             2024-01-01 00:00:00,000 - MainThread - botocore.auth - DEBUG - StringToSign:\na\nb\nc\nd\n\
             2024-01-01 00:00:00,000 - MainThread - botocore.auth - DEBUG - Signature:\n0123\n"
        );
        let curl = format!(
            "* aws_sigv4: Canonical request (enclosed in []) - [{CANONICAL}]\n\
             * aws_sigv4: String to sign (enclosed in []) - [a\nb\nc\nd]\n"
        );
        for (text, with_text) in [(plain, false), (botocore, true), (curl, true)] {
            let account = ClientAccount::parse(text.as_bytes());
            assert_eq!(String::from_utf8(account.canonical_request).unwrap(), CANONICAL, "{text}");
            assert_eq!(account.string_to_sign, with_text.then(|| "a\nb\nc\nd".to_owned()), "{text}");
        }
    }
}
