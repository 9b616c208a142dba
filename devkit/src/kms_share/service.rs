//! What the double answers.
//!
//! Guarantees: see [`super`]. The ciphertext blob is AES-256-GCM under the key of the state folder, with the key's ARN and the encryption
//! context as associated data, so that a context must be repeated exactly, as KMS demands.

use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::attestation::{TrustRoot, inspect};
use holdfast_shared::limits::KMS_PLAINTEXT_MAX;
use holdfast_shared::secrets::Secret;
use http::StatusCode;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Fault;
use super::cms;
use super::policy::{Context, KeyPolicy};
use crate::aws_json::{self, Answer, Caller, Incoming};

/// How old an attestation document may be.
pub const DOCUMENT_AGE_MAX_MS: u64 = 300_000;
/// Bytes of `CiphertextBlob` (API reference of KMS, `Decrypt`).
const BLOB_MAX: usize = 6144;

/// The double.
pub struct Service {
    key_arn: String,
    region: String,
    key: Secret<32>,
    policy: KeyPolicy,
    nsm_root: TrustRoot,
    caller: Caller,
    fault: Option<Fault>,
    requests: AtomicU32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Asked {
    key_id: Option<String>,
    plaintext: Option<String>,
    ciphertext_blob: Option<String>,
    #[serde(default)]
    encryption_context: BTreeMap<String, String>,
    encryption_algorithm: Option<String>,
    recipient: Option<Recipient>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Recipient {
    attestation_document: String,
    key_encryption_algorithm: String,
}

/// What a valid document says that matters here.
struct Attested {
    public_key: Vec<u8>,
    pcrs: BTreeMap<u8, String>,
}

impl Service {
    /// Sets the double up.
    #[must_use]
    pub fn new(
        key_arn: String,
        key: Secret<32>,
        policy: KeyPolicy,
        nsm_root: TrustRoot,
        caller: Caller,
        fault: Option<Fault>,
    ) -> Self {
        let region = key_arn.split(':').nth(3).unwrap_or_default().to_owned();
        Self { key_arn, region, key, policy, nsm_root, caller, fault, requests: AtomicU32::new(0) }
    }

    fn try_answer(&self, request: &Incoming<'_>) -> Result<Value, Answer> {
        if request.method != http::Method::POST || request.path != "/" {
            return Err(Answer::error(StatusCode::NOT_FOUND, "UnknownOperationException", ""));
        }
        request.caller(core::slice::from_ref(&self.caller), &self.region)?;
        self.fail_as_told()?;
        let asked: Asked = serde_json::from_slice(request.body)
            .map_err(|error| Answer::bad("SerializationException", &error.to_string()))?;
        if asked.key_id.as_ref().is_some_and(|key_id| *key_id != self.key_arn) {
            return Err(Answer::bad("NotFoundException", "the key does not exist"));
        }
        if asked.encryption_algorithm.as_deref().is_some_and(|algorithm| algorithm != "SYMMETRIC_DEFAULT") {
            return Err(Answer::bad("InvalidKeyUsageException", "the key is symmetric"));
        }
        match request.operation() {
            Some("Encrypt") => self.encrypt(&asked),
            Some("Decrypt") => self.decrypt(&asked, request.now_ms),
            _ => Err(Answer::bad("UnknownOperationException", "")),
        }
    }

    fn fail_as_told(&self) -> Result<(), Answer> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Some(Fault::Throttle(count)) if before < count => Err(Answer::bad("ThrottlingException", "Rate exceeded")),
            Some(Fault::Fail(count)) if before < count => {
                Err(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "KMSInternalException", ""))
            }
            _ => Ok(()),
        }
    }

    fn encrypt(&self, asked: &Asked) -> Result<Value, Answer> {
        let plaintext = decoded(asked.plaintext.as_deref(), KMS_PLAINTEXT_MAX)?;
        self.authorize("kms:Encrypt", &context(asked, None))?;
        let failed = |_| Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "KMSInternalException", "");
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let mut sealed = plaintext;
        self.cipher()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(self.aad(asked)), &mut sealed)
            .map_err(failed)?;
        let blob = STANDARD.encode([nonce.as_slice(), &sealed].concat());
        Ok(json!({ "KeyId": self.key_arn, "CiphertextBlob": blob, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT" }))
    }

    fn decrypt(&self, asked: &Asked, now_ms: u64) -> Result<Value, Answer> {
        let blob = decoded(asked.ciphertext_blob.as_deref(), BLOB_MAX)?;
        let attested = asked.recipient.as_ref().map(|recipient| self.attested(recipient, now_ms)).transpose()?;
        self.authorize("kms:Decrypt", &context(asked, attested.as_ref()))?;
        let invalid = || Answer::bad("InvalidCiphertextException", "");
        let (nonce, sealed) = blob.split_first_chunk::<NONCE_LEN>().ok_or_else(invalid)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened =
            self.cipher()?.open_in_place(nonce, Aad::from(self.aad(asked)), &mut sealed).map_err(|_| invalid())?;
        let mut answer = json!({ "KeyId": self.key_arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT" });
        let (field, value) = match attested {
            Some(attested) if self.fault != Some(Fault::InClear) => {
                ("CiphertextForRecipient", self.for_recipient(&attested, opened)?)
            }
            _ => ("Plaintext", opened.to_vec()),
        };
        if let Some(fields) = answer.as_object_mut() {
            fields.insert(field.to_owned(), STANDARD.encode(value).into());
        }
        Ok(answer)
    }

    fn for_recipient(&self, attested: &Attested, plaintext: &[u8]) -> Result<Vec<u8>, Answer> {
        let public_key = match self.fault {
            Some(Fault::OtherRecipient) => other_key().unwrap_or_default(),
            _ => attested.public_key.clone(),
        };
        // Which error KMS gives here is not documented.
        let no_key = || Answer::bad("ValidationException", "the attestation document has no RSA-2048 public key");
        let mut message = cms::encrypt_to(&public_key, plaintext).ok_or_else(no_key)?;
        if let Some(Fault::FlipBit(at)) = self.fault
            && let Some(byte) = message.get_mut(at)
        {
            *byte ^= 1;
        }
        Ok(message)
    }

    /// Which errors KMS gives here is not documented; "invalid" and "expired" are told apart in their text alone.
    fn attested(&self, recipient: &Recipient, now_ms: u64) -> Result<Attested, Answer> {
        let invalid = |message: &str| Answer::bad("ValidationException", message);
        if recipient.key_encryption_algorithm != "RSAES_OAEP_SHA_256" {
            return Err(invalid("KeyEncryptionAlgorithm must be RSAES_OAEP_SHA_256"));
        }
        let document = STANDARD
            .decode(&recipient.attestation_document)
            .map_err(|_| Answer::bad("SerializationException", "AttestationDocument is not base64"))?;
        let report = inspect(&document, &self.nsm_root, now_ms);
        let statement = report
            .statement
            .filter(|_| report.verified)
            .ok_or_else(|| invalid("the attestation document is not valid"))?;
        if now_ms.saturating_sub(statement.timestamp_ms) > DOCUMENT_AGE_MAX_MS {
            return Err(invalid("the attestation document has expired"));
        }
        let public_key = statement.public_key.and_then(|key| hex::decode(key).ok());
        Ok(Attested { public_key: public_key.unwrap_or_default(), pcrs: statement.pcrs })
    }

    fn authorize(&self, action: &str, context: &Context) -> Result<(), Answer> {
        if self.policy.allows(action, context) {
            return Ok(());
        }
        let arn = &self.key_arn;
        let message = format!(
            "User: {id} is not authorized to perform: {action} on resource: {arn} because no resource-based policy allows the {action} action",
            id = self.caller.principal_arn
        );
        Err(Answer::bad("AccessDeniedException", &message))
    }

    fn cipher(&self) -> Result<LessSafeKey, Answer> {
        let key = UnboundKey::new(&AES_256_GCM, self.key.expose());
        key.map(LessSafeKey::new)
            .map_err(|_| Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "KMSInternalException", ""))
    }

    fn aad(&self, asked: &Asked) -> Vec<u8> {
        json!([self.key_arn, asked.encryption_context]).to_string().into_bytes()
    }
}

impl aws_json::Service for Service {
    async fn answer(&self, request: Incoming<'_>) -> Answer {
        self.try_answer(&request)
            .map_or_else(|error| error, |body| Answer { status: StatusCode::OK, body: body.to_string() })
    }
}

fn context(asked: &Asked, attested: Option<&Attested>) -> Context {
    let named = |name: String, value: &String| (name.to_ascii_lowercase(), value.clone());
    let pairs = asked.encryption_context.iter();
    let mut context: Context = pairs.map(|(key, value)| named(format!("kms:EncryptionContext:{key}"), value)).collect();
    for (index, value) in attested.into_iter().flat_map(|attested| &attested.pcrs) {
        context.extend([named(format!("kms:RecipientAttestation:PCR{index}"), value)]);
        if *index == 0 {
            context.extend([named("kms:RecipientAttestation:ImageSha384".to_owned(), value)]);
        }
    }
    context
}

fn decoded(text: Option<&str>, max: usize) -> Result<Vec<u8>, Answer> {
    let bytes = text.and_then(|text| STANDARD.decode(text).ok());
    let bytes = bytes.ok_or_else(|| Answer::bad("SerializationException", "a blob is missing or not base64"))?;
    if bytes.is_empty() || bytes.len() > max {
        return Err(Answer::bad("ValidationException", "a blob is empty or too long"));
    }
    Ok(bytes)
}

/// A key that nobody has.
fn other_key() -> Option<Vec<u8>> {
    use rsa::pkcs8::EncodePublicKey as _;
    let mut rng = getrandom::rand_core::UnwrapErr(getrandom::SysRng);
    let private = rsa::RsaPrivateKey::new(&mut rng, 2048).ok()?;
    Some(private.to_public_key().to_public_key_der().ok()?.into_vec())
}
