//! What the proxy answers.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::{AccessKeyId, Claim, Credential, CredentialSet, Occurrence, Regions, SignedRequest};
use http::request::Parts;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::crypto::{Encrypted, Key};
use super::{Flaw, KEY, PREFIX};
use crate::random::random_bytes;

const ACCESS_KEY_ID: &str = "MUBSXM6K3KMXHN6RRCXI";
const HOUR_MS: u64 = 3_600_000;
/// Longer than KMS waits.
const LATE: Duration = Duration::from_millis(350);

pub(super) struct Service {
    flaw: Flaw,
    secret: String,
    credentials: CredentialSet,
    key: Key,
    asked: AtomicU64,
}

/// Status and body.
type Answer = (u16, Value);

const fn named(status: u16, name: &'static str) -> (u16, &'static str) {
    (status, name)
}

fn refusal((status, name): (u16, &'static str)) -> Answer {
    (status, json!({ "errorName": name, "errorMessage": "refused" }))
}

const INVALID: (u16, &str) = named(400, "ValidationException");

impl Service {
    pub(super) fn new(flaw: Flaw) -> Self {
        let secret = STANDARD.encode(random_bytes::<32>());
        let known = if flaw == Flaw::OtherSecret { STANDARD.encode(random_bytes::<32>()) } else { secret.clone() };
        let id = AccessKeyId::parse(ACCESS_KEY_ID).unwrap();
        let credential = Credential::new(id, SecretBytes::new(known.into_bytes())).unwrap();
        let credentials = CredentialSet::new(vec![credential], &Secret::take(&mut random_bytes::<32>())).unwrap();
        Self { flaw, secret, credentials, key: Key::new(), asked: AtomicU64::new(0) }
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn write_credential(&self, path: &Path) {
        let text = json!({ "AccessKeyId": ACCESS_KEY_ID, "RawSecretAccessKey": self.secret }).to_string();
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// By the proxy's own clock.
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now_ms = u64::try_from(since.as_millis()).unwrap();
        if self.flaw == Flaw::OtherClock { now_ms - HOUR_MS } else { now_ms }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let (status, value) = self.judged(&head, &body).await;
        let json = match self.flaw {
            Flaw::NotJson if status == 200 => "<html>It works!</html>".to_owned(),
            Flaw::Oversized if status == 200 => " ".repeat(1024 * 1024),
            _ => value.to_string(),
        };
        let media_type = if self.flaw == Flaw::OtherType { "text/plain" } else { "application/json" };
        let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, media_type);
        if self.flaw == Flaw::OtherClock {
            let then = SystemTime::UNIX_EPOCH + Duration::from_millis(self.now_ms());
            response = response.header(header::DATE, http_date(then));
        }
        if status == 301 {
            response = response.header(header::LOCATION, "https://elsewhere.example.com/");
        }
        response.body(Full::new(Bytes::from(json))).unwrap()
    }

    async fn judged(&self, head: &Parts, body: &[u8]) -> Answer {
        let prefix = if self.flaw == Flaw::OtherPath { "/elsewhere" } else { PREFIX };
        let path = head.uri.path();
        if head.method == Method::GET {
            return if self.flaw == Flaw::TakesGet { (200, json!({})) } else { refusal(named(405, INVALID.1)) };
        }
        if self.flaw == Flaw::Redirects {
            return (301, json!({}));
        }
        if !self.is_signed(head, body) {
            let status = if self.flaw == Flaw::OtherRefusal { 403 } else { 401 };
            return refusal(named(status, "AuthenticationFailedException"));
        }
        let Some(end) = path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("/kms/xks/v1/")) else {
            return refusal(named(404, "InvalidUriPathException"));
        };
        match end.split('/').collect::<Vec<_>>()[..] {
            ["health"] => self.health().await,
            ["keys", KEY, operation] => self.used(operation, body),
            ["keys", _, _] if self.flaw == Flaw::OtherUnknownKey => refusal(INVALID),
            ["keys", _, _] => refusal(named(404, "KeyNotFoundException")),
            _ => refusal(named(404, "InvalidUriPathException")),
        }
    }

    fn is_signed(&self, head: &Parts, body: &[u8]) -> bool {
        let authorization = head.headers.get(header::AUTHORIZATION);
        match self.flaw {
            Flaw::TakesUnsigned if authorization.is_none() => return true,
            Flaw::TakesAnySignature if authorization.is_some() => return true,
            // It takes the body's hash from x-amz-content-sha256: the body that fits stands in for the one that came.
            Flaw::IgnoresBody if self.verifies(head, b"{}", self.now_ms()) => return true,
            Flaw::TakesOld if self.verifies(head, body, self.now_ms() - 600_000) => return true,
            _ => {}
        }
        self.verifies(head, body, self.now_ms())
    }

    fn verifies(&self, head: &Parts, body: &[u8], now_ms: u64) -> bool {
        let header = |name: &str| match head.headers.get(name) {
            Some(value) => Occurrence::Once(value.as_bytes()),
            None => Occurrence::Absent,
        };
        let authority = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let request = SignedRequest { method: head.method.as_str(), path: head.uri.path(), authority, header, body };
        let claim = Claim::parse(&request, &Regions::Any, now_ms);
        claim.is_ok_and(|claim| claim.verify(&self.credentials).is_ok())
    }

    async fn health(&self) -> Answer {
        let states = match self.flaw {
            Flaw::Unavailable => vec!["UNAVAILABLE", "UNAVAILABLE"],
            Flaw::Degraded => vec!["ACTIVE", "DEGRADED"],
            _ => vec!["ACTIVE", "ACTIVE"],
        };
        let details: Vec<_> = states
            .iter()
            .zip(["one", "two"])
            .map(|(state, id)| json!({ "id": id, "model": "Luna 5.1", "healthStatus": state }))
            .collect();
        let mut body = json!({
            "xksProxyFleetSize": 2, "xksProxyVendor": "Acme Corp", "xksProxyModel": "Acme XKS Proxy 1.0",
            "ekmVendor": "Thales Group", "ekmFleetDetails": details,
        });
        match self.flaw {
            Flaw::MissingField => drop(body.as_object_mut().unwrap().remove("xksProxyFleetSize")),
            Flaw::Slow => tokio::time::sleep(LATE).await,
            Flaw::Stalls => std::future::pending().await,
            Flaw::Fails => return refusal(named(500, "InternalException")),
            Flaw::OtherStatus => return (201, body),
            _ => {}
        }
        (200, body)
    }

    fn used(&self, operation: &str, body: &[u8]) -> Answer {
        if self.flaw == Flaw::SmallBodies && body.len() > 4096 {
            return (413, Value::Null);
        }
        let result = match operation {
            "metadata" => return self.metadata(),
            "encrypt" => self.encrypt(body),
            "decrypt" => self.decrypt(body),
            _ => Err(named(404, "InvalidUriPathException")),
        };
        let (status, mut value) = result.map_or_else(refusal, |value| (200, value));
        if self.flaw == Flaw::LongMessage && status == 400 {
            value["errorMessage"] = "x".repeat(512).into();
        }
        (status, value)
    }

    fn metadata(&self) -> Answer {
        let spec = if self.flaw == Flaw::Short { "AES_128" } else { "AES_256" };
        let status = if self.flaw == Flaw::Disabled { "DISABLED" } else { "ENABLED" };
        let usage: &[&str] = if self.flaw == Flaw::EncryptOnly { &["ENCRYPT"] } else { &["ENCRYPT", "DECRYPT"] };
        (200, json!({ "keySpec": spec, "keyUsage": usage, "keyStatus": status }))
    }

    fn encrypt(&self, body: &[u8]) -> Result<Value, (u16, &'static str)> {
        let body = parsed(body)?;
        let (plaintext, aad) = (bytes(&body, "plaintext")?, optional(&body, "additionalAuthenticatedData")?);
        let mut message = self.key.encrypt(self.flaw, &plaintext, &aad);
        if self.flaw == Flaw::IgnoresTag {
            message.ciphertext = plaintext;
        }
        if self.flaw == Flaw::TagAppended {
            message.ciphertext.extend(message.tag.clone());
        }
        let hashed = if self.flaw == Flaw::OtherIntegrity { &[][..] } else { &aad };
        let value = message.integrity(hashed);
        let mut answer = json!({
            "ciphertext": STANDARD.encode(&message.ciphertext),
            "ciphertextMetadata": STANDARD.encode(&message.metadata),
            "initializationVector": STANDARD.encode(&message.iv),
            "authenticationTag": STANDARD.encode(&message.tag),
        });
        if body.get("ciphertextDataIntegrityValueAlgorithm").is_some() && self.flaw != Flaw::NoIntegrity {
            answer["ciphertextDataIntegrityValue"] = STANDARD.encode(value).into();
        }
        Ok(answer)
    }

    fn decrypt(&self, body: &[u8]) -> Result<Value, (u16, &'static str)> {
        let body = parsed(body)?;
        let message = Encrypted {
            ciphertext: bytes(&body, "ciphertext")?,
            metadata: optional(&body, "ciphertextMetadata")?,
            iv: bytes(&body, "initializationVector")?,
            tag: bytes(&body, "authenticationTag")?,
        };
        let aad = optional(&body, "additionalAuthenticatedData")?;
        let invalid = match self.flaw {
            Flaw::OtherInvalid => named(500, "InternalException"),
            _ => named(400, "InvalidCiphertextException"),
        };
        let plaintext = self.key.decrypt(self.flaw, &message, &aad).ok_or(invalid)?;
        Ok(json!({ "plaintext": STANDARD.encode(plaintext) }))
    }
}

fn parsed(body: &[u8]) -> Result<Value, (u16, &'static str)> {
    let value: Value = serde_json::from_slice(body).map_err(|_| INVALID)?;
    if value["encryptionAlgorithm"] == "AES_GCM" { Ok(value) } else { Err(INVALID) }
}

fn bytes(body: &Value, name: &str) -> Result<Vec<u8>, (u16, &'static str)> {
    STANDARD.decode(body[name].as_str().ok_or(INVALID)?).map_err(|_| INVALID)
}

fn optional(body: &Value, name: &str) -> Result<Vec<u8>, (u16, &'static str)> {
    if body.get(name).is_some() { bytes(body, name) } else { Ok(Vec::new()) }
}

/// RFC 9110, section 5.6.7.
fn http_date(at: SystemTime) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::OffsetDateTime::from(at).format(&format).unwrap()
}
