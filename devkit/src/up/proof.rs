//! The signed round trip: what a client of KMS's kind sees of the system.
//!
//! Guarantees: every claim that is printed was checked here: the certificate by the TLS client, the integrity value by computing it,
//! the plaintext by comparing it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layout::{Layout, LayoutError};
use crate::xks_client::{HttpVersion, XksAnswer, XksClient, XksClientError, integrity_value};

/// Where the first run's ciphertext is kept.
const FIRST: &str = "first-ciphertext.json";
/// How long the proxy may take until it serves.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// No answer.
    #[error(transparent)]
    Client(#[from] XksClientError),
    /// A file.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Another status than 200.
    #[error("{operation} was answered with {status}: {body}")]
    Status {
        /// What was asked.
        operation: &'static str,
        /// The status.
        status: StatusCode,
        /// The body.
        body: Value,
    },
    /// A wrong answer.
    #[error("{operation}: {what}")]
    Wrong {
        /// What was asked.
        operation: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// What an earlier run kept cannot be read.
    #[error("{FIRST} in the state folder cannot be read ({0}); remove it to start over with the next ciphertext")]
    First(String),
}

/// What an earlier run encrypted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    key_id: String,
    plaintext: String,
    additional_authenticated_data: String,
    encrypted: Value,
}

/// What the round trip showed.
#[derive(Debug)]
pub struct Proof {
    /// Lines for people.
    pub lines: Vec<String>,
    /// SHA-256 of the server's certificate.
    pub certificate_sha256: String,
    /// What became of the ciphertext of an earlier run; none at the first run.
    pub earlier: Option<String>,
}

/// Waits until the proxy answers `GetHealthStatus`.
///
/// # Errors
/// The last answer, when it does not in time.
pub async fn wait_until_served(client: &XksClient) -> Result<XksAnswer, ProofError> {
    wait_for(client, &[StatusCode::OK]).await
}

/// Whether the proxy accepts the client's credential.
///
/// # Errors
/// The last answer, when it does not serve in time.
pub async fn accepts_credential(client: &XksClient) -> Result<bool, ProofError> {
    let answer = wait_for(client, &[StatusCode::OK, StatusCode::UNAUTHORIZED]).await?;
    Ok(answer.status == StatusCode::OK)
}

async fn wait_for(client: &XksClient, accepted: &[StatusCode]) -> Result<XksAnswer, ProofError> {
    let started = Instant::now();
    loop {
        let error = match client.health().await {
            Ok(answer) if accepted.contains(&answer.status) => return Ok(answer),
            Ok(answer) => status_error("GetHealthStatus", answer),
            Err(error) => error.into(),
        };
        if started.elapsed() > PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Encrypts and decrypts with `key_id`, over HTTP/1.1 and HTTP/2, and decrypts what an earlier run encrypted.
///
/// # Errors
/// [`ProofError`].
pub async fn round_trip(client: XksClient, key_id: &str, layout: &Layout) -> Result<Proof, ProofError> {
    let health = wait_until_served(&client).await?;
    let mut plaintext = [0; 32];
    SystemRandom::new().fill(&mut plaintext).map_err(|_| wrong("Encrypt", "there is no randomness"))?;
    let aad = b"holdfast-dev up";
    let metadata = expect_ok("GetKeyMetadata", client.metadata(key_id).await?)?;
    let encrypted = expect_ok("Encrypt", client.encrypt(key_id, &plaintext, Some(aad)).await?)?;
    let claimed = encrypted.bytes("ciphertextDataIntegrityValue");
    if claimed.is_none()
        || claimed.as_deref() != integrity_value(Some(aad), &encrypted).as_ref().map(<[u8; 32]>::as_slice)
    {
        return Err(wrong("Encrypt", "the integrity value is not that of the answer"));
    }
    decrypt(&client, key_id, &encrypted.body, aad, &plaintext).await?;
    let client = client.over(HttpVersion::Http2);
    decrypt(&client, key_id, &encrypted.body, aad, &plaintext).await?;

    let earlier = if let Some(bytes) = layout.read(FIRST)? {
        Some(decrypt_kept(&client, &bytes).await?)
    } else {
        let kept = Kept {
            key_id: key_id.to_owned(),
            plaintext: STANDARD.encode(plaintext),
            additional_authenticated_data: STANDARD.encode(aad),
            encrypted: encrypted.body,
        };
        layout.write(FIRST, serde_json::json!(kept).to_string().as_bytes(), 0o600)?;
        None
    };
    let status = metadata.text("keyStatus").unwrap_or("unknown").to_owned();
    Ok(Proof {
        lines: vec![
            format!("GetHealthStatus, GetKeyMetadata: 200, key {key_id} is {status}"),
            "Encrypt: 200, the integrity value was computed again and matches".to_owned(),
            "Decrypt: 200 over HTTP/1.1 and HTTP/2, the 32 random bytes came back".to_owned(),
        ],
        certificate_sha256: hex::encode(health.certificate_sha256),
        earlier,
    })
}

async fn decrypt_kept(client: &XksClient, bytes: &[u8]) -> Result<String, ProofError> {
    let unreadable = |error: &dyn core::fmt::Display| ProofError::First(error.to_string());
    let kept: Kept = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
    let plaintext = STANDARD.decode(&kept.plaintext).map_err(|error| unreadable(&error))?;
    let aad = STANDARD.decode(&kept.additional_authenticated_data).map_err(|error| unreadable(&error))?;
    decrypt(client, &kept.key_id, &kept.encrypted, &aad, &plaintext).await?;
    Ok(format!("decrypted what an earlier run encrypted with {}", kept.key_id))
}

async fn decrypt(
    client: &XksClient,
    key_id: &str,
    encrypted: &Value,
    aad: &[u8],
    expected: &[u8],
) -> Result<(), ProofError> {
    let answer = expect_ok("Decrypt", client.decrypt(key_id, encrypted, Some(aad)).await?)?;
    if answer.bytes("plaintext").as_deref() == Some(expected) {
        Ok(())
    } else {
        Err(wrong("Decrypt", "another plaintext came back"))
    }
}

fn expect_ok(operation: &'static str, answer: XksAnswer) -> Result<XksAnswer, ProofError> {
    if answer.status == StatusCode::OK { Ok(answer) } else { Err(status_error(operation, answer)) }
}

fn status_error(operation: &'static str, answer: XksAnswer) -> ProofError {
    ProofError::Status { operation, status: answer.status, body: answer.body }
}

const fn wrong(operation: &'static str, what: &'static str) -> ProofError {
    ProofError::Wrong { operation, what }
}
