//! Key stores that the administrator knows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_shared::attestation::{AWS_ROOT_SHA256, TrustRoot};
use holdfast_shared::cbor;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::VerifiedManifest;

use super::known::{self, KnownPolicy};
use super::{Home, HomeError, make_folder, read_manifest, read_trust_root};
use crate::files;

/// A key store that the administrator knows.
#[derive(Clone, Debug)]
pub struct KeyStore {
    /// Its manifest and its successors, verified.
    pub manifest: VerifiedManifest,
    /// The root under which its enclaves' evidence must verify.
    pub trust_root: TrustRoot,
    /// Its release policies as far as they are known here, by epoch; never empty, the manifest's is the first.
    policies: Vec<KnownPolicy>,
}

impl KeyStore {
    /// With the manifest's own release policy.
    #[must_use]
    pub fn new(manifest: VerifiedManifest, trust_root: TrustRoot) -> Self {
        let first = KnownPolicy::first(&manifest);
        Self { manifest, trust_root, policies: vec![first] }
    }

    /// The release policies that are known here, oldest first.
    #[must_use]
    pub fn policies(&self) -> &[KnownPolicy] {
        &self.policies
    }

    /// Takes release policies over that were signed by administrators; others, and those of known epochs, are left out. Says which
    /// are new.
    pub fn learn_policies<'a>(&mut self, signed: impl IntoIterator<Item = &'a [u8]>) -> Vec<KnownPolicy> {
        let mut learnt = Vec::new();
        for signed in signed {
            let Some(policy) = KnownPolicy::open(signed, &self.manifest) else { continue };
            let epoch = policy.policy.epoch;
            if let Err(place) = self.policies.binary_search_by_key(&epoch, |known| known.policy.epoch) {
                self.policies.insert(place, policy.clone());
                learnt.push(policy);
            }
        }
        learnt
    }
}

impl Home {
    pub(super) fn key_store_folder(&self, id: KeyStoreId) -> PathBuf {
        self.path.join("key-stores").join(id.to_string())
    }

    /// Where the newest block overlay of a key store is noted.
    pub(crate) fn overlay_file(&self, id: KeyStoreId) -> PathBuf {
        self.key_store_folder(id).join("overlay")
    }

    /// Adds a key store. `emulated_root` is the PEM file of the root, needed where the manifest trusts another than AWS's.
    ///
    /// # Errors
    /// [`HomeError::KeyStoreExists`], or what is wrong with the root or a file.
    pub fn add_key_store(
        &self,
        manifest: VerifiedManifest,
        emulated_root: Option<&Path>,
    ) -> Result<KeyStore, HomeError> {
        let wanted = manifest.manifest().release_policy.trust_root;
        let root = match emulated_root {
            None if wanted == AWS_ROOT_SHA256 => None,
            None => return Err(HomeError::TrustRootNeeded(hex::encode(wanted))),
            Some(path) => Some((files::read(path, files::FILE_MAX)?, read_trust_root(path)?, path)),
        };
        if let Some((_, root, path)) = &root
            && root.fingerprint() != wanted
        {
            let (found, wanted) = (hex::encode(root.fingerprint()), hex::encode(wanted));
            return Err(HomeError::OtherTrustRoot { path: (*path).to_owned(), found, wanted });
        }
        let folder = self.key_store_folder(manifest.id());
        if folder.join("manifest").exists() {
            return Err(HomeError::KeyStoreExists(manifest.id()));
        }
        make_folder(&folder)?;
        let trust_root = match root {
            Some((pem, root, _)) if !root.is_aws() => {
                let path = folder.join("trust-root.pem");
                // Left by an earlier attempt that stopped before the manifest was there.
                let _ = fs::remove_file(&path);
                files::write_new(&path, &pem)?;
                root
            }
            _ => TrustRoot::aws(),
        };
        if manifest.sequence() > 1 {
            self.write_chain(&manifest)?;
        }
        files::write_new(&folder.join("manifest"), manifest.signed_bytes())?;
        Ok(KeyStore::new(manifest, trust_root))
    }

    /// Takes over successors of a known manifest.
    ///
    /// # Errors
    /// [`HomeError::OtherChain`] when they do not continue what is known, or a file.
    pub fn continue_chain(&self, known: &VerifiedManifest, next: &VerifiedManifest) -> Result<(), HomeError> {
        if !known::continues(known, next) {
            return Err(HomeError::OtherChain(known.id()));
        }
        if next.sequence() == known.sequence() { Ok(()) } else { self.write_chain(next) }
    }

    fn write_chain(&self, manifest: &VerifiedManifest) -> Result<(), HomeError> {
        let chain = known::chain(manifest);
        Ok(files::replace(&self.key_store_folder(manifest.id()).join("chain"), &cbor::encode(&chain))?)
    }

    /// Every key store that is known here, by id.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn key_stores(&self) -> Result<Vec<KeyStore>, HomeError> {
        let path = self.path.join("key-stores");
        let failed = |source| HomeError::Folder { path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<KeyStoreId>().ok()));
        }
        ids.sort_unstable();
        ids.into_iter()
            .filter(|id| self.key_store_folder(*id).join("manifest").exists())
            .map(|id| self.load_key_store(id))
            .collect()
    }

    fn load_key_store(&self, id: KeyStoreId) -> Result<KeyStore, HomeError> {
        let folder = self.key_store_folder(id);
        let mut path = folder.join("chain");
        if !path.exists() {
            path = folder.join("manifest");
        }
        let manifest = read_manifest(&path)?;
        if manifest.id() != id {
            return Err(HomeError::OtherManifest { path });
        }
        let wanted = manifest.manifest().release_policy.trust_root;
        let trust_root = if wanted == AWS_ROOT_SHA256 {
            TrustRoot::aws()
        } else {
            let path = folder.join("trust-root.pem");
            let trust_root = read_trust_root(&path)?;
            if trust_root.fingerprint() != wanted {
                let (found, wanted) = (hex::encode(trust_root.fingerprint()), hex::encode(wanted));
                return Err(HomeError::OtherTrustRoot { path, found, wanted });
            }
            trust_root
        };
        let mut store = KeyStore::new(manifest, trust_root);
        let notes = self.policy_notes(id);
        store.learn_policies(notes.iter().map(Vec::as_slice));
        Ok(store)
    }

    /// The key store of this name or id; without one, the only one there is.
    ///
    /// # Errors
    /// [`HomeError::NoKeyStore`], [`HomeError::UnknownKeyStore`], [`HomeError::AmbiguousKeyStore`], or a file.
    pub fn key_store(&self, named: Option<&str>) -> Result<KeyStore, HomeError> {
        let mut known = self.key_stores()?;
        let describe = |stores: &[KeyStore]| {
            let describe = |store: &KeyStore| format!("{} ({})", store.manifest.manifest().name, store.manifest.id());
            stores.iter().map(describe).collect::<Vec<_>>().join(", ")
        };
        if known.is_empty() {
            return Err(HomeError::NoKeyStore);
        }
        let all = describe(&known);
        if let Some(named) = named {
            known.retain(|store| {
                store.manifest.manifest().name == named || store.manifest.id().to_string().eq_ignore_ascii_case(named)
            });
            if known.is_empty() {
                return Err(HomeError::UnknownKeyStore(named.to_owned(), all));
            }
        }
        let candidates = describe(&known);
        match (known.pop(), known.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(HomeError::AmbiguousKeyStore(candidates)),
        }
    }
}
