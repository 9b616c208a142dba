//! Encrypt, Decrypt and what is made of them: double encryption.
//!
//! ```text
//! plaintext ─▶ AES-256-GCM under KMS's own half of the key ─▶ the proxy's Encrypt ─▶ CiphertextBlob
//! ```
//!
//! Guarantees: both layers are bound to the KMS key and the encryption context; an answer to Encrypt is taken only with the integrity value
//! that KMS computes itself (specification, Appendix C); with `DryRun` everything is checked that can be without the proxy, which is not
//! asked. Assumes: nothing of the proxy.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::limits::KMS_PLAINTEXT_MAX;
use holdfast_shared::secrets::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::blob::Blob;
use super::failure::{Failure, Told};
use super::parameters::{DATA_KEY_SPEC, DESTINATION_KEY_ID, KEY_ID, Rule, SOURCE_KEY_ID, invalid};
use super::service::{Call, Kms};
use super::state::{Key, Store};
use crate::aws_json::Answer;
use crate::xks_client::integrity_value;

/// Bytes of `CiphertextBlob` (API reference, `Decrypt`).
const BLOB_MAX: usize = 6144;
/// Bytes of an encryption context as JSON (developer guide, "Encryption context").
const CONTEXT_MAX: usize = 8192;

/// Of a ciphertext whose key was deleted, or belongs to others: KMS does not tell which.
const NO_SUCH_KEY: &str = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are \
                           not allowed to access.";

type Context = BTreeMap<String, String>;

impl Kms {
    pub(super) async fn encrypt(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let plaintext = call.parameters.blob("Plaintext", 1, KMS_PLAINTEXT_MAX)?;
        let context = read_context(call, "EncryptionContext")?;
        let key = self.key(call, &KEY_ID)?;
        check_algorithm(call, "EncryptionAlgorithm")?;
        let blob = self.seal(call, &key, &context, plaintext).await?;
        Ok(json!({
            "CiphertextBlob": STANDARD.encode(blob),
            "KeyId": self.arn(&key.id),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    }

    pub(super) async fn decrypt(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        if call.parameters.fields().get("Recipient").is_some_and(|recipient| !recipient.is_null()) {
            let reason = "Recipient is not emulated here; holdfast-dev kms-share has it";
            return Err(Answer::bad("UnsupportedOperationException", reason));
        }
        let blob = call.parameters.blob("CiphertextBlob", 1, BLOB_MAX)?;
        let context = read_context(call, "EncryptionContext")?;
        check_algorithm(call, "EncryptionAlgorithm")?;
        let (key, plaintext) = self.open(call, &blob, &KEY_ID, &context).await?;
        Ok(json!({
            "Plaintext": STANDARD.encode(plaintext),
            "KeyId": self.arn(&key.id),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    }

    pub(super) async fn re_encrypt(&self, call: &mut Call<'_>) -> Result<Value, Answer> {
        let blob = call.parameters.blob("CiphertextBlob", 1, BLOB_MAX)?;
        let source_context = read_context(call, "SourceEncryptionContext")?;
        let destination_context = read_context(call, "DestinationEncryptionContext")?;
        for name in ["SourceEncryptionAlgorithm", "DestinationEncryptionAlgorithm"] {
            check_algorithm(call, name)?;
        }
        let destination = self.key(call, &DESTINATION_KEY_ID)?;
        // Before the proxy is asked to decrypt what could not be encrypted again.
        self.usable(&destination.id, call.now_ms)?;
        let (source, plaintext) = self.open(call, &blob, &SOURCE_KEY_ID, &source_context).await?;
        let sealed = self.seal(call, &destination, &destination_context, plaintext).await?;
        Ok(json!({
            "CiphertextBlob": STANDARD.encode(sealed),
            "SourceKeyId": self.arn(&source.id),
            "KeyId": self.arn(&destination.id),
            "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    }

    pub(super) async fn generate_data_key(&self, call: &mut Call<'_>, with_plaintext: bool) -> Result<Value, Answer> {
        if call.parameters.fields().get("Recipient").is_some_and(|recipient| !recipient.is_null()) {
            return Err(Answer::bad("UnsupportedOperationException", "Recipient is not emulated"));
        }
        let spec = call.parameters.optional(&DATA_KEY_SPEC);
        let count = call.parameters.number("NumberOfBytes", 1, 1024);
        let context = read_context(call, "EncryptionContext")?;
        let key = self.key(call, &KEY_ID)?;
        let length = match (spec.as_deref(), count) {
            (Some("AES_256"), None) => 32,
            (Some("AES_128"), None) => 16,
            (None, Some(count)) => usize::try_from(count).unwrap_or_default(),
            _ => return Err(invalid("Please specify either number of bytes or key spec.")),
        };
        let mut data_key = vec![0; length];
        SystemRandom::new().fill(&mut data_key).map_err(|_| Answer::internal("there is no randomness"))?;
        let blob = self.seal(call, &key, &context, data_key.clone()).await?;
        let mut answer = json!({ "CiphertextBlob": STANDARD.encode(blob), "KeyId": self.arn(&key.id) });
        if let (true, Some(fields)) = (with_plaintext, answer.as_object_mut()) {
            fields.insert("Plaintext".to_owned(), STANDARD.encode(data_key).into());
        }
        Ok(answer)
    }

    /// Encrypts twice.
    async fn seal(&self, call: &Call<'_>, key: &Key, context: &Context, plaintext: Vec<u8>) -> Result<Vec<u8>, Answer> {
        let (store, material) = self.usable(&key.id, call.now_ms)?;
        let aad = bound_to(&key.id, context);
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Answer::internal("there is no randomness"))?;
        let mut sealed = plaintext;
        cipher(&material)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&aad), &mut sealed)
            .map_err(|_| Answer::internal("the inner layer cannot be sealed"))?;
        let inner = [nonce.as_slice(), &sealed].concat();
        let body = json!({
            "requestMetadata": self.request_metadata(call, key),
            "plaintext": STANDARD.encode(&inner),
            "encryptionAlgorithm": "AES_GCM",
            "additionalAuthenticatedData": STANDARD.encode(&aad),
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        });
        let answer = self.ask_about(call, &store, key, "encrypt", &body).await?;
        let malformed = || Failure::Malformed.answer(Told::Use);
        let claimed = answer.bytes("ciphertextDataIntegrityValue").ok_or_else(malformed)?;
        let computed = integrity_value(Some(&aad), &answer).ok_or_else(malformed)?;
        if claimed != computed {
            return Err(malformed());
        }
        let bytes = |name: &str| answer.bytes(name);
        let metadata = match answer.body.get("ciphertextMetadata").filter(|value| !value.is_null()) {
            Some(_) => bytes("ciphertextMetadata").ok_or_else(malformed)?,
            None => Vec::new(),
        };
        let ciphertext = bytes("ciphertext").ok_or_else(malformed)?;
        // AES-GCM is as long as what it encrypts; whoever leaves the tag at the end cannot decrypt what KMS keeps.
        if ciphertext.len() != inner.len() {
            return Err(malformed());
        }
        let blob = Blob {
            key_id: key.id.clone(),
            initialization_vector: bytes("initializationVector").ok_or_else(malformed)?,
            authentication_tag: bytes("authenticationTag").ok_or_else(malformed)?,
            metadata,
            ciphertext,
        };
        blob.to_bytes().ok_or_else(malformed)
    }

    /// Decrypts twice: the key of the ciphertext, and the plaintext.
    async fn open(
        &self,
        call: &mut Call<'_>,
        blob: &[u8],
        rule: &Rule,
        context: &Context,
    ) -> Result<(Key, Vec<u8>), Answer> {
        let named = if call.parameters.fields().get(rule.name).is_some_and(|name| !name.is_null()) {
            Some(self.key(call, rule)?)
        } else {
            None
        };
        call.parameters.finish()?;
        let no_ciphertext = || Answer::bad("InvalidCiphertextException", "");
        let blob = Blob::parse(blob).ok_or_else(no_ciphertext)?;
        let key = match named {
            Some(key) if key.id != blob.key_id => {
                let message = "The key ID in the request does not identify a KMS key that can perform this operation.";
                return Err(Answer::bad("IncorrectKeyException", message));
            }
            Some(key) => key,
            None => {
                let found = self.state.read(call.now_ms, |state| self.find_key(state, &blob.key_id).cloned());
                let key = found.map_err(|_| Answer::bad("AccessDeniedException", NO_SUCH_KEY))?;
                call.marks.keys.push(self.arn(&key.id));
                call.marks.custom_key_store_id = Some(key.store_id.clone());
                call.marks.xks_key_id = Some(key.xks_key_id.clone());
                key
            }
        };
        let (store, material) = self.usable(&key.id, call.now_ms)?;
        let aad = bound_to(&key.id, context);
        let mut body = json!({
            "requestMetadata": self.request_metadata(call, &key),
            "ciphertext": STANDARD.encode(&blob.ciphertext),
            "encryptionAlgorithm": "AES_GCM",
            "additionalAuthenticatedData": STANDARD.encode(&aad),
            "initializationVector": STANDARD.encode(&blob.initialization_vector),
            "authenticationTag": STANDARD.encode(&blob.authentication_tag),
        });
        if let (false, Some(fields)) = (blob.metadata.is_empty(), body.as_object_mut()) {
            fields.insert("ciphertextMetadata".to_owned(), STANDARD.encode(&blob.metadata).into());
        }
        let answer = self.ask_about(call, &store, &key, "decrypt", &body).await?;
        let inner = answer.bytes("plaintext").ok_or_else(|| Failure::Malformed.answer(Told::Use))?;
        let foreign = || Failure::ForeignPlaintext.answer(Told::Use);
        let (nonce, sealed) = inner.split_first_chunk::<NONCE_LEN>().ok_or_else(foreign)?;
        let mut sealed = sealed.to_vec();
        let opened = cipher(&material)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(&aad), &mut sealed)
            .map_err(|_| foreign())?
            .to_vec();
        Ok((key, opened))
    }

    async fn ask_about(
        &self,
        call: &Call<'_>,
        store: &Store,
        key: &Key,
        operation: &str,
        body: &Value,
    ) -> Result<crate::xks_client::XksAnswer, Answer> {
        if call.parameters.flag("DryRun")? {
            let message = "The request would have succeeded, but the DryRun option is set.";
            return Err(Answer::bad("DryRunOperationException", message));
        }
        let asked = async { self.proxy(store)?.ask(&format!("keys/{}/{operation}", key.xks_key_id), body).await };
        asked.await.map_err(|failure| failure.answer(Told::Use))
    }

    fn request_metadata(&self, call: &Call<'_>, key: &Key) -> Value {
        json!({
            "awsPrincipalArn": call.principal_arn,
            "kmsKeyArn": self.arn(&key.id),
            "kmsOperation": call.operation,
            "kmsRequestId": call.request_id,
        })
    }
}

fn cipher(material: &Secret<32>) -> Result<LessSafeKey, Answer> {
    let key = UnboundKey::new(&AES_256_GCM, material.expose());
    key.map(LessSafeKey::new).map_err(|_| Answer::internal("the emulator's state is damaged"))
}

/// Associated data of both layers: the key's id and the context's pairs in order, as JSON. At most [`CONTEXT_MAX`], as proxies must take it,
/// since a longer one is hashed.
fn bound_to(key_id: &str, context: &Context) -> Vec<u8> {
    let text = json!([key_id, context]).to_string().into_bytes();
    if text.len() <= CONTEXT_MAX {
        return text;
    }
    ring::digest::digest(&ring::digest::SHA256, &text).as_ref().to_vec()
}

fn read_context(call: &mut Call<'_>, name: &'static str) -> Result<Context, Answer> {
    let context = call.parameters.context(name);
    if json!(context).to_string().len() > CONTEXT_MAX {
        return Err(invalid(&format!("{name} has more than {CONTEXT_MAX} bytes")));
    }
    Ok(context)
}

fn check_algorithm(call: &Call<'_>, name: &str) -> Result<(), Answer> {
    match call.parameters.fields().get(name).and_then(Value::as_str) {
        None | Some("SYMMETRIC_DEFAULT") => Ok(()),
        Some(other) => {
            let message = format!("Algorithm {other} and key spec SYMMETRIC_DEFAULT are incompatible.");
            Err(Answer::bad("InvalidKeyUsageException", &message))
        }
    }
}
