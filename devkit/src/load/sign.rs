//! Signatures as AWS KMS makes them (specification, Appendix A), with as little work as they need: the signing key is derived once
//! a day, the date is written once a second, and nothing is allocated once the buffers have grown.
//!
//! Guarantees: the same signature as `aws-sigv4` computes, which a test holds it to. Assumes: paths of unreserved characters and
//! slashes, and no query, which [`super::target`] sees to.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest::{SHA256, digest};
use ring::hmac;
use time::OffsetDateTime;

const SERVICE: &str = "kms-xks-proxy";

/// A moment as `X-Amz-Date` has it: `YYYYMMDDTHHMMSSZ`.
#[derive(Clone, Debug)]
pub(super) struct AmzDate {
    second: u64,
    text: String,
}

impl AmzDate {
    pub(super) fn now() -> Self {
        Self::at(since_1970())
    }

    fn at(since: Duration) -> Self {
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, (hour, minute, second)) = (moment.date(), moment.to_hms());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        let text = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z");
        Self { second: since.as_secs(), text }
    }

    /// Moves on to now.
    pub(super) fn renew(&mut self) {
        let now = since_1970();
        if now.as_secs() != self.second {
            *self = Self::at(now);
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn day(&self) -> &str {
        self.text.get(..8).unwrap_or_default()
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Signs for one credential and region.
#[derive(Clone)]
pub(super) struct Signer {
    access_key_id: String,
    secret_access_key: String,
    region: String,
    day: String,
    key: hmac::Key,
    scratch: Vec<u8>,
}

impl Signer {
    pub(super) fn new(access_key_id: &str, secret_access_key: &str, region: &str) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            region: region.to_owned(),
            day: String::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &[]),
            scratch: Vec::with_capacity(512),
        }
    }

    /// Appends the value of `Authorization` of a POST to `path` at `host` with `body`, signed over `host` and `x-amz-date` as KMS
    /// does.
    pub(super) fn authorize(&mut self, out: &mut Vec<u8>, path: &str, host: &str, date: &AmzDate, body: &[u8]) {
        if self.day != date.day() {
            self.begin_day(date.day());
        }
        let (day, region, at) = (&self.day, &self.region, date.text());
        let scratch = &mut self.scratch;
        scratch.clear();
        // Writing into memory does not fail.
        let _ = write!(scratch, "POST\n{path}\n\nhost:{host}\nx-amz-date:{at}\n\nhost;x-amz-date\n");
        append_hex(scratch, digest(&SHA256, body).as_ref());
        let canonical = digest(&SHA256, scratch);
        scratch.clear();
        let _ = write!(scratch, "AWS4-HMAC-SHA256\n{at}\n{day}/{region}/{SERVICE}/aws4_request\n");
        append_hex(scratch, canonical.as_ref());
        let signature = hmac::sign(&self.key, scratch);
        let _ = write!(
            out,
            "AWS4-HMAC-SHA256 Credential={}/{day}/{region}/{SERVICE}/aws4_request, SignedHeaders=host;x-amz-date, Signature=",
            self.access_key_id
        );
        append_hex(out, signature.as_ref());
    }

    fn begin_day(&mut self, day: &str) {
        let mut secret = b"AWS4".to_vec();
        secret.extend_from_slice(self.secret_access_key.as_bytes());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        for part in [day, &self.region, SERVICE, "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        self.key = key;
        day.clone_into(&mut self.day);
    }
}

/// Appends lower-case hexadecimal digits.
pub(super) fn append_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    if let Some(place) = out.get_mut(start..) {
        // The place is as long as it has to be.
        let _ = hex::encode_to_slice(bytes, place);
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4;

    use super::*;

    fn reference(at: SystemTime, path: &str, host: &str, body: &[u8]) -> String {
        let identity = Credentials::new("AKIAI2SFODNN7EXAMPLE", "secret/+=", None, None, "test").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-central-1")
            .name(SERVICE)
            .time(at)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let uri = format!("https://{host}{path}");
        let request = SignableRequest::new("POST", &uri, core::iter::empty(), SignableBody::Bytes(body)).unwrap();
        let (instructions, _) = sign(request, &parameters).unwrap().into_parts();
        let header = instructions.headers().find(|(name, _)| *name == "authorization").unwrap();
        header.1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_reference() {
        let mut signer = Signer::new("AKIAI2SFODNN7EXAMPLE", "secret/+=", "eu-central-1");
        // Two moments on one day, and two on others.
        for seconds in [0_u64, 1_700_000_000, 1_700_000_001, 1_709_164_800, 4_102_444_799] {
            for (path, host, body) in [
                ("/kms/xks/v1/health", "localhost:8443", &b"{}"[..]),
                ("/a/b_c-d.e~f/kms/xks/v1/keys/key-1/encrypt", "xks.example.com", &[b'x'; 10_000]),
            ] {
                let since = Duration::from_secs(seconds);
                let mut ours = Vec::new();
                signer.authorize(&mut ours, path, host, &AmzDate::at(since), body);
                assert_eq!(String::from_utf8(ours).unwrap(), reference(UNIX_EPOCH + since, path, host, body), "{path}");
            }
        }
    }
}
