//! Asking KMS.
//!
//! Guarantees, besides those of [`super`]: credentials that are over are told so before anything is sent; what passes by itself
//! (throttling, errors of the service, no connection) is tried [`TRIES`] times in all with growing pauses, anything else once; a
//! try is signed anew on the attested clock. One document and one key pair serve the tries of one call, which end long
//! before KMS would call the document old.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_client::{Connect, HttpsClient, HttpsError};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::labels;
use holdfast_shared::limits::{ARN_MAX, KMS_ANSWER_MAX, KMS_PLAINTEXT_MAX, KMS_SHARE_MAX, REGION_MAX};
use holdfast_shared::manifest::KmsShare;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::sign::OutgoingRequest;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use zeroize::Zeroizing;

use super::credentials::{AwsCredentials, CredentialsSource};
use super::recipient::{RecipientError, RecipientKey};
use super::wire::{
    Algorithm, CONTENT_TYPE, DecryptRequest, EncryptRequest, EncryptionContext, KeyEncryption, Recipient, Refusal,
    SERVICE, ciphertext_blob, ciphertext_for_recipient,
};
use crate::clock::Clock;
use crate::nsm::{Nsm, NsmError};
use crate::tls::AttestedTime;

/// Tries of one call.
const TRIES: u32 = 3;
/// Pause before the second try; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// Time for one try.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a share's ciphertext is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsContext {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The generation of the root key.
    pub generation: u32,
}

impl KmsContext {
    fn encryption_context(&self) -> EncryptionContext {
        EncryptionContext::from([
            ("holdfast-key-store", self.key_store_id.to_string()),
            ("holdfast-generation", self.generation.to_string()),
        ])
    }

    /// What the document is for. KMS does not read it; to our own verifiers it is none of theirs.
    fn user_data(&self) -> Vec<u8> {
        let label = labels::ATTEST_KMS_SHARE.as_bytes();
        [label, &[0], self.key_store_id.as_bytes(), &self.generation.to_be_bytes()].concat()
    }
}

/// Why KMS keeps or gives no share.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// The manifest's key cannot be used.
    #[error("KMS key {key_arn}: {reason}")]
    Unusable {
        /// The key.
        key_arn: String,
        /// What is wrong.
        reason: String,
    },
    /// What is to be encrypted or decrypted is empty or too long.
    #[error("{0} bytes are not a share that KMS could keep or give back")]
    Size(usize),
    /// The parent handed over no credentials.
    #[error("there are no AWS credentials: the parent has handed over none")]
    NoCredentials,
    /// The credentials are over, or KMS does not know them.
    #[error("the AWS credentials are of no use: {0}")]
    Credentials(String),
    /// KMS refused.
    #[error("KMS refused with {status} {kind}: {message}", status = .0.status, kind = .0.kind, message = .0.message)]
    Refused(Refusal),
    /// KMS was not reached, or not in time.
    #[error("KMS at {endpoint}: {source}")]
    Unreachable {
        /// `host:port`.
        endpoint: String,
        /// Why.
        source: HttpsError,
    },
    /// Whatever answered does not answer as KMS does.
    #[error("KMS at {endpoint}: {reason}")]
    Answer {
        /// `host:port`.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No key pair, or the answer does not open.
    #[error(transparent)]
    Recipient(#[from] RecipientError),
    /// No document.
    #[error("no attestation document: {0}")]
    Nsm(#[from] NsmError),
}

impl KmsError {
    fn is_passing(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_passing(),
            Self::Unreachable { source, .. } => !matches!(source, HttpsError::Unusable(_)),
            _ => false,
        }
    }
}

/// A client of KMS for the share of one key store.
pub struct KmsShareClient<C> {
    https: HttpsClient<C>,
    /// As `Host` says it: 443 is left out, as HTTP does.
    host: String,
    key: KmsShare,
    clock: Arc<dyn Clock>,
    credentials: CredentialsSource,
}

impl<C: Connect> KmsShareClient<C> {
    /// Prepares a client of the KMS key that a manifest names; nothing is sent yet. An alias is not taken: whoever may move it
    /// could name another key.
    ///
    /// # Errors
    /// [`KmsError::Unusable`].
    pub fn new(
        connector: C,
        key: KmsShare,
        clock: Arc<dyn Clock>,
        credentials: CredentialsSource,
    ) -> Result<Self, KmsError> {
        let unusable =
            |reason: &str| KmsError::Unusable { key_arn: printable(&key.key_arn), reason: reason.to_owned() };
        if !names_a_key_in(&key.key_arn, &key.region) {
            return Err(unusable("it is not the ARN of a key (no alias) in the manifest's region"));
        }
        if key.tls_roots.is_empty() {
            return Err(unusable("the manifest names no root for its endpoint"));
        }
        let roots = key.tls_roots.iter().map(|root| root.0.as_slice());
        let time = Arc::new(AttestedTime(Arc::clone(&clock)));
        let https = HttpsClient::new(connector, &key.address, roots, time)
            .map_err(|error| unusable(&format!("its endpoint cannot be used: {error}")))?;
        let host = key.address.strip_suffix(":443").unwrap_or(&key.address).to_owned();
        Ok(Self { https, host, key, clock, credentials })
    }

    /// Has KMS encrypt a share, and returns the blob that only KMS can read.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn encrypt(&self, share: &SecretBytes, context: &KmsContext) -> Result<Vec<u8>, KmsError> {
        check_size(share.expose().len(), KMS_PLAINTEXT_MAX)?;
        let request = EncryptRequest {
            key_id: &self.key.key_arn,
            plaintext: share.expose(),
            encryption_context: &context.encryption_context(),
            encryption_algorithm: Algorithm::SymmetricDefault,
        };
        let answer = self.ask("TrentService.Encrypt", &request).await?;
        ciphertext_blob(&answer, &self.key.key_arn).map_err(|error| self.no_answer(error))
    }

    /// Has KMS decrypt a share for this enclave. The caller checks it against its commitment: anybody who sees the document on
    /// its way could answer in KMS's place.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn decrypt(&self, blob: &[u8], context: &KmsContext, nsm: &Nsm) -> Result<SecretBytes, KmsError> {
        check_size(blob.len(), KMS_SHARE_MAX)?;
        self.usable_credentials()?;
        let recipient = RecipientKey::generate(nsm).await?;
        let document = nsm.attest(None, Some(&context.user_data()), Some(recipient.public_key())).await?;
        let request = DecryptRequest {
            key_id: &self.key.key_arn,
            ciphertext_blob: blob,
            encryption_context: &context.encryption_context(),
            encryption_algorithm: Algorithm::SymmetricDefault,
            recipient: Recipient {
                attestation_document: &document,
                key_encryption_algorithm: KeyEncryption::RsaesOaepSha256,
            },
        };
        let answer = self.ask("TrentService.Decrypt", &request).await?;
        let message = ciphertext_for_recipient(&answer, &self.key.key_arn).map_err(|error| self.no_answer(error))?;
        Ok(recipient.open(message).await?)
    }

    /// Asks until there is an answer, a refusal that lasts, or no try left.
    async fn ask<T: Serialize + Sync>(&self, target: &str, request: &T) -> Result<Bytes, KmsError> {
        let body = serde_json::to_vec(request).map_err(|error| self.no_answer(error))?;
        // The body of an `Encrypt` holds a share; the bytes are zeroized when the last try is over.
        let body = Bytes::from_owner(Zeroizing::new(body));
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.try_once(target, &body).await {
                Err(error) if error.is_passing() => tokio::time::sleep(pause).await,
                result => return result,
            }
            pause = pause.saturating_mul(2);
        }
        self.try_once(target, &body).await
    }

    async fn try_once(&self, target: &str, body: &Bytes) -> Result<Bytes, KmsError> {
        let credentials = self.usable_credentials()?;
        let request = self.signed(target, body, &credentials)?;
        let unreachable = |source| KmsError::Unreachable { endpoint: self.key.address.clone(), source };
        let (status, answer) = self.https.send(request, KMS_ANSWER_MAX, TIMEOUT).await.map_err(unreachable)?;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let refusal = Refusal::read(status, &answer);
        if refusal.is_about_credentials() {
            return Err(KmsError::Credentials(format!("KMS says {}: {}", refusal.kind, refusal.message)));
        }
        Err(KmsError::Refused(refusal))
    }

    fn usable_credentials(&self) -> Result<Arc<AwsCredentials>, KmsError> {
        let credentials = self.credentials.borrow().clone().ok_or(KmsError::NoCredentials)?;
        if credentials.are_over(self.clock.wall_ms()) {
            return Err(KmsError::Credentials("they expired, and the parent has handed over no newer ones".to_owned()));
        }
        Ok(credentials)
    }

    fn signed(
        &self,
        target: &str,
        body: &Bytes,
        credentials: &AwsCredentials,
    ) -> Result<Request<Full<Bytes>>, KmsError> {
        let mut headers = vec![("host", &*self.host), ("content-type", CONTENT_TYPE), ("x-amz-target", target)];
        headers.extend(credentials.session_token().map(|token| ("x-amz-security-token", token)));
        let (region, at_ms) = (&*self.key.region, self.clock.wall_ms());
        let signature = OutgoingRequest { path: "/", headers: &headers, body, region, service: SERVICE, at_ms }
            .sign(credentials.access_key_id(), credentials.secret_access_key());
        headers.extend([("x-amz-date", &*signature.date), ("authorization", &*signature.authorization)]);
        let mut request = Request::builder().method(Method::POST).uri("/");
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| self.no_answer(error))?;
            let mut value = HeaderValue::from_str(value).map_err(|error| self.no_answer(error))?;
            value.set_sensitive(name == header::AUTHORIZATION || name == "x-amz-security-token");
            request = request.header(name, value);
        }
        request.body(Full::new(body.clone())).map_err(|error| self.no_answer(error))
    }

    fn no_answer(&self, reason: impl core::fmt::Display) -> KmsError {
        KmsError::Answer { endpoint: self.key.address.clone(), reason: reason.to_string() }
    }
}

fn check_size(len: usize, max: usize) -> Result<(), KmsError> {
    if len == 0 || len > max { Err(KmsError::Size(len)) } else { Ok(()) }
}

/// `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
fn names_a_key_in(arn: &str, region: &str) -> bool {
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let parts: Vec<&str> = arn.split(':').collect();
    let [scheme, partition, service, found_region, account, resource] = parts.as_slice() else { return false };
    arn.len() <= ARN_MAX
        && region.len() <= REGION_MAX
        && (*scheme, *service) == ("arn", "kms")
        && is_word(partition)
        && is_word(region)
        && *found_region == region
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && resource.strip_prefix("key/").is_some_and(is_word)
}

fn printable(text: &str) -> String {
    text.chars().take(ARN_MAX).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_shared::manifest::DerCertificate;

    use super::*;
    use crate::clock::SteppedClock;

    #[test]
    fn only_a_key_of_the_region_is_taken() {
        let table = [
            ("arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", true),
            ("arn:aws-us-gov:kms:eu-central-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab", true),
            ("arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", false),
            ("arn:aws:kms:eu-central-1:111122223333:alias/holdfast", false),
            ("arn:aws:kms:eu-central-1:11112222333:key/1234abcd", false),
            ("arn:aws:kms:eu-central-1:111122223333:key/", false),
            ("arn:aws:kms:eu-central-1:111122223333:key/a:b", false),
            ("arn:aws:s3:eu-central-1:111122223333:key/1234abcd", false),
            ("1234abcd-12ab-34cd-56ef-1234567890ab", false),
            ("", false),
        ];
        for (arn, expected) in table {
            assert_eq!(names_a_key_in(arn, "eu-central-1"), expected, "{arn}");
        }
    }

    #[test]
    fn a_key_without_roots_or_with_another_endpoint_is_unusable() {
        let key = |address: &str, roots: usize| KmsShare {
            key_arn: "arn:aws:kms:eu-central-1:111122223333:key/1234abcd".to_owned(),
            region: "eu-central-1".to_owned(),
            address: address.to_owned(),
            tls_roots: vec![DerCertificate(vec![0x30, 0]); roots],
        };
        for (key, expected) in [
            (key("kms.eu-central-1.amazonaws.com:443", 0), "names no root"),
            (key("kms.eu-central-1.amazonaws.com:443", 1), "a TLS root cannot be used"),
            (key("no host:443", 1), "its endpoint cannot be used"),
        ] {
            let (_sender, credentials) = tokio::sync::watch::channel(None);
            let clock = Arc::new(SteppedClock::at(0));
            let error = KmsShareClient::new(holdfast_client::Tcp, key, clock, credentials).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
