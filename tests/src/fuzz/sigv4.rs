//! SigV4 against a second verifier, written from the specification (Appendix A) without regard to speed.
//!
//! A case is text: `now_ms METHOD PATH`, the authority, a line `name:value` for each header, an empty line, the body.

use std::sync::LazyLock;

use holdfast_shared::limits::{AUTHORIZATION_MAX, SIGNED_HEADERS_MAX, SIGV4_SKEW_MS};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::{AccessKeyId, Claim, Credential, CredentialSet, Occurrence, Regions, SignedRequest};
use ring::hmac;

use super::Verdict;

/// The credential of the test vectors.
pub(super) const ID: &str = "MUBSXM6K3KMXHN6RRCXI";
pub(super) const SECRET: &str = "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE";
/// The time of the test vectors.
pub(super) const NOW_MS: u64 = 1_633_780_800_000;
const DATE: &[u8] = b"20211009T120000Z";

static CREDENTIALS: LazyLock<CredentialSet> = LazyLock::new(|| {
    let credential =
        Credential::new(AccessKeyId::parse(ID).unwrap(), SecretBytes::new(SECRET.as_bytes().to_vec())).unwrap();
    CredentialSet::new(vec![credential], &Secret::take(&mut [3; 32])).unwrap()
});

/// A request.
pub(super) struct Case<'a> {
    now_ms: u64,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    authority: &'a str,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
    pub(super) body: &'a [u8],
}

/// A whole request.
pub fn sigv4_claim(data: &[u8]) -> Verdict {
    parse_case(data).map_or(Verdict::Refused, |case| check(&case))
}

/// An `Authorization` header, as it is, on a request that has every other header once.
pub fn sigv4_authorization(data: &[u8]) -> Verdict {
    let mut headers: Vec<(&str, &[u8])> = vec![("authorization", data), ("x-amz-date", DATE)];
    let text = std::str::from_utf8(data).unwrap_or_default();
    let named = text.split_once("SignedHeaders=").map_or("", |(_, rest)| rest).split(',').next().unwrap_or_default();
    for name in named.split(';') {
        if !headers.iter().any(|(known, _)| *known == name) {
            headers.push((name, b"value"));
        }
    }
    headers.retain(|(name, _)| *name != "x-amz-content-sha256");
    let path = "/kms/xks/v1/health";
    check(&Case { now_ms: NOW_MS, method: "POST", path, authority: "xks.example.com", headers, body: b"{}" })
}

fn parse_case(data: &[u8]) -> Option<Case<'_>> {
    let mut rest = data;
    let first = std::str::from_utf8(line(&mut rest)?).ok()?;
    let authority = std::str::from_utf8(line(&mut rest)?).ok()?;
    let headers = header_lines(&mut rest)?;
    let [now_ms, method, path] = first.splitn(3, ' ').collect::<Vec<_>>().try_into().ok()?;
    Some(Case { now_ms: now_ms.parse().ok()?, method, path, authority, headers, body: rest })
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (line, tail) = rest.split_at(end);
    *rest = &tail[1..];
    Some(line)
}

/// Header lines up to an empty one.
fn header_lines<'a>(rest: &mut &'a [u8]) -> Option<Vec<(&'a str, &'a [u8])>> {
    let mut headers = Vec::new();
    loop {
        let header = line(rest)?;
        if header.is_empty() {
            return Some(headers);
        }
        let colon = header.iter().position(|byte| *byte == b':')?;
        headers.push((std::str::from_utf8(&header[..colon]).ok()?, &header[colon + 1..]));
    }
}

fn check(case: &Case<'_>) -> Verdict {
    let found = find(case);
    let expected = found.as_ref().is_some_and(|found| found.id == ID && found.signature == found.right_signature(case));
    assert_eq!(authenticates(case), (found.is_some(), expected), "two verifiers disagree");
    let Some(found) = found else { return Verdict::Refused };
    // The same request with the right signature of the right signer, and then with one bit of it changed.
    let signed_header = found.authorization(case, ID, None);
    assert_eq!(authenticates(&case.with(&signed_header, case.body)), (true, true), "a right signature is refused");
    let flipped = found.authorization(case, ID, Some(case.body.len() % 256));
    assert_eq!(authenticates(&case.with(&flipped, case.body)), (true, false), "a wrong signature is accepted");
    let stranger = found.authorization(case, "AAAAAAAAAAAAAAAAAAAA", None);
    assert_eq!(authenticates(&case.with(&stranger, case.body)), (true, false), "an unknown signer is accepted");
    let longer = [case.body, b" "].concat();
    assert!(!authenticates(&case.with(&signed_header, &longer)).1, "another body is accepted");
    Verdict::from(expected)
}

impl<'a> Case<'a> {
    /// `METHOD PATH`, header lines, an empty line, a body: dated, but not signed.
    pub(super) fn unsigned(data: &'a [u8], authority: &'a str) -> Option<Self> {
        let mut rest = data;
        let first = std::str::from_utf8(line(&mut rest)?).ok()?;
        let (method, path) = first.split_once(' ')?;
        let mut headers = header_lines(&mut rest)?;
        headers.push(("x-amz-date", DATE));
        Some(Self { now_ms: NOW_MS, method, path, authority, headers, body: rest })
    }

    /// The `Authorization` header with which it is right.
    pub(super) fn sign(&self) -> String {
        let scope = ["20211009", "us-west-2", "kms-xks-proxy", "aws4_request"];
        let date = std::str::from_utf8(DATE).unwrap();
        let signed_headers = vec!["host", "x-amz-date"];
        Found { id: ID, scope, signed_headers, signature: String::new(), date }.authorization(self, ID, None)
    }

    /// The same with another `Authorization` and body.
    fn with<'b>(&self, authorization: &'b str, body: &'b [u8]) -> Case<'b>
    where
        'a: 'b,
    {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (*name, if *name == "authorization" { authorization.as_bytes() } else { *value }));
        Case { headers: headers.collect(), body, ..*self }
    }

    fn once(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.headers.iter().filter(|(header, _)| *header == name);
        let (_, value) = values.next()?;
        values.next().is_none().then_some(*value)
    }
}

/// Whether the claim is well-formed and fresh, and whether it verifies.
fn authenticates(case: &Case<'_>) -> (bool, bool) {
    let occurrence = |name: &str| match case.headers.iter().filter(|(header, _)| *header == name).count() {
        0 => Occurrence::Absent,
        1 => Occurrence::Once(case.once(name).unwrap()),
        _ => Occurrence::Repeated,
    };
    let request = SignedRequest {
        method: case.method,
        path: case.path,
        authority: case.authority,
        header: occurrence,
        body: case.body,
    };
    let claim = Claim::parse(&request, &Regions::Any, case.now_ms);
    (claim.is_ok(), claim.is_ok_and(|claim| claim.verify(&CREDENTIALS).is_ok()))
}

/// What the second verifier found.
struct Found<'a> {
    id: &'a str,
    scope: [&'a str; 4],
    signed_headers: Vec<&'a str>,
    signature: String,
    date: &'a str,
}

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";

fn find<'a>(case: &Case<'a>) -> Option<Found<'a>> {
    let header = case.once("authorization").filter(|header| header.len() <= AUTHORIZATION_MAX)?;
    let [first, second, third] = std::str::from_utf8(header).ok()?.split(',').collect::<Vec<_>>().try_into().ok()?;
    let second: &str = second;
    let after_space = |text: &'a str| text.strip_prefix(' ').unwrap_or(text);
    let credential = str::strip_prefix(first, "AWS4-HMAC-SHA256 Credential=")?;
    let signed_headers: Vec<_> = after_space(second).strip_prefix("SignedHeaders=")?.split(';').collect();
    let signature = after_space(third).strip_prefix("Signature=")?;
    let [id, day, region, service, end] = credential.split('/').collect::<Vec<_>>().try_into().ok()?;

    let all = |text: &str, allowed: &str| text.chars().all(|character| allowed.contains(character));
    let well_formed = (20..=30).contains(&str::len(id))
        && all(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
        && (1..=32).contains(&str::len(region))
        && all(region, &format!("{LOWER}0123456789-"))
        && service == "kms-xks-proxy"
        && end == "aws4_request"
        && signature.len() == 64
        && all(signature, "0123456789abcdef");
    let name_chars = format!("{LOWER}0123456789-_.");
    let is_name = |name: &&str| *name == ":authority" || ((1..=64).contains(&name.len()) && all(name, &name_chars));
    let names_fit = signed_headers.len() <= SIGNED_HEADERS_MAX
        && signed_headers.is_sorted_by(|left, right| left < right)
        && signed_headers.iter().all(is_name)
        && signed_headers.iter().any(|name| ["host", ":authority"].contains(name))
        && signed_headers.contains(&"x-amz-date");
    let date = std::str::from_utf8(case.once("x-amz-date")?).ok()?;
    let fresh = milliseconds(date)?.abs_diff(case.now_ms) <= SIGV4_SKEW_MS && date.get(..8) == Some(day);
    let body_hash = hex::encode(holdfast_shared::sha256(&[case.body]));
    let hash_fits = match case.headers.iter().filter(|(name, _)| *name == "x-amz-content-sha256").count() {
        0 => true,
        _ => case.once("x-amz-content-sha256") == Some(body_hash.as_bytes()),
    };
    let present = |name: &&str| ["host", ":authority"].contains(name) || case.once(name).is_some();
    let acceptable = well_formed && names_fit && fresh && hash_fits && signed_headers.iter().all(present);
    let scope = [day, region, service, end];
    acceptable.then(|| Found { id, scope, signed_headers, signature: signature.to_owned(), date })
}

/// `YYYYMMDDTHHMMSSZ`, by counting days from one year to the next.
fn milliseconds(date: &str) -> Option<u64> {
    let digits = date.bytes().enumerate().all(|(at, byte)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    });
    if date.len() != 16 || !digits {
        return None;
    }
    let part = |from: usize, to: usize| date[from..to].parse::<u64>().unwrap();
    let (year, month, day) = (part(0, 4), part(4, 6), part(6, 8));
    let (hour, minute, second) = (part(9, 11), part(11, 13), part(13, 15));
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).unwrap();
    let length = *lengths.get(month.checked_sub(1)?)?;
    if year < 1970 || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let years: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let days = years + lengths.iter().take(month - 1).sum::<u64>() + day - 1;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

impl Found<'_> {
    /// Appendix A, Tasks 1 to 3, word by word.
    fn right_signature(&self, case: &Case<'_>) -> String {
        let names = self.signed_headers.join(";");
        let mut canonical = format!("{}\n{}\n\n", case.method, case.path).into_bytes();
        for name in &self.signed_headers {
            let of_request = ["host", ":authority"].contains(name);
            let value = if of_request { case.authority.as_bytes() } else { case.once(name).unwrap_or_default() };
            canonical.extend_from_slice(format!("{name}:").as_bytes());
            canonical.extend_from_slice(&trimmed(value));
            canonical.push(b'\n');
        }
        canonical.extend_from_slice(format!("\n{names}\n").as_bytes());
        canonical.extend_from_slice(hex::encode(holdfast_shared::sha256(&[case.body])).as_bytes());
        let hash = hex::encode(holdfast_shared::sha256(&[&canonical]));
        let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", self.date, self.scope.join("/"));
        let mut key = format!("AWS4{SECRET}").into_bytes();
        for part in self.scope {
            key = mac(&key, part.as_bytes());
        }
        hex::encode(mac(&key, text.as_bytes()))
    }

    /// A header with the right signature, or with one bit of it changed.
    fn authorization(&self, case: &Case<'_>, id: &str, flipped_bit: Option<usize>) -> String {
        let mut signature = hex::decode(self.right_signature(case)).unwrap();
        if let Some(bit) = flipped_bit {
            signature[bit / 8] ^= 1 << (bit % 8);
        }
        format!(
            "AWS4-HMAC-SHA256 Credential={id}/{},SignedHeaders={},Signature={}",
            self.scope.join("/"),
            self.signed_headers.join(";"),
            hex::encode(signature)
        )
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// Without space at the ends, and with one for each run of spaces.
fn trimmed(value: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for byte in value.trim_ascii() {
        if *byte != b' ' || out.last() != Some(&b' ') {
            out.push(*byte);
        }
    }
    out
}
