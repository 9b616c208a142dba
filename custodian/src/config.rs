//! The configuration file, in TOML: every field and default in one place.
//!
//! Guarantees: a [`Config`] obeys every rule here; an error names the file, the line, the field and what it should be.
//! Refuses: unknown fields. Relative paths are relative to the configuration file.
//!
//! ```toml
#![doc = include_str!("../custodian.example.toml")]
//! ```

mod alarms;
mod database;
mod key_encryption_key;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use holdfast_shared::ids::AdministratorId;
use holdfast_shared::limits;
use holdfast_shared::manifest::is_printable;
use serde::Deserialize;
use toml::Spanned;

use alarms::RawAlarms;
use database::RawDatabase;
use key_encryption_key::RawKeyEncryptionKey;

pub use alarms::{AlarmsConfig, DESTINATIONS_MAX, SyslogAddress, SyslogConfig, WebhookConfig};
pub use database::DatabaseConfig;
pub use key_encryption_key::{
    KeyEncryptionKeyConfig, KeyPlaceConfig, KmipConfig, Pkcs11Config, Pkcs11Iv, TIMEOUT_DEFAULT, TransitConfig,
};

/// Longest configuration file that is read.
const FILE_MAX: u64 = 256 * 1024;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// For people.
    pub name: String,
    /// Where the HTTPS service listens.
    pub listen: SocketAddr,
    /// `host:port` under which others reach it.
    pub address: String,
    /// The state directory.
    pub state: PathBuf,
    /// Receives the port that was chosen.
    pub ports_file: Option<PathBuf>,
    /// Who may enrol manifests.
    pub administrators: Vec<AdministratorId>,
    /// A further trust root, of an emulator.
    pub emulated_root: Option<PathBuf>,
    /// How the log is written.
    pub log: LogFormat,
    /// The HTTPS certificate.
    pub tls: TlsSource,
    /// Where the tables are, if not in the file of the state directory.
    pub database: Option<DatabaseConfig>,
    /// What wraps the shares.
    pub key_encryption_key: KeyEncryptionKeyConfig,
    /// When alarms are raised, and where they go.
    pub alarms: AlarmsConfig,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Where the HTTPS certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// From the custodian's own authority, for these names.
    OwnAuthority {
        /// DNS names and IP addresses.
        names: Vec<String>,
    },
    /// From files.
    Files {
        /// PEM, leaf first.
        certificate: PathBuf,
        /// PEM, mode 0600.
        private_key: PathBuf,
        /// PEM.
        roots: PathBuf,
    },
}

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A rule is broken.
    #[error("{}:{line}: {field}: {reason}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// The field.
        field: String,
        /// What is wrong, and what it should be.
        reason: String,
    },
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawConfig {
    /// For people: printable ASCII.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = limits::NAME_MAX)))]
    name: Spanned<String>,
    /// IP address and port of the HTTPS service. With port 0 the system chooses.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["0.0.0.0:7443"])))]
    listen: Spanned<String>,
    /// `host:port`, in lower case, under which enclaves and administrators reach it. It goes into manifests.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["vault-1.example.com:7443"])))]
    address: Spanned<String>,
    /// The directory for keys and the database: made by `init` with mode 0700.
    state: PathBuf,
    /// Ids of the administrators who may enrol manifests here.
    #[cfg_attr(test, schemars(with = "Vec<String>", inner(regex(pattern = "^[0-9a-f]{64}$"))))]
    administrators: Vec<Spanned<String>>,
    /// Receives the address that was chosen, as JSON, once the service listens.
    ports_file: Option<PathBuf>,
    /// PEM file of an emulator's root that is trusted as well. For development only: whoever runs the emulator can obtain the shares of every
    /// key store whose release policy names this root.
    emulated_root: Option<PathBuf>,
    /// How the log is written, to standard error.
    #[cfg_attr(test, schemars(extend("default" = "text")))]
    #[serde(default)]
    log: LogFormat,
    /// The HTTPS certificate. Without this section the custodian's own authority issues it for the host of `address`.
    #[cfg_attr(test, schemars(with = "Option<RawTls>"))]
    tls: Option<Spanned<RawTls>>,
    /// A PostgreSQL server for the tables. Without this section they are in a file of the state directory.
    #[cfg_attr(test, schemars(with = "Option<RawDatabase>"))]
    database: Option<Spanned<RawDatabase>>,
    /// What wraps the shares. Without this section, or with none of the places in it, a key in a file of the state directory.
    #[cfg_attr(test, schemars(with = "Option<RawKeyEncryptionKey>"))]
    key_encryption_key: Option<Spanned<RawKeyEncryptionKey>>,
    /// When alarms are raised, and where they go. Without this section the defaults hold, and nothing is sent.
    alarms: Option<RawAlarms>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawTls {
    /// Other DNS names and IP addresses for the certificate of its own authority, at least one.
    #[cfg_attr(test, schemars(with = "Option<Vec<String>>", length(min = 1)))]
    names: Option<Vec<Spanned<String>>>,
    /// A PEM chain, leaf first, instead of its own authority's. Needs `private_key` and `roots`.
    certificate: Option<PathBuf>,
    /// The chain's key, PEM, mode 0600.
    private_key: Option<PathBuf>,
    /// The roots to which the chain leads, PEM, for manifests.
    roots: Option<PathBuf>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |reason: String| ConfigError::Unreadable { file: file.to_owned(), reason };
        let missing = |error: io::Error| {
            let one = "; `holdfast config example custodian` prints one";
            unreadable(format!("{error}{}", if error.kind() == io::ErrorKind::NotFound { one } else { "" }))
        };
        let length = fs::metadata(file).map_err(missing)?.len();
        if length > FILE_MAX {
            return Err(unreadable(format!("is longer than {FILE_MAX} bytes")));
        }
        let text = fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(file, &text)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { file, text };
        let raw: RawConfig = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        let name = source.check(&raw.name, "name", |name| {
            let fits = !name.is_empty() && name.len() <= limits::NAME_MAX && is_printable(name);
            if fits { Ok(name.to_owned()) } else { Err("must have 1 to 64 printable ASCII characters") }
        })?;
        let listen = source.check(&raw.listen, "listen", |listen| {
            listen.parse::<SocketAddr>().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:7443")
        })?;
        let (address, host) = source.check(&raw.address, "address", |address| {
            let host = host_of(address).ok_or("must be host:port in lower case, such as vault-1.example.com:7443")?;
            Ok((address.to_owned(), host.to_owned()))
        })?;
        let administrators = raw
            .administrators
            .iter()
            .map(|id| {
                source.check(id, "administrators", |id| {
                    id.parse::<AdministratorId>()
                        .map_err(|_| "each must be an administrator's id of 64 hexadecimal digits")
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            file: file.to_owned(),
            name,
            listen,
            address,
            state: source.path(&raw.state),
            ports_file: raw.ports_file.map(|path| source.path(&path)),
            administrators,
            emulated_root: raw.emulated_root.map(|path| source.path(&path)),
            log: raw.log,
            tls: source.tls(raw.tls, host)?,
            database: source.database(raw.database)?,
            key_encryption_key: source.key_encryption_key(raw.key_encryption_key)?,
            alarms: source.alarms(raw.alarms)?,
        })
    }
}

/// The host of `host:port`, if it is one that a manifest accepts.
fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let fits = !host.is_empty()
        && host.len() <= limits::HOST_NAME_MAX
        && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
        && port.parse::<u16>().is_ok_and(|port| port != 0);
    fits.then_some(host)
}

/// The text being checked, to say where something stands.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count().saturating_add(1)
    }

    fn error(&self, span: Option<Range<usize>>, field: &str, reason: impl Into<String>) -> ConfigError {
        let line = self.line(span.map_or(0, |span| span.start));
        ConfigError::Field { file: self.file.to_owned(), line, field: field.to_owned(), reason: reason.into() }
    }

    /// An error of the parser, with the field taken from its message or from the line to which it points.
    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message();
        let named = message.split_once('`').and_then(|(_, rest)| rest.split_once('`')).map(|(name, _)| name);
        let line = self.line(error.span().map_or(0, |span| span.start));
        let on_line = self
            .text
            .lines()
            .nth(line.saturating_sub(1))
            .and_then(|line| line.split_once('='))
            .map(|(field, _)| field.trim())
            .filter(|field| !field.is_empty() && !field.starts_with('#'));
        let about_a_field = message.starts_with("unknown field") || message.starts_with("missing field");
        let field = if about_a_field { named.or(on_line) } else { on_line.or(named) };
        self.error(error.span(), field.unwrap_or("syntax"), message)
    }

    fn check<T>(
        &self,
        value: &Spanned<String>,
        field: &str,
        rule: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Result<T, ConfigError> {
        rule(value.get_ref()).map_err(|reason| self.error(Some(value.span()), field, reason))
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.file.parent().map_or_else(|| path.to_owned(), |directory| directory.join(path))
    }

    fn tls(&self, raw: Option<Spanned<RawTls>>, host: String) -> Result<TlsSource, ConfigError> {
        let Some(raw) = raw else { return Ok(TlsSource::OwnAuthority { names: vec![host] }) };
        let span = raw.span();
        let raw = raw.into_inner();
        match (raw.names, raw.certificate, raw.private_key, raw.roots) {
            (names, None, None, None) => {
                let Some(names) = names else { return Ok(TlsSource::OwnAuthority { names: vec![host] }) };
                let checked = names
                    .iter()
                    .map(|name| {
                        self.check(name, "tls.names", |name| {
                            rustls_pki_types::ServerName::try_from(name)
                                .map(|_| name.to_owned())
                                .map_err(|_| "each must be a DNS name or an IP address")
                        })
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                if checked.is_empty() {
                    return Err(self.error(Some(span), "tls.names", "must name at least one host"));
                }
                Ok(TlsSource::OwnAuthority { names: checked })
            }
            (None, Some(certificate), Some(private_key), Some(roots)) => Ok(TlsSource::Files {
                certificate: self.path(&certificate),
                private_key: self.path(&private_key),
                roots: self.path(&roots),
            }),
            _ => Err(self.error(
                Some(span),
                "tls",
                "needs either `names`, or `certificate`, `private_key` and `roots` together",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c";

    fn good() -> String {
        format!(
            "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:7443\"\nstate = \"state\"\n\
             administrators = [\"{ID}\"]\n"
        )
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/holdfast/custodian.toml"), text)
    }

    #[test]
    fn defaults_and_relative_paths() {
        let config = parse(&good()).unwrap();
        assert_eq!(config.state, Path::new("/etc/holdfast/state"));
        assert_eq!(config.administrators, [ID.parse().unwrap()]);
        assert_eq!(config.tls, TlsSource::OwnAuthority { names: vec!["localhost".to_owned()] });
        assert_eq!((config.log, config.ports_file, config.emulated_root), (LogFormat::Text, None, None));
    }

    #[test]
    fn the_example_is_good_and_shows_every_option() {
        let example = include_str!("../custodian.example.toml");
        assert_eq!(parse(example).unwrap().name, "vault-1");
        let lines = example.lines().map(|line| {
            line.strip_prefix("# ").filter(|rest| rest.contains(" = ") || rest.starts_with('[')).unwrap_or(line)
        });
        let options = lines.filter(|line| !line.starts_with("names")).collect::<Vec<_>>().join("\n");
        let config = parse(&options).unwrap();
        assert!(config.ports_file.is_some() && config.emulated_root.is_some());
        assert!(matches!(config.tls, TlsSource::Files { .. }));
        assert_eq!((config.alarms.key_stores.len(), config.alarms.destinations().len()), (1, 2));
    }

    #[test]
    fn every_option_is_taken() {
        let text = good()
            + "ports_file = \"/run/ports.json\"\nemulated_root = \"root.pem\"\nlog = \"json\"\n\
               [tls]\ncertificate = \"c.pem\"\nprivate_key = \"k.pem\"\nroots = \"r.pem\"\n";
        let config = parse(&text).unwrap();
        assert_eq!(config.ports_file.as_deref(), Some(Path::new("/run/ports.json")));
        assert_eq!(config.emulated_root.as_deref(), Some(Path::new("/etc/holdfast/root.pem")));
        assert_eq!(config.log, LogFormat::Json);
        assert!(matches!(config.tls, TlsSource::Files { roots, .. } if roots == Path::new("/etc/holdfast/r.pem")));
    }

    #[test]
    fn an_error_names_file_line_and_field() {
        let replaced = |from: &str, to: &str| good().replace(from, to);
        let table = [
            (replaced("vault-1", ""), "custodian.toml:1: name: "),
            (replaced("127.0.0.1:0", "localhost"), "custodian.toml:2: listen: "),
            (replaced("localhost:7443", "localhost:0"), "custodian.toml:3: address: "),
            (replaced("localhost:7443", "local_host:1"), "custodian.toml:3: address: "),
            // A manifest would refuse it, long after the custodian was made.
            (replaced("localhost:7443", "Localhost:7443"), "custodian.toml:3: address: "),
            (replaced("\"state\"", "7"), "custodian.toml:4: state: "),
            (replaced("5f0c5f", "5f0c5"), "custodian.toml:5: administrators: "),
            (replaced("state =", "stat ="), "custodian.toml:4: stat: unknown field"),
            (replaced("name = \"vault-1\"\n", ""), "name: missing field"),
            (good() + "emulated = true\n", "custodian.toml:6: emulated: unknown field"),
            (good() + "log = \"xml\"\n", "custodian.toml:6: log: "),
            (good() + "log = \n", "custodian.toml:6: log: "),
            (good() + "[tls]\nnames = [\"a b\"]\n", "custodian.toml:7: tls.names: "),
            (good() + "[tls]\ncertificate = \"c.pem\"\n", "custodian.toml:6: tls: needs either"),
        ];
        for (text, expected) in table {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }

    /// Every section and every field that may stand beside the others, but for where the key is.
    const FULL: &str = r#"
        [tls]
        certificate = "c.pem"
        private_key = "k.pem"
        roots = "r.pem"
        [database]
        host = "db.example.com"
        name = "vault"
        user = "vault"
        roots = "r.pem"
        [alarms]
        [[alarms.key_store]]
        id = "5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c"
        [[alarms.webhook]]
        url = "https://alerts.example.com/"
        [[alarms.syslog]]
        address = "unix:/dev/log"
        [key_encryption_key]
    "#;

    #[test]
    fn the_schema_says_what_is_taken() {
        use holdfast_tests::reference::{assert_agreement, assert_schema_current, schema_of};

        let schema = schema_of::<RawConfig>(
            "custodian.toml",
            "Configuration of `holdfast-custodian`. Relative paths are relative to the file; unknown fields are refused.",
        );
        assert_schema_current("custodian.schema.json", &schema);
        let places = [
            r#"pkcs11 = { module = "m.so", token = "custodian", key = "shares", pin_file = "pin" }"#,
            r#"transit = { url = "https://vault.example.com:8200", key = "shares", token_file = "token" }"#,
            r#"kmip = { address = "kmip.example.com:5696", key = "1", roots = "r.pem", certificate = "c.pem", private_key = "k.pem" }"#,
        ];
        let bases = places.map(|place| toml::from_str(&format!("{}{FULL}{place}\n", good())).unwrap());
        assert_agreement(&schema, &bases, &|document| {
            let parsed = parse(&toml::to_string(document).unwrap());
            parsed.map(|config| format!("{config:?}")).map_err(|error| error.to_string())
        });
    }
}
