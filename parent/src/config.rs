//! The configuration file: TOML, one typed structure.
//!
//! Guarantees: a [`Config`] is complete and within its limits; an error names the file, the line and the field.
//! Refuses: unknown fields, durations of zero or above a day, destinations that are not exactly `host:port`.

use core::time::Duration;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use holdfast_link::Address;
use holdfast_link::egress::Destination;
use holdfast_link::limits::STATIC_CONFIGURATION_MAX;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::limits::{CONFIG_FILE_MAX, CONNECTIONS_MAX, DURATION_MAX_MS, EGRESS_ALLOW_MAX};

/// The configuration of the parent. Relative paths are relative to the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// TCP address that AWS KMS (or a load balancer) connects to. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// TCP address of `GET /ready` and `GET /status`, for load balancers and operators only.
    pub ready_listen: SocketAddr,
    /// The file that is handed to the enclave byte for byte: a JSON text, which the enclave measures.
    pub static_configuration: PathBuf,
    /// The folder whose `*.manifest` files are the signed manifests of the key stores to serve. It is watched.
    pub key_stores: PathBuf,
    /// Client connections at a time, above what the enclave takes (`connections_max`). Those that send nothing make place for
    /// newcomers; while all are being relayed, newcomers are closed at once.
    #[serde(default = "defaults::max_connections", deserialize_with = "connections")]
    pub max_connections: u32,
    /// Time for a client to send its first byte.
    #[serde(
        default = "defaults::first_byte_timeout",
        deserialize_with = "positive_ms",
        rename = "first_byte_timeout_ms"
    )]
    pub first_byte_timeout: Duration,
    /// Time without a byte in either direction after which a connection is closed.
    #[serde(default = "defaults::idle_timeout", deserialize_with = "positive_ms", rename = "idle_timeout_ms")]
    pub idle_timeout: Duration,
    /// Time for a connection to the enclave or to an egress destination.
    #[serde(default = "defaults::connect_timeout", deserialize_with = "positive_ms", rename = "connect_timeout_ms")]
    pub connect_timeout: Duration,
    /// Time between "not ready" and the end of accepting, for load balancers to notice.
    #[serde(default, deserialize_with = "any_ms", rename = "drain_grace_ms")]
    pub drain_grace: Duration,
    /// Time for connections to end by themselves before the program ends.
    #[serde(default = "defaults::drain_timeout", deserialize_with = "any_ms", rename = "drain_timeout_ms")]
    pub drain_timeout: Duration,
    /// If given, the chosen addresses are written there as JSON.
    #[serde(default)]
    pub ports_file: Option<PathBuf>,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// The least grave lines to be logged.
    #[serde(default)]
    pub log_level: LogLevel,
    /// The enclave.
    pub enclave: EnclaveConfig,
    /// The control connection.
    pub control: ControlConfig,
    /// The enclave's way out.
    pub egress: EgressConfig,
    /// If given, the enclave is handed credentials with which it asks AWS KMS for shares that lie there.
    #[serde(default)]
    pub aws: Option<AwsConfig>,
    /// Where this was read from.
    #[serde(skip)]
    pub file: PathBuf,
}

/// `[enclave]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnclaveConfig {
    /// Where the enclave takes client connections.
    pub ingress: Address,
    /// If given, the program (with its arguments) that is started and watched as the enclave.
    #[serde(default, deserialize_with = "command")]
    pub command: Option<Vec<String>>,
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Where the enclave opens its control connection.
    pub listen: Address,
}

/// `[egress]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressConfig {
    /// Where the enclave opens its egress connections.
    pub listen: Address,
    /// The destinations that it may ask for, each exactly as the enclave names it.
    #[serde(default, deserialize_with = "allow_list")]
    pub allow: Vec<Destination>,
    /// Time without a byte in either direction after which an egress connection is closed. Custodians hold a question of
    /// the enclave open for up to half a minute, in silence.
    #[serde(default = "defaults::idle_timeout", deserialize_with = "positive_ms", rename = "idle_timeout_ms")]
    pub idle_timeout: Duration,
    /// Egress connections at a time.
    #[serde(default = "defaults::egress_max_connections", deserialize_with = "connections")]
    pub max_connections: u32,
}

/// `[aws]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// Whose credentials.
    pub credentials: AwsCredentialsSource,
    /// The instance metadata service. Over plain HTTP, so it must be on this machine or link-local.
    #[serde(default = "defaults::instance_metadata", deserialize_with = "near_address")]
    pub instance_metadata: SocketAddr,
}

/// Whose credentials the enclave is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AwsCredentialsSource {
    /// Those of the role in the instance's profile.
    InstanceRole,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
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

    /// Twice what an enclave takes, so that there always are some that send nothing and make place.
    pub(super) const fn max_connections() -> u32 {
        8192
    }
    /// Two for each of the 1,024 key stores of an enclave: one holds a question open, the other asks or tells.
    pub(super) const fn egress_max_connections() -> u32 {
        2048
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
    #[error("cannot read {}: {source}", file.display())]
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
        file.clone_into(&mut config.file);
        config.ports_file = config.ports_file.map(|path| folder.join(path));
        Ok(config)
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
mod tests {
    use super::*;

    const MINIMAL: &str = r#"listen = "127.0.0.1:0"
ready_listen = "127.0.0.1:0"
static_configuration = "static.json"
key_stores = "/etc/key-stores"
[enclave]
ingress = "vsock://16:9000"
[control]
listen = "vsock://3:9001"
[egress]
listen = "unix:///run/egress.sock"
"#;

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("parent.toml");
        fs::write(&file, text).unwrap();
        Config::load(&file).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
    }

    #[test]
    fn the_minimal_configuration_has_the_documented_defaults() {
        let config = load(MINIMAL).unwrap();
        assert_eq!(config.max_connections, 8192);
        assert_eq!(config.first_byte_timeout, Duration::from_secs(5));
        assert_eq!(config.idle_timeout, Duration::from_mins(5));
        assert_eq!(config.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.drain_grace, Duration::ZERO);
        assert_eq!(config.drain_timeout, Duration::from_secs(30));
        assert_eq!(config.egress.max_connections, 2048);
        assert_eq!(config.egress.idle_timeout, Duration::from_mins(5));
        assert_eq!((config.log_format, config.log_level), (LogFormat::Text, LogLevel::Info));
        assert_eq!((config.ports_file, config.enclave.command), (None, None));
        assert_eq!(config.egress.allow, []);
        assert_eq!(config.key_stores, Path::new("/etc/key-stores"));
        assert!(config.static_configuration.is_absolute());
    }

    #[test]
    fn the_example_is_a_configuration() {
        let example = include_str!("../parent.example.toml");
        assert!(load(example).is_ok());
        // What the example has in comments are the defaults; they must be right fields as well.
        let all: String = example
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = load(&all).unwrap();
        assert!(config.enclave.command.is_some() && config.ports_file.is_some());
    }

    #[test]
    fn an_error_names_file_line_and_field() {
        let with = |line: &str| format!("{line}\n{MINIMAL}");
        for (text, expected) in [
            (with("colour = 1"), "/parent.toml:1: unknown field `colour`"),
            (with("idle_timeout_ms = 0"), "/parent.toml:1: must be from 1 to 86400000 (in `idle_timeout_ms = 0`)"),
            (with("idle_timeout_ms = \"5 s\""), "/parent.toml:1: invalid type: string \"5 s\""),
            (with("idle_timeout_ms = -1"), "/parent.toml:1: invalid value"),
            (with("drain_grace_ms = 86400001"), "(in `drain_grace_ms = 86400001`)"),
            (with("max_connections = 0"), "/parent.toml:1: must be from 1 to 65536 (in `max_connections = 0`)"),
            (with("log_format = \"xml\""), "/parent.toml:1: unknown variant `xml`"),
            (with("listen = \"127.0.0.1:1\""), "/parent.toml:2: duplicate key"),
            (MINIMAL.replace("vsock://16:9000", "vsock://16"), "/parent.toml:6: expected vsock://CID:PORT"),
            (MINIMAL.replace("127.0.0.1:0", "localhost:0"), "/parent.toml:1: invalid socket address"),
            (
                format!("{MINIMAL}allow = [\n\"a.example:443\",\n\"A:443\"]"),
                "/parent.toml:11: \"A:443\": expected host:port",
            ),
            (MINIMAL.replace("[control]", "command = []\n[control]"), "/parent.toml:7: must name a program"),
            (
                format!("{MINIMAL}[aws]\ncredentials = \"none\""),
                "/parent.toml:12: unknown variant `none`, expected `instance-role`",
            ),
            (format!("{MINIMAL}[aws]"), "missing field `credentials`"),
            (
                format!("{MINIMAL}[aws]\ncredentials = \"instance-role\"\ninstance_metadata = \"10.0.0.1:80\""),
                "/parent.toml:13: must be a loopback or link-local address",
            ),
            (MINIMAL.replace("[egress]", "colour = 1\n[egress]"), "/parent.toml:9: unknown field `colour`"),
            (MINIMAL.replace("[control]\nlisten = \"vsock://3:9001\"\n", ""), "missing field `control`"),
            ("listen".to_owned(), "/parent.toml:1: "),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould have: {expected}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_static_configuration_is_read_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = load(MINIMAL).unwrap();
        config.static_configuration = folder.path().join("static.json");
        config.key_stores = folder.path().to_owned();
        let text = "{ \"b\" : 1,\r\n\t\"a\": \"\u{e9}\" }\n\n";
        fs::write(&config.static_configuration, text).unwrap();
        assert_eq!(config.load_static_configuration().unwrap(), text);

        fs::write(&config.static_configuration, "{").unwrap();
        assert!(matches!(config.load_static_configuration(), Err(ConfigError::StaticConfiguration { .. })));
        fs::write(&config.static_configuration, b"\"\xff\"").unwrap();
        assert!(matches!(config.load_static_configuration(), Err(ConfigError::Encoding { .. })));
        fs::write(&config.static_configuration, vec![b' '; STATIC_CONFIGURATION_MAX + 1]).unwrap();
        assert!(matches!(config.load_static_configuration(), Err(ConfigError::Length { .. })));
        fs::write(&config.static_configuration, "{}").unwrap();
        config.key_stores = folder.path().join("nowhere");
        assert!(matches!(config.load_static_configuration(), Err(ConfigError::KeyStores { .. })));
    }
}
