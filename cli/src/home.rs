//! The tool's own folder: the administrator's keys and the key stores that he knows.
//!
//! ```text
//! HOME/administrator/administrator.json   name and public keys: safe to hand out
//!                    signing-key.p8       PKCS #8, 0600
//!                    encryption-key       48 bytes, 0600
//! HOME/key-stores/ID/manifest             signed; ID is its SHA-256
//!                    chain                the manifest and its successors, where there are any
//!                    overlay              the newest signed block overlay that was signed or seen here
//!                    policies/EPOCH       signed release policies that were signed or seen here
//!                    seen.json            the highest version that each custodian showed
//!                    trust-root.pem       only where the manifest trusts an emulator's root
//! ```
//!
//! Guarantees: what is loaded is consistent (keys match their public halves, a manifest matches its folder and its trust
//! root); the folder is its owner's alone. Refuses: replacing keys or a key store that is there.

mod key_store;
mod known;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use holdfast_shared::attestation::{RootError, TrustRoot};
use holdfast_shared::hpke::{HpkeError, PrivateKey, PublicKey};
use holdfast_shared::ids::{AdministratorId, KeyStoreId};
use holdfast_shared::manifest::{Administrator, ManifestChain, ManifestError, VerifiedManifest, is_printable};
use holdfast_shared::secrets::Secret;
use holdfast_shared::signature::{SignatureError, SigningKey, VerifyingKey};
use holdfast_shared::{cbor, limits};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};

pub use self::key_store::KeyStore;
pub use self::known::{KnownPolicy, Seen, chain, prefixes};
use crate::files::{self, FileError};
use crate::kind::{self, Kind};

/// The largest PKCS #8 form of a P-384 key that is accepted; ring writes 185 bytes.
const PKCS8_MAX: usize = 512;

/// What is wrong with the folder.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file in it.
    #[error(transparent)]
    File(#[from] FileError),
    /// No folder was named and the environment names none.
    #[error("no folder to work in: give --home DIR, or set HOLDFAST_HOME or HOME")]
    NoFolder,
    /// The folder cannot be used.
    #[error("cannot use the folder {path}: {source}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no administrator yet.
    #[error("{path} holds no administrator's keys; make them with: holdfast admin init --name NAME", path = path.display())]
    NoAdministrator {
        /// The folder.
        path: PathBuf,
    },
    /// There is an administrator already.
    #[error("{path} holds an administrator's keys already; they are never replaced: use another --home for another administrator", path = path.display())]
    AdministratorExists {
        /// The folder.
        path: PathBuf,
    },
    /// A name that could not be shown on every terminal.
    #[error("a name has 1 to 64 printable ASCII characters")]
    BadName,
    /// A key file is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    KeyGeneration(String),
    /// A manifest that is not valid.
    #[error("{path}: is no valid manifest: {source}{guess}", path = path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: ManifestError,
        /// What the file seems to be, where it is something else; empty or a part of a sentence.
        guess: String,
    },
    /// A manifest in another key store's folder.
    #[error("{path} is the manifest of another key store; restore the right one", path = path.display())]
    OtherManifest {
        /// The file.
        path: PathBuf,
    },
    /// The key store is here already.
    #[error("key store {0} is here already")]
    KeyStoreExists(KeyStoreId),
    /// A chain of manifests that leaves the one that is known.
    #[error(
        "key store {0}: the manifests that were offered do not continue those that are known here; ask who made them"
    )]
    OtherChain(KeyStoreId),
    /// No key store.
    #[error(
        "no key store is known here; make one with: holdfast manifest create, or take one over with: holdfast manifest add FILE"
    )]
    NoKeyStore,
    /// None of that name.
    #[error("no key store {0:?} is known here; known are: {1}")]
    UnknownKeyStore(String, String),
    /// More than one could be meant.
    #[error("more than one key store could be meant; choose one with --key-store: {0}")]
    AmbiguousKeyStore(String),
    /// The manifest trusts a root that is not AWS's, and that root is not at hand.
    #[error(
        "the manifest trusts a root other than AWS's (SHA-256 {0}); give its certificate with --trust-root FILE.pem"
    )]
    TrustRootNeeded(String),
    /// Another root than the manifest's.
    #[error("{path} is not the root that the manifest trusts: its SHA-256 is {found}, the manifest's {wanted}", path = path.display())]
    OtherTrustRoot {
        /// The file.
        path: PathBuf,
        /// SHA-256 of the file's certificate.
        found: String,
        /// SHA-256 in the manifest.
        wanted: String,
    },
    /// Not a root.
    #[error("{path}: {source}{guess}", path = path.display())]
    BadTrustRoot {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: RootError,
        /// What the file seems to be, where it is something else; empty or a part of a sentence.
        guess: String,
    },
}

/// The tool's folder.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
}

/// An administrator's keys.
#[derive(Debug)]
pub struct AdministratorKeys {
    /// The public part.
    pub administrator: Administrator,
    /// Signs commands, queries, block overlays and manifests.
    pub signing_key: SigningKey,
    /// Opens results.
    pub encryption_key: PrivateKey,
}

/// The public part as `admin show --json` and `administrator.json` hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdministratorFile {
    /// For people.
    pub name: String,
    /// SHA-256 of the signing key.
    pub id: AdministratorId,
    /// Uncompressed P-384 point.
    pub signing_key: VerifyingKey,
    /// Uncompressed P-384 point.
    pub encryption_key: PublicKey,
}

impl From<&Administrator> for AdministratorFile {
    fn from(administrator: &Administrator) -> Self {
        Self {
            name: administrator.name.clone(),
            id: administrator.id(),
            signing_key: administrator.signing_key,
            encryption_key: administrator.encryption_key,
        }
    }
}

impl Home {
    /// A folder that was named.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The folder that was named, or `~/.holdfast`. (`HOLDFAST_HOME` is read with the arguments.)
    ///
    /// # Errors
    /// [`HomeError::NoFolder`].
    pub fn choose(named: Option<PathBuf>) -> Result<Self, HomeError> {
        named
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".holdfast")))
            .map(Self::at)
            .ok_or(HomeError::NoFolder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn administrator_folder(&self) -> PathBuf {
        self.path.join("administrator")
    }

    /// Makes an administrator's keys.
    ///
    /// # Errors
    /// [`HomeError::AdministratorExists`], [`HomeError::BadName`], or a file that cannot be written.
    pub fn create_administrator(&self, name: &str) -> Result<Administrator, HomeError> {
        if name.is_empty() || name.len() > limits::NAME_MAX || !is_printable(name) {
            return Err(HomeError::BadName);
        }
        let folder = self.administrator_folder();
        if folder.exists() {
            return Err(HomeError::AdministratorExists { path: self.path.clone() });
        }
        let rng = SystemRandom::new();
        let failed = |error: SignatureError| HomeError::KeyGeneration(error.to_string());
        let hpke_failed = |error: HpkeError| HomeError::KeyGeneration(error.to_string());
        let pkcs8 = SigningKey::generate(&rng).map_err(failed)?;
        let signing_key = SigningKey::from_pkcs8(&pkcs8, &rng).map_err(failed)?;
        let encryption_key = PrivateKey::generate().map_err(hpke_failed)?;
        let administrator = Administrator {
            name: name.to_owned(),
            signing_key: signing_key.verifying_key().map_err(failed)?,
            encryption_key: *encryption_key.public_key(),
        };
        // Everything is written into a folder of another name first: keys appear complete or not at all.
        let new = self.path.join(format!("administrator.new.{}", std::process::id()));
        make_folder(&new)?;
        files::write_new_secret(&new.join("signing-key.p8"), pkcs8.expose())?;
        let key_bytes = encryption_key.to_bytes().map_err(hpke_failed)?;
        files::write_new_secret(&new.join("encryption-key"), key_bytes.expose())?;
        let public = to_json(&AdministratorFile::from(&administrator));
        files::write_new(&new.join("administrator.json"), public.as_bytes())?;
        // Renaming onto a folder that holds files fails, so a race ends with one administrator.
        fs::rename(&new, &folder).map_err(|_| HomeError::AdministratorExists { path: self.path.clone() })?;
        Ok(administrator)
    }

    /// Loads the administrator's keys.
    ///
    /// # Errors
    /// [`HomeError::NoAdministrator`], or what is wrong with a file.
    pub fn administrator(&self) -> Result<AdministratorKeys, HomeError> {
        let folder = self.administrator_folder();
        if !folder.exists() {
            return Err(HomeError::NoAdministrator { path: self.path.clone() });
        }
        let public_path = folder.join("administrator.json");
        let public = read_administrator(&public_path)?;
        let signing_path = folder.join("signing-key.p8");
        let bad_key = |path: &Path, reason: String| HomeError::BadKey { path: path.to_owned(), reason };
        let pkcs8 = files::read_secret(&signing_path, PKCS8_MAX)?;
        let signing_key = SigningKey::from_pkcs8(&pkcs8, &SystemRandom::new())
            .map_err(|error| bad_key(&signing_path, error.to_string()))?;
        let encryption_path = folder.join("encryption-key");
        let bytes = files::read_secret(&encryption_path, 48)?;
        let bytes = Secret::fill_with(|own| {
            let source = bytes.expose();
            (source.len() == own.len()).then(|| own.copy_from_slice(source)).ok_or(())
        })
        .map_err(|()| bad_key(&encryption_path, "must have 48 bytes".to_owned()))?;
        let encryption_key =
            PrivateKey::from_bytes(&bytes).map_err(|error| bad_key(&encryption_path, error.to_string()))?;
        if signing_key.verifying_key() != Ok(public.signing_key)
            || *encryption_key.public_key() != public.encryption_key
        {
            return Err(bad_key(&public_path, "does not belong to the private keys beside it".to_owned()));
        }
        Ok(AdministratorKeys { administrator: public, signing_key, encryption_key })
    }
}

/// Reads and verifies a signed manifest, or a chain of a manifest and its successors.
///
/// # Errors
/// A file that cannot be read, or the rule that the manifest breaks.
pub fn read_manifest(path: &Path) -> Result<VerifiedManifest, HomeError> {
    let bytes = files::read(path, <ManifestChain as cbor::Message>::MAX)?;
    let verified = match cbor::decode::<ManifestChain>(&bytes) {
        Ok(chain) => VerifiedManifest::verify_chain(chain.signed.iter().map(|signed| signed.as_slice())),
        Err(_) => VerifiedManifest::verify(&bytes),
    };
    verified.map_err(|source| {
        let guess = kind::guess(&bytes, Kind::SignedDocument);
        HomeError::Manifest { path: path.to_owned(), source, guess }
    })
}

/// Reads a root certificate from a PEM file.
///
/// # Errors
/// A file that cannot be read or is no root.
pub fn read_trust_root(path: &Path) -> Result<TrustRoot, HomeError> {
    let pem = files::read(path, files::FILE_MAX)?;
    let bad = |source| HomeError::BadTrustRoot { path: path.to_owned(), source, guess: kind::guess(&pem, Kind::Pem) };
    TrustRoot::emulated_pem(&pem).map_err(bad)
}

/// Reads the public part of an administrator, as `admin show --json` prints it.
///
/// # Errors
/// A file that cannot be read or does not belong together.
pub fn read_administrator(path: &Path) -> Result<Administrator, HomeError> {
    let bad = |reason: String| HomeError::BadKey { path: path.to_owned(), reason };
    let bytes = files::read(path, files::FILE_MAX)?;
    let file: AdministratorFile = serde_json::from_slice(&bytes).map_err(|error| {
        bad(format!(
            "{error}; expected what `holdfast admin show --json` prints{}",
            kind::guess(&bytes, Kind::Administrator)
        ))
    })?;
    let administrator =
        Administrator { name: file.name, signing_key: file.signing_key, encryption_key: file.encryption_key };
    if administrator.id() == file.id {
        Ok(administrator)
    } else {
        Err(bad("the id is not that of the signing key".to_owned()))
    }
}

/// JSON with a line end, for files and terminals.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Our own types have string keys and no failing serializers.
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}

fn make_folder(path: &Path) -> Result<(), HomeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| HomeError::Folder { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_load_again() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"));
        assert!(matches!(home.administrator(), Err(HomeError::NoAdministrator { .. })));
        let made = home.create_administrator("alice").unwrap();
        assert_eq!(home.administrator().unwrap().administrator, made);
        assert!(matches!(home.create_administrator("bob"), Err(HomeError::AdministratorExists { .. })));
        assert_eq!(read_administrator(&home.path().join("administrator/administrator.json")).unwrap(), made);
    }

    #[test]
    fn exchanged_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Home::at(folder.path().join("one")), Home::at(folder.path().join("two")));
        one.create_administrator("alice").unwrap();
        two.create_administrator("bob").unwrap();
        for file in ["signing-key.p8", "encryption-key"] {
            let (ours, theirs) =
                (one.path().join("administrator").join(file), two.path().join("administrator").join(file));
            let kept = fs::read(&ours).unwrap();
            fs::copy(&theirs, &ours).unwrap();
            assert!(matches!(one.administrator(), Err(HomeError::BadKey { .. })), "{file}");
            fs::write(&ours, kept).unwrap();
        }
        assert!(one.administrator().is_ok());
    }

    #[test]
    fn names_are_printable() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().to_owned());
        for name in ["", "a\nb", "\u{e9}", &"n".repeat(65)] {
            assert!(matches!(home.create_administrator(name), Err(HomeError::BadName)), "{name:?}");
        }
        assert!(matches!(home.key_store(None), Err(HomeError::NoKeyStore)));
    }
}
