//! Every operation with a key, as KMS uses it: what Encrypt answers is held against the schema, decrypted again, and changed in each
//! part that must be bound.
//!
//! Guarantees: only random bytes of our own are encrypted and decrypted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::limits::CIPHERTEXT_METADATA_MAX;
use holdfast_shared::sigv4::Credential;
use ring::digest::{Context, SHA256};
use serde_json::{Map, Value, json};

use super::api::{Api, Signing, random};
use super::http::Fault;
use super::refusals::refused;
use super::report::Finding;
use super::table::{Cause, causes};

/// Sizes that every proxy must take (specification, section "Encrypt").
const PLAINTEXT_MUST: usize = 4300;
const AAD_MUST: usize = 8192;
/// Values of `keyUsage` at most.
const USAGE_MAX: usize = 10;
/// Bytes of a tag.
const TAG: usize = 16;

/// A key to try, with a credential for it.
pub(super) struct Trial<'a, 'q> {
    pub(super) api: &'a mut Api<'q>,
    pub(super) credential: &'a Credential,
    pub(super) key: &'a str,
}

/// What Encrypt answered, decoded.
#[derive(Clone)]
struct Message {
    ciphertext: Vec<u8>,
    metadata: Option<Vec<u8>>,
    iv: Vec<u8>,
    tag: Vec<u8>,
}

/// What is encrypted.
struct Sample {
    plaintext: Vec<u8>,
    aad: Option<Vec<u8>>,
    /// Whether the request has what need not be there.
    optional: bool,
}

impl Trial<'_, '_> {
    /// All of it; what stands in the way of the rest ends it.
    pub(super) async fn judge(&mut self, findings: &mut Vec<Finding>) {
        let metadata = self.metadata().await;
        let is_usable = metadata.cause.is_none();
        findings.push(metadata);
        if !is_usable {
            return findings.push(Finding::skipped("encrypt", format!("the key {} cannot be used", self.key)));
        }
        let aad = random::<33>().to_vec();
        let sample = Sample { plaintext: random::<32>().to_vec(), aad: Some(aad), optional: false };
        let message = match self.encrypt("encrypt", &sample).await {
            Ok(message) => message,
            Err(finding) => return findings.push(finding),
        };
        findings.push(Finding::fine("encrypt", format!("{}, with its integrity value", message.shown())));
        findings.push(self.decrypted("decrypt", &message, &sample).await);
        self.spoiled(&message, &sample, findings).await;
        self.samples(findings).await;
    }

    fn end(&self, operation: &str) -> String {
        format!("keys/{}/{operation}", self.key)
    }

    async fn metadata(&mut self) -> Finding {
        const CHECK: &str = "key";
        let body = json!({ "requestMetadata": self.api.metadata("CreateKey", false) });
        let end = self.end("metadata");
        let reply = match self.api.post(self.credential, &end, &body, Signing::Right).await {
            Ok(reply) => reply,
            Err(fault) => return faulty(CHECK, &fault),
        };
        match reply.success(CHECK) {
            Ok(body) => key_metadata(self.key, &body).map_or_else(|finding| finding, |seen| Finding::fine(CHECK, seen)),
            Err(finding) => finding,
        }
    }

    async fn encrypt(&mut self, check: &'static str, sample: &Sample) -> Result<Message, Finding> {
        let mut body = json!({
            "requestMetadata": self.api.metadata("Encrypt", sample.optional),
            "plaintext": STANDARD.encode(&sample.plaintext),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        });
        add(&mut body, "additionalAuthenticatedData", sample.aad.as_deref());
        let end = self.end("encrypt");
        let reply =
            self.api.post(self.credential, &end, &body, Signing::Right).await.map_err(|fault| faulty(check, &fault))?;
        let body = reply.success(check)?;
        let message = Message::read(check, &body, sample.plaintext.len())?;
        message.judge_integrity(check, &body, sample.aad.as_deref())?;
        Ok(message)
    }

    async fn decrypt(&mut self, message: &Message, aad: Option<&[u8]>) -> Result<super::http::Reply, Fault> {
        let mut body = json!({
            "requestMetadata": self.api.metadata("Decrypt", false),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertext": STANDARD.encode(&message.ciphertext),
            "initializationVector": STANDARD.encode(&message.iv),
            "authenticationTag": STANDARD.encode(&message.tag),
        });
        add(&mut body, "ciphertextMetadata", message.metadata.as_deref());
        add(&mut body, "additionalAuthenticatedData", aad);
        let end = self.end("decrypt");
        self.api.post(self.credential, &end, &body, Signing::Right).await
    }

    /// Whether a message gives back what was encrypted.
    async fn decrypted(&mut self, check: &'static str, message: &Message, sample: &Sample) -> Finding {
        let body = match self.decrypt(message, sample.aad.as_deref()).await {
            Ok(reply) => reply.success(check),
            Err(fault) => return faulty(check, &fault),
        };
        match body.map(|body| decoded(&body, "plaintext")) {
            Err(finding) => finding,
            Ok(None) => Finding::of(check, &causes::FIELD_INVALID, "plaintext is no base64"),
            Ok(Some(plaintext)) if plaintext == sample.plaintext => Finding::fine(check, "what was encrypted"),
            Ok(Some(_)) => Finding::of(check, &causes::PLAINTEXT_DIFFERS, "another plaintext"),
        }
    }

    /// Changes each part that must be bound.
    async fn spoiled(&mut self, message: &Message, sample: &Sample, findings: &mut Vec<Finding>) {
        let aad = sample.aad.as_deref();
        let mut other = message.clone();
        other.metadata = message.metadata.as_deref().map(flipped);
        let metadata = message.metadata.as_ref().map(|_| ("other metadata", other, aad, &causes::METADATA_NOT_BOUND));
        let changed = |ciphertext: &[u8], tag: &[u8]| Message {
            ciphertext: ciphertext.to_vec(),
            tag: tag.to_vec(),
            ..message.clone()
        };
        let other_aad = aad.map(flipped);
        let table: [(&'static str, Message, Option<&[u8]>, &'static Cause); 4] = [
            ("other aad", message.clone(), other_aad.as_deref(), &causes::AAD_NOT_BOUND),
            ("no aad", message.clone(), None, &causes::AAD_NOT_BOUND),
            ("other ciphertext", changed(&flipped(&message.ciphertext), &message.tag), aad, &causes::TAG_NOT_CHECKED),
            ("other tag", changed(&message.ciphertext, &flipped(&message.tag)), aad, &causes::TAG_NOT_CHECKED),
        ];
        for (check, message, aad, accepted) in table.into_iter().chain(metadata) {
            let reply = self.decrypt(&message, aad).await;
            findings.push(refused(check, reply, &[(400, "InvalidCiphertextException")], accepted));
        }
    }

    /// Round trips without AAD, with all optional fields, and with the sizes that must be taken.
    async fn samples(&mut self, findings: &mut Vec<Finding>) {
        let plain = |length: usize| random::<PLAINTEXT_MUST>().into_iter().take(length).collect::<Vec<u8>>();
        let table = [
            ("without aad", Sample { plaintext: plain(16), aad: None, optional: false }),
            ("optional fields", Sample { plaintext: plain(16), aad: Some(plain(8)), optional: true }),
            ("sizes", Sample { plaintext: plain(PLAINTEXT_MUST), aad: Some(vec![7; AAD_MUST]), optional: false }),
        ];
        for (check, sample) in table {
            let finding = match self.encrypt(check, &sample).await {
                Ok(message) => self.decrypted(check, &message, &sample).await,
                Err(finding) => finding,
            };
            let is_about_size =
                check == "sizes" && finding.cause.is_some_and(|cause| cause.id == causes::STATUS_UNEXPECTED.id);
            findings.push(if is_about_size {
                Finding::of(check, &causes::SIZE_NOT_SUPPORTED, finding.seen)
            } else {
                finding
            });
        }
    }
}

fn faulty(check: &'static str, fault: &Fault) -> Finding {
    let (cause, seen) = fault.judged();
    Finding::of(check, cause, seen)
}

fn add(body: &mut Value, name: &str, bytes: Option<&[u8]>) {
    if let (Some(bytes), Some(fields)) = (bytes, body.as_object_mut()) {
        fields.insert(name.to_owned(), STANDARD.encode(bytes).into());
    }
}

fn decoded(body: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    STANDARD.decode(body.get(name)?.as_str()?).ok()
}

/// With the first bit changed.
fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match bytes.first_mut() {
        Some(first) => *first ^= 1,
        None => bytes.push(0),
    }
    bytes
}

/// Holds key metadata against what KMS takes.
fn key_metadata(key: &str, body: &Map<String, Value>) -> Result<String, Finding> {
    let wrong = |cause: &'static Cause, seen: String| Err(Finding::of("key", cause, format!("{key}: {seen}")));
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let usage: Option<Vec<&str>> =
        body.get("keyUsage").and_then(Value::as_array).and_then(|all| all.iter().map(Value::as_str).collect());
    let Some(usage) = usage else { return wrong(&causes::FIELD_INVALID, "keyUsage is no array of strings".to_owned()) };
    for name in ["keySpec", "keyStatus"] {
        if text(name).is_empty() {
            return wrong(&causes::FIELD_INVALID, format!("{name} is no string"));
        }
    }
    if text("keySpec") != "AES_256" {
        return wrong(&causes::KEY_SPEC, format!("keySpec is {:?}", text("keySpec")));
    }
    if !["ENCRYPT", "DECRYPT"].iter().all(|needed| usage.contains(needed)) || usage.len() > USAGE_MAX {
        return wrong(&causes::KEY_USAGE, format!("keyUsage is {usage:?}"));
    }
    match text("keyStatus") {
        "ENABLED" => Ok(format!("{key}: AES_256, ENABLED, {}", usage.join(" "))),
        "DISABLED" => wrong(&causes::KEY_DISABLED, "DISABLED".to_owned()),
        status => wrong(&causes::FIELD_INVALID, format!("keyStatus is {status:?}")),
    }
}

impl Message {
    /// Reads the answer to Encrypt of so many bytes.
    fn read(check: &'static str, body: &Map<String, Value>, length: usize) -> Result<Self, Finding> {
        let field = |name: &str| {
            let seen = || format!("{name} is no base64");
            decoded(body, name).ok_or_else(|| Finding::of(check, &causes::FIELD_INVALID, seen()))
        };
        let message = Self {
            ciphertext: field("ciphertext")?,
            iv: field("initializationVector")?,
            tag: field("authenticationTag")?,
            metadata: body.contains_key("ciphertextMetadata").then(|| field("ciphertextMetadata")).transpose()?,
        };
        let metadata = message.metadata.as_ref().map_or(0, Vec::len);
        let is_right = message.ciphertext.len() == length
            && matches!(message.iv.len(), 12 | 16)
            && message.tag.len() == TAG
            && metadata <= CIPHERTEXT_METADATA_MAX;
        if is_right { Ok(message) } else { Err(Finding::of(check, &causes::ENCRYPTION_FIELD, message.shown())) }
    }

    fn shown(&self) -> String {
        let metadata = self.metadata.as_ref().map_or(0, Vec::len);
        let (ciphertext, iv, tag) = (self.ciphertext.len(), self.iv.len(), self.tag.len());
        format!("{ciphertext} bytes of ciphertext, {iv} of IV, {tag} of tag, {metadata} of metadata")
    }

    /// The value of the specification's Appendix C.
    fn integrity(&self, aad: Option<&[u8]>) -> Vec<u8> {
        let mut hash = Context::new(&SHA256);
        let metadata = self.metadata.as_deref().unwrap_or_default();
        for part in [aad.unwrap_or_default(), metadata, &self.iv, &self.ciphertext, &self.tag] {
            hash.update(part);
        }
        hash.finish().as_ref().to_vec()
    }

    fn judge_integrity(
        &self,
        check: &'static str,
        body: &Map<String, Value>,
        aad: Option<&[u8]>,
    ) -> Result<(), Finding> {
        const NAME: &str = "ciphertextDataIntegrityValue";
        if !body.contains_key(NAME) {
            return Err(Finding::of(check, &causes::CDIV_MISSING, "not in the answer"));
        }
        match decoded(body, NAME) {
            Some(value) if value == self.integrity(aad) => Ok(()),
            _ => Err(Finding::of(check, &causes::CDIV_WRONG, "another value than was computed here")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own example, of Appendix C.
    #[test]
    fn the_integrity_value_of_the_specification() {
        let read = |text: &str| STANDARD.decode(text).unwrap();
        let message = Message {
            ciphertext: read("ghxkK1txeDNn3q8Y"),
            metadata: Some(read("a2V5X3ZlcnNpb249MQ==")),
            iv: read("HMrlRw85cAJUd5Ax"),
            tag: read("vBxN2ncH1oEkR8WVXpmyYQ=="),
        };
        let value = message.integrity(Some(b"project=nile,department=marketing"));
        assert_eq!(STANDARD.encode(value), "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=");
    }

    #[test]
    fn metadata_that_kms_takes() {
        let judged = |body: Value| {
            key_metadata("k", body.as_object().unwrap()).map_or_else(|finding| finding.cause.unwrap().id, |_| "")
        };
        let body = |spec: &str, usage: &[&str], status: &str| json!({ "keySpec": spec, "keyUsage": usage, "keyStatus": status });
        assert_eq!(judged(body("AES_256", &["DECRYPT", "ENCRYPT", "WRAP"], "ENABLED")), "");
        assert_eq!(judged(body("AES_128", &["DECRYPT", "ENCRYPT"], "ENABLED")), "key-spec");
        assert_eq!(judged(body("AES_256", &["ENCRYPT"], "ENABLED")), "key-usage");
        assert_eq!(judged(body("AES_256", &["DECRYPT", "ENCRYPT"], "DISABLED")), "key-disabled");
        assert_eq!(judged(body("AES_256", &["DECRYPT", "ENCRYPT"], "enabled")), "field-invalid");
        assert_eq!(judged(json!({ "keySpec": "AES_256", "keyUsage": "ENCRYPT" })), "field-invalid");
    }
}
