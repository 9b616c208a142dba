//! The proxy that is asked: where it is, whom it trusts, with which credentials and keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_link::Address;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;

use super::settings::TargetSettings;
use super::wire::Place;

/// Where the state of `holdfast-dev up` is unless it is told otherwise.
const STATE: &str = ".holdfast";
/// What follows the prefix in every path.
const API: &str = "/kms/xks/v1";
/// The credential, where no file names one.
const ENVIRONMENT: [&str; 2] = ["HOLDFAST_ACCESS_KEY_ID", "HOLDFAST_SECRET_ACCESS_KEY"];

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A file that cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Flags that do not name a target.
    #[error("{0}")]
    Flags(String),
}

/// What `holdfast-dev up` writes into `endpoint.json`, as far as it is needed here.
#[derive(Clone, Debug, Deserialize)]
struct EndpointFile {
    uri_endpoint: String,
    uri_path: String,
    listen: Option<String>,
    host_name: Option<String>,
    region: String,
    access_key_id: String,
    secret_access_key: String,
    ca_file: Option<PathBuf>,
    example_key: Option<String>,
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EndpointFiles {
    One(Box<EndpointFile>),
    Many(Vec<EndpointFile>),
}

#[derive(Deserialize)]
struct CredentialFile {
    access_key_id: String,
    secret_access_key: String,
}

/// A host name to which connections are opened.
#[derive(Clone)]
pub struct Door {
    /// Where it is reached.
    pub place: Place,
    /// The name that the certificate must be for.
    pub server_name: ServerName<'static>,
    /// `host` or `host:port`, as `Host` and `:authority` have it.
    pub authority: String,
    /// Whom to trust.
    pub roots: Arc<RootCertStore>,
}

/// A key store behind the door.
#[derive(Clone)]
pub struct Site {
    /// The path up to and with `/kms/xks/v1`.
    pub path: String,
    /// The region in the signature's scope.
    pub region: String,
    /// Public half of the credential.
    pub access_key_id: String,
    /// Secret half of the credential.
    pub secret_access_key: String,
    /// The keys that are asked for.
    pub keys: Vec<String>,
}

/// See the module.
#[derive(Clone)]
pub struct Target {
    /// What a report calls it.
    pub name: String,
    /// Where connections go.
    pub door: Door,
    /// The key stores, all behind that door; at least one.
    pub sites: Vec<Site>,
    /// The state folder of `holdfast-dev up`, if it came from one.
    pub state: Option<PathBuf>,
}

impl Target {
    /// The target that the flags name.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn from_settings(settings: &TargetSettings) -> Result<Self, TargetError> {
        let mut target = match &settings.url {
            Some(url) => from_url(url, settings)?,
            None if settings.endpoint.is_empty() => Self::from_files(&[PathBuf::from(STATE)]).map_err(|error| {
                TargetError::Flags(format!("{error}; name a target with --endpoint, --url or --local"))
            })?,
            None => Self::from_files(&settings.endpoint)?,
        };
        if let Some(host) = &settings.host {
            target.door.server_name = server_name(host)?;
            let port = target.door.authority.rsplit_once(':').map(|(_, port)| format!(":{port}"));
            target.door.authority = format!("{host}{}", port.unwrap_or_default());
        }
        if let Some(place) = &settings.connect {
            target.door.place = place.clone();
        }
        if let Some(file) = &settings.ca {
            target.door.roots = roots_in(file)?;
        }
        let credential = settings.credential.as_deref().map(read_credential).transpose()?;
        for site in &mut target.sites {
            if let Some(credential) = &credential {
                site.access_key_id.clone_from(&credential.access_key_id);
                site.secret_access_key.clone_from(&credential.secret_access_key);
            }
            if let Some(region) = &settings.region {
                site.region.clone_from(region);
            }
            if !settings.key.is_empty() {
                site.keys.clone_from(&settings.key);
            }
            check_site(site)?;
        }
        Ok(target)
    }

    /// The target of files that `up` wrote, or of its state folders. One file may hold several, as an array.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn from_files(paths: &[PathBuf]) -> Result<Self, TargetError> {
        let mut target: Option<Self> = None;
        for path in paths {
            let (file, state) =
                if path.is_dir() { (path.join("endpoint.json"), Some(path.clone())) } else { (path.clone(), None) };
            let invalid = |reason: String| TargetError::File { path: file.clone(), reason };
            let bytes = std::fs::read(&file).map_err(|error| {
                let is_missing = error.kind() == std::io::ErrorKind::NotFound;
                let remedy =
                    if is_missing { "; start `holdfast-dev up` first, or name a proxy with --url" } else { "" };
                invalid(format!("{error}{remedy}"))
            })?;
            let read: EndpointFiles = serde_json::from_slice(&bytes)
                .map_err(|_| invalid("is not what `holdfast-dev up` writes into endpoint.json".to_owned()))?;
            let endpoints = match read {
                EndpointFiles::One(one) => vec![*one],
                EndpointFiles::Many(many) => many,
            };
            for endpoint in endpoints {
                let site = endpoint.site()?;
                match &mut target {
                    None => target = Some(endpoint.target(site, state.clone())?),
                    Some(target) if target.door.authority == endpoint.authority()? => target.sites.push(site),
                    Some(target) => {
                        let first = &target.door.authority;
                        return Err(invalid(format!("another host than {first}: one run asks one host name")));
                    }
                }
            }
        }
        target.ok_or_else(|| TargetError::Flags("the endpoint file is empty".to_owned()))
    }

    /// Keys of all key stores.
    pub fn keys(&self) -> usize {
        self.sites.iter().map(|site| site.keys.len()).sum()
    }
}

impl EndpointFile {
    fn authority(&self) -> Result<String, TargetError> {
        let (authority, _, _) = split_url(&self.uri_endpoint)?;
        Ok(authority)
    }

    fn site(&self) -> Result<Site, TargetError> {
        // The example key may both encrypt and decrypt; of the others nothing is known.
        let keys = self.example_key.clone().map_or_else(|| self.keys.clone(), |key| vec![key]);
        let site = Site {
            path: self.uri_path.clone(),
            region: self.region.clone(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            keys,
        };
        check_site(&site)?;
        Ok(site)
    }

    fn target(&self, site: Site, state: Option<PathBuf>) -> Result<Target, TargetError> {
        let (authority, host, port) = split_url(&self.uri_endpoint)?;
        let listen = self.listen.clone().unwrap_or_else(|| format!("{host}:{port}"));
        let roots = self.ca_file.as_deref().map_or_else(native_roots, roots_in)?;
        let door = Door {
            place: Place::Tcp(reachable(&listen)),
            server_name: server_name(self.host_name.as_deref().unwrap_or(&host))?,
            authority,
            roots,
        };
        let name = format!("{}{}", self.uri_endpoint, self.uri_path);
        Ok(Target { name, door, sites: vec![site], state })
    }
}

/// Where a listener that may listen at every address is reached.
fn reachable(listen: &str) -> String {
    listen.parse().map_or_else(|_| listen.to_owned(), |address| crate::up::offer::reachable(address).to_string())
}

fn from_url(url: &str, settings: &TargetSettings) -> Result<Target, TargetError> {
    let (authority, host, port) = split_url(url)?;
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() {
        API.to_owned()
    } else {
        format!("/{}{API}", path.trim_end_matches(API.trim_start_matches('/')).trim_end_matches('/'))
    };
    let path = path.replace("//", "/");
    let credential = settings.credential.as_deref().map_or_else(credential_of_environment, read_credential)?;
    if settings.key.is_empty() {
        return Err(TargetError::Flags("a --url needs the id of a key: --key".to_owned()));
    }
    let roots = if settings.ca.is_some() { Arc::new(RootCertStore::empty()) } else { native_roots()? };
    let door = Door { place: Place::Tcp(format!("{host}:{port}")), server_name: server_name(&host)?, authority, roots };
    let site = Site {
        path,
        region: settings.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
        access_key_id: credential.access_key_id,
        secret_access_key: credential.secret_access_key,
        keys: settings.key.clone(),
    };
    Ok(Target { name: url.to_owned(), door, sites: vec![site], state: None })
}

/// `host` or `host:port` as it is sent, the host and the port.
fn split_url(url: &str) -> Result<(String, String, u16), TargetError> {
    let wrong = || TargetError::Flags(format!("{url}: expected https://HOST[:PORT][/PREFIX]"));
    let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
    let authority = rest.split('/').next().filter(|authority| !authority.is_empty()).ok_or_else(wrong)?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        None => (authority, 443),
    };
    let authority = if port == 443 { host.to_owned() } else { authority.to_owned() };
    Ok((authority, host.to_owned(), port))
}

fn server_name(host: &str) -> Result<ServerName<'static>, TargetError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TargetError::Flags(format!("{host} is not a host name")))
}

/// Paths are signed as they are sent: nothing in them may need an escape.
fn check_site(site: &Site) -> Result<(), TargetError> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte));
    if site.keys.is_empty() {
        return Err(TargetError::Flags("no key is known that can be used: name one with --key".to_owned()));
    }
    match site.keys.iter().chain([&site.path]).find(|text| !plain(text)) {
        Some(text) => Err(TargetError::Flags(format!("{text}: only letters, digits and -_.~/ are taken here"))),
        None => Ok(()),
    }
}

fn credential_of_environment() -> Result<CredentialFile, TargetError> {
    let [id, secret] = ENVIRONMENT;
    let read = |name| {
        let missing =
            || TargetError::Flags(format!("a --url needs --credential, or {id} and {secret} in the environment"));
        std::env::var(name).map_err(|_| missing())
    };
    Ok(CredentialFile { access_key_id: read(id)?, secret_access_key: read(secret)? })
}

fn read_credential(file: &Path) -> Result<CredentialFile, TargetError> {
    let invalid = |reason: String| TargetError::File { path: file.to_owned(), reason };
    let bytes = std::fs::read(file).map_err(|error| invalid(error.to_string()))?;
    serde_json::from_slice(&bytes)
        .map_err(|_| invalid("expected JSON with the texts access_key_id and secret_access_key".to_owned()))
}

fn roots_in(file: &Path) -> Result<Arc<RootCertStore>, TargetError> {
    let invalid = |reason: String| TargetError::File { path: file.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| invalid(error.to_string()))? {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() { Err(invalid("holds no certificate".to_owned())) } else { Ok(Arc::new(roots)) }
}

/// Those that the operating system trusts.
fn native_roots() -> Result<Arc<RootCertStore>, TargetError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let none = || TargetError::Flags("this system trusts no certificate authority; name one with --ca".to_owned());
    if roots.is_empty() { Err(none()) } else { Ok(Arc::new(roots)) }
}

/// Reads `--connect`: `HOST:PORT`, or an address of the link such as `unix:///PATH`.
///
/// # Errors
/// What the text should have been.
pub fn parse_place(text: &str) -> Result<Place, String> {
    if text.contains("://") {
        return text.parse::<Address>().map(Place::Link).map_err(|error| error.to_string());
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Place::Tcp(text.to_owned())),
        _ => Err("expected HOST:PORT or unix:///PATH".to_owned()),
    }
}
