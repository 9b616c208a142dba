//! Requests that AWS's own signer for Rust signed, drawn at random, and what may happen to them on the way.
//!
//! Guarantees: the same seed gives the same request. Every header that is drawn is signed, so that every change to it counts.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::{
    AccessKeyId, Authenticated, Claim, Credential, CredentialSet, Occurrence, Region, Regions, SERVICE, SignatureError,
    SignedRequest,
};

use crate::random::Random;

const REGIONS: [&str; 5] = ["us-east-1", "eu-central-1", "ap-southeast-4", "us-gov-west-1", "cn-north-1"];
const ID_CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const SECRET_CHARACTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/+=";
const PATH_CHARACTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
const HOST_CHARACTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const VALUE_CHARACTERS: &[u8] = b"abcXYZ019-_=;:,./\"'(){}[]<>@#$%&*+?!|~^`\\  ";

/// A request as it arrives, and what its verifier knows.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The access key id that the verifier knows.
    pub access_key_id: String,
    /// The secret that the verifier knows.
    pub secret: String,
    /// The regions that the verifier serves.
    pub regions: Vec<String>,
    /// The verifier's time.
    pub now_ms: u64,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// `Host`.
    pub authority: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Signed {
    /// Draws a request and has it signed.
    #[must_use]
    pub fn draw(random: &mut Random) -> Self {
        let length = 20 + random.below(11);
        let access_key_id = text(random, ID_CHARACTERS, length);
        let length = 43 + random.below(22);
        let secret = text(random, SECRET_CHARACTERS, length);
        let region = *random.choose(&REGIONS);
        let seconds = 1_500_000_000 + random.next() % 2_500_000_000;
        let skew_ms = random.next() % 300_001;
        let at_ms = seconds * 1000;
        let mut signed = Self {
            access_key_id,
            secret,
            regions: vec![region.to_owned(), "eu-west-3".to_owned()],
            now_ms: if random.below(2) == 0 { at_ms + skew_ms } else { at_ms - skew_ms },
            method: "POST".to_owned(),
            path: path(random),
            authority: authority(random),
            headers: Vec::new(),
            body: Vec::new(),
        };
        let most = if random.below(50) == 0 { 20_000 } else { 300 };
        let length = random.below(most);
        signed.body = (0..length).map(|_| u8::try_from(random.next() % 256).unwrap()).collect();
        for number in 0..random.below(5) {
            let length = random.below(30);
            let name = ["content-type", "x-note", "x-amz-trace", "date", "accept"][number];
            signed.headers.push((name.to_owned(), text(random, VALUE_CHARACTERS, length).into_bytes()));
        }
        signed.sign(region, seconds, random.below(2) == 0);
        signed
    }

    fn sign(&mut self, region: &str, seconds: u64, checksum: bool) {
        let mut settings = SigningSettings::default();
        if checksum {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let identity = Credentials::new(&self.access_key_id, &self.secret, None, None, "test").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(SERVICE)
            .time(UNIX_EPOCH + Duration::from_secs(seconds))
            .settings(settings)
            .build()
            .unwrap();
        let uri = format!("https://{}{}", self.authority, self.path);
        let headers: Vec<(String, String)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), String::from_utf8(value.clone()).unwrap()))
            .collect();
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new(&self.method, &uri, headers, SignableBody::Bytes(&self.body)).unwrap();
        let (instructions, _) = sign(request, &parameters.into()).unwrap().into_parts();
        for (name, value) in instructions.headers() {
            self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        }
    }

    /// What the product's verifier says.
    ///
    /// # Errors
    /// Its refusal.
    pub fn verify(&self) -> Result<Authenticated, SignatureError> {
        let id = AccessKeyId::parse(&self.access_key_id).unwrap();
        let credential = Credential::new(id, SecretBytes::new(self.secret.clone().into_bytes())).unwrap();
        let credentials = CredentialSet::new(vec![credential], &Secret::take(&mut [7; 32])).unwrap();
        let regions = self.regions.iter().map(|region| Region::parse(region).unwrap()).collect();
        let request = SignedRequest {
            method: &self.method,
            path: &self.path,
            authority: &self.authority,
            header: |name: &str| self.header(name),
            body: &self.body,
        };
        Claim::parse(&request, &Regions::Only(regions), self.now_ms)?.verify(&credentials)
    }

    fn header(&self, name: &str) -> Occurrence<'_> {
        let mut values = self.headers.iter().filter(|(header, _)| header == name);
        match (values.next(), values.next()) {
            (None, _) => Occurrence::Absent,
            (Some((_, value)), None) => Occurrence::Once(value),
            (Some(_), Some(_)) => Occurrence::Repeated,
        }
    }

    /// One thing that is signed becomes another. Says which.
    pub fn change(&mut self, random: &mut Random) -> String {
        match random.below(12) {
            0 => change_text(&mut self.method, random, "the method"),
            1 => change_text(&mut self.path, random, "the path"),
            2 => change_text(&mut self.authority, random, "the host"),
            3 if !self.body.is_empty() => change_byte(&mut self.body, random, "the body"),
            3 | 4 => {
                let at = random.below(self.body.len() + 1);
                self.body.insert(at, b' ');
                format!("a space in the body at {at}")
            }
            5 if !self.body.is_empty() => {
                let at = random.below(self.body.len());
                self.body.remove(at);
                format!("the byte of the body at {at} removed")
            }
            6 => {
                let at = random.below(self.headers.len());
                let (name, _) = self.headers.remove(at);
                format!("{name} removed")
            }
            7 => {
                let header = random.choose(&self.headers).clone();
                let name = header.0.clone();
                self.headers.push(header);
                format!("{name} twice")
            }
            8 => {
                let shift = 300_001 + 300_000 + random.next() % 1_000_000_000;
                self.now_ms = if random.below(2) == 0 { self.now_ms + shift } else { self.now_ms - shift };
                format!("the time, by {shift} ms")
            }
            9 => {
                self.regions.remove(0);
                "the regions served".to_owned()
            }
            10 => self.change_authorization(random),
            _ => self.change_header(random),
        }
    }

    fn change_authorization(&mut self, random: &mut Random) -> String {
        let (_, value) = self.headers.iter_mut().find(|(name, _)| name == "authorization").unwrap();
        change_byte(value, random, "authorization")
    }

    /// Any byte of any header, among them date, content hash and authorization. A space is not put where it is trimmed or
    /// folded away.
    fn change_header(&mut self, random: &mut Random) -> String {
        let filled: Vec<usize> = (0..self.headers.len()).filter(|at| !self.headers[*at].1.is_empty()).collect();
        let at = *random.choose(&filled);
        let (name, value) = &mut self.headers[at];
        let visible: Vec<usize> = (0..value.len()).filter(|at| value[*at] != b' ').collect();
        if visible.is_empty() {
            value.push(b'x');
            return format!("{name}, a letter added");
        }
        let place = *random.choose(&visible);
        let (from, to) = (value[place], another(value[place], random));
        value[place] = to;
        format!("{name}, byte {place} from {from} to {to}")
    }
}

/// A visible character that is another one.
fn another(byte: u8, random: &mut Random) -> u8 {
    loop {
        let other = b'!' + u8::try_from(random.below(94)).unwrap();
        if other != byte {
            return other;
        }
    }
}

fn change_byte(bytes: &mut [u8], random: &mut Random, what: &str) -> String {
    let place = random.below(bytes.len());
    let from = bytes[place];
    bytes[place] = another(from, random);
    format!("{what}, byte {place} from {from} to {}", bytes[place])
}

fn change_text(text: &mut String, random: &mut Random, what: &str) -> String {
    let mut bytes = std::mem::take(text).into_bytes();
    let said = change_byte(&mut bytes, random, what);
    *text = String::from_utf8(bytes).unwrap();
    said
}

fn text(random: &mut Random, characters: &[u8], length: usize) -> String {
    (0..length).map(|_| char::from(*random.choose(characters))).collect()
}

fn path(random: &mut Random) -> String {
    let mut path = String::new();
    for _ in 0..random.below(4) {
        let length = 1 + random.below(20);
        path.extend(["/", &text(random, PATH_CHARACTERS, length)]);
    }
    path.push_str("/kms/xks/v1/");
    if random.below(4) == 0 {
        path.push_str("health");
    } else {
        let length = 1 + random.below(60);
        let id = text(random, PATH_CHARACTERS, length) + *random.choose::<&str>(&["", ".", ".1", "..x"]);
        let operation = *random.choose::<&str>(&["encrypt", "decrypt", "metadata"]);
        path.extend(["keys/", &id, "/", operation]);
    }
    path
}

fn authority(random: &mut Random) -> String {
    let length = 1 + random.below(20);
    let host = text(random, HOST_CHARACTERS, length) + ".example.com";
    match random.below(3) {
        0 => format!("{host}:{}", 1024 + random.below(60_000)),
        _ => host,
    }
}
