//! Bodies of requests, made before the measurement, and what their answers must be.
//!
//! Guarantees: each request that is sent has a `kmsRequestId` of its own. A `Decrypt` is answered well only if the plaintext comes
//! back that an `Encrypt` of this run was given.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::line::Incoming;
use super::mix::Operation;
use super::sign::append_hex;
use super::target::Site;
use crate::alarms::random::Random;

/// Characters of a UUID.
const ID_LENGTH: usize = 36;
/// Stands in a body where the id will be.
const ID_PLACE: &str = "00000000-0000-0000-0000-000000000000";
/// Characters of a wrong answer's body that are shown.
const SHOWN_MAX: usize = 200;

/// How large requests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Bytes of plaintext.
    pub plaintext: usize,
    /// Bytes of additional authenticated data; none is sent where it is 0.
    pub aad: usize,
    /// Whether `Encrypt` asks for the integrity value.
    pub cdiv: bool,
}

/// A request that can be sent any number of times.
#[derive(Clone)]
pub(super) struct Template {
    pub(super) operation: Operation,
    /// Which key store.
    pub(super) site: usize,
    /// Which of its keys.
    pub(super) key: usize,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
    id_at: usize,
    expected: Expected,
}

#[derive(Clone)]
enum Expected {
    Encrypted { plaintext: Vec<u8>, aad: Vec<u8>, cdiv: bool },
    Plaintext { body: Vec<u8>, base64: String },
    Field(&'static str),
}

/// Answers of a server that knows nothing of XKS are judged by their status alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    Xks,
    Status,
}

/// Bytes of an `Encrypt`'s body.
pub(super) fn encrypt_bytes(site: &Site, sizes: Sizes) -> usize {
    Template::encrypt(site, (0, 0), sizes).body.len()
}

/// What `Encrypt` answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Encrypted {
    ciphertext: String,
    initialization_vector: String,
    authentication_tag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext_metadata: Option<String>,
    #[serde(skip_serializing)]
    ciphertext_data_integrity_value: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    aws_principal_arn: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_key_arn: Option<String>,
    kms_operation: &'static str,
    kms_request_id: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    request_metadata: RequestMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_authenticated_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext_data_integrity_value_algorithm: Option<&'static str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    encrypted: Option<&'a Encrypted>,
}

/// How the metadata of an operation reads (specification, Appendix B), with made-up names.
fn metadata(operation: Operation, region: &str) -> RequestMetadata {
    let kms_operation = match operation {
        Operation::Encrypt => "Encrypt",
        Operation::Decrypt => "Decrypt",
        Operation::Metadata => "DescribeKey",
        Operation::Health => "KmsHealthCheck",
    };
    let about_key = operation != Operation::Health;
    RequestMetadata {
        aws_principal_arn: about_key.then_some("arn:aws:iam::123456789012:user/Alice"),
        kms_key_arn: about_key
            .then(|| format!("arn:aws:kms:{region}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab")),
        kms_operation,
        kms_request_id: ID_PLACE,
    }
}

impl Template {
    fn new(operation: Operation, site: &Site, at: (usize, usize), body: &Body<'_>, expected: Expected) -> Self {
        let key = site.keys.get(at.1).map(String::as_str).unwrap_or_default();
        let path = match operation {
            Operation::Health => format!("{}/health", site.path),
            _ => format!("{}/keys/{key}/{}", site.path, operation.name()),
        };
        let text = serde_json::to_string(body).unwrap_or_default();
        let id_at = text.find(ID_PLACE).unwrap_or_default();
        Self { operation, site: at.0, key: at.1, path, body: text.into_bytes(), id_at, expected }
    }

    /// An `Encrypt` of random bytes. `at` is the number of the key store, and that of the key.
    pub(super) fn encrypt(site: &Site, at: (usize, usize), sizes: Sizes) -> Self {
        let (plaintext, aad) = (random_bytes(sizes.plaintext), random_bytes(sizes.aad));
        let body = Body {
            request_metadata: metadata(Operation::Encrypt, &site.region),
            additional_authenticated_data: encoded_aad(&aad),
            encryption_algorithm: Some("AES_GCM"),
            plaintext: Some(STANDARD.encode(&plaintext)),
            ciphertext_data_integrity_value_algorithm: sizes.cdiv.then_some("SHA_256"),
            encrypted: None,
        };
        let expected = Expected::Encrypted { plaintext, aad, cdiv: sizes.cdiv };
        Self::new(Operation::Encrypt, site, at, &body, expected)
    }

    /// A `GetKeyMetadata` or `GetHealthStatus`.
    pub(super) fn question(operation: Operation, site: &Site, at: (usize, usize)) -> Self {
        let body = Body {
            request_metadata: metadata(operation, &site.region),
            additional_authenticated_data: None,
            encryption_algorithm: None,
            plaintext: None,
            ciphertext_data_integrity_value_algorithm: None,
            encrypted: None,
        };
        let field = if operation == Operation::Health { "xksProxyFleetSize" } else { "keySpec" };
        Self::new(operation, site, at, &body, Expected::Field(field))
    }

    /// The `Decrypt` of what this `Encrypt` was answered with.
    ///
    /// # Errors
    /// What is wrong with the answer, its integrity value among it.
    pub(super) fn decrypt_of(&self, site: &Site, answer: &[u8]) -> Result<Self, String> {
        let Expected::Encrypted { plaintext, aad, cdiv } = &self.expected else {
            return Err("this is no Encrypt".to_owned());
        };
        let encrypted: Encrypted =
            serde_json::from_slice(answer).map_err(|error| format!("Encrypt's answer: {error}: {}", shown(answer)))?;
        if *cdiv && encrypted.ciphertext_data_integrity_value != encrypted.integrity_value(aad) {
            return Err("the integrity value is not that of the answer".to_owned());
        }
        let body = Body {
            request_metadata: metadata(Operation::Decrypt, &site.region),
            additional_authenticated_data: encoded_aad(aad),
            encryption_algorithm: Some("AES_GCM"),
            plaintext: None,
            ciphertext_data_integrity_value_algorithm: None,
            encrypted: Some(&encrypted),
        };
        let base64 = STANDARD.encode(plaintext);
        let expected = Expected::Plaintext { body: format!("{{\"plaintext\":\"{base64}\"}}").into_bytes(), base64 };
        Ok(Self::new(Operation::Decrypt, site, (self.site, self.key), &body, expected))
    }

    /// Copies the body with a new id.
    pub(super) fn write(&self, body: &mut Vec<u8>, random: &mut Random) {
        body.clear();
        body.extend_from_slice(self.body.get(..self.id_at).unwrap_or_default());
        append_uuid(body, random);
        body.extend_from_slice(self.body.get(self.id_at + ID_LENGTH..).unwrap_or_default());
    }

    /// Looks at an answer.
    ///
    /// # Errors
    /// What is wrong with it, in few words: alike for answers alike.
    pub(super) fn check(&self, answer: &Incoming, judge: Judge) -> Result<(), String> {
        if answer.status != 200 {
            return Err(format!("{} {}", answer.status, error_name(&answer.body)));
        }
        if judge == Judge::Status {
            return Ok(());
        }
        let good = match &self.expected {
            // Looked at more closely by `decrypt_of`, for a part of the answers.
            Expected::Encrypted { .. } => contains(&answer.body, b"\"ciphertext\""),
            Expected::Plaintext { body, base64 } => answer.body == *body || plaintext_is(&answer.body, base64),
            Expected::Field(name) => contains(&answer.body, name.as_bytes()),
        };
        if good { Ok(()) } else { Err(format!("a wrong answer to {}", self.operation.name())) }
    }
}

impl Encrypted {
    /// The value that the specification's Appendix C computes.
    fn integrity_value(&self, aad: &[u8]) -> Option<String> {
        let mut hashed = aad.to_vec();
        let fields = [
            self.ciphertext_metadata.as_ref(),
            Some(&self.initialization_vector),
            Some(&self.ciphertext),
            Some(&self.authentication_tag),
        ];
        for field in fields.into_iter().flatten() {
            hashed.extend(STANDARD.decode(field).ok()?);
        }
        Some(STANDARD.encode(digest(&SHA256, &hashed)))
    }
}

fn plaintext_is(body: &[u8], base64: &str) -> bool {
    #[derive(Deserialize)]
    struct Answer<'a> {
        plaintext: &'a str,
    }
    serde_json::from_slice::<Answer<'_>>(body).is_ok_and(|answer| answer.plaintext == base64)
}

/// The name of an error (specification, section "Error codes"), or the body's beginning.
fn error_name(body: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        error_name: String,
    }
    serde_json::from_slice(body).map_or_else(|_| shown(body), |answer: Answer| answer.error_name)
}

fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars().filter(|letter| !letter.is_control()).take(SHOWN_MAX).collect()
}

fn encoded_aad(aad: &[u8]) -> Option<String> {
    (!aad.is_empty()).then(|| STANDARD.encode(aad))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn random_bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    // Bytes of zeros are as good where there is no randomness: nothing is protected here.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

fn append_uuid(out: &mut Vec<u8>, random: &mut Random) {
    let bytes = (u128::from(random.next()) << 64 | u128::from(random.next())).to_be_bytes();
    let mut rest = bytes.as_slice();
    for length in [4, 2, 2, 2, 6] {
        let (part, left) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        append_hex(out, part);
        if !left.is_empty() {
            out.push(b'-');
        }
        rest = left;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn site() -> Site {
        Site {
            path: "/p/kms/xks/v1".to_owned(),
            region: "us-east-1".to_owned(),
            access_key_id: String::new(),
            secret_access_key: String::new(),
            keys: vec!["k".to_owned()],
        }
    }

    fn sent(template: &Template, random: &mut Random) -> Value {
        let mut body = Vec::new();
        template.write(&mut body, random);
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn every_request_has_an_id_of_its_own() {
        let mut random = Random::of(1, 2, 3);
        for operation in [Operation::Metadata, Operation::Health] {
            let template = Template::question(operation, &site(), (0, 0));
            let [first, second] =
                [(); 2].map(|()| sent(&template, &mut random)["requestMetadata"]["kmsRequestId"].clone());
            assert_ne!(first, second);
            let groups: Vec<_> = first.as_str().unwrap().split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12]);
        }
    }

    #[test]
    fn sizes_are_those_that_were_asked_for() {
        for (plaintext, aad, cdiv) in [(32, 100, true), (4300, 8192, false), (1, 0, true)] {
            let template = Template::encrypt(&site(), (0, 0), Sizes { plaintext, aad, cdiv });
            let body = sent(&template, &mut Random::of(0, 0, 0));
            let length = |field: &str| body[field].as_str().map_or(0, |text| STANDARD.decode(text).unwrap().len());
            assert_eq!((length("plaintext"), length("additionalAuthenticatedData")), (plaintext, aad));
            assert_eq!(body["ciphertextDataIntegrityValueAlgorithm"].is_string(), cdiv);
            assert_eq!(template.path, "/p/kms/xks/v1/keys/k/encrypt");
        }
    }

    fn answered(status: u16, body: &Value) -> Incoming {
        Incoming { status, body: body.to_string().into_bytes() }
    }

    #[test]
    fn a_decrypt_expects_what_was_encrypted() {
        let template = Template::encrypt(&site(), (0, 0), Sizes { plaintext: 8, aad: 4, cdiv: true });
        let plaintext = sent(&template, &mut Random::of(0, 0, 0))["plaintext"].clone();
        let aad = match &template.expected {
            Expected::Encrypted { aad, .. } => aad.clone(),
            _ => unreachable!(),
        };
        let mut hashed = aad;
        hashed.extend([4, 1, 2, 3]);
        let mut answer = json!({
            "ciphertext": STANDARD.encode([2]), "initializationVector": STANDARD.encode([1]),
            "authenticationTag": STANDARD.encode([3]), "ciphertextMetadata": STANDARD.encode([4]),
            "ciphertextDataIntegrityValue": STANDARD.encode(digest(&SHA256, &hashed)),
        });
        let decrypt = template.decrypt_of(&site(), answer.to_string().as_bytes()).unwrap();
        let body = sent(&decrypt, &mut Random::of(0, 0, 0));
        assert_eq!(
            (&body["ciphertext"], &body["ciphertextMetadata"]),
            (&answer["ciphertext"], &answer["ciphertextMetadata"])
        );
        assert!(body["ciphertextDataIntegrityValue"].is_null() && body["plaintext"].is_null());
        for (status, body, good) in [
            (200, json!({ "plaintext": plaintext }), true),
            (200, json!({ "x": 1, "plaintext": plaintext }), true),
            (200, json!({ "plaintext": "AAAA" }), false),
            (200, json!({}), false),
            (503, json!({ "plaintext": plaintext }), false),
        ] {
            assert_eq!(decrypt.check(&answered(status, &body), Judge::Xks).is_ok(), good, "{status} {body}");
        }
        let refused = decrypt.check(&answered(429, &json!({ "errorName": "ThrottlingException" })), Judge::Xks);
        assert_eq!(refused.unwrap_err(), "429 ThrottlingException");
        answer["authenticationTag"] = STANDARD.encode([5]).into();
        assert!(template.decrypt_of(&site(), answer.to_string().as_bytes()).is_err(), "the integrity value");
    }
}
