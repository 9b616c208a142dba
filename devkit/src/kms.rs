//! `holdfast-dev kms`: AWS KMS as far as external key stores reach, for AWS's own clients.
//!
//! ```text
//! aws, boto3, SDKs ─▶ aws_json ─▶ service ─▶ stores, keys, crypto ─▶ proxy ─▶ the XKS proxy
//!                                    │             │                  └ faults, while it runs
//!                                    ▼             ▼
//!                                  trail         state
//! ```
//!
//! Guarantees: towards the proxy it does what the specification says of KMS; towards callers it answers with KMS's exceptions, messages and
//! connection error codes. Assumes: one account, one region, one caller, who may do everything. Refuses: everything that is not about
//! external key stores.

pub mod blob;
pub mod crypto;
pub mod failure;
pub mod faults;
pub mod keys;
pub mod parameters;
pub mod proxy;
pub mod service;
pub mod state;
pub mod stores;
pub mod trail;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueHint};
use holdfast_cli::files;
use holdfast_cli::moment::parse_duration;
use holdfast_link::remedy;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use self::faults::FaultFile;
use self::proxy::Reach;
use self::service::{Kms, Names, Served};
use self::state::{Connection, Keeper};
use self::trail::Trail;
use crate::aws_json::{self, now_ms, uuid};

/// The file for AWS's clients, in the state folder.
pub const CONFIG_FILE: &str = "aws-config";
/// The profile in it.
pub const PROFILE: &str = "holdfast";
/// Where it listens, for programs: what it prints, in the state folder.
pub const ENDPOINT_FILE: &str = "endpoint.json";
/// Where events are, in the state folder.
pub const TRAIL_FOLDER: &str = "cloudtrail";
/// What goes wrong, in the state folder.
pub const FAULTS_FILE: &str = "faults.json";

/// Flags of `holdfast-dev kms`.
#[derive(Clone, Debug, Args)]
pub struct KmsSettings {
    /// Where to listen, in plain HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4599")]
    pub listen: SocketAddr,
    /// Folder for key stores, keys, the caller's credential and CloudTrail's files; made on first use
    #[arg(long, value_name = "DIR", default_value = ".holdfast-kms", value_hint = ValueHint::DirPath)]
    pub state: PathBuf,
    /// Region of all names, and of signatures
    #[arg(long, default_value = "us-east-1")]
    pub region: String,
    /// Account of all names: 12 digits
    #[arg(long, default_value = "111122223333", value_parser = parse_account)]
    pub account: String,
    /// ARN of who calls [default: the user developer of the account]
    #[arg(long, value_name = "ARN")]
    pub principal_arn: Option<String>,
    /// PEM file of an authority that proxies' certificates may come from, instead of those that this system trusts; may be given more than
    /// once
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub proxy_ca: Vec<PathBuf>,
    /// Where to connect to for an endpoint's name, instead of its port 443; may be given more than once
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = parse_place)]
    pub connect: Vec<(String, String)>,
    /// A VPC endpoint service that is there; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub vpc_endpoint_service: Vec<String>,
    /// How long a proxy may take to answer, connection included
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "250ms")]
    pub proxy_timeout: Duration,
    /// How often connected proxies are asked for their health
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1m")]
    pub health_interval: Duration,
}

/// Why the emulator does not serve.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// A file or folder.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another emulator.
    #[error("{path} is in use by another `holdfast-dev kms`; end that one, or choose another --state", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A flag that contradicts the state.
    #[error("{path} was made with {flag} {was}, which is in the names of its keys; choose another --state", path = path.display())]
    Contradiction {
        /// The state.
        path: PathBuf,
        /// The flag.
        flag: &'static str,
        /// As it was.
        was: String,
    },
    /// No authority.
    #[error("this system trusts no certificate authority; name one with --proxy-ca")]
    NoRoots,
    /// Randomness.
    #[error("the operating system gives no randomness")]
    Random,
    /// The address.
    #[error(
        "cannot listen at {address}: {source}{}; choose another address with --listen",
        remedy::of_listening(*address, source)
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl KmsError {
    fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, reason: error.to_string() }
    }
}

fn parse_account(text: &str) -> Result<String, String> {
    let is_so = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_so { Ok(text.to_owned()) } else { Err("expected 12 digits".to_owned()) }
}

fn parse_place(text: &str) -> Result<(String, String), String> {
    let expected = || "expected NAME=HOST:PORT".to_owned();
    let (name, place) = text.split_once('=').ok_or_else(expected)?;
    let (host, port) = place.rsplit_once(':').ok_or_else(expected)?;
    if name.is_empty() || host.is_empty() || port.parse::<u16>().is_err() {
        return Err(expected());
    }
    Ok((name.to_ascii_lowercase(), place.to_owned()))
}

/// Serves until `end`. Once it listens it prints one line of JSON: where it is, and the file for AWS's clients.
///
/// # Errors
/// [`KmsError`].
pub async fn serve(settings: KmsSettings, end: impl Future<Output = ()>) -> Result<(), KmsError> {
    let roots = roots(&settings.proxy_ca)?;
    let state = Keeper::open(&settings.state, &settings.region, &settings.account)?;
    let trail = Trail::open(settings.state.join(TRAIL_FOLDER))?;
    let reach = Reach {
        region: settings.region.clone(),
        roots,
        places: settings.connect.into_iter().collect::<BTreeMap<_, _>>(),
        patience: settings.proxy_timeout,
        faults: FaultFile::new(settings.state.join(FAULTS_FILE)),
    };
    let default_arn = format!("arn:aws:iam::{}:user/developer", settings.account);
    let names = Names { account: settings.account, principal_arn: settings.principal_arn.unwrap_or(default_arn) };
    let listen_error = |source| KmsError::Listen { address: settings.listen, source };
    let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let config_file = write_config(&settings.state, &state, &settings.region, address)?;
    let kms = Arc::new(Kms::new(state, trail, reach, names, settings.vpc_endpoint_service));
    kms.resume(now_ms());
    let ready = serde_json::json!({
        "address": address,
        "endpoint_url": format!("http://{address}"),
        "config_file": config_file,
        "profile": PROFILE,
    });
    let endpoint = settings.state.join(ENDPOINT_FILE);
    files::replace(&endpoint, format!("{ready}\n").as_bytes())
        .map_err(|error| KmsError::File { path: endpoint.clone(), reason: error.to_string() })?;
    // Whoever closed standard output knows the address otherwise.
    let _ = writeln!(std::io::stdout(), "{ready}");
    tokio::select! {
        () = aws_json::run(listener, None, Arc::new(Served(Arc::clone(&kms)))) => {}
        () = ask_for_health(&kms, settings.health_interval) => {}
        () = end => {}
    }
    // The proxies have what they were asked in their logs, so CloudTrail's files must have it too.
    kms.finish().await;
    Ok(())
}

/// Asks connected proxies every now and then, and says what has changed.
async fn ask_for_health(kms: &Kms, interval: Duration) {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    loop {
        tokio::time::sleep(interval).await;
        let stores = kms.state.read(now_ms(), |state| {
            let connected = state.stores.values().filter(|store| store.connection == Connection::Connected);
            connected.cloned().collect::<Vec<_>>()
        });
        for store in stores {
            let health = match kms.proxy(&store) {
                Ok(proxy) => proxy.health("KmsHealthCheck", &uuid()).await,
                Err(failure) => Err(failure),
            };
            let shown = match health {
                Ok(answer) => {
                    let fleet = answer.get("ekmFleetDetails").and_then(serde_json::Value::as_array);
                    let states = fleet.into_iter().flatten().filter_map(|ekm| ekm.get("healthStatus")?.as_str());
                    states.collect::<Vec<_>>().join(", ")
                }
                Err(failure) => failure.connection_error_code().to_owned(),
            };
            if known.get(&store.id) != Some(&shown) {
                eprintln!("kms: health of key store {} ({}): {shown}", store.id, store.name);
                known.insert(store.id, shown);
            }
        }
    }
}

/// What AWS's clients read: `AWS_CONFIG_FILE=… aws --profile holdfast`.
fn write_config(folder: &Path, state: &Keeper, region: &str, address: SocketAddr) -> Result<PathBuf, KmsError> {
    let path = folder.join(CONFIG_FILE);
    let (id, secret) = state.read(now_ms(), |state| (state.access_key_id.clone(), state.secret_access_key.clone()));
    // Version 1 of the CLI would fetch https://… instead of handing it on as a parameter.
    let text = format!(
        "[profile {PROFILE}]\nregion = {region}\nendpoint_url = http://{address}\naws_access_key_id = {id}\naws_secret_access_key = {secret}\ncli_follow_urlparam = false\n"
    );
    files::replace(&path, text.as_bytes())
        .map_err(|error| KmsError::File { path: path.clone(), reason: error.to_string() })?;
    path.canonicalize().map_err(KmsError::at(&path))
}

fn roots(authorities: &[PathBuf]) -> Result<Vec<Vec<u8>>, KmsError> {
    let mut roots: Vec<Vec<u8>> = Vec::new();
    for path in authorities {
        let wrong = |reason: String| KmsError::File { path: path.clone(), reason };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
            roots.push(certificate.map_err(|error| wrong(error.to_string()))?.to_vec());
        }
        if roots.len() == before {
            return Err(wrong("holds no certificate".to_owned()));
        }
    }
    if authorities.is_empty() {
        let native = rustls_native_certs::load_native_certs().certs;
        roots.extend(native.into_iter().map(|certificate| certificate.to_vec()));
    }
    if roots.is_empty() { Err(KmsError::NoRoots) } else { Ok(roots) }
}
