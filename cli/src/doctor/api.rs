//! Requests of the XKS proxy API as KMS makes and signs them, and the ways in which they may be spoiled.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::sign::{OutgoingRequest, Signature};
use holdfast_shared::sigv4::{Credential, SERVICE};
use http::{Method, Request, header};
use http_body_util::Full;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Map, Value, json};

use super::endpoint::Endpoint;
use super::http::{Fault, Reply, Wire};
use super::report::Finding;
use super::table::{Cause, causes};
use crate::moment::now_ms;

/// Length of an access key id that nobody has.
const STRANGER: usize = 20;
/// What is signed in place of a body.
const OTHER_BODY: &[u8] = b"{}";
/// How far in the past a request is signed that must be refused: twice the five minutes of the specification's Task 4.
const OLD_MS: u64 = 600_000;
/// Skew after which signatures are refused, and from which it is worth a word.
const SKEW_REFUSED_S: u64 = 300;
const SKEW_SEEN_S: u64 = 30;

/// How a request is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signing {
    /// As KMS does.
    Right,
    /// Not at all.
    Absent,
    /// With another secret.
    OtherSecret,
    /// With an access key id that nobody has.
    Stranger,
    /// Over another body than the one that is sent, whose hash is in `x-amz-content-sha256`, for those who go by that.
    OtherBody,
    /// Rightly, ten minutes ago.
    Old,
}

/// A proxy with a credential to it.
pub(super) struct Api<'q> {
    pub(super) wire: Wire,
    pub(super) endpoint: &'q Endpoint,
    pub(super) region: &'q str,
}

impl Api<'_> {
    /// Posts JSON to `end` of the path.
    pub(super) async fn post(
        &mut self,
        credential: &Credential,
        end: &str,
        body: &Value,
        signing: Signing,
    ) -> Result<Reply, Fault> {
        self.send(credential, &Method::POST, end, body.to_string().into_bytes(), signing).await
    }

    /// Sends any body by any method. Only a `POST` can be signed.
    pub(super) async fn send(
        &mut self,
        credential: &Credential,
        method: &Method,
        end: &str,
        body: Vec<u8>,
        signing: Signing,
    ) -> Result<Reply, Fault> {
        let path = format!("{}/{end}", self.endpoint.path);
        let host = self.endpoint.authority();
        let mut request = Request::builder().method(method).uri(&path).header(header::HOST, &host);
        request = request.header(header::CONTENT_TYPE, "application/json");
        if signing != Signing::Absent {
            let signature = self.sign(credential, &path, &host, &body, signing);
            request =
                request.header("x-amz-date", signature.date).header(header::AUTHORIZATION, signature.authorization);
        }
        if signing == Signing::OtherBody {
            request = request.header("x-amz-content-sha256", hex::encode(digest(&SHA256, OTHER_BODY)));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| Fault::Closed(error.to_string()))?;
        self.wire.exchange(request).await
    }

    fn sign(&self, credential: &Credential, path: &str, host: &str, body: &[u8], signing: Signing) -> Signature {
        let stranger = "A".repeat(STRANGER);
        let other = || SecretBytes::new(b"A".repeat(43));
        let (id, secret) = match signing {
            Signing::OtherSecret => (credential.access_key_id().as_str(), other()),
            Signing::Stranger => (stranger.as_str(), other()),
            _ => (credential.access_key_id().as_str(), credential.secret().duplicate()),
        };
        let at_ms = if signing == Signing::Old { now_ms().saturating_sub(OLD_MS) } else { now_ms() };
        let body = if signing == Signing::OtherBody { OTHER_BODY } else { body };
        OutgoingRequest { path, headers: &[("host", host)], body, region: self.region, service: SERVICE, at_ms }
            .sign(id, &secret)
    }

    /// The body of `GetHealthStatus`.
    pub(super) fn health_body() -> Value {
        json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": request_id() } })
    }

    /// What KMS says of a request (specification, Appendix B), with made-up names. `optional` adds what need not be there.
    pub(super) fn metadata(&self, operation: &str, optional: bool) -> Value {
        let key = "00000000-0000-0000-0000-000000000000";
        let mut metadata = json!({
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/holdfast-doctor",
            "kmsKeyArn": format!("arn:aws:kms:{}:123456789012:key/{key}", self.region),
            "kmsOperation": operation,
            "kmsRequestId": request_id(),
        });
        if let (true, Some(fields)) = (optional, metadata.as_object_mut()) {
            fields.insert("kmsViaService".to_owned(), "s3".into());
            fields.insert("awsSourceVpc".to_owned(), "vpc-0123456789abcdef0".into());
            fields.insert("awsSourceVpce".to_owned(), "vpce-0123456789abcdef0".into());
        }
        metadata
    }
}

/// Random, in the shape of a UUID.
fn request_id() -> String {
    let hex = hex::encode(random::<16>());
    let part = |range: core::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

/// Random bytes; zeros do as well where there is no randomness, since nothing secret is made of them.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

impl Reply {
    /// The body as a JSON object.
    pub(super) fn object(&self) -> Option<Map<String, Value>> {
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(fields)) => Some(fields),
            _ => None,
        }
    }

    /// `errorName`.
    pub(super) fn error_name(&self) -> Option<String> {
        self.object()?.get("errorName")?.as_str().map(str::to_owned)
    }

    /// Status and error, for people.
    pub(super) fn shown(&self) -> String {
        match self.error_name() {
            Some(name) => format!("{} {name}", self.status),
            None => self.status.to_string(),
        }
    }

    /// The server's clock beside this machine's, by its `Date`.
    pub(super) fn skew(&self) -> Option<Skew> {
        let date = self.headers.get(header::DATE)?.to_str().ok()?;
        let date = time::OffsetDateTime::parse(date, &time::format_description::well_known::Rfc2822).ok()?;
        Some(Skew { here_s: now_ms() / 1000, there_s: u64::try_from(date.unix_timestamp()).ok()? })
    }

    /// The body of a success, or what is wrong.
    pub(super) fn success(&self, check: &'static str) -> Result<Map<String, Value>, Finding> {
        if self.status != 200 {
            return Err(Finding::of(check, self.cause(), self.shown()));
        }
        self.object().ok_or_else(|| Finding::of(check, &causes::NOT_JSON, "200, and no JSON object"))
    }

    /// What an answer says that should have been a success.
    fn cause(&self) -> &'static Cause {
        let is_skewed = self.skew().is_some_and(|skew| skew.seconds() > SKEW_REFUSED_S);
        match (self.status, self.error_name().as_deref()) {
            (401, _) if is_skewed => &causes::CLOCK_SKEW,
            (401, _) => &causes::SIGNATURE_REFUSED,
            (300..=399, _) => &causes::REDIRECT,
            (403, _) => &causes::ACCESS_DENIED,
            (404, Some("KeyNotFoundException")) => &causes::KEY_NOT_FOUND,
            (404, _) => &causes::PATH_NOT_FOUND,
            (429, _) => &causes::THROTTLED,
            (500, _) => &causes::INTERNAL_ERROR,
            (503, Some("DependencyTimeoutException")) => &causes::DEPENDENCY_TIMEOUT,
            (400, Some("InvalidStateException")) => &causes::STATE_INVALID,
            (400, Some("InvalidKeyUsageException")) => &causes::KEY_USAGE,
            _ => &causes::STATUS_UNEXPECTED,
        }
    }

    /// The clock of the other side.
    pub(super) fn clock(&self) -> Finding {
        let Some(skew) = self.skew() else { return Finding::skipped("clock", "the answer has no Date") };
        match skew.seconds() {
            far if far > SKEW_REFUSED_S => Finding::of("clock", &causes::CLOCK_SKEW, skew.to_string()),
            far if far > SKEW_SEEN_S => Finding::of("clock", &causes::CLOCK_DRIFT, skew.to_string()),
            _ => Finding::fine("clock", skew.to_string()),
        }
    }
}

/// Two clocks, in whole seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skew {
    here_s: u64,
    there_s: u64,
}

impl Skew {
    const fn seconds(self) -> u64 {
        self.here_s.abs_diff(self.there_s)
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.there_s.cmp(&self.here_s) {
            Ordering::Less => ": the proxy's clock is behind this machine's",
            Ordering::Equal => "",
            Ordering::Greater => ": the proxy's clock is ahead of this machine's",
        };
        write!(f, "{} s apart{way}", self.seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_which_clock_is_ahead() {
        let said = |here_s, there_s| Skew { here_s, there_s }.to_string();
        assert_eq!(said(1000, 588), "412 s apart: the proxy's clock is behind this machine's");
        assert_eq!(said(588, 1000), "412 s apart: the proxy's clock is ahead of this machine's");
        assert_eq!(said(5, 5), "0 s apart");
    }
}
