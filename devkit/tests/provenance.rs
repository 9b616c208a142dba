//! What the operator's tool accepts as a key store's provenance, against documents of the emulated NSM: each link broken once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_cli::commands;
use holdfast_cli::commands::manifest::{Settings as ManifestSettings, create, draft};
use holdfast_cli::commands::provenance::{ProvenanceFile, ProvenanceReport, ShareOrigin, Version, verify};
use holdfast_cli::home::{AdministratorKeys, Home, KeyStore};
use holdfast_cli::moment::now_ms;
use holdfast_devkit::nsm::Emulator;
use holdfast_devkit::up::configurations::measurements;
use holdfast_shared::attestation::TrustRoot;
use holdfast_shared::command::{self, Action, Command, Precondition};
use holdfast_shared::external_key::KeyUsage;
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId};
use holdfast_shared::manifest::{AcceptedImage, ManifestId, ReleasePolicy, Thresholds, VerifiedManifest};
use holdfast_shared::policy::{self, PolicyUpdate};
use holdfast_shared::provenance::{VersionUserData, share_set_sha256};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::{Commitment, ReleaseUserData, ShareSet};
use holdfast_shared::signature::SigningKey;
use holdfast_shared::{cbor, labels};
use ring::rand::SystemRandom;
use tempfile::TempDir;

#[path = "emulated/store.rs"]
mod emulated;

use emulated::{CONFIGURATION, OTHER_CONFIGURATION, document, emulator, manifest_settings};

const SEED: CommandId = CommandId([0xc0; 16]);

struct World {
    _folder: TempDir,
    emulator: Emulator,
    home_key: SigningKey,
    keys: AdministratorKeys,
    store: KeyStore,
    set: ShareSet,
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate(&SystemRandom::new()).unwrap(), &SystemRandom::new()).unwrap()
}

fn world() -> World {
    world_where(false)
}

/// With one administrator, or with two who order keys together.
fn world_where(two_must_sign: bool) -> World {
    let folder = tempfile::tempdir().unwrap();
    let nsm = folder.path().join("nsm");
    let emulator = emulator(&nsm);
    let home = Home::at(folder.path().join("home"));
    home.create_administrator("alice").unwrap();
    let home_key = key();
    let encryption_key = *PrivateKey::generate().unwrap().public_key();
    let settings = manifest_settings(home_key.verifying_key().unwrap(), encryption_key, &nsm.join("root.pem"));
    let store =
        if two_must_sign { made_by_two(&home, folder.path(), settings) } else { create(&home, &settings).unwrap() };
    let commitments = vec![Commitment([5; 32])];
    let set = ShareSet { generation: 1, shares_needed: 1, commitments, kms_ciphertext: None };
    World { _folder: folder, emulator, home_key, keys: home.administrator().unwrap(), store, set }
}

fn made_by_two(alice: &Home, folder: &Path, settings: ManifestSettings) -> KeyStore {
    let bob = Home::at(folder.join("bob"));
    let administrators = vec![bob.create_administrator("bob").unwrap()];
    let thresholds = Thresholds { keys: 2, ..Thresholds::ONE };
    let root = settings.emulated_root.clone();
    let draft = draft(alice, &ManifestSettings { administrators, thresholds, ..settings }).unwrap();
    let mut document = commands::document::of(alice, draft.envelope).unwrap();
    document.sign(&bob).unwrap();
    let manifest = VerifiedManifest::verify(&cbor::encode(&document.envelope)).unwrap();
    alice.add_key_store(manifest, root.as_deref()).unwrap()
}

/// How one version differs from an honest one.
#[derive(Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one lie")]
struct Fault {
    version: Option<u64>,
    previous: Option<u8>,
    blob: Option<u8>,
    said_blob: Option<u8>,
    other_image: bool,
    other_home: bool,
    stranger: bool,
    other_key_store: bool,
    unordered: bool,
    manifest: Option<ManifestId>,
}

impl World {
    fn command(&self, signer: &SigningKey, number: u8) -> Vec<u8> {
        let mut id = SEED.0;
        id[15] = number;
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: self.store.manifest.id(),
            command_id: CommandId(id),
            issued_ms: 1,
            expires_ms: 2,
            precondition: Precondition::None,
            action: Action::CreateKey {
                id: "payments-1".parse().unwrap(),
                usage: KeyUsage { encrypt: true, decrypt: true },
            },
        };
        cbor::encode(&command::sign(&command, signer, &SystemRandom::new()).unwrap()).to_vec()
    }

    fn version(&self, number: u64, fault: &Fault) -> Version {
        let byte = u8::try_from(number).unwrap();
        let version = fault.version.unwrap_or(number);
        let id = self.store.manifest.id();
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: id,
            version,
            blob_id: BlobId([fault.blob.unwrap_or(byte); 32]),
            previous: (version > 1).then_some(BlobId([fault.previous.unwrap_or(byte - 1); 32])),
            recorded_ms: now_ms(),
        };
        let stranger = key();
        let signer = if fault.stranger { &stranger } else { &self.keys.signing_key };
        let commands = if number > 1 { vec![self.command(signer, byte)] } else { Vec::new() };
        let named: Vec<_> = commands.iter().map(|signed| command::claimed_id(signed).unwrap()).collect();
        let said = VersionUserData {
            label: labels::ATTEST_VERSION.to_owned(),
            key_store_id: if fault.other_key_store { KeyStoreId([9; 32]) } else { id },
            version: entry.version,
            blob_id: fault.said_blob.map_or(entry.blob_id, |byte| BlobId([byte; 32])),
            previous: entry.previous,
            share_set_sha256: share_set_sha256(&self.set),
            manifest: fault.manifest.unwrap_or(self.store.manifest.manifest_id()),
            commands: if fault.unordered { Vec::new() } else { named },
        };
        let configuration = if fault.other_image { OTHER_CONFIGURATION } else { CONFIGURATION };
        let evidence = document(&self.emulator, configuration, &entry.blob_id.0, &cbor::encode(&said), None);
        let other = key();
        let home = if fault.other_home { &other } else { &self.home_key };
        Version {
            entry: STANDARD.encode(register::sign(&entry, home, &SystemRandom::new()).unwrap()),
            committed: true,
            evidence: STANDARD.encode(evidence),
            commands: commands.iter().map(|command| STANDARD.encode(command)).collect(),
        }
    }

    fn share(&self, key_store_id: KeyStoreId) -> ShareOrigin {
        let custodian_id = self.store.manifest.home_custodian().unwrap().id();
        let said = ReleaseUserData {
            label: labels::ATTEST_RELEASE.to_owned(),
            key_store_id,
            custodian_id,
            boot_id: BootId([3; 16]),
            audit_public_key: [0; 32],
        };
        let document = document(&self.emulator, CONFIGURATION, &[7; 32], &cbor::encode(&said), Some(&[4; 97]));
        ShareOrigin {
            custodian_id,
            deposited_ms: now_ms(),
            set: STANDARD.encode(&*cbor::encode(&self.set)),
            document: STANDARD.encode(document),
        }
    }

    fn file(&self, faulty: u64, fault: &Fault) -> ProvenanceFile {
        let honest = Fault::default();
        let versions = (1..=4).map(|number| self.version(number, if number == faulty { fault } else { &honest }));
        ProvenanceFile {
            format: "holdfast provenance v1".to_owned(),
            key_store_id: self.store.manifest.id(),
            exported_ms: 0,
            manifests: vec![STANDARD.encode(self.store.manifest.signed_bytes())],
            policies: Vec::new(),
            shares: vec![self.share(self.store.manifest.id())],
            versions: versions.collect(),
        }
    }

    fn judge(&self, file: &ProvenanceFile) -> ProvenanceReport {
        verify(&serde_json::to_vec(file).unwrap(), &self.store.trust_root, Some(self.store.manifest.id()))
    }

    fn policy(&self, epoch: u64, issued_ms: u64, images: Vec<AcceptedImage>, signer: &SigningKey) -> String {
        let first = &self.store.manifest.manifest().release_policy;
        let update = PolicyUpdate {
            label: labels::POLICY.to_owned(),
            key_store_id: self.store.manifest.id(),
            policy: ReleasePolicy { epoch, images, ..first.clone() },
            issued_ms,
        };
        STANDARD.encode(&*cbor::encode(&policy::sign(&update, signer, &SystemRandom::new()).unwrap()))
    }
}

fn all_breaks(report: &ProvenanceReport) -> String {
    let of_versions = report
        .versions
        .iter()
        .flat_map(|version| version.breaks.iter().map(|text| format!("{}: {text}", version.version)));
    report.breaks.iter().cloned().chain(of_versions).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_whole_chain_verifies_and_says_who_ordered_what() {
    let world = world();
    let report = world.judge(&world.file(0, &Fault::default()));
    assert!(report.verified, "{}", all_breaks(&report));
    assert!(report.emulated_root && report.to_string().contains("EMULATED"));
    assert_eq!(report.versions.len(), 4);
    let ordered = &report.versions[1].commands[0];
    assert_eq!(
        (ordered.order.as_deref(), ordered.signed_by.as_slice()),
        (Some("create key payments-1 for ENCRYPT,DECRYPT"), &["alice".to_owned()][..])
    );
    // Nobody needs the folder: another root, another key store, are named.
    let bytes = serde_json::to_vec(&world.file(0, &Fault::default())).unwrap();
    assert!(all_breaks(&verify(&bytes, &TrustRoot::aws(), None)).contains("trusts the root"));
    let other = verify(&bytes, &world.store.trust_root, Some(KeyStoreId([1; 32])));
    assert!(all_breaks(&other).contains("not of the one that was expected"));
}

#[test]
fn each_broken_link_is_named_at_its_version() {
    let world = world();
    let none = Fault::default;
    let table = [
        ("3: does not follow version 2", Fault { previous: Some(7), ..none() }),
        ("4: does not follow version 3", Fault { blob: Some(9), ..none() }),
        ("3: the enclave vouches for another version", Fault { said_blob: Some(9), ..none() }),
        ("3: the enclave vouches for another version", Fault { other_key_store: true, ..none() }),
        ("3: no accepted enclave vouches for it", Fault { other_image: true, ..none() }),
        ("3: the entry is not the home custodian's", Fault { other_home: true, ..none() }),
        ("3: the command c0", Fault { stranger: true, ..none() }),
        ("3: the custodian names a command that the enclave does not", Fault { unordered: true, ..none() }),
        (
            "3: the enclave names manifest 2",
            Fault { manifest: Some(ManifestId { sequence: 2, digest: [2; 32] }), ..none() },
        ),
        (
            "3: the enclave names another manifest 1",
            Fault { manifest: Some(ManifestId { sequence: 1, digest: [2; 32] }), ..none() },
        ),
        ("2: comes after version 2", Fault { version: Some(2), ..none() }),
    ];
    for (expected, fault) in table {
        let report = world.judge(&world.file(3, &fault));
        assert!(!report.verified, "{expected}");
        assert!(all_breaks(&report).contains(expected), "{expected}:\n{}", all_breaks(&report));
    }
}

#[test]
fn a_command_that_too_few_signed_breaks_the_chain() {
    let world = world_where(true);
    let report = world.judge(&world.file(0, &Fault::default()));
    assert!(!report.verified);
    let breaks = all_breaks(&report);
    assert!(breaks.contains("2: the command c0") && breaks.contains("needed 2 signatures and has 1"), "{breaks}");
    assert!(!breaks.contains("1: "), "the ceremony is nobody's order: {breaks}");
}

#[test]
fn what_is_missing_is_named() {
    let world = world();
    let whole = world.file(0, &Fault::default());
    let changed = |change: &dyn Fn(&mut ProvenanceFile)| {
        let mut file = whole.clone();
        change(&mut file);
        let report = world.judge(&file);
        assert!(!report.verified);
        all_breaks(&report)
    };
    let gap = changed(&|file| drop(file.versions.remove(2)));
    assert!(gap.contains("4: versions 3 to 3 are missing"), "{gap}");
    let headless = changed(&|file| drop(file.versions.remove(0)));
    assert!(headless.contains("begins with version 2"), "{headless}");
    let empty = changed(&|file| file.versions.clear());
    assert!(empty.contains("no version"), "{empty}");
    let shareless = changed(&|file| file.shares.clear());
    assert!(shareless.contains("no share of the newest version"), "{shareless}");
    let foreign = changed(&|file| file.shares = vec![world.share(KeyStoreId([9; 32]))]);
    assert!(foreign.contains("the share of vault"), "{foreign}");
    let unsigned = changed(&|file| file.policies = vec![world.policy(2, 0, vec![image()], &key())]);
    assert!(unsigned.contains("release policy 1 is not signed"), "{unsigned}");
    // A command that is not on record is a gap in the record, not in the chain.
    let mut forgotten = whole.clone();
    forgotten.versions[2].commands.clear();
    let report = world.judge(&forgotten);
    assert!(report.verified && report.to_string().contains("not on record"), "{report}");
}

fn image() -> AcceptedImage {
    AcceptedImage::from(measurements(OTHER_CONFIGURATION))
}

#[test]
fn evidence_is_judged_by_the_policy_of_its_own_time() {
    let world = world();
    let hour_ms = 3_600_000;
    let fault = Fault { other_image: true, ..Fault::default() };
    let own = AcceptedImage::from(measurements(CONFIGURATION));
    let with = |issued_ms: u64, images: Vec<AcceptedImage>| {
        let mut file = world.file(3, &fault);
        file.policies = vec![world.policy(2, issued_ms, images, &world.keys.signing_key)];
        world.judge(&file)
    };
    let before = with(now_ms() - hour_ms, vec![own.clone(), image()]);
    assert!(before.verified, "accepted since an hour:\n{}", all_breaks(&before));
    let later = with(now_ms() + hour_ms, vec![own.clone(), image()]);
    assert!(all_breaks(&later).contains("3: no accepted enclave"), "accepted only in an hour");
    let sunset = AcceptedImage { sunset_ms: Some(now_ms() - hour_ms), ..image() };
    let over = with(now_ms() - 2 * hour_ms, vec![own, sunset]);
    assert!(all_breaks(&over).contains("3: no accepted enclave"), "its end had come");
    // What was accepted before a policy that names only others is refused afterwards.
    let only_other = with(now_ms() - hour_ms, vec![image()]);
    assert!(all_breaks(&only_other).contains("1: no accepted enclave") && !all_breaks(&only_other).contains("3: no"));
}
