//! A key of a KMIP server: AES-256-GCM by its Encrypt and Decrypt, over TLS with a certificate of ours.
//!
//! ```text
//! wrapped: length of the key's identifier (1) ‖ identifier ‖ nonce (12) ‖ tag (16) ‖ ciphertext
//! ```
//! Guarantees: before the first use, and at every look after it, the server says that the key is an active symmetric key of AES
//! with 256 bits for encryption and decryption, sensitive and not extractable, as far as it says such things; the server is
//! shown to bind additional data; a secret is given out as wrapped only after it was opened again. A wrapped secret opens under
//! the key that wrapped it, also when the configuration names its successor. Assumes: the server keeps its key. Refuses: TLS
//! without a certificate on both sides, versions of KMIP before 1.4, which have no additional data.

use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_shared::secrets::SecretBytes;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::remote::{Connection, Endpoint, Identity, words};
use super::{KekError, KeyEncryptionKey, Pending, Place};
use crate::config::KmipConfig;

mod message;
mod ttlv;

use message::{ANSWER, AnswerError, Attributes, Encrypted, NONCE_LEN, Operation, Payload, Reason, TAG_LEN};
use ttlv::{HEADER_LEN, Item};

/// What the server is shown to bind.
const PROBE_AAD: &[u8] = b"holdfast kmip probe";

/// See the module.
pub struct KmipKey {
    endpoint: Endpoint,
    key: String,
    rng: SystemRandom,
    checked: AtomicBool,
    warned: AtomicBool,
}

/// A wrapped secret, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Wrapped<'a> {
    key: &'a str,
    nonce: &'a [u8; NONCE_LEN],
    tag: &'a [u8; TAG_LEN],
    ciphertext: &'a [u8],
}

impl KmipKey {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// [`KekError`].
    pub fn open(config: &KmipConfig) -> Result<Self, KekError> {
        let identity = Identity { certificate: &config.certificate, private_key: &config.private_key };
        Ok(Self {
            endpoint: Endpoint::tls(&config.address, &config.roots, Some(identity))?,
            key: config.key.clone(),
            rng: SystemRandom::new(),
            checked: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        })
    }

    /// One request, one answer, one connection.
    async fn ask(&self, operation: Operation, payload: Vec<Item>) -> Result<Payload, Failure> {
        let request = message::request(operation, payload).map_err(AnswerError::from)?;
        let Connection { mut stream, turn } = self.endpoint.connect().await?;
        let answer = async {
            stream.write_all(request.expose()).await?;
            stream.flush().await?;
            let mut header = [0; HEADER_LEN];
            stream.read_exact(&mut header).await?;
            let length = ttlv::body_len(header, ANSWER).map_err(std::io::Error::other)?;
            // As long as it is going to be: growing would leave copies behind.
            let mut answer = vec![0; length.saturating_add(HEADER_LEN)];
            let (start, body) = answer.split_at_mut(HEADER_LEN);
            start.copy_from_slice(&header);
            stream.read_exact(body).await?;
            Ok::<_, std::io::Error>(SecretBytes::new(answer))
        };
        let answer = answer.await.map_err(|error| {
            let remedy = "look at the server's log, at the certificates, and at what is between";
            self.endpoint
                .unavailable(&format!("no answer to {operation:?}: {}", words(&error.to_string(), 200)), remedy)
        })?;
        drop((stream, turn));
        Ok(Payload::of(answer.expose(), operation)?)
    }

    async fn encrypt(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill(&mut nonce).map_err(|_| KekError::Random)?;
        let answer = self.ask(Operation::Encrypt, message::encrypt(&self.key, &nonce, aad, secret)).await?;
        let answer = answer.data(&self.key)?;
        let wrapped = assemble(&self.key, &nonce, secret, &answer);
        Ok(wrapped.ok_or_else(|| self.no_gcm("does not encrypt with AES-GCM as it was asked to"))?)
    }

    async fn decrypt(&self, aad: &[u8], wrapped: &Wrapped<'_>) -> Result<SecretBytes, Failure> {
        let Wrapped { key, nonce, tag, ciphertext } = wrapped;
        let answer = self.ask(Operation::Decrypt, message::decrypt(key, nonce, aad, ciphertext, tag)).await?;
        Ok(answer.data(key)?.data)
    }

    /// Wraps and unwraps what is no secret, and sees that it does not open for other data.
    async fn probe(&self) -> Result<(), KekError> {
        let bytes =
            self.encrypt(PROBE_AAD, PROBE_AAD).await.map_err(|failure| self.explain(Operation::Encrypt, failure))?;
        let wrapped = parse(&bytes).ok_or(KekError::OpenFailed)?;
        let opened =
            self.decrypt(PROBE_AAD, &wrapped).await.map_err(|failure| self.explain(Operation::Decrypt, failure))?;
        if opened.expose() != PROBE_AAD {
            return Err(self.no_gcm("does not decrypt what it encrypted"));
        }
        match self.decrypt(b"other", &wrapped).await {
            // It is the decryption that fails, in whatever words; a connection that breaks proves nothing.
            Err(Failure::Answer(AnswerError::Refused { reason: Reason::Cryptographic | Reason::Other(_), .. })) => {
                Ok(())
            }
            Err(failure) => Err(self.explain(Operation::Decrypt, failure)),
            Ok(_) => Err(self.no_gcm("does not bind additional data")),
        }
    }

    /// Refuses a key that may leave the server, and a server that does not bind additional data.
    async fn check(&self) -> Result<(), KekError> {
        self.check_attributes().await?;
        if !self.checked.load(Ordering::Acquire) {
            self.probe().await?;
            self.checked.store(true, Ordering::Release);
        }
        Ok(())
    }

    async fn check_attributes(&self) -> Result<(), KekError> {
        let operation = Operation::GetAttributes;
        let answer = match self.ask(operation, message::attributes(&self.key)).await {
            Ok(answer) => Some(answer.attributes(&self.key).map_err(|error| self.explain(operation, error.into()))?),
            // It may be ours to use and not to look at.
            Err(Failure::Answer(AnswerError::Refused { reason: Reason::Permission, .. })) => None,
            Err(failure) => return Err(self.explain(operation, failure)),
        };
        if let Some(fault) = answer.as_ref().and_then(Attributes::fault) {
            self.checked.store(false, Ordering::Release);
            return Err(misconfigured(format!("{}: {}", self.name(), fault.what), fault.remedy));
        }
        if answer.is_none_or(|attributes| attributes.is_silent()) && !self.warned.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                key = self.name(),
                "the server does not say whether the key is sensitive and not extractable; see that it is"
            );
        }
        Ok(())
    }

    async fn checked(&self) -> Result<(), KekError> {
        if self.checked.load(Ordering::Acquire) { Ok(()) } else { self.check().await }
    }

    async fn open_wrapped(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        let wrapped = parse(wrapped).ok_or(KekError::OpenFailed)?;
        match self.decrypt(aad, &wrapped).await {
            Ok(secret) => Ok(secret),
            Err(Failure::Answer(AnswerError::Refused { reason: Reason::NotFound, .. })) => Err(misconfigured(
                format!("a stored secret was wrapped by the key {}, which the server does not have", wrapped.key),
                "restore that key: nothing else opens what it wrapped",
            )),
            // Some servers have one reason for everything. It is the secret if the key does its work otherwise.
            Err(failure @ Failure::Answer(AnswerError::Refused { reason: Reason::Other(_), .. })) => {
                Err(if self.probe().await.is_ok() {
                    KekError::OpenFailed
                } else {
                    self.explain(Operation::Decrypt, failure)
                })
            }
            Err(failure) => Err(self.explain(Operation::Decrypt, failure)),
        }
    }

    fn name(&self) -> String {
        format!("KMIP key {} at {}", self.key, self.endpoint.address())
    }

    fn no_gcm(&self, what: &str) -> KekError {
        let remedy =
            "use a server whose KMIP 1.4 has GCM, with nonces of the client's, additional data and tags of 16 bytes";
        misconfigured(format!("{}: the server {what}", self.name()), remedy)
    }

    fn explain(&self, operation: Operation, failure: Failure) -> KekError {
        let (reason, said) = match failure {
            Failure::Kek(error) => return error,
            Failure::Answer(AnswerError::Refused { reason, words }) => (reason, words),
            Failure::Answer(error) => {
                let remedy = "see that the address is that of a server which speaks KMIP 1.4";
                return self.endpoint.unavailable(&error.to_string(), remedy);
            }
        };
        match reason {
            Reason::Cryptographic if operation == Operation::Decrypt => KekError::OpenFailed,
            Reason::NotFound => misconfigured(
                format!("{}: there is no such key ({said})", self.name()),
                "name the key by its unique identifier, and see that it belongs to our certificate's client",
            ),
            Reason::Unsupported => misconfigured(
                format!("{}: the server refuses {operation:?} of KMIP 1.4 ({said})", self.name()),
                "allow that operation to our client, or use a server that has it",
            ),
            Reason::Authentication => self.endpoint.unavailable(
                &format!("the server does not accept our certificate ({said})"),
                "register the client certificate, or renew it and restart",
            ),
            Reason::Permission => self.endpoint.unavailable(
                &format!("the server refuses {operation:?} with {} ({said})", self.name()),
                "see that the key is active and that our client may encrypt and decrypt with it",
            ),
            Reason::Cryptographic | Reason::Other(_) => {
                self.endpoint.unavailable(&format!("{operation:?} failed ({said})"), "look at the server's log")
            }
        }
    }
}

/// Why a request brought nothing: what the server answered is looked at before it becomes an error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Kek(#[from] KekError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl KeyEncryptionKey for KmipKey {
    fn place(&self) -> Place {
        Place::Kmip
    }

    fn describe(&self) -> String {
        self.name()
    }

    fn wrap<'a>(&'a self, aad: &'a [u8], secret: &'a [u8]) -> Pending<'a, Vec<u8>> {
        Box::pin(async move {
            self.checked().await?;
            let wrapped =
                self.encrypt(aad, secret).await.map_err(|failure| self.explain(Operation::Encrypt, failure))?;
            // What does not open again must not replace what does.
            if self.open_wrapped(aad, &wrapped).await?.expose().ct_eq(secret).into() {
                Ok(wrapped)
            } else {
                Err(self.no_gcm("does not decrypt what it encrypted"))
            }
        })
    }

    fn unwrap<'a>(&'a self, aad: &'a [u8], wrapped: &'a [u8]) -> Pending<'a, SecretBytes> {
        Box::pin(async move {
            self.checked().await?;
            self.open_wrapped(aad, wrapped).await
        })
    }

    fn health(&self) -> Pending<'_, ()> {
        Box::pin(self.check())
    }
}

/// What is stored, if the server encrypted as it was asked to.
fn assemble(key: &str, nonce: &[u8; NONCE_LEN], secret: &[u8], answer: &Encrypted) -> Option<Vec<u8>> {
    if answer.nonce.as_ref().is_some_and(|other| other.expose() != nonce) {
        return None;
    }
    let tag: [u8; TAG_LEN] = answer.tag.as_ref()?.expose().try_into().ok()?;
    let ciphertext = answer.data.expose();
    if ciphertext.len() != secret.len() || ciphertext.ct_eq(secret).into() {
        return None;
    }
    let length = u8::try_from(key.len()).ok()?;
    Some([&[length], key.as_bytes(), nonce, &tag, ciphertext].concat())
}

fn parse(wrapped: &[u8]) -> Option<Wrapped<'_>> {
    let (length, rest) = wrapped.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(*length))?;
    let (nonce, rest) = rest.split_first_chunk()?;
    let (tag, ciphertext) = rest.split_first_chunk()?;
    // It goes into requests and errors.
    let key =
        str::from_utf8(key).ok().filter(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()))?;
    Some(Wrapped { key, nonce, tag, ciphertext })
}

fn misconfigured(what: String, remedy: &str) -> KekError {
    KekError::Misconfigured { what, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests;
