//! A double of AWS KMS for one key: `Encrypt`, and `Decrypt` for attested enclaves.
//!
//! ```text
//! TLS ─▶ signature (SigV4) ─▶ operation, fields ─▶ attestation document ─▶ key policy ─▶ ciphertext, context ─▶ CMS to the document's key
//! ```
//!
//! Guarantees: it asks of a request what KMS's documentation says KMS asks, in that order, and answers in KMS's encoding; what it
//! does not emulate it refuses. Assumes: a machine on which nothing needs protection; the key lies in a file. Refuses: policies
//! with elements that it does not know, for a policy that is half understood would be tested half. Where AWS does not say which
//! error KMS gives (an attestation document that is not valid), its choice is a guess, marked in `service`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueHint};
use holdfast_link::remedy;
use holdfast_shared::attestation::TrustRoot;
use holdfast_shared::secrets::{Secret, SecretBytes};

pub mod cms;
pub mod policy;
mod server;
pub mod service;

use self::policy::{KeyPolicy, PolicyError};
use self::service::Service;
use crate::aws_json::{self, Caller};

/// The certificate under which the endpoint's own is made at each start, for manifests to name.
pub const TLS_ROOT_FILE: &str = "tls-root.pem";
const TLS_ROOT_KEY_FILE: &str = "tls-root.key.pem";
const KEY_FILE: &str = "kms-key";

const FAULT_HELP: &str = "Something that goes wrong: {\"throttle\": N} or {\"fail\": N} for the first N requests, {\"flip_bit\": BYTE} of the answer, \"other_recipient\" or \"in_clear\"";

/// Flags of `holdfast-dev kms-share`.
#[derive(Clone, Debug, Args)]
pub struct KmsShareSettings {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Folder for the KMS key and the root of the endpoint's certificate (tls-root.pem)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: PathBuf,
    /// ARN of the KMS key
    #[arg(long, value_name = "ARN")]
    pub key_arn: String,
    /// Key policy, as KMS takes it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: PathBuf,
    /// root.pem of `holdfast-dev nsm`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub nsm_root: PathBuf,
    /// Access key id of the one caller
    #[arg(long, value_name = "ID")]
    pub access_key_id: String,
    /// File with its secret access key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub secret_access_key_file: PathBuf,
    /// File with its session token, if it must send one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub session_token_file: Option<PathBuf>,
    /// Something that goes wrong.
    #[arg(long, value_name = "JSON", value_parser = parse_fault, help = FAULT_HELP)]
    pub fault: Option<Fault>,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// `ThrottlingException` for so many requests.
    Throttle(u32),
    /// `KMSInternalException` for so many requests.
    Fail(u32),
    /// One bit of this byte of `CiphertextForRecipient` is another.
    FlipBit(usize),
    /// The answer is encrypted to a key that nobody asked for.
    OtherRecipient,
    /// The answer is the plaintext.
    InClear,
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Why the endpoint does not serve.
#[derive(Debug, thiserror::Error)]
pub enum KmsShareError {
    /// A file.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No randomness.
    #[error("no randomness from the kernel")]
    Random,
    /// A certificate could not be made.
    #[error("certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The address is taken.
    #[error(
        "cannot listen at {address}: {source}{}; choose another address with --listen",
        remedy::of_listening(*address, source)
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl KmsShareError {
    fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, reason: error.to_string() }
    }
}

/// Serves until `end`. Once it listens it prints one line of JSON: the address, and the file with the root of its certificate.
///
/// # Errors
/// [`KmsShareError`].
pub async fn serve(settings: KmsShareSettings, end: impl Future<Output = ()>) -> Result<(), KmsShareError> {
    let service = service(&settings)?;
    let tls = server::tls(&settings.state)?;
    let listen_error = |source| KmsShareError::Listen { address: settings.listen, source };
    let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let ready = serde_json::json!({ "address": address, "tls_root": settings.state.join(TLS_ROOT_FILE) });
    // Whoever closed standard output knows the address otherwise.
    let _ = writeln!(std::io::stdout(), "{ready}");
    tokio::select! {
        () = aws_json::run(listener, Some(tls), Arc::new(service)) => {}
        () = end => {}
    }
    Ok(())
}

fn service(settings: &KmsShareSettings) -> Result<Service, KmsShareError> {
    let read = |path: &Path| std::fs::read(path).map_err(KmsShareError::at(path));
    let secret = |path: &Path| read(path).map(|bytes| SecretBytes::new(bytes.trim_ascii_end().to_vec()));
    let policy = KeyPolicy::parse(&read(&settings.policy)?)?;
    let nsm_root = TrustRoot::emulated_pem(&read(&settings.nsm_root)?)
        .map_err(|error| KmsShareError::File { path: settings.nsm_root.clone(), reason: error.to_string() })?;
    let caller = Caller {
        access_key_id: settings.access_key_id.clone(),
        secret_access_key: secret(&settings.secret_access_key_file)?,
        session_token: settings.session_token_file.as_deref().map(secret).transpose()?,
        principal_arn: settings.access_key_id.clone(),
    };
    let key = key(&settings.state)?;
    Ok(Service::new(settings.key_arn.clone(), key, policy, nsm_root, caller, settings.fault))
}

/// The key in the state folder, made on first use.
fn key(state: &Path) -> Result<Secret<32>, KmsShareError> {
    std::fs::create_dir_all(state).map_err(KmsShareError::at(state))?;
    let path = state.join(KEY_FILE);
    if path.exists() {
        let bytes = std::fs::read(&path).map_err(KmsShareError::at(&path))?;
        let mut key = <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| KmsShareError::File { path: path.clone(), reason: "is no key of 32 bytes".to_owned() })?;
        return Ok(Secret::take(&mut key));
    }
    let key = Secret::fill_with(|out| ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), out))
        .map_err(|_| KmsShareError::Random)?;
    write_private(&path, key.expose())?;
    Ok(key)
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KmsShareError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(KmsShareError::at(path))
}
