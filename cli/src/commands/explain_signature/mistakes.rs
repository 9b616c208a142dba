//! What clients, proxies and people get wrong, each as another reading of the same request. Where the claimed signature is
//! right for one of them, that is what happened.
//!
//! Guarantees: a finding is never a guess: its signature was computed and matches. Assumes: one mistake, or two in different
//! parts of the request, or a port that got lost; more would take too long to try. Refuses: nothing; what it does not know it
//! does not find.

use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::SERVICE;
use holdfast_shared::sigv4::explain::{ClaimedSignature, SignedParts};

use super::capture::Capture;

/// Which part of the request a mistake is in. Two mistakes in one part would undo each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Method,
    Path,
    Query,
    Host,
    Header,
    Body,
    Service,
    Region,
    Time,
    Secret,
}

/// Something that may have been signed instead.
struct Mistake {
    part: Part,
    /// Goes on from "the client …".
    words: String,
    change: Change,
}

enum Change {
    Parts(Box<dyn Fn(&mut SignedParts)>),
    Secret(SecretBytes),
}

/// What the signature turned out to be for.
#[derive(Debug)]
pub(super) struct Found {
    /// What the client did, in words; one or two.
    pub(super) words: Vec<String>,
    /// What it signed.
    pub(super) parts: SignedParts,
}

/// Looks for mistakes that make the signature right.
#[must_use]
pub(super) fn find(
    parts: &SignedParts,
    claimed: &ClaimedSignature,
    secret: &SecretBytes,
    capture: &Capture,
) -> Option<Found> {
    let mistakes = known(parts, secret, capture);
    let right = |chosen: &[&Mistake]| {
        let (mut tried, mut with) = (parts.clone(), secret);
        for mistake in chosen {
            match &mistake.change {
                Change::Parts(change) => change(&mut tried),
                Change::Secret(other) => with = other,
            }
        }
        let words = chosen.iter().map(|mistake| mistake.words.clone()).collect();
        tried.are_signed_by(with, &claimed.signature).then_some(Found { words, parts: tried })
    };
    let one = mistakes.iter().find_map(|mistake| right(&[mistake]));
    one.or_else(|| {
        mistakes.iter().enumerate().find_map(|(count, first)| {
            let others = mistakes.iter().skip(count.saturating_add(1)).filter(|second| second.part != first.part);
            others.into_iter().find_map(|second| right(&[first, second]))
        })
    })
}

/// A proxy on the way that wrote `Host` anew has lost a port, and which one cannot be seen: there are few enough to try.
#[must_use]
pub(super) fn find_port(parts: &SignedParts, claimed: &ClaimedSignature, secret: &SecretBytes) -> Option<Found> {
    let (place, host) = host_of(parts)?;
    let name = without_port(&host);
    if name != host {
        return None;
    }
    let (mut tried, key) = (parts.clone(), parts.scope_key(secret));
    (1..=u16::MAX).find_map(|port| {
        let other = format!("{name}:{port}");
        other.as_bytes().clone_into(&mut tried.headers.get_mut(place)?.1);
        let words = || format!("signed the host \"{other}\", but \"{host}\" arrived");
        let right = key.signs(tried.string_to_sign().as_bytes(), &claimed.signature);
        right.then(|| Found { words: vec![words()], parts: tried.clone() })
    })
}

fn host_of(parts: &SignedParts) -> Option<(usize, String)> {
    let place = parts.headers.iter().position(|(name, _)| name == "host" || name == ":authority")?;
    parts.headers.get(place).map(|(_, value)| (place, String::from_utf8_lossy(value).into_owned()))
}

fn without_port(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn known(parts: &SignedParts, secret: &SecretBytes, capture: &Capture) -> Vec<Mistake> {
    let mut mistakes = bodies(capture);
    mistakes.extend(hosts(parts));
    mistakes.extend(methods_and_paths(parts, capture));
    mistakes.extend(scopes(parts));
    mistakes.extend(headers(parts));
    mistakes.extend(secrets(secret));
    mistakes
}

fn mistake(part: Part, words: impl Into<String>, change: impl Fn(&mut SignedParts) + 'static) -> Mistake {
    Mistake { part, words: words.into(), change: Change::Parts(Box::new(change)) }
}

fn bodies(capture: &Capture) -> Vec<Mistake> {
    let body = capture.body.as_slice();
    let of = |words: &str, body: &[u8]| {
        let hash = sha256_hex(body);
        mistake(Part::Body, words, move |parts| parts.body_hash.clone_from(&hash))
    };
    let literal = |words: &str, text: &str| {
        let text = text.to_owned();
        mistake(Part::Body, words, move |parts| parts.body_hash.clone_from(&text))
    };
    let without = |unwanted: &[u8]| body.iter().copied().filter(|byte| !unwanted.contains(byte)).collect::<Vec<_>>();
    let trimmed = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n")).unwrap_or(body);
    let mut mistakes = vec![
        literal("signed UNSIGNED-PAYLOAD instead of the hash of the body", "UNSIGNED-PAYLOAD"),
        of("signed an empty body", b""),
        of("signed the body with a line end (LF) behind it, which did not arrive", &[body, b"\n"].concat()),
        of("signed the body with a line end (CRLF) behind it, which did not arrive", &[body, b"\r\n"].concat()),
        of("signed the body without the line end at its end, which was added later", trimmed),
        of("signed the body without its carriage returns (the line ends were changed on the way)", &without(b"\r")),
        of(
            "signed the body without its line ends (curl's --data @FILE removes them; --data-binary does not)",
            &without(b"\r\n"),
        ),
        of("signed the body with LF turned into CRLF", &crlf(body)),
        of("signed the body's JSON without spaces: something wrote it anew on the way", &respaced(body, "")),
        of(
            "signed the body's JSON with a space after each comma and colon: something wrote it anew on the way",
            &respaced(body, " "),
        ),
        of("signed the body with a byte order mark", &[b"\xef\xbb\xbf", body].concat()),
        literal("signed the hash of the body in upper case", &sha256_hex(body).to_ascii_uppercase()),
    ];
    for (_, value) in capture.headers.iter().filter(|(name, _)| name == "x-amz-content-sha256") {
        let value = String::from_utf8_lossy(value).into_owned();
        mistakes.push(literal(
            "signed another body than the one that arrived: the hash that it signed is in x-amz-content-sha256",
            &value,
        ));
    }
    mistakes
}

fn hosts(parts: &SignedParts) -> Vec<Mistake> {
    let Some((place, host)) = host_of(parts) else { return Vec::new() };
    let name = without_port(&host).to_owned();
    let mut others = vec![name.clone()];
    others.extend(["443", "8443", "80", "8080"].map(|port| format!("{name}:{port}")));
    others.extend([host.to_ascii_lowercase(), name.to_ascii_lowercase(), format!("{name}.")]);
    others.extend([format!("https://{host}"), "localhost".to_owned(), "127.0.0.1".to_owned(), String::new()]);
    others.retain(|other| *other != host);
    others
        .into_iter()
        .map(|other| {
            let words = format!("signed the host \"{other}\", but \"{host}\" arrived");
            mistake(Part::Host, words, move |parts| {
                if let Some((_, value)) = parts.headers.get_mut(place) {
                    other.as_bytes().clone_into(value);
                }
            })
        })
        .collect()
}

fn methods_and_paths(parts: &SignedParts, capture: &Capture) -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = ["POST", "GET", "PUT", "post"]
        .into_iter()
        .filter(|method| *method != parts.method)
        .map(|method| {
            mistake(Part::Method, format!("signed the method {method}"), move |parts| {
                method.clone_into(&mut parts.method);
            })
        })
        .collect();
    let (path, query) = capture.target.split_once('?').unwrap_or((&capture.target, ""));
    if !query.is_empty() {
        let query = query.to_owned();
        mistakes.push(mistake(Part::Query, "signed the query, too", move |parts| parts.query.clone_from(&query)));
    }
    let mut others = vec![
        ("the path without its query", path.to_owned()),
        ("the path with a slash at its end", format!("{path}/")),
        ("the path without the slash at its end", path.trim_end_matches('/').to_owned()),
        ("the path in lower case", path.to_ascii_lowercase()),
        ("the path with percent-escapes in lower case", with_escapes(path, str::to_ascii_lowercase)),
        ("the path with percent-escapes in upper case", with_escapes(path, str::to_ascii_uppercase)),
        ("the path with its percent signs escaped once more", path.replace('%', "%25")),
        ("the path with escaped slashes", path.replace('/', "%2F")),
        ("the path with doubled slashes made one", path.replace("//", "/")),
        ("the path with another slash before it", format!("/{path}")),
        ("the path /", "/".to_owned()),
        ("an empty path", String::new()),
    ];
    if let Some((_, tail)) = path.split_once("/kms/xks/v1/") {
        others.push(("the path without its prefix (something on the way added it)", format!("/kms/xks/v1/{tail}")));
    }
    if let Some((head, last)) = path.rsplit_once('/') {
        let operations = ["encrypt", "decrypt", "metadata"].into_iter().filter(|operation| *operation != last);
        others.extend(operations.map(|operation| ("the path of another operation", format!("{head}/{operation}"))));
    }
    mistakes.extend(others.into_iter().filter(|(_, other)| *other != parts.path).map(|(what, other)| {
        mistake(Part::Path, format!("signed {what}: \"{other}\""), move |parts| parts.path.clone_from(&other))
    }));
    mistakes
}

/// The regions of all partitions; the list need not be complete to be of use.
const REGIONS: [&str; 37] = [
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "af-south-1",
    "ap-east-1",
    "ap-south-1",
    "ap-south-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-gov-east-1",
    "us-gov-west-1",
    "cn-north-1",
    "cn-northwest-1",
    "eusc-de-east-1",
];

fn scopes(parts: &SignedParts) -> Vec<Mistake> {
    let services = [SERVICE, "kms", "xks", "xks-proxy", "kms-xks", "execute-api", "s3", "sts", "service"];
    let services = services.into_iter().filter(|service| *service != parts.service);
    let regions = REGIONS.into_iter().filter(|region| *region != parts.region);
    let mut mistakes: Vec<Mistake> = services
        .map(|service| {
            let words = format!("signed for the service \"{service}\", though the scope says \"{}\"", parts.service);
            mistake(Part::Service, words, move |parts| service.clone_into(&mut parts.service))
        })
        .collect();
    mistakes.extend(regions.map(|region| {
        let words = format!("signed for the region \"{region}\", though the scope says \"{}\"", parts.region);
        mistake(Part::Region, words, move |parts| region.clone_into(&mut parts.region))
    }));
    let day: String = parts.date.chars().take(8).collect();
    if day != parts.day {
        let words = "derived the key for the day of x-amz-date, not for the day in the scope";
        mistakes.push(mistake(Part::Time, words, move |parts| parts.day.clone_from(&day)));
    }
    mistakes
}

fn headers(parts: &SignedParts) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (index, (name, value)) in parts.headers.iter().enumerate() {
        let text = String::from_utf8_lossy(value).into_owned();
        let mut others = vec![text.split_whitespace().collect::<Vec<_>>().join(" "), text.to_ascii_lowercase()];
        if name == "content-type" {
            others.extend(
                ["application/json", "application/json; charset=utf-8", "application/x-amz-json-1.1", ""]
                    .map(String::from),
            );
            others.push("application/x-www-form-urlencoded".to_owned());
        }
        others.retain(|other| *other != text && name != "host" && name != ":authority");
        mistakes.extend(others.into_iter().map(|other| {
            let words = format!("signed the header {name} as \"{other}\", but \"{text}\" arrived");
            mistake(Part::Header, words, move |parts| {
                if let Some((_, value)) = parts.headers.get_mut(index) {
                    *value = other.clone().into_bytes();
                }
            })
        }));
    }
    mistakes
}

/// No words of these hold anything of the secret.
fn secrets(secret: &SecretBytes) -> Vec<Mistake> {
    let text = secret.expose();
    let with = |words: &str, secret: Vec<u8>| Mistake {
        part: Part::Secret,
        words: words.to_owned(),
        change: Change::Secret(SecretBytes::new(secret)),
    };
    let mut mistakes = vec![
        with("signs with the secret and a line end (LF) behind it: it reads the file as it is", [text, b"\n"].concat()),
        with(
            "signs with the secret and a line end (CRLF) behind it: it reads the file as it is",
            [text, b"\r\n"].concat(),
        ),
        with("signs with the secret and a space behind it", [text, b" "].concat()),
        with("signs with the secret in quotation marks", [b"\"", text, b"\""].concat()),
        with(
            "signs with the secret without the = at its end",
            text.trim_ascii_end().iter().copied().filter(|byte| *byte != b'=').collect(),
        ),
        with("signs with the secret and a = behind it", [text, b"="].concat()),
        with("puts AWS4 before the secret twice", [b"AWS4", text].concat()),
    ];
    if let Ok(decoded) = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text) {
        mistakes.push(with(
            "decodes the secret from base64 before it signs; the characters themselves are the secret",
            decoded,
        ));
    }
    mistakes
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(holdfast_shared::sha256(&[bytes]))
}

fn crlf(body: &[u8]) -> Vec<u8> {
    body.iter().flat_map(|byte| if *byte == b'\n' { b"\r\n".to_vec() } else { vec![*byte] }).collect()
}

/// JSON with `after` behind each comma and colon and no other space, strings left alone.
fn respaced(json: &[u8], after: &str) -> Vec<u8> {
    let (mut out, mut in_string, mut escaped) = (Vec::with_capacity(json.len()), false, false);
    for byte in json {
        if in_string {
            out.push(*byte);
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
        } else if !byte.is_ascii_whitespace() {
            out.push(*byte);
            in_string = *byte == b'"';
            if matches!(byte, b',' | b':') {
                out.extend_from_slice(after.as_bytes());
            }
        }
    }
    out
}

fn with_escapes(path: &str, change: fn(&str) -> String) -> String {
    let mut parts = path.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escape, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        out.extend(["%", &change(escape), rest]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_with_other_spaces() {
        let json = br#"{ "a" : "x, \" y: z" ,
            "b":[1, 2] }"#;
        assert_eq!(respaced(json, ""), br#"{"a":"x, \" y: z","b":[1,2]}"#);
        assert_eq!(respaced(json, " "), br#"{"a": "x, \" y: z", "b": [1, 2]}"#);
    }

    #[test]
    fn escapes() {
        assert_eq!(with_escapes("/a%2Fb%c3%", str::to_ascii_lowercase), "/a%2fb%c3%");
        assert_eq!(with_escapes("/a%2fb", str::to_ascii_uppercase), "/a%2Fb");
        assert_eq!(with_escapes("/Ab", str::to_ascii_lowercase), "/Ab");
    }
}
