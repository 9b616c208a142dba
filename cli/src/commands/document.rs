//! `holdfast sign`, `holdfast send`: statements that several administrators sign before custodians take them.
//!
//! Manifests, block overlays and release policies are taken only with all the signatures that they need, so they travel between
//! administrators as a file. Guarantees: what a statement says is shown before it is signed; a signature is added only by an
//! administrator whose signature counts.

use core::fmt;
use std::path::{Path, PathBuf};

use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor::{self, Message};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::{Administrator, Manifest};
use holdfast_shared::policy::PolicyUpdate;
use holdfast_shared::signature::{Envelope, SignatureError};
use holdfast_shared::{labels, limits};
use ring::rand::SystemRandom;
use serde::Serialize;

use super::release_policy::PolicyLines;
use crate::files::{self, FileError};
use crate::home::{Home, HomeError, KeyStore};
use crate::kind::{self, Kind};
use crate::moment::format_ms;
use crate::output::printable;
use crate::session::SessionError;
use crate::words;

/// Why a statement was not signed or sent.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys or the key store.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Custodians.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// None of the statements that are signed.
    #[error("{path}: holds no manifest, block overlay or release policy that could be signed{guess}", path = path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it seems to be; empty or a part of a sentence.
        guess: String,
    },
    /// A successor manifest that does not continue what is known here.
    #[error("{path}: {reason}", path = path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The signatures on it.
    #[error("{path}: {source}", path = path.display())]
    Signature {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SignatureError,
    },
    /// Not one of those who sign it.
    #[error("the administrator {0} of this folder has no say in this; use the --home of one who has")]
    NoSay(String),
    /// Already signed.
    #[error("the administrator {0} has signed this already")]
    SignedAlready(String),
}

/// What is signed.
#[derive(Clone, Debug)]
pub enum Statement {
    /// A key store's first manifest.
    Manifest(Box<Manifest>),
    /// One that succeeds another.
    Successor(Box<Manifest>),
    /// What is blocked.
    Overlay(BlockOverlay),
    /// What may run.
    Policy(Box<PolicyUpdate>),
}

/// A statement, its signatures, and what it needs.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub statement: Statement,
    /// Its signatures.
    pub envelope: Envelope,
    /// The key store that it is about; none for a manifest that nobody here knows yet.
    pub store: Option<KeyStore>,
    /// Whose signatures count.
    pub signers: Vec<Administrator>,
    /// How many it needs.
    pub needed: usize,
}

/// A statement as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DocumentReport {
    /// manifest, successor manifest, block overlay or release policy.
    pub kind: &'static str,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Its name.
    pub key_store: String,
    /// What it says.
    pub says: Vec<String>,
    /// Signatures that it needs.
    pub needed: usize,
    /// Who signed.
    pub signed_by: Vec<String>,
    /// Who may sign besides.
    pub may_sign: Vec<String>,
    /// What to do next.
    pub next: String,
}

/// Reads a file.
///
/// # Errors
/// [`DocumentError`]; also when a signature on it is not valid.
pub fn read(home: &Home, path: &Path) -> Result<Document, DocumentError> {
    let bytes = files::read(path, limits::BLOCK_OVERLAY_MAX)?;
    let unknown = || DocumentError::Unknown { path: path.to_owned(), guess: kind::guess(&bytes, Kind::SignedDocument) };
    let envelope: Envelope = cbor::decode(&bytes).map_err(|_| unknown())?;
    let document = open(home, envelope).map_err(|error| match error {
        OpenError::Unknown => unknown(),
        OpenError::Home(error) => error.into(),
    })?;
    document.signed_by().map_err(|source| DocumentError::Signature { path: path.to_owned(), source })?;
    Ok(document)
}

/// A statement that was just signed.
///
/// # Errors
/// [`DocumentError`].
pub fn of(home: &Home, envelope: Envelope) -> Result<Document, DocumentError> {
    open(home, envelope).map_err(|error| match error {
        OpenError::Unknown => DocumentError::Unknown { path: PathBuf::new(), guess: String::new() },
        OpenError::Home(error) => error.into(),
    })
}

enum OpenError {
    Unknown,
    Home(HomeError),
}

fn open(home: &Home, envelope: Envelope) -> Result<Document, OpenError> {
    let payload = envelope.unverified_payload();
    let of_store = |id: KeyStoreId| home.key_store(Some(&id.to_string())).map_err(OpenError::Home);
    if let Some(manifest) = decoded::<Manifest>(payload) {
        if let Some(succession) = manifest.succession {
            let store = of_store(succession.key_store_id)?;
            let contents = store.manifest.manifest();
            let (signers, needed) = (contents.administrators.clone(), usize::from(contents.thresholds.custody));
            return Ok(Document {
                statement: Statement::Successor(manifest.into()),
                envelope,
                store: Some(store),
                signers,
                needed,
            });
        }
        let signers = manifest.administrators.clone();
        let needed = signers.len();
        return Ok(Document {
            statement: Statement::Manifest(manifest.into()),
            envelope,
            store: None,
            signers,
            needed,
        });
    }
    if let Some(overlay) = decoded::<BlockOverlay>(payload) {
        let store = of_store(overlay.key_store_id)?;
        let (signers, thresholds) = store.manifest.overlay_signers(overlay.epoch);
        // Whether it lifts a block, only the one before it tells.
        let lifts = home.known_overlay(&store).is_none_or(|known| known.lifts(&overlay));
        let needed = usize::from(if lifts { thresholds.block.max(thresholds.unblock) } else { thresholds.block });
        let signers = signers.to_vec();
        return Ok(Document { statement: Statement::Overlay(overlay), envelope, store: Some(store), signers, needed });
    }
    let Some(update) = decoded::<PolicyUpdate>(payload) else { return Err(OpenError::Unknown) };
    let store = of_store(update.key_store_id)?;
    let contents = store.manifest.manifest();
    let (signers, needed) = (contents.administrators.clone(), usize::from(contents.thresholds.custody));
    Ok(Document { statement: Statement::Policy(update.into()), envelope, store: Some(store), signers, needed })
}

fn decoded<T: Message>(payload: &[u8]) -> Option<T> {
    cbor::decode(payload).ok()
}

impl Document {
    const fn label(&self) -> &'static str {
        match self.statement {
            Statement::Manifest(_) | Statement::Successor(_) => labels::MANIFEST,
            Statement::Overlay(_) => labels::BLOCK,
            Statement::Policy(_) => labels::POLICY,
        }
    }

    /// Who signed, verified.
    ///
    /// # Errors
    /// [`SignatureError`] when one of the signatures is not valid or by somebody else.
    pub fn signed_by(&self) -> Result<Vec<&Administrator>, SignatureError> {
        let keys: Vec<_> = self.signers.iter().map(|administrator| administrator.signing_key).collect();
        let (_, signers) = self.envelope.open(self.label(), &keys, 1)?;
        let of = |fingerprint: &[u8; 32]| {
            self.signers.iter().find(|signer| signer.signing_key.fingerprint() == *fingerprint)
        };
        Ok(signers.iter().filter_map(of).collect())
    }

    /// Whether it has all its signatures.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.signed_by().is_ok_and(|signed| signed.len() >= self.needed)
    }

    /// Takes over the signatures of another copy.
    pub fn merge(&mut self, other: &Self) -> bool {
        self.envelope.merge(&other.envelope).is_some()
    }

    /// Adds the signature of this folder's administrator.
    ///
    /// # Errors
    /// [`DocumentError::NoSay`], [`DocumentError::SignedAlready`].
    pub fn sign(&mut self, home: &Home) -> Result<(), DocumentError> {
        let keys = home.administrator()?;
        let name = keys.administrator.name.clone();
        if !self.signers.contains(&keys.administrator) {
            return Err(DocumentError::NoSay(name));
        }
        let label = self.label();
        match self.envelope.add_signature(label, &keys.signing_key, &SystemRandom::new()) {
            Ok(()) => Ok(()),
            Err(SignatureError::DuplicateSigner) => Err(DocumentError::SignedAlready(name)),
            Err(error) => Err(SessionError::Signature(error).into()),
        }
    }

    /// For people.
    #[must_use]
    pub fn report(&self, path: &Path) -> DocumentReport {
        let signed: Vec<_> = self.signed_by().unwrap_or_default();
        let names = |administrators: &mut dyn Iterator<Item = &Administrator>| {
            administrators.map(|administrator| administrator.name.clone()).collect::<Vec<_>>()
        };
        let signed_by = names(&mut signed.iter().copied());
        let may_sign = names(&mut self.signers.iter().filter(|signer| !signed.contains(signer)));
        let file = crate::output::shell_quoted(&path.display().to_string());
        let complete = signed_by.len() >= self.needed;
        let missing = self.needed.saturating_sub(signed_by.len());
        let next = match &self.statement {
            _ if !complete => format!(
                "needs {} signatures, has {}: {missing} of {} run: holdfast sign {file}",
                self.needed,
                signed_by.len(),
                may_sign.join(", ")
            ),
            Statement::Manifest(_) => format!(
                "is complete: each administrator runs holdfast manifest add {file}, one of them holdfast manifest enrol {file}"
            ),
            Statement::Successor(_) => format!("is complete; run: holdfast manifest adopt {file}"),
            Statement::Overlay(_) | Statement::Policy(_) => format!("is complete; run: holdfast send {file}"),
        };
        let (kind, key_store_id, key_store, says) = self.contents();
        DocumentReport { kind, key_store_id, key_store, says, needed: self.needed, signed_by, may_sign, next }
    }

    fn contents(&self) -> (&'static str, KeyStoreId, String, Vec<String>) {
        // A first manifest's id is that of its bytes.
        let unknown = || (KeyStoreId(holdfast_shared::sha256(&[self.envelope.unverified_payload()])), String::new());
        let named = |store: &KeyStore| (store.manifest.id(), store.manifest.manifest().name.clone());
        let (id, name) = self.store.as_ref().map_or_else(unknown, named);
        match &self.statement {
            Statement::Manifest(manifest) => {
                let report = super::manifest::ManifestReport::new(id, manifest).to_string();
                ("manifest", id, manifest.name.clone(), report.lines().map(str::to_owned).collect())
            }
            Statement::Successor(_) => {
                let own = self.store.as_ref().map(|store| &store.manifest);
                let says = own.map(|own| words::changes(own, &cbor::encode(&self.envelope))).unwrap_or_default();
                ("successor manifest", id, name, says)
            }
            Statement::Overlay(overlay) => {
                let keys: Vec<_> = overlay.keys.iter().map(ToString::to_string).collect();
                let store =
                    if overlay.store { "the whole key store is BLOCKED" } else { "the key store is not blocked" };
                let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
                let says = vec![
                    store.to_owned(),
                    format!("blocked keys: {keys}; every other block is lifted"),
                    format!("epoch {}, made {}", overlay.epoch, format_ms(overlay.issued_ms)),
                ];
                ("block overlay", id, name, says)
            }
            Statement::Policy(update) => {
                let mut says: Vec<_> =
                    PolicyLines::from(&update.policy).to_string().lines().map(str::to_owned).collect();
                says.push(format!("made {}", format_ms(update.issued_ms)));
                ("release policy", id, name, says)
            }
        }
    }
}

impl fmt::Display for DocumentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {} {}", self.kind, printable(&self.key_store), self.key_store_id)?;
        self.says.iter().try_for_each(|line| writeln!(f, "  {}", printable(line)))?;
        let signed = if self.signed_by.is_empty() { "nobody".to_owned() } else { self.signed_by.join(", ") };
        writeln!(f, "signed by {}", printable(&signed))?;
        write!(f, "{}", printable(&self.next))
    }
}

/// Writes a statement for others to sign.
///
/// # Errors
/// [`FileError`].
pub fn write(path: &Path, envelope: &Envelope) -> Result<(), FileError> {
    files::write_new(path, &cbor::encode(envelope))
}

/// Replaces a statement by one with more signatures.
///
/// # Errors
/// [`FileError`].
pub fn rewrite(path: &Path, envelope: &Envelope) -> Result<(), FileError> {
    files::replace_public(path, &cbor::encode(envelope))
}

#[cfg(test)]
mod tests {
    use holdfast_shared::attestation::Measurements;
    use holdfast_shared::manifest::{Custodian, DerCertificate, Thresholds, VerifiedManifest};
    use holdfast_shared::xks::{HostName, PathPrefix};

    use super::super::manifest::{Settings, draft};
    use super::*;

    fn homes(folder: &Path) -> [Home; 3] {
        ["alice", "bob", "eve"].map(|name| {
            let home = Home::at(folder.join(name));
            home.create_administrator(name).unwrap();
            home
        })
    }

    fn manifest(alice: &Home, bob: &Home) -> Envelope {
        let administrator = bob.administrator().unwrap().administrator;
        let custodian = Custodian {
            name: "vault".to_owned(),
            signing_key: administrator.signing_key,
            encryption_key: administrator.encryption_key,
            address: "localhost:9443".to_owned(),
            tls_roots: vec![DerCertificate(vec![1])],
        };
        let pcr = [1; 48];
        let set = Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None };
        let settings = Settings {
            name: "payments".to_owned(),
            administrators: vec![administrator],
            custodians: vec![custodian],
            shares_needed: 1,
            hostile_tolerated: 0,
            kms_share: None,
            host_name: HostName::parse("xks.example.com").unwrap(),
            path_prefix: PathPrefix::parse("").unwrap(),
            measurements: vec![set],
            emulated_root: None,
            lease_ms: 60_000,
            thresholds: Thresholds { unblock: 2, ..Thresholds::ONE },
        };
        draft(alice, &settings).unwrap().envelope
    }

    #[test]
    fn a_manifest_is_complete_with_everybodys_signature_and_takes_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let [alice, bob, eve] = homes(folder.path());
        let file = folder.path().join("payments.manifest");
        write(&file, &manifest(&alice, &bob)).unwrap();
        let mut document = read(&bob, &file).unwrap();
        assert!(!document.is_complete() && document.report(&file).next.contains("needs 2 signatures, has 1: 1 of bob"));
        assert!(matches!(document.sign(&alice), Err(DocumentError::SignedAlready(name)) if name == "alice"));
        assert!(matches!(document.sign(&eve), Err(DocumentError::NoSay(name)) if name == "eve"));
        document.sign(&bob).unwrap();
        assert!(document.is_complete());
        rewrite(&file, &document.envelope).unwrap();
        let verified = VerifiedManifest::verify(&files::read(&file, limits::MANIFEST_MAX).unwrap()).unwrap();
        let report = read(&eve, &file).unwrap().report(&file);
        assert_eq!(
            (report.key_store_id, report.signed_by),
            (verified.id(), vec!["alice".to_owned(), "bob".to_owned()])
        );

        // A copy brings its signatures; something else does not.
        let mut copy = read(&alice, &file).unwrap();
        assert!(copy.merge(&document));
        assert!(!copy.merge(&of(&alice, manifest(&alice, &bob)).unwrap()));
    }

    #[test]
    fn what_was_touched_or_is_no_statement_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [alice, bob, _] = homes(folder.path());
        let file = folder.path().join("file");
        let mut bytes = cbor::encode(&manifest(&alice, &bob)).to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(read(&bob, &file), Err(DocumentError::Signature { .. })));
        std::fs::write(&file, b"nothing").unwrap();
        assert!(matches!(read(&bob, &file), Err(DocumentError::Unknown { .. })));
    }

    #[test]
    fn an_overlay_needs_as_many_signatures_as_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let [alice, bob, _] = homes(folder.path());
        let mut first = of(&alice, manifest(&alice, &bob)).unwrap();
        first.sign(&bob).unwrap();
        let verified = VerifiedManifest::verify(&cbor::encode(&first.envelope)).unwrap();
        let id = verified.id();
        alice.add_key_store(verified, None).unwrap();
        let overlay = |epoch: u64, store: bool| BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: id,
            epoch,
            store,
            keys: Vec::new(),
            issued_ms: 0,
        };
        let keys = alice.administrator().unwrap();
        let signed = |overlay: &BlockOverlay| {
            holdfast_shared::block::sign(overlay, &keys.signing_key, &SystemRandom::new()).unwrap()
        };
        let needed = |overlay: &BlockOverlay| of(&alice, signed(overlay)).unwrap().needed;
        assert_eq!(needed(&overlay(1, true)), 2, "nothing is known of what is blocked");
        files::replace(&alice.overlay_file(id), &cbor::encode(&signed(&overlay(1, true)))).unwrap();
        assert_eq!(needed(&overlay(2, true)), 1, "lifts nothing");
        assert_eq!(needed(&overlay(2, false)), 2, "lifts");
    }
}
