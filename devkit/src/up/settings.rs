//! What `up` is told, and what it remembers of it.
//!
//! Guarantees: what a key store's manifest or an enclave's measurements depend on stays as it was at the first run; a flag that
//! says otherwise is refused instead of ignored.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use holdfast_cli::commands::key::parse_usage;
use holdfast_cli::moment::parse_duration;
use holdfast_shared::external_key::{ExternalKeyId, KeyUsage};
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::{HostName, PathPrefix};
use serde::{Deserialize, Serialize};

/// Flags of `holdfast-dev up`.
#[derive(Clone, Debug, Args)]
pub struct UpSettings {
    /// Folder for everything: keys, databases, logs, certificates
    #[arg(long, value_name = "DIR", default_value = ".holdfast", value_hint = ValueHint::DirPath)]
    pub state: PathBuf,
    /// Address at which the proxy is served; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Name in the TLS certificate and in Host [default: localhost]
    #[arg(long, value_name = "NAME")]
    pub host_name: Option<HostName>,
    /// Path before /kms/xks/v1, such as /payments [default: none]
    #[arg(long, value_name = "PATH")]
    pub path_prefix: Option<PathPrefix>,
    /// Region in whose name clients sign; may be given more than once [default: us-east-1]
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// Length of a lease [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub lease: Option<Duration>,
    /// Key to create, with what it may be used for: encrypt, decrypt, both (the default) or none; may be given more than once
    #[arg(long, value_name = "ID[:USAGE,…]", value_parser = parse_key, default_value = "dev-key")]
    pub key: Vec<WantedKey>,
    /// Credential of your own, imported by a signed command: 20 to 30 characters of A-Z 2-7
    #[arg(long, value_name = "ID", requires = "secret_access_key")]
    pub access_key_id: Option<AccessKeyId>,
    /// Its secret, 43 to 64 characters of A-Z a-z 0-9 / + =; seen by everyone on this machine who can list processes
    #[arg(long, value_name = "SECRET", requires = "access_key_id")]
    pub secret_access_key: Option<String>,
    /// Start AWS KMS as well, as far as external key stores reach, with a KMS key for each key that may both encrypt and decrypt; listens at
    /// 127.0.0.1:4599 unless an address is given
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:4599")]
    pub kms: Option<SocketAddr>,
    /// Exit after the round trip instead of staying up: 0 if everything was proven
    #[arg(long)]
    pub check: bool,
}

impl UpSettings {
    /// The first key that may both encrypt and decrypt.
    #[must_use]
    pub fn example_key(&self) -> Option<&WantedKey> {
        self.key.iter().find(|wanted| wanted.usage.encrypt && wanted.usage.decrypt)
    }
}

/// A key that is to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedKey {
    /// Its id.
    pub id: ExternalKeyId,
    /// What it may be used for.
    pub usage: KeyUsage,
}

/// Reads `ID[:USAGE,…]`.
///
/// # Errors
/// What the text should have been.
pub fn parse_key(text: &str) -> Result<WantedKey, String> {
    let (id, usage) = text.split_once(':').unwrap_or((text, "encrypt,decrypt"));
    let id = ExternalKeyId::parse(id).map_err(|error| error.to_string())?;
    Ok(WantedKey { id, usage: parse_usage(usage)? })
}

/// What must not change between runs on the same state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// Name in the certificate.
    pub host_name: String,
    /// Path before `/kms/xks/v1`.
    pub path_prefix: String,
    /// Measured into PCR 16.
    pub regions: Vec<String>,
    /// In the manifest.
    pub lease_ms: u64,
    /// In the manifest.
    pub custodian_port: u16,
}

/// A flag that contradicts what is remembered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this state was made with {flag} {was}, which its manifest or its measurements depend on; choose another --state for {flag} {wanted}"
)]
pub struct Contradiction {
    /// The flag.
    pub flag: &'static str,
    /// As it was at the first run.
    pub was: String,
    /// As it is now.
    pub wanted: String,
}

impl Remembered {
    /// For a first run.
    #[must_use]
    pub fn first(settings: &UpSettings, custodian_port: u16) -> Self {
        let regions = if settings.region.is_empty() { vec!["us-east-1".to_owned()] } else { settings.region.clone() };
        Self {
            host_name: settings.host_name.as_ref().map_or("localhost", HostName::as_str).to_owned(),
            path_prefix: settings.path_prefix.as_ref().map_or("", PathPrefix::as_str).to_owned(),
            regions,
            lease_ms: settings.lease.map_or(24 * 3_600_000, to_ms),
            custodian_port,
        }
    }

    /// For a later run: every flag that is given must say the same.
    ///
    /// # Errors
    /// [`Contradiction`].
    pub fn check(&self, settings: &UpSettings) -> Result<(), Contradiction> {
        let regions = (!settings.region.is_empty()).then(|| settings.region.join(","));
        let lease = |ms: u64| format!("{ms}ms");
        let pairs = [
            ("--host-name", self.host_name.clone(), settings.host_name.as_ref().map(ToString::to_string)),
            ("--path-prefix", self.path_prefix.clone(), settings.path_prefix.as_ref().map(ToString::to_string)),
            ("--region", self.regions.join(","), regions),
            ("--lease", lease(self.lease_ms), settings.lease.map(|duration| lease(to_ms(duration)))),
        ];
        for (flag, was, wanted) in pairs {
            match wanted {
                Some(wanted) if wanted != was => return Err(Contradiction { flag, was, wanted }),
                _ => {}
            }
        }
        Ok(())
    }
}

fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: UpSettings,
    }

    fn settings(words: &[&str]) -> UpSettings {
        Line::try_parse_from(["up"].iter().chain(words)).map(|line| line.settings).unwrap()
    }

    #[test]
    fn keys_have_usages() {
        for (text, expected) in [
            ("a", Some(KeyUsage::ENCRYPT_DECRYPT)),
            ("a:decrypt", Some(KeyUsage::DECRYPT)),
            ("a:encrypt,decrypt", Some(KeyUsage::ENCRYPT_DECRYPT)),
            ("a:none", Some(KeyUsage { encrypt: false, decrypt: false })),
            ("a:", None),
            ("a/b", None),
            (":encrypt", None),
        ] {
            assert_eq!(parse_key(text).ok().map(|key| key.usage), expected, "{text:?}");
        }
    }

    #[test]
    fn what_was_measured_cannot_change() {
        let remembered = Remembered::first(&settings(&["--region", "eu-west-1", "--path-prefix", "/a"]), 1);
        assert_eq!((remembered.host_name.as_str(), remembered.lease_ms), ("localhost", 86_400_000));
        for same in [&[][..], &["--region", "eu-west-1"], &["--path-prefix", "/a", "--lease", "24h"]] {
            assert_eq!(remembered.check(&settings(same)), Ok(()), "{same:?}");
        }
        for other in
            [&["--region", "us-east-1"][..], &["--host-name", "a.b"], &["--path-prefix", "/b"], &["--lease", "1h"]]
        {
            assert!(remembered.check(&settings(other)).is_err(), "{other:?}");
        }
    }
}
