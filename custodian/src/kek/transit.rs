//! A key of the Transit engine of Vault or `OpenBao`.
//!
//! Guarantees: before the first use, and at every look after it, the server says that the key is AES-256-GCM and can be neither
//! exported nor backed up in the clear, as far as the token may ask; the server is shown to bind associated data, since
//! versions before it knew of them pass over them without a word; a secret is given out as wrapped only after it was opened
//! again. The token is read from its file for every call, so that an agent may replace it. Assumes: the server keeps its key.
//! Refuses: a server without TLS unless it is on this machine, keys of other types, derived keys.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::secrets::SecretBytes;
use http::StatusCode;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::remote::{Endpoint, words};
use super::{KekError, KeyEncryptionKey, Pending, Place, SECRET_MAX, WRAPPED_MAX};
use crate::config::TransitConfig;
use crate::state::{self, StateError};

mod http_api;

use http_api::{Credentials, exchange};

/// Bytes of a token. Service tokens have some hundred, batch tokens some hundred more.
const TOKEN_MAX: usize = 8 * 1024;
/// Characters that are kept of a server's own words.
const WORDS_MAX: usize = 200;
/// What the server is shown to bind.
const PROBE_AAD: &[u8] = b"holdfast transit probe";

/// See the module.
pub struct TransitKey {
    endpoint: Endpoint,
    mount: String,
    key: String,
    namespace: Option<String>,
    token_file: PathBuf,
    checked: AtomicBool,
    warned: AtomicBool,
}

/// What the server says about a key; only what matters here.
#[derive(Deserialize)]
struct KeyConfiguration {
    #[serde(rename = "type")]
    kind: String,
    exportable: bool,
    allow_plaintext_backup: bool,
    derived: bool,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Unwrapped<'a> {
    /// Base64, which JSON never escapes, so that there is no copy of it.
    plaintext: &'a str,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<String>,
}

impl TransitKey {
    /// Reads the files that the configuration names, except for the token.
    ///
    /// # Errors
    /// [`KekError::Misconfigured`].
    pub fn open(config: &TransitConfig) -> Result<Self, KekError> {
        for (field, value, slashes) in [("mount", &config.mount, true), ("key", &config.key, false)] {
            if !is_path(value, slashes) {
                return Err(misconfigured(
                    format!("key_encryption_key.transit.{field} is {value}"),
                    "use letters, digits, `-`, `_`, and `.` inside",
                ));
            }
        }
        Ok(Self {
            endpoint: endpoint(config)?,
            mount: config.mount.clone(),
            key: config.key.clone(),
            namespace: config.namespace.clone(),
            token_file: config.token_file.clone(),
            checked: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        })
    }

    async fn token(&self) -> Result<SecretBytes, KekError> {
        let file = self.token_file.clone();
        let read = tokio::task::spawn_blocking(move || state::read_private(&file)).await;
        let bytes = match read.map_err(|_| self.endpoint.unavailable("reading the token was given up", "try again"))? {
            // An agent that has not come up yet, or is just replacing it.
            Err(StateError::Io { file, source }) if source.kind() == std::io::ErrorKind::NotFound => {
                let what = format!("there is no token in {}", file.display());
                return Err(self.endpoint.unavailable(&what, "start the agent that writes it, or write it"));
            }
            other => other?,
        };
        let token = bytes.expose().trim_ascii();
        if token.is_empty() || token.len() > TOKEN_MAX || !token.iter().all(u8::is_ascii_graphic) {
            let what = format!("{} holds no token", self.token_file.display());
            return Err(self
                .endpoint
                .unavailable(&what, "write one token in one line, or look at the agent that should"));
        }
        Ok(SecretBytes::new(token.to_vec()))
    }

    /// Asks, with a token that was replaced meanwhile if there is one.
    async fn ask(&self, path: &str, body: Option<&SecretBytes>) -> Result<(StatusCode, SecretBytes), KekError> {
        let token = self.token().await?;
        let namespace = self.namespace.as_deref();
        let credentials = Credentials { token: &token, namespace };
        let answer = exchange(&self.endpoint, path, &credentials, body.map(SecretBytes::duplicate)).await?;
        if answer.0 != StatusCode::FORBIDDEN {
            return Ok(answer);
        }
        let newer = self.token().await?;
        if newer == token {
            return Ok(answer);
        }
        let credentials = Credentials { token: &newer, namespace };
        exchange(&self.endpoint, path, &credentials, body.map(SecretBytes::duplicate)).await
    }

    async fn operate(&self, operation: &str, body: &SecretBytes) -> Result<SecretBytes, KekError> {
        let path = format!("/v1/{}/{operation}/{}", self.mount, self.key);
        let (status, answer) = self.ask(&path, Some(body)).await?;
        if status == StatusCode::OK { Ok(answer) } else { Err(self.refusal(status, &answer)) }
    }

    async fn encrypt(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, KekError> {
        let answer =
            self.operate("encrypt", &body(&[("plaintext", &base64(secret)), associated(&base64(aad))])).await?;
        let answer: Answer<Wrapped<'_>> = self.parse(&answer)?;
        if !is_ciphertext(&answer.data.ciphertext) {
            return Err(self.unreadable());
        }
        Ok(answer.data.ciphertext.as_bytes().to_vec())
    }

    async fn decrypt(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        let text = str::from_utf8(wrapped).ok().filter(|text| is_ciphertext(text)).ok_or(KekError::OpenFailed)?;
        let ciphertext = SecretBytes::new(text.as_bytes().to_vec());
        let answer = self.operate("decrypt", &body(&[("ciphertext", &ciphertext), associated(&base64(aad))])).await?;
        let answer: Answer<Unwrapped<'_>> = self.parse(&answer)?;
        // Reserved whole: growing would leave copies behind.
        let mut secret = Vec::with_capacity(answer.data.plaintext.len());
        match STANDARD.decode_vec(answer.data.plaintext, &mut secret) {
            Ok(()) => Ok(SecretBytes::new(secret)),
            Err(_) => Err(self.unreadable()),
        }
    }

    /// Refuses a key that may leave the server, and a server that does not bind associated data.
    async fn check(&self) -> Result<(), KekError> {
        self.check_configuration().await?;
        if self.checked.load(Ordering::Acquire) {
            return Ok(());
        }
        let wrapped = self.encrypt(PROBE_AAD, PROBE_AAD).await?;
        if self.decrypt(PROBE_AAD, &wrapped).await?.expose() != PROBE_AAD {
            return Err(self.unreadable());
        }
        match self.decrypt(b"other", &wrapped).await {
            Err(KekError::OpenFailed) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let remedy = "use OpenBao, or Vault 1.13 or later";
                return Err(misconfigured(
                    format!("{}: the server does not bind associated data", self.name()),
                    remedy,
                ));
            }
        }
        self.checked.store(true, Ordering::Release);
        Ok(())
    }

    async fn check_configuration(&self) -> Result<(), KekError> {
        let (status, answer) = self.ask(&format!("/v1/{}/keys/{}", self.mount, self.key), None).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::FORBIDDEN => {
                // Either a token that may use the key and nothing more, or one that may do nothing, as its use will show.
                if !self.warned.swap(true, Ordering::AcqRel) {
                    tracing::warn!(
                        key = self.name(),
                        "the token may not read the key's configuration, so it is not known whether the key can be exported; \
                         allow it to read {}/keys/{}",
                        self.mount,
                        self.key
                    );
                }
                return Ok(());
            }
            StatusCode::NOT_FOUND => {
                let remedy = "name the key and the mount of the engine as they are, or make the key";
                return Err(misconfigured(format!("{}: there is no such key", self.name()), remedy));
            }
            status => return Err(self.refusal(status, &answer)),
        }
        let answer: Answer<KeyConfiguration> = self.parse(&answer)?;
        let key = answer.data;
        let faults = [
            (key.kind != "aes256-gcm96", "it is not of type aes256-gcm96"),
            (key.exportable, "it is exportable"),
            (key.allow_plaintext_backup, "it has allow_plaintext_backup"),
            (key.derived, "it is derived"),
        ];
        match faults.into_iter().find(|(holds, _)| *holds) {
            None => Ok(()),
            Some((_, fault)) => {
                self.checked.store(false, Ordering::Release);
                let remedy = "make a key with type=aes256-gcm96 and nothing else, and let the others be";
                Err(misconfigured(format!("{}: {fault}", self.name()), remedy))
            }
        }
    }

    async fn checked(&self) -> Result<(), KekError> {
        if self.checked.load(Ordering::Acquire) { Ok(()) } else { self.check().await }
    }

    fn name(&self) -> String {
        format!("Transit key {}/{} at {}", self.mount, self.key, self.endpoint.address())
    }

    fn parse<'a, T: Deserialize<'a>>(&self, answer: &'a SecretBytes) -> Result<T, KekError> {
        // The parser's own words could quote what it read.
        serde_json::from_slice(answer.expose()).map_err(|_| self.unreadable())
    }

    fn unreadable(&self) -> KekError {
        self.endpoint.unavailable("the answer is not one of Transit", "see that the URL is that of Vault or OpenBao")
    }

    /// What a status means (Vault's HTTP API, "HTTP status codes"). For 400 there are only words.
    fn refusal(&self, status: StatusCode, answer: &SecretBytes) -> KekError {
        let errors =
            serde_json::from_slice::<Refusal>(answer.expose()).map(|refusal| refusal.errors).unwrap_or_default();
        let said = words(&errors.join("; "), WORDS_MAX);
        let says = |text: &str| said.contains(text);
        match status.as_u16() {
            400 if says("message authentication failed") || says("invalid ciphertext") => KekError::OpenFailed,
            400 if says("too old") => misconfigured(
                format!("{}: a stored secret was wrapped by a version that the key no longer decrypts", self.name()),
                "lower the key's min_decryption_version, or restore that version",
            ),
            400 if says("encryption key not found") => misconfigured(
                format!("{}: there is no such key", self.name()),
                "name the key as it is, or restore the one that wrapped the shares",
            ),
            403 => self.endpoint.unavailable(
                &format!("permission denied for {} ({said})", self.name()),
                "renew the token in its file; its policy must allow `update` on encrypt/ and decrypt/ of the key",
            ),
            404 => misconfigured(
                format!("{}: there is no Transit engine at this mount ({said})", self.name()),
                "name the mount and the namespace as they are, or enable the engine",
            ),
            503 if says("sealed") => KekError::Locked {
                what: format!("{} is sealed", self.endpoint.address()),
                remedy: "unseal it".to_owned(),
            },
            300..=399 => self.endpoint.unavailable(
                "the server sends us elsewhere",
                "name the active server, or let the standby forward requests",
            ),
            _ => self.endpoint.unavailable(&format!("status {}: {said}", status.as_u16()), "look at the server's log"),
        }
    }
}

impl KeyEncryptionKey for TransitKey {
    fn place(&self) -> Place {
        Place::Transit
    }

    fn describe(&self) -> String {
        self.name()
    }

    fn wrap<'a>(&'a self, aad: &'a [u8], secret: &'a [u8]) -> Pending<'a, Vec<u8>> {
        Box::pin(async move {
            self.checked().await?;
            let wrapped = self.encrypt(aad, secret).await?;
            // What does not open again must not replace what does.
            if self.decrypt(aad, &wrapped).await?.expose().ct_eq(secret).into() {
                Ok(wrapped)
            } else {
                Err(self.unreadable())
            }
        })
    }

    fn unwrap<'a>(&'a self, aad: &'a [u8], wrapped: &'a [u8]) -> Pending<'a, SecretBytes> {
        Box::pin(async move {
            self.checked().await?;
            self.decrypt(aad, wrapped).await
        })
    }

    fn health(&self) -> Pending<'_, ()> {
        Box::pin(self.check())
    }
}

fn endpoint(config: &TransitConfig) -> Result<Endpoint, KekError> {
    let url = config.url.strip_suffix('/').unwrap_or(&config.url);
    if let Some(address) = url.strip_prefix("http://") {
        return Endpoint::loopback(address);
    }
    let Some(address) = url.strip_prefix("https://") else {
        return Err(misconfigured(
            format!("key_encryption_key.transit.url is {}", config.url),
            "write https://host:port, or http:// and a loopback address and port",
        ));
    };
    let Some(roots) = &config.roots else {
        let what = "key_encryption_key.transit.roots is missing".to_owned();
        return Err(misconfigured(what, "name a PEM file with the roots of the server's certificate"));
    };
    Endpoint::tls(address, roots, None)
}

fn misconfigured(what: String, remedy: &str) -> KekError {
    KekError::Misconfigured { what, remedy: remedy.to_owned() }
}

/// Whether this can stand in a path as it is: no escapes, no steps upwards.
fn is_path(text: &str, slashes: bool) -> bool {
    let parts: Vec<_> = text.split('/').collect();
    (slashes || parts.len() == 1)
        && parts.iter().all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        })
}

/// `vault:v` and the key's version, `:`, and base64; short enough to be stored. One text for one ciphertext: the server takes
/// version 0 for 1, and passes over the last bits of base64 that encode nothing.
fn is_ciphertext(text: &str) -> bool {
    let parts = text.strip_prefix("vault:v").and_then(|rest| rest.split_once(':'));
    text.len() < WRAPPED_MAX
        && parts.is_some_and(|(version, base64)| {
            version.parse().is_ok_and(|number: u32| number > 0 && number.to_string() == version)
                && !base64.is_empty()
                && STANDARD.decode(base64).is_ok()
        })
}

fn base64(bytes: &[u8]) -> SecretBytes {
    let mut text = vec![0; base64::encoded_len(bytes.len(), true).unwrap_or_default()];
    let length = STANDARD.encode_slice(bytes, &mut text).unwrap_or_default();
    text.truncate(length);
    SecretBytes::new(text)
}

fn associated(text: &SecretBytes) -> (&'static str, &SecretBytes) {
    ("associated_data", text)
}

/// A JSON object of strings that need no escapes, in memory that is reserved whole.
fn body(fields: &[(&str, &SecretBytes)]) -> SecretBytes {
    let mut out = Vec::with_capacity(SECRET_MAX.saturating_add(WRAPPED_MAX).saturating_mul(2));
    for (index, (name, value)) in fields.iter().enumerate() {
        out.extend(if index == 0 { b"{\"" } else { b",\"" });
        out.extend(name.bytes());
        out.extend(b"\":\"");
        out.extend(value.expose());
        out.extend(b"\"");
    }
    out.extend(b"}");
    SecretBytes::new(out)
}

#[cfg(test)]
mod tests;
