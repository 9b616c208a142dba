//! The section `[key_encryption_key]`: where the key is that wraps the shares.
//!
//! Refuses: two places at once, a timeout that would stop everything or nothing, secrets in the configuration itself: PINs and
//! tokens come from files of mode 0600.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Source, host_of};

/// How long one call to the key may take, unless the configuration says otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// A call over a network needs at least this.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// The enclave gives up waiting for its release after about this.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Characters of labels and names. A token's label has 32 bytes (PKCS #11 2.40, section 3.2); others are ours.
const NAME_MAX: usize = 128;

/// Where the key-encryption key is, and how long a call to it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEncryptionKeyConfig {
    /// For each call.
    pub timeout: Duration,
    /// Where it is.
    pub place: KeyPlaceConfig,
}

impl Default for KeyEncryptionKeyConfig {
    fn default() -> Self {
        Self { timeout: TIMEOUT_DEFAULT, place: KeyPlaceConfig::File }
    }
}

/// Where the key-encryption key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlaceConfig {
    /// `key-encryption-key.bin` in the state directory.
    File,
    /// A PKCS #11 token.
    Pkcs11(Pkcs11Config),
    /// The Transit engine of Vault or `OpenBao`.
    Transit(TransitConfig),
    /// A KMIP server.
    Kmip(KmipConfig),
}

/// Who makes the initialization vector of AES-GCM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Pkcs11Iv {
    /// We do, at random.
    #[default]
    Random,
    /// The token does, and writes it where ours would be.
    Token,
}

/// A key on a PKCS #11 token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The manufacturer's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub key: String,
    /// The user's PIN, mode 0600.
    pub pin_file: PathBuf,
    /// Who makes the initialization vector.
    pub iv: Pkcs11Iv,
}

/// A key of a Transit engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransitConfig {
    /// Of the server: `https://host:port`, or `http://` and a loopback address.
    pub url: String,
    /// Where the engine is mounted.
    pub mount: String,
    /// The key's name.
    pub key: String,
    /// The access token, mode 0600.
    pub token_file: PathBuf,
    /// Roots of the server's certificate, PEM.
    pub roots: Option<PathBuf>,
    /// The namespace, where the server has them.
    pub namespace: Option<String>,
}

/// A key of a KMIP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmipConfig {
    /// `host:port`.
    pub address: String,
    /// The key's unique identifier.
    pub key: String,
    /// Roots of the server's certificate, PEM.
    pub roots: PathBuf,
    /// Our certificate, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM, mode 0600.
    pub private_key: PathBuf,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeyEncryptionKey {
    /// Time for one call to the key: from `100ms` to `30s`.
    #[cfg_attr(test, schemars(with = "Option<String>", regex(pattern = "^[0-9]+(ms|s)$"), extend("default" = "5s")))]
    timeout: Option<Spanned<String>>,
    /// A key on a PKCS #11 token. At most one of `pkcs11`, `transit` and `kmip`.
    pkcs11: Option<RawPkcs11>,
    /// A key of the Transit engine of Vault or `OpenBao`.
    transit: Option<RawTransit>,
    /// A key of a KMIP server.
    kmip: Option<RawKmip>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawPkcs11 {
    /// The library of the token's maker.
    module: PathBuf,
    /// The token's label.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = 32)))]
    token: Spanned<String>,
    /// The key's label.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = NAME_MAX)))]
    key: Spanned<String>,
    /// The user's PIN, mode 0600.
    pin_file: PathBuf,
    /// Who makes the initialization vector of AES-GCM.
    #[cfg_attr(test, schemars(extend("default" = "random")))]
    #[serde(default)]
    iv: Pkcs11Iv,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawTransit {
    /// Of the server: `https://host:port`, or `http://` and a loopback address.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = NAME_MAX)))]
    url: Spanned<String>,
    /// Where the engine is mounted.
    #[cfg_attr(test, schemars(with = "Option<String>", length(min = 1, max = NAME_MAX), extend("default" = "transit")))]
    mount: Option<Spanned<String>>,
    /// The key's name.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = NAME_MAX)))]
    key: Spanned<String>,
    /// The access token, mode 0600.
    token_file: PathBuf,
    /// Roots of the server's certificate, PEM. Without them those of the operating system.
    roots: Option<PathBuf>,
    /// The namespace, where the server has them.
    #[cfg_attr(test, schemars(with = "Option<String>", length(min = 1, max = NAME_MAX)))]
    namespace: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawKmip {
    /// `host:port`, in lower case.
    #[cfg_attr(test, schemars(with = "String", extend("examples" = ["kmip.example.com:5696"])))]
    address: Spanned<String>,
    /// The key's unique identifier.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = NAME_MAX)))]
    key: Spanned<String>,
    /// Roots of the server's certificate, PEM.
    roots: PathBuf,
    /// Our certificate, PEM, leaf first.
    certificate: PathBuf,
    /// Its key, PEM, mode 0600.
    private_key: PathBuf,
}

impl Source<'_> {
    pub(super) fn key_encryption_key(
        &self,
        raw: Option<Spanned<RawKeyEncryptionKey>>,
    ) -> Result<KeyEncryptionKeyConfig, ConfigError> {
        let Some(raw) = raw else { return Ok(KeyEncryptionKeyConfig::default()) };
        let span = raw.span();
        let raw = raw.into_inner();
        let timeout = match raw.timeout {
            None => TIMEOUT_DEFAULT,
            Some(timeout) => self.check(&timeout, "key_encryption_key.timeout", |text| {
                duration(text)
                    .filter(|timeout| (TIMEOUT_MIN..=TIMEOUT_MAX).contains(timeout))
                    .ok_or("must be a time from \"100ms\" to \"30s\"")
            })?,
        };
        let place = match (raw.pkcs11, raw.transit, raw.kmip) {
            (None, None, None) => KeyPlaceConfig::File,
            (Some(raw), None, None) => KeyPlaceConfig::Pkcs11(self.pkcs11(&raw)?),
            (None, Some(raw), None) => KeyPlaceConfig::Transit(self.transit(&raw)?),
            (None, None, Some(raw)) => KeyPlaceConfig::Kmip(self.kmip(&raw)?),
            _ => {
                return Err(self.error(
                    Some(span),
                    "key_encryption_key",
                    "names more than one of `pkcs11`, `transit` and `kmip`; keep the one that wraps the shares",
                ));
            }
        };
        Ok(KeyEncryptionKeyConfig { timeout, place })
    }

    fn pkcs11(&self, raw: &RawPkcs11) -> Result<Pkcs11Config, ConfigError> {
        let token = self.check(&raw.token, "key_encryption_key.pkcs11.token", |label| {
            (1..=32).contains(&label.len()).then(|| label.to_owned()).ok_or("must be a token's label of 1 to 32 bytes")
        })?;
        Ok(Pkcs11Config {
            // A bare name would be looked up in the system's library path.
            module: self.path(&raw.module),
            token,
            key: self.name(&raw.key, "key_encryption_key.pkcs11.key")?,
            pin_file: self.path(&raw.pin_file),
            iv: raw.iv,
        })
    }

    fn transit(&self, raw: &RawTransit) -> Result<TransitConfig, ConfigError> {
        let url = self.name(&raw.url, "key_encryption_key.transit.url")?;
        let mount = match &raw.mount {
            None => "transit".to_owned(),
            Some(mount) => self.name(mount, "key_encryption_key.transit.mount")?,
        };
        let namespace = match &raw.namespace {
            None => None,
            Some(namespace) => Some(self.name(namespace, "key_encryption_key.transit.namespace")?),
        };
        Ok(TransitConfig {
            url,
            mount,
            key: self.name(&raw.key, "key_encryption_key.transit.key")?,
            token_file: self.path(&raw.token_file),
            roots: raw.roots.as_deref().map(|path| self.path(path)),
            namespace,
        })
    }

    fn kmip(&self, raw: &RawKmip) -> Result<KmipConfig, ConfigError> {
        let address = self.check(&raw.address, "key_encryption_key.kmip.address", |address| {
            host_of(address)
                .map(|_| address.to_owned())
                .ok_or("must be host:port in lower case, such as kmip.example.com:5696")
        })?;
        Ok(KmipConfig {
            address,
            key: self.name(&raw.key, "key_encryption_key.kmip.key")?,
            roots: self.path(&raw.roots),
            certificate: self.path(&raw.certificate),
            private_key: self.path(&raw.private_key),
        })
    }

    fn name(&self, value: &Spanned<String>, field: &str) -> Result<String, ConfigError> {
        self.check(value, field, |name| {
            let fits = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
            fits.then(|| name.to_owned()).ok_or("must have 1 to 128 printable ASCII characters and no space")
        })
    }
}

/// `250ms` or `5s`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(split)?;
    let number = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    const BASE: &str = "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:1\"\nstate = \"state\"\nadministrators = []\n";
    const PKCS11: &str =
        "pkcs11 = { module = \"/usr/lib/hsm.so\", token = \"custodian\", key = \"shares\", pin_file = \"pin\" }\n";
    const TRANSIT: &str =
        "transit = { url = \"https://vault.example.com:8200\", key = \"shares\", token_file = \"token\" }\n";
    const KMIP: &str = "kmip = { address = \"kmip.example.com:5696\", key = \"7\", roots = \"r.pem\", certificate = \"c.pem\", \
                        private_key = \"k.pem\" }\n";

    fn parse(section: &str) -> Result<KeyEncryptionKeyConfig, String> {
        Config::parse(Path::new("/etc/holdfast/custodian.toml"), &format!("{BASE}{section}"))
            .map(|config| config.key_encryption_key)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_the_section_the_key_is_in_a_file() {
        let default = KeyEncryptionKeyConfig { timeout: TIMEOUT_DEFAULT, place: KeyPlaceConfig::File };
        assert_eq!(parse(""), Ok(default.clone()));
        assert_eq!(parse("[key_encryption_key]\n"), Ok(default));
    }

    #[test]
    fn each_place_is_taken_with_its_paths_and_defaults() {
        let section = |place: &str| parse(&format!("[key_encryption_key]\ntimeout = \"250ms\"\n{place}")).unwrap();
        let config = section(PKCS11);
        assert_eq!(config.timeout, Duration::from_millis(250));
        let KeyPlaceConfig::Pkcs11(pkcs11) = config.place else { panic!("not PKCS #11") };
        assert_eq!((pkcs11.token.as_str(), pkcs11.key.as_str(), pkcs11.iv), ("custodian", "shares", Pkcs11Iv::Random));
        assert_eq!(pkcs11.module, Path::new("/usr/lib/hsm.so"));
        assert_eq!(pkcs11.pin_file, Path::new("/etc/holdfast/pin"));
        let KeyPlaceConfig::Transit(transit) = section(TRANSIT).place else { panic!("not Transit") };
        assert_eq!((transit.mount.as_str(), transit.namespace, transit.roots), ("transit", None, None));
        assert_eq!(transit.token_file, Path::new("/etc/holdfast/token"));
        let KeyPlaceConfig::Kmip(kmip) = section(KMIP).place else { panic!("not KMIP") };
        assert_eq!((kmip.address.as_str(), kmip.key.as_str()), ("kmip.example.com:5696", "7"));
        assert_eq!(kmip.private_key, Path::new("/etc/holdfast/k.pem"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("timeout = \"5\"\n".to_owned(), "toml:7: key_encryption_key.timeout: must be a time"),
            ("timeout = \"99ms\"\n".to_owned(), "key_encryption_key.timeout: "),
            ("timeout = \"31s\"\n".to_owned(), "key_encryption_key.timeout: "),
            ("timeout = \"99999999999999999999s\"\n".to_owned(), "key_encryption_key.timeout: "),
            (format!("{PKCS11}{TRANSIT}"), "toml:6: key_encryption_key: names more than one"),
            (format!("{TRANSIT}{KMIP}"), "key_encryption_key: names more than one"),
            (PKCS11.replace("pin_file", "pin"), "unknown field"),
            (PKCS11.replace("custodian", ""), "key_encryption_key.pkcs11.token: "),
            (PKCS11.replace("custodian", &"x".repeat(33)), "key_encryption_key.pkcs11.token: "),
            (PKCS11.replace("shares", "a b"), "key_encryption_key.pkcs11.key: "),
            (PKCS11.replace(" }", ", iv = \"zero\" }"), "unknown variant `zero`"),
            (KMIP.replace(":5696", ""), "key_encryption_key.kmip.address: "),
            ("file = \"key.bin\"\n".to_owned(), "unknown field"),
        ];
        for (section, expected) in table {
            let error = parse(&format!("[key_encryption_key]\n{section}")).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }
}
