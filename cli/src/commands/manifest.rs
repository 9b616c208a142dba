//! `holdfast manifest`: who owns a key store, who holds its shares, what may run it.

mod report;

use std::path::{Path, PathBuf};

use holdfast_shared::attestation::{AWS_ROOT_SHA256, Measurements};
use holdfast_shared::hpke::PublicKey;
use holdfast_shared::manifest::{
    self, Administrator, Custodian, DerCertificate, KmsShare, Manifest, ManifestError, ReleasePolicy, Thresholds,
    VerifiedManifest,
};
use holdfast_shared::quorum::Quorum;
use holdfast_shared::signature::{Envelope, VerifyingKey};
use holdfast_shared::xks::{HostName, PathPrefix};
use holdfast_shared::{cbor, labels};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

pub(crate) use self::report::write_measurements;
pub use self::report::{ManifestReport, NamedAdministrator, NamedCustodian, ThresholdsReport};
use crate::commands::tls::{self, ChainError};
use crate::files::{self, FileError};
use crate::home::{self, Home, HomeError, KeyStore};
use crate::kind::{self, Kind};

/// Why a manifest could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The folder, the keys, or the trust root.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A rule of manifests.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file that is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what it should be.
        reason: String,
    },
    /// Numbers that leave no room for what the owner wants.
    #[error("{0}")]
    Numbers(String),
    /// Other administrators must sign before it is a manifest.
    #[error("needs the signatures of {0}, too")]
    Unsigned(String),
    /// No randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

/// A custodian, as `holdfast-custodian init` writes it for administrators: `custodian.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustodianFile {
    /// For people.
    pub name: String,
    /// Verifies its releases.
    pub signing_key: VerifyingKey,
    /// Shares are encrypted to it.
    pub encryption_key: PublicKey,
    /// `host:port` of its HTTPS service.
    pub address: String,
    /// Certificates in PEM to which its HTTPS certificate chains.
    pub tls_roots: Vec<String>,
}

/// What a manifest is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For people.
    pub name: String,
    /// Administrators besides oneself.
    pub administrators: Vec<Administrator>,
    /// Who holds the shares, home first.
    pub custodians: Vec<Custodian>,
    /// m: shares needed.
    pub shares_needed: u8,
    /// f: hostile custodians tolerated.
    pub hostile_tolerated: u8,
    /// One more share, at AWS KMS.
    pub kms_share: Option<KmsShare>,
    /// The name that KMS calls.
    pub host_name: HostName,
    /// The path before `/kms/xks/v1`.
    pub path_prefix: PathPrefix,
    /// Accepted images.
    pub measurements: Vec<Measurements>,
    /// The PEM file of an emulator's root; none for AWS's.
    pub emulated_root: Option<PathBuf>,
    /// Length of a lease, in milliseconds.
    pub lease_ms: u64,
    /// Signatures that each kind of order needs.
    pub thresholds: Thresholds,
}

/// A manifest with its maker's signature, which may lack others.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What it says.
    pub manifest: Manifest,
    /// Its signatures so far.
    pub envelope: Envelope,
}

/// Makes and signs a manifest.
///
/// # Errors
/// [`CreateError`].
pub fn draft(home: &Home, settings: &Settings) -> Result<Draft, CreateError> {
    let keys = home.administrator()?;
    let trust_root = match &settings.emulated_root {
        None => AWS_ROOT_SHA256,
        Some(path) => home::read_trust_root(path)?.fingerprint(),
    };
    let rng = SystemRandom::new();
    let mut nonce = [0; 16];
    rng.fill(&mut nonce).map_err(|_| CreateError::NoRandomness)?;
    let mut administrators = vec![keys.administrator];
    administrators.extend(settings.administrators.iter().cloned());
    let manifest = Manifest {
        label: labels::MANIFEST.to_owned(),
        nonce,
        name: settings.name.clone(),
        administrators,
        thresholds: settings.thresholds,
        custodians: settings.custodians.clone(),
        shares_needed: settings.shares_needed,
        hostile_tolerated: settings.hostile_tolerated,
        host_name: settings.host_name.clone(),
        path_prefix: settings.path_prefix.clone(),
        release_policy: ReleasePolicy::first(trust_root, settings.measurements.clone(), settings.lease_ms),
        succession: None,
        kms_share: settings.kms_share.clone(),
    };
    check_numbers(&manifest)?;
    let envelope = manifest::sign(&manifest, &keys.signing_key, &rng)?;
    Ok(Draft { manifest, envelope })
}

/// Makes, signs and remembers the manifest of a single administrator.
///
/// # Errors
/// [`CreateError`]; [`CreateError::Unsigned`] where others must sign.
pub fn create(home: &Home, settings: &Settings) -> Result<KeyStore, CreateError> {
    let Draft { manifest, envelope } = draft(home, settings)?;
    if manifest.administrators.len() > 1 {
        let others = manifest.administrators.iter().skip(1).map(|other| other.name.as_str()).collect::<Vec<_>>();
        return Err(CreateError::Unsigned(others.join(", ")));
    }
    let verified = VerifiedManifest::verify(&cbor::encode(&envelope))?;
    Ok(home.add_key_store(verified, settings.emulated_root.as_deref())?)
}

/// The numbers of custodians, explained where they do not fit.
///
/// # Errors
/// [`CreateError::Numbers`].
pub fn check_numbers(manifest: &Manifest) -> Result<(), CreateError> {
    let (n, m, f) = (manifest.custodians.len(), manifest.shares_needed, manifest.hostile_tolerated);
    let shares = n.saturating_add(usize::from(manifest.kms_share.is_some()));
    let refused = |text: String| Err(CreateError::Numbers(text));
    if manifest.kms_share.is_some() && m < 2 {
        return refused("the share at AWS KMS must not be enough alone: give --shares-needed 2 or more".to_owned());
    }
    // Of the shares needed, so many are custodians'.
    let own = m.saturating_sub(u8::from(manifest.kms_share.is_some()));
    if m == 0 || usize::from(m) > shares {
        return refused(format!("{n} custodians cannot need {m} shares: give --shares-needed 1 to {shares}"));
    }
    if f > 0 && f >= own {
        return refused(format!(
            "with {own} of {n} custodians' shares needed, {f} hostile custodians could roll the key store back together: --hostile must be less \
             than --shares-needed; raise --shares-needed, or say --hostile {}",
            own.saturating_sub(1)
        ));
    }
    Ok(())
}

/// What the numbers mean, for people, with a warning where the owner may not have meant it.
#[must_use]
pub fn explain_numbers(manifest: &Manifest) -> String {
    let quorum = Quorum::of(manifest);
    let (n, w) = (quorum.custodians(), quorum.write());
    if n == 1 {
        return "the one custodian must be up for changes, and once in each lease".to_owned();
    }
    let (m, f) = (manifest.shares_needed, manifest.hostile_tolerated);
    let text = format!(
        "with {n} custodians, {m} shares and {f} hostile, {w} must be up for changes (home among them), {} to start or renew",
        quorum.answers()
    );
    if w == n && f > 0 {
        let without = Quorum::new(n, quorum.answers(), 0).write();
        return format!("{text}; all of them: say --hostile 0 for {without} of {n}, or add custodians");
    }
    if w == n {
        return format!("{text}; all of them: add custodians, or say a larger --shares-needed");
    }
    text
}

/// Remembers a manifest that was made elsewhere.
///
/// # Errors
/// [`HomeError`].
pub fn add(home: &Home, path: &Path, emulated_root: Option<&Path>) -> Result<KeyStore, HomeError> {
    home.add_key_store(home::read_manifest(path)?, emulated_root)
}

/// Reads a custodian's public description.
///
/// # Errors
/// [`CreateError::File`], [`CreateError::Input`].
pub fn read_custodian(path: &Path) -> Result<Custodian, CreateError> {
    let bad = |reason: String| CreateError::Input { path: path.to_owned(), reason };
    let bytes = files::read(path, files::FILE_MAX)?;
    let file: CustodianFile = serde_json::from_slice(&bytes).map_err(|error| {
        bad(format!(
            "{error}; expected custodian.json, as `holdfast-custodian init` writes it{}",
            kind::guess(&bytes, Kind::Custodian)
        ))
    })?;
    let mut tls_roots: Vec<DerCertificate> = Vec::new();
    for root in &file.tls_roots {
        tls_roots
            .extend(tls::parse_chain(root.as_bytes()).map_err(|error: ChainError| bad(format!("tls_roots: {error}")))?);
    }
    Ok(Custodian {
        name: file.name,
        signing_key: file.signing_key,
        encryption_key: file.encryption_key,
        address: file.address,
        tls_roots,
    })
}

/// The share at AWS KMS: its key, and where it is reached.
///
/// # Errors
/// [`CreateError::Input`] for a file without certificates, [`CreateError::Numbers`] for an ARN that names no key.
pub fn read_kms_share(key_arn: &str, address: Option<&str>, roots: &Path) -> Result<KmsShare, CreateError> {
    let fields: Vec<_> = key_arn.split(':').collect();
    let ["arn", _, "kms", region, _, resource] = fields.as_slice() else {
        let text = "--kms-key-arn: expected the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID".to_owned();
        return Err(CreateError::Numbers(text));
    };
    if region.is_empty() || !resource.starts_with("key/") {
        return Err(CreateError::Numbers(
            "--kms-key-arn: an alias can be moved; give the key itself, …:key/ID".to_owned(),
        ));
    }
    let pem = files::read(roots, files::FILE_MAX)?;
    let tls_roots = tls::parse_chain(&pem)
        .map_err(|error| CreateError::Input { path: roots.to_owned(), reason: error.to_string() })?;
    let address = address.map_or_else(|| format!("kms.{region}.amazonaws.com:443"), str::to_owned);
    Ok(KmsShare { key_arn: key_arn.to_owned(), region: (*region).to_owned(), address, tls_roots })
}

/// Reads one `KIND=N` of `--threshold` into `thresholds`.
///
/// # Errors
/// What the text should have been.
pub fn set_threshold(thresholds: &mut Thresholds, text: &str) -> Result<(), String> {
    let kinds = "keys, credentials, identity, block, unblock or custody";
    let (kind, number) = text.split_once('=').ok_or_else(|| format!("expected KIND=N, KIND being {kinds}"))?;
    let number: u8 = number.parse().map_err(|_| "expected a number after the equals sign".to_owned())?;
    let field = match kind {
        "keys" => &mut thresholds.keys,
        "credentials" => &mut thresholds.credentials,
        "identity" => &mut thresholds.identity,
        "block" => &mut thresholds.block,
        "unblock" => &mut thresholds.unblock,
        "custody" => &mut thresholds.custody,
        _ => return Err(format!("unknown kind {kind:?}: expected {kinds}")),
    };
    *field = number;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_by_kind() {
        let mut thresholds = Thresholds::ONE;
        set_threshold(&mut thresholds, "unblock=2").unwrap();
        assert_eq!(thresholds, Thresholds { unblock: 2, ..Thresholds::ONE });
        for bad in ["unblock", "unblock=", "unblock=x", "unblock=256", "other=1"] {
            assert!(set_threshold(&mut thresholds, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_share_at_kms_is_named_by_a_key_and_its_region() {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots.pem");
        std::fs::write(&roots, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let share = read_kms_share(arn, None, &roots).unwrap();
        assert_eq!(
            (share.region.as_str(), share.address.as_str()),
            ("eu-central-1", "kms.eu-central-1.amazonaws.com:443")
        );
        assert_eq!(read_kms_share(arn, Some("vpce.example:443"), &roots).unwrap().address, "vpce.example:443");
        for bad in [
            "",
            "alias/x",
            "arn:aws:kms:eu-central-1:111122223333:alias/x",
            "arn:aws:s3:::bucket",
            "arn:aws:kms::1:key/x",
        ] {
            assert!(matches!(read_kms_share(bad, None, &roots), Err(CreateError::Numbers(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_numbers_mean_is_said_and_what_they_cannot_is_refused() {
        let base = |n: u8, m: u8, f: u8| {
            let folder = tempfile::tempdir().unwrap();
            let home = Home::at(folder.path().join("home"));
            let administrator = home.create_administrator("alice").unwrap();
            let custodian = |place: u8| Custodian {
                name: format!("vault-{place}"),
                signing_key: VerifyingKey([place; 97]),
                encryption_key: administrator.encryption_key,
                address: "localhost:9443".to_owned(),
                tls_roots: vec![DerCertificate(vec![1])],
            };
            let set = [1; 48];
            let set = Measurements { pcr0: set, pcr1: set, pcr2: set, pcr16: set, pcr3: None, pcr4: None, pcr8: None };
            let settings = Settings {
                name: "payments".to_owned(),
                administrators: Vec::new(),
                custodians: (1..=n).map(custodian).collect(),
                shares_needed: m,
                hostile_tolerated: f,
                kms_share: None,
                host_name: HostName::parse("xks.example.com").unwrap(),
                path_prefix: PathPrefix::parse("").unwrap(),
                measurements: vec![set],
                emulated_root: None,
                lease_ms: 86_400_000,
                thresholds: Thresholds::ONE,
            };
            draft(&home, &settings).map(|draft| explain_numbers(&draft.manifest)).map_err(|error| error.to_string())
        };
        let table = [
            ((1, 1, 0), Ok("the one custodian must be up")),
            ((3, 2, 0), Ok("2 must be up for changes (home among them), 2 to start")),
            (
                (3, 2, 1),
                Ok(
                    "3 must be up for changes (home among them), 2 to start or renew; all of them: say --hostile 0 for 2 of 3",
                ),
            ),
            ((5, 1, 0), Ok("all of them: add custodians, or say a larger --shares-needed")),
            ((3, 4, 0), Err("give --shares-needed 1 to 3")),
            ((3, 0, 0), Err("give --shares-needed 1 to 3")),
            ((3, 1, 1), Err("say --hostile 0")),
            ((5, 3, 3), Err("say --hostile 2")),
        ];
        for ((n, m, f), expected) in table {
            let found = base(n, m, f);
            let holds = match (&found, expected) {
                (Ok(text), Ok(part)) | (Err(text), Err(part)) => text.contains(part),
                _ => false,
            };
            assert!(holds, "{n} {m} {f}: {found:?}");
        }
    }

    #[test]
    fn a_manifest_is_made_remembered_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"));
        let administrator = home.create_administrator("alice").unwrap();
        let custodian = Custodian {
            name: "vault".to_owned(),
            signing_key: administrator.signing_key,
            encryption_key: administrator.encryption_key,
            address: "localhost:9443".to_owned(),
            tls_roots: vec![DerCertificate(vec![1])],
        };
        let set = Measurements {
            pcr0: [1; 48],
            pcr1: [2; 48],
            pcr2: [3; 48],
            pcr16: [4; 48],
            pcr3: None,
            pcr4: None,
            pcr8: None,
        };
        let settings = Settings {
            name: "payments".to_owned(),
            administrators: Vec::new(),
            custodians: vec![custodian.clone()],
            shares_needed: 1,
            hostile_tolerated: 0,
            kms_share: None,
            host_name: HostName::parse("xks.example.com").unwrap(),
            path_prefix: PathPrefix::parse("/payments").unwrap(),
            measurements: vec![set.clone()],
            emulated_root: None,
            lease_ms: 86_400_000,
            thresholds: Thresholds::ONE,
        };
        let store = create(&home, &settings).unwrap();
        let report = ManifestReport::from(&store.manifest);
        assert_eq!((report.uri_path.as_str(), report.emulated_root), ("/payments/kms/xks/v1", false));
        assert_eq!(home.key_store(Some("payments")).unwrap().manifest, store.manifest);
        assert_eq!(home.key_store(Some(&store.manifest.id().to_string())).unwrap().manifest, store.manifest);
        assert!(matches!(home.key_store(Some("other")), Err(HomeError::UnknownKeyStore(..))));

        let two = Settings { custodians: vec![custodian.clone(), custodian], ..settings.clone() };
        assert!(matches!(create(&home, &two), Err(CreateError::Manifest(_))), "two of one key");
        let hostile = Settings { hostile_tolerated: 1, ..settings.clone() };
        assert!(matches!(create(&home, &hostile), Err(CreateError::Numbers(_))));
        let many = Settings { shares_needed: 2, ..settings.clone() };
        assert!(matches!(create(&home, &many), Err(CreateError::Numbers(_))));
        let unreachable = Settings { thresholds: Thresholds { keys: 2, ..Thresholds::ONE }, ..settings.clone() };
        assert!(matches!(create(&home, &unreachable), Err(CreateError::Manifest(_))));

        create(&home, &settings).unwrap();
        assert!(matches!(home.key_store(Some("payments")), Err(HomeError::AmbiguousKeyStore(_))), "two of one name");
    }
}
