//! The configuration file: TOML, one typed structure.
//!
//! Guarantees: a [`Config`] is complete and within its limits; an error names the file, the line and the field.
//! Refuses: unknown fields, durations of zero or above a day, destinations that are not exactly `host:port`.

use core::time::Duration;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use holdfast_link::egress::Destination;
use holdfast_link::limits::STATIC_CONFIGURATION_MAX;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::limits::{CONFIG_FILE_MAX, CONNECTIONS_MAX, DURATION_MAX_MS, EGRESS_ALLOW_MAX, LINK_CONNECTIONS};

mod audit;
mod nitro;
mod places;
mod traces;

pub use audit::AuditConfig;
pub use nitro::NitroConfig;
pub(crate) use places::with_cid;
pub use places::{AddressPattern, Place, Places, Slot};
pub use traces::{Collector, TracingConfig};

/// The configuration of the parent. Relative paths are relative to the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// TCP address that AWS KMS (or a load balancer) connects to. Port 0 takes a free one.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["0.0.0.0:443"])))]
    pub listen: SocketAddr,
    /// TCP address of `GET /ready`, `GET /status` and `GET /metrics`, for load balancers and operators only.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["127.0.0.1:9080"])))]
    pub ready_listen: SocketAddr,
    /// The file that is handed to the enclave byte for byte: a JSON text, which the enclave measures.
    pub static_configuration: PathBuf,
    /// The folder whose `*.manifest` files are the signed manifests of the key stores to serve. It is watched.
    pub key_stores: PathBuf,
    /// Client connections at a time, above what the enclave takes (`connections_max`). Those that send nothing make place for
    /// newcomers; while all are being relayed, newcomers are closed at once.
    #[serde(default = "defaults::max_connections", deserialize_with = "connections")]
    #[cfg_attr(test, schemars(range(min = 1, max = CONNECTIONS_MAX)))]
    pub max_connections: u32,
    /// Time for a client to send its first byte.
    #[serde(
        default = "defaults::first_byte_timeout",
        deserialize_with = "positive_ms",
        rename = "first_byte_timeout_ms"
    )]
    #[cfg_attr(test, schemars(with = "u64", range(min = 1, max = DURATION_MAX_MS), extend("default" = 5000)))]
    pub first_byte_timeout: Duration,
    /// Time without a byte in either direction after which a connection is closed.
    #[serde(default = "defaults::idle_timeout", deserialize_with = "positive_ms", rename = "idle_timeout_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 1, max = DURATION_MAX_MS), extend("default" = 300_000)))]
    pub idle_timeout: Duration,
    /// Time for a connection to the enclave or to an egress destination.
    #[serde(default = "defaults::connect_timeout", deserialize_with = "positive_ms", rename = "connect_timeout_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 1, max = DURATION_MAX_MS), extend("default" = 5000)))]
    pub connect_timeout: Duration,
    /// Time between "not ready" and the end of accepting, for load balancers to notice.
    #[serde(default, deserialize_with = "any_ms", rename = "drain_grace_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 0, max = DURATION_MAX_MS), extend("default" = 0)))]
    pub drain_grace: Duration,
    /// Time for connections to end by themselves before the program ends.
    #[serde(default = "defaults::drain_timeout", deserialize_with = "any_ms", rename = "drain_timeout_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 0, max = DURATION_MAX_MS), extend("default" = 30_000)))]
    pub drain_timeout: Duration,
    /// If given, the chosen addresses are written there as JSON.
    #[serde(default)]
    pub ports_file: Option<PathBuf>,
    /// How log lines look.
    #[cfg_attr(test, schemars(extend("default" = "text")))]
    #[serde(default)]
    pub log_format: LogFormat,
    /// The least grave lines to be logged.
    #[cfg_attr(test, schemars(extend("default" = "info")))]
    #[serde(default)]
    pub log_level: LogLevel,
    /// The enclave.
    pub enclave: EnclaveConfig,
    /// The control connection.
    pub control: ControlConfig,
    /// The enclave's way out.
    pub egress: EgressConfig,
    /// Where the enclave's audit logs go.
    #[serde(default)]
    pub audit: AuditConfig,
    /// If given, enclaves are run by `nitro-cli`.
    #[serde(default)]
    pub nitro: Option<NitroConfig>,
    /// If given, the enclave is handed credentials with which it asks AWS KMS for shares that lie there.
    #[serde(default)]
    pub aws: Option<AwsConfig>,
    /// If given, a sample of requests is traced.
    #[serde(default)]
    pub tracing: Option<TracingConfig>,
    /// Where this was read from.
    #[serde(skip)]
    pub file: PathBuf,
}

/// `[enclave]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnclaveConfig {
    /// Where the enclave takes client connections.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["vsock://{cid}:8443", "unix:///run/holdfast/{cid}.sock"])))]
    pub ingress: AddressPattern,
    /// If given, the program (with its arguments) that is started and watched as the enclave.
    #[serde(default, deserialize_with = "command")]
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub command: Option<Vec<String>>,
    /// Context ids for the enclaves that we start: with two, a new one starts beside the old one. `{cid}` stands for them in
    /// addresses and in the command. Under `[nitro]` 16 and 17 by default; without any, one enclave with fixed addresses.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(min = 1, max = places::CIDS_MAX), inner(range(min = places::CID_MIN, max = u32::MAX - 1))))]
    pub cids: Option<Vec<u32>>,
    /// Time for a new enclave to serve what the old one serves.
    #[serde(default = "defaults::ready_timeout", deserialize_with = "positive_ms", rename = "ready_timeout_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 1, max = DURATION_MAX_MS), extend("default" = 300_000)))]
    pub ready_timeout: Duration,
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Where the enclave opens its control connection.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["vsock://4294967295:9001"])))]
    pub listen: AddressPattern,
}

/// `[egress]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EgressConfig {
    /// Where the enclave opens its egress connections.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["vsock://4294967295:9002"])))]
    pub listen: AddressPattern,
    /// The destinations that it may ask for, each exactly as the enclave names it.
    #[serde(default, deserialize_with = "allow_list")]
    #[cfg_attr(test, schemars(with = "Vec<String>", length(max = EGRESS_ALLOW_MAX), extend("default" = [], "examples" = [["custodian.example.com:443"]])))]
    pub allow: Vec<Destination>,
    /// Time without a byte in either direction after which an egress connection is closed. Custodians hold a question of
    /// the enclave open for up to half a minute, in silence.
    #[serde(default = "defaults::idle_timeout", deserialize_with = "positive_ms", rename = "idle_timeout_ms")]
    #[cfg_attr(test, schemars(with = "u64", range(min = 1, max = DURATION_MAX_MS), extend("default" = 300_000)))]
    pub idle_timeout: Duration,
    /// Egress connections at a time: two for each key store and custodian of it, and two times that while an image changes.
    #[serde(default = "defaults::egress_max_connections", deserialize_with = "connections")]
    #[cfg_attr(test, schemars(range(min = 1, max = CONNECTIONS_MAX)))]
    pub max_connections: u32,
}

impl EgressConfig {
    /// How many connections so many key stores hold for sure, if that is more than there may be. One waits for a custodian's news, one
    /// tells it how far the audit log has come; manifests are not read here, and each names one custodian at least.
    pub(crate) fn needed_for(&self, key_stores: usize) -> Option<usize> {
        let needed = key_stores.saturating_mul(LINK_CONNECTIONS);
        usize::try_from(self.max_connections).is_ok_and(|max| max < needed).then_some(needed)
    }
}

/// `[aws]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// Whose credentials.
    pub credentials: AwsCredentialsSource,
    /// The instance metadata service. Over plain HTTP, so it must be on this machine or link-local.
    #[serde(default = "defaults::instance_metadata", deserialize_with = "near_address")]
    #[cfg_attr(test, schemars(with = "String", extend("default" = "169.254.169.254:80")))]
    pub instance_metadata: SocketAddr,
}

/// Whose credentials the enclave is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AwsCredentialsSource {
    /// Those of the role in the instance's profile.
    InstanceRole,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least grave lines to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Only what does not work.
    Error,
    /// And what needs attention.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And each connection.
    Debug,
}

/// Every default, in one place.
mod defaults {
    use core::time::Duration;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::path::PathBuf;

    use holdfast_link::ports;

    use super::AddressPattern;

    /// The port that the image uses.
    pub(super) fn audit_listen() -> AddressPattern {
        AddressPattern::at_vsock_port(ports::AUDIT)
    }
    /// The state directory of the systemd unit, `StateDirectory=holdfast`.
    pub(super) fn audit_folder() -> PathBuf {
        PathBuf::from("/var/lib/holdfast/audit")
    }
    /// Large enough that files are few, small enough to be copied and read one at a time.
    pub(super) const fn audit_rotate_bytes() -> u64 {
        16 * 1024 * 1024
    }
    /// Twice what an enclave takes, so that there always are some that send nothing and make place.
    pub(super) const fn max_connections() -> u32 {
        8192
    }
    /// [`LINK_CONNECTIONS`](crate::limits::LINK_CONNECTIONS) for each of the 1,024 key stores of an enclave and three custodians, two
    /// times: while an image changes there are two enclaves.
    pub(super) const fn egress_max_connections() -> u32 {
        12_288
    }
    /// Few enough that a busy key store costs a collector nothing.
    pub(super) const fn tracing_one_in() -> u32 {
        1000
    }
    pub(super) const fn tracing_per_second() -> u32 {
        10
    }
    /// As the alert on slow requests: AWS KMS gives up after 250 ms.
    pub(super) const fn tracing_slow() -> Duration {
        Duration::from_millis(100)
    }
    /// OpenTelemetry's own default is 10 s; a collector is near.
    pub(super) const fn tracing_timeout() -> Duration {
        Duration::from_secs(5)
    }
    /// Amazon EC2 User Guide, "Access instance metadata".
    pub(super) const fn instance_metadata() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80)
    }
    pub(super) const fn first_byte_timeout() -> Duration {
        Duration::from_secs(5)
    }
    pub(super) const fn idle_timeout() -> Duration {
        Duration::from_mins(5)
    }
    pub(super) const fn connect_timeout() -> Duration {
        Duration::from_secs(5)
    }
    /// An enclave of an ordinary size boots within half a minute; custodians may take their time.
    pub(super) const fn ready_timeout() -> Duration {
        Duration::from_mins(5)
    }
    /// AWS's own examples begin at 16.
    pub(super) const CIDS: [u32; 2] = [16, 17];
    pub(super) const fn drain_timeout() -> Duration {
        Duration::from_secs(30)
    }
}

fn any_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let ms = u64::deserialize(deserializer)?;
    if ms > DURATION_MAX_MS {
        return Err(D::Error::custom(format!("must be at most {DURATION_MAX_MS}")));
    }
    Ok(Duration::from_millis(ms))
}

fn positive_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = any_ms(deserializer)?;
    if duration.is_zero() {
        return Err(D::Error::custom(format!("must be from 1 to {DURATION_MAX_MS}")));
    }
    Ok(duration)
}

/// EC2 has its services at link-local addresses, and at those of one private prefix (`fd00:ec2::/32`).
fn near_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let address = SocketAddr::deserialize(deserializer)?;
    let is_near = address.ip().is_loopback()
        || match address.ip() {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments().starts_with(&[0xfd00, 0x0ec2]),
        };
    if is_near {
        Ok(address)
    } else {
        Err(D::Error::custom("must be a loopback or link-local address, or one of fd00:ec2::/32"))
    }
}

fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let count = u32::deserialize(deserializer)?;
    if count == 0 || count > CONNECTIONS_MAX {
        return Err(D::Error::custom(format!("must be from 1 to {CONNECTIONS_MAX}")));
    }
    Ok(count)
}

fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    if words.first().is_none_or(String::is_empty) {
        return Err(D::Error::custom("must name a program"));
    }
    Ok(Some(words))
}

fn allow_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Destination>, D::Error> {
    let allow = Vec::<String>::deserialize(deserializer)?;
    if allow.len() > EGRESS_ALLOW_MAX {
        return Err(D::Error::custom(format!("must have at most {EGRESS_ALLOW_MAX} entries")));
    }
    // The error is placed at the list's first line, so it names the entry.
    let parse = |entry: &String| entry.parse().map_err(|error| D::Error::custom(format!("{entry:?}: {error}")));
    allow.iter().map(parse).collect()
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}{}", file.display(), where_one_is(file, source))]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is too long.
    #[error("{}: longer than {max} bytes", file.display())]
    Length {
        /// Which.
        file: PathBuf,
        /// Bytes allowed.
        max: usize,
    },
    /// A file is not UTF-8 text.
    #[error("{}: not UTF-8 text", file.display())]
    Encoding {
        /// Which.
        file: PathBuf,
    },
    /// The configuration is not what it must be.
    #[error("{}:{line}: {message}{}", file.display(), if text.is_empty() { String::new() } else { format!(" (in `{text}`)") })]
    Content {
        /// Which file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
        /// The line's text, which holds the field's name.
        text: String,
    },
    /// The static configuration is no JSON text.
    #[error("{}: static_configuration must be a JSON text: {source}", file.display())]
    StaticConfiguration {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Fields that do not go together.
    #[error("{}: {message}", file.display())]
    Together {
        /// Which file.
        file: PathBuf,
        /// What is wrong, with the fields' names.
        message: String,
    },
    /// There is no folder of manifests.
    #[error("{}: key_stores must be a folder", folder.display())]
    KeyStores {
        /// Which.
        folder: PathBuf,
    },
}

impl Config {
    /// Reads the configuration from `file`.
    ///
    /// # Errors
    /// When the file cannot be read or is not exactly a configuration.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read_text(file, CONFIG_FILE_MAX)?;
        let mut config: Self = toml::from_str(&text).map_err(|error| content_error(file, &text, &error))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        config.static_configuration = folder.join(&config.static_configuration);
        config.key_stores = folder.join(&config.key_stores);
        config.audit.resolve(folder);
        file.clone_into(&mut config.file);
        config.ports_file = config.ports_file.map(|path| folder.join(path));
        if let Some(nitro) = &mut config.nitro {
            nitro.resolve(folder);
        }
        config.places().map_err(|message| ConfigError::Together { file: file.to_owned(), message })?;
        Ok(config)
    }

    /// Context ids that enclaves get; none where something else starts them, or a command that needs none.
    pub(crate) fn cids(&self) -> &[u32] {
        match (&self.enclave.cids, &self.nitro) {
            (Some(cids), _) => cids,
            (None, Some(_)) => &defaults::CIDS,
            (None, None) => &[],
        }
    }

    /// Where enclaves are.
    ///
    /// # Errors
    /// A sentence about fields that do not go together.
    pub(crate) fn places(&self) -> Result<Places, String> {
        let cids = self.cids();
        match (&self.nitro, &self.enclave.command) {
            (Some(_), Some(_)) => return Err("enclave.command and nitro: at most one may be there".to_owned()),
            (None, None) if !cids.is_empty() => {
                return Err("enclave.cids: needs enclave.command or nitro, which start enclaves".to_owned());
            }
            _ => {}
        }
        if self.nitro.is_some() && cids.is_empty() {
            return Err("enclave.cids: nitro needs one or two".to_owned());
        }
        if let Some(fault) = self.nitro.as_ref().and_then(|nitro| nitro.fault(cids.len())) {
            return Err(fault);
        }
        Places::of(cids, &self.enclave.ingress, &self.control.listen, &self.egress.listen, &self.audit.listen)
    }

    /// Reads the static configuration, byte for byte, and checks that the folder of manifests exists.
    ///
    /// # Errors
    /// When the file is no JSON text within the link's limit, or there is no such folder.
    pub fn load_static_configuration(&self) -> Result<String, ConfigError> {
        let file = &self.static_configuration;
        let text = read_text(file, STATIC_CONFIGURATION_MAX)?;
        serde_json::from_str::<serde::de::IgnoredAny>(&text)
            .map_err(|source| ConfigError::StaticConfiguration { file: file.clone(), source })?;
        if !self.key_stores.is_dir() {
            return Err(ConfigError::KeyStores { folder: self.key_stores.clone() });
        }
        Ok(text)
    }
}

/// What to do about a file that is not there.
fn where_one_is(file: &Path, error: &io::Error) -> &'static str {
    if error.kind() != io::ErrorKind::NotFound {
        return "";
    }
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => "; `holdfast config example static` prints one",
        Some("toml") => "; `holdfast config example parent` prints one",
        _ => "",
    }
}

fn read_text(file: &Path, max: usize) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { file: file.to_owned(), source };
    let bytes = read_bounded(file, max).map_err(failed)?;
    let bytes = bytes.ok_or_else(|| ConfigError::Length { file: file.to_owned(), max })?;
    String::from_utf8(bytes).map_err(|_| ConfigError::Encoding { file: file.to_owned() })
}

/// The bytes of a file, or `None` when there are more than `max`.
pub(crate) fn read_bounded(file: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(file)?.take(bound).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= max).then_some(bytes))
}

fn content_error(file: &Path, source: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start);
    let before = source.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let text = source.lines().nth(line - 1).unwrap_or_default().trim().chars().take(100).collect();
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    ConfigError::Content { file: file.to_owned(), line, message, text }
}

#[cfg(test)]
mod tests;
