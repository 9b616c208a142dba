//! What the operator's tool accepts as evidence, against documents of the emulated NSM: each rule broken once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use holdfast_cli::commands::manifest::create;
use holdfast_cli::evidence::{EVIDENCE_AGE_MAX_MS, EvidenceError, of_lease, of_result};
use holdfast_cli::home::{Home, HomeError, KeyStore};
use holdfast_cli::moment::now_ms;
use holdfast_devkit::nsm::{Emulator, SettingsChange};
use holdfast_devkit::up::configurations::measurements;
use holdfast_shared::attestation::AppraisalError;
use holdfast_shared::cbor;
use holdfast_shared::command::ResultUserData;
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::{BootId, CommandId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::query::LeaseInfo;
use holdfast_shared::release::ReleaseUserData;

#[path = "emulated/store.rs"]
mod emulated;

use emulated::{CONFIGURATION, OTHER_CONFIGURATION, document, emulator, manifest_settings};

const COMMAND: CommandId = CommandId([7; 16]);
const HOUR_MS: i64 = 3_600_000;

/// A key store whose manifest trusts an emulator, and the emulator.
struct World {
    folder: tempfile::TempDir,
    emulator: Emulator,
    store: KeyStore,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let nsm = folder.path().join("nsm");
    let emulator = emulator(&nsm);
    let home = Home::at(folder.path().join("home"));
    let alice = home.create_administrator("alice").unwrap();
    let settings = manifest_settings(alice.signing_key, alice.encryption_key, &nsm.join("root.pem"));
    let store = create(&home, &settings).unwrap();
    World { folder, emulator, store }
}

fn user_data(store: &KeyStore, outcome: &[u8]) -> Vec<u8> {
    cbor::encode(&ResultUserData::new(store.manifest.id(), COMMAND, outcome)).to_vec()
}

#[test]
fn a_result_is_believed_only_with_a_document_over_this_outcome_of_this_command() {
    let World { folder, emulator: nsm, store } = world();
    let now = now_ms();
    let nonce = COMMAND.as_bytes();
    let good = document(&nsm, CONFIGURATION, nonce, &user_data(&store, b"outcome"), None);
    let check = |document: &[u8], outcome: &[u8], command_id| of_result(document, outcome, &store, command_id, 0, now);

    let evidence = check(&good, b"outcome", COMMAND).unwrap();
    assert!(evidence.emulated && evidence.summary().contains("EMULATED"));
    assert_eq!(evidence.measurements, measurements(CONFIGURATION));

    let user_data_wrong = EvidenceError::Appraise(AppraisalError::UserData);
    assert_eq!(check(&good, b"another outcome", COMMAND).unwrap_err(), user_data_wrong);
    let nonce_wrong = EvidenceError::Appraise(AppraisalError::Nonce);
    assert_eq!(check(&good, b"outcome", CommandId([8; 16])).unwrap_err(), nonce_wrong);

    let foreign = ResultUserData::new(KeyStoreId([1; 32]), COMMAND, b"outcome");
    let of_other_store = document(&nsm, CONFIGURATION, nonce, &cbor::encode(&foreign), None);
    assert_eq!(check(&of_other_store, b"outcome", COMMAND).unwrap_err(), user_data_wrong);

    let other_configuration = document(&nsm, OTHER_CONFIGURATION, nonce, &user_data(&store, b"outcome"), None);
    let measured_wrong = EvidenceError::Appraise(AppraisalError::Measurements);
    assert_eq!(check(&other_configuration, b"outcome", COMMAND).unwrap_err(), measured_wrong);

    let stranger = emulator(&folder.path().join("other-nsm"));
    let other_root = document(&stranger, CONFIGURATION, nonce, &user_data(&store, b"outcome"), None);
    assert!(matches!(check(&other_root, b"outcome", COMMAND).unwrap_err(), EvidenceError::Verify(_)));

    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(check(&flipped, b"outcome", COMMAND).unwrap_err(), EvidenceError::Verify(_)));
    assert!(matches!(check(b"", b"outcome", COMMAND).unwrap_err(), EvidenceError::Parse(_)));
}

#[test]
fn an_old_result_is_believed_as_of_its_own_time_within_what_its_use_allows() {
    let World { emulator: nsm, store, folder: _folder } = world();
    let at = |offset_ms: i64| {
        nsm.change(SettingsChange { time_offset_ms: Some(offset_ms), ..SettingsChange::default() }).unwrap();
        document(&nsm, CONFIGURATION, COMMAND.as_bytes(), &user_data(&store, b"outcome"), None)
    };
    let check = |document: &[u8], max_age_ms| {
        of_result(document, b"outcome", &store, COMMAND, max_age_ms, now_ms()).map(|_| ())
    };
    let stale = Err(EvidenceError::Appraise(AppraisalError::Stale));
    let future = Err(EvidenceError::Appraise(AppraisalError::Future));
    // Its certificates are over after three hours; a ceremony's result is opened weeks later.
    let weeks_old = at(-24 * 30 * HOUR_MS);
    assert_eq!(check(&weeks_old, EVIDENCE_AGE_MAX_MS), Ok(()));
    assert_eq!(check(&weeks_old, 60_000), stale);
    assert_eq!(check(&at(-24 * 400 * HOUR_MS), EVIDENCE_AGE_MAX_MS), stale);
    assert_eq!(check(&at(HOUR_MS), EVIDENCE_AGE_MAX_MS), future);
}

#[test]
fn a_lease_gives_a_key_only_if_its_document_was_made_for_it() {
    let World { emulator: nsm, store, folder: _folder } = world();
    let custodian_id = store.manifest.home_custodian().unwrap().id();
    let key = PrivateKey::generate().unwrap().public_key().0;
    let said = |label: &str, key_store_id, custodian_id, boot_id| ReleaseUserData {
        label: label.to_owned(),
        key_store_id,
        custodian_id,
        boot_id,
        audit_public_key: [0; 32],
    };
    let id = store.manifest.id();
    let boot = BootId([3; 16]);
    let check = |user_data: &ReleaseUserData, key: Option<&[u8]>| {
        let lease = LeaseInfo {
            lease_id: LeaseId([1; 16]),
            boot_id: boot,
            module_id: "as the custodian says".to_owned(),
            measurements: measurements(CONFIGURATION),
            granted_ms: 0,
            expires_ms: 0,
            seen_ms: 0,
            document: document(&nsm, CONFIGURATION, &[9; 32], &cbor::encode(user_data), key),
            obeys: None,
        };
        of_lease(&lease, &store, custodian_id, now_ms()).map(|(_, key)| key.0)
    };
    assert_eq!(check(&said(labels::ATTEST_RELEASE, id, custodian_id, boot), Some(&key)), Ok(key));
    let elsewhere = [
        said(labels::ATTEST_RELEASE, KeyStoreId([1; 32]), custodian_id, boot),
        said(labels::ATTEST_RELEASE, id, CustodianId([1; 32]), boot),
        said(labels::ATTEST_RELEASE, id, custodian_id, BootId([4; 16])),
    ];
    for user_data in elsewhere {
        assert_eq!(check(&user_data, Some(&key)), Err(EvidenceError::Elsewhere), "{user_data:?}");
    }
    let other_purpose = check(&said(labels::ATTEST_RESULT, id, custodian_id, boot), Some(&key));
    assert!(matches!(other_purpose, Err(EvidenceError::UserData(_))), "{other_purpose:?}");
    let good = said(labels::ATTEST_RELEASE, id, custodian_id, boot);
    assert_eq!(check(&good, Some(&key[1..])), Err(EvidenceError::PublicKey));
    assert_eq!(check(&good, None), Err(EvidenceError::Appraise(AppraisalError::PublicKey)));
}

#[test]
fn a_manifest_that_trusts_an_emulator_is_taken_over_only_with_that_root() {
    let World { folder, store, .. } = world();
    let path = folder.path().join("store.manifest");
    std::fs::write(&path, store.manifest.signed_bytes()).unwrap();
    emulator(&folder.path().join("other-nsm"));
    let (right, wrong) = (folder.path().join("nsm/root.pem"), folder.path().join("other-nsm/root.pem"));
    let home = Home::at(folder.path().join("second-home"));
    let add = |root: Option<&Path>| holdfast_cli::commands::manifest::add(&home, &path, root).map(|_| ());
    assert!(matches!(add(None), Err(HomeError::TrustRootNeeded(_))));
    assert!(matches!(add(Some(&wrong)), Err(HomeError::OtherTrustRoot { .. })));
    assert!(add(Some(&right)).is_ok());
    assert!(matches!(add(Some(&right)), Err(HomeError::KeyStoreExists(_))));
    // Somebody exchanges the root in the folder: it is not that of the manifest.
    let kept = home.path().join("key-stores").join(store.manifest.id().to_string()).join("trust-root.pem");
    std::fs::copy(&wrong, kept).unwrap();
    assert!(matches!(home.key_store(None), Err(HomeError::OtherTrustRoot { .. })));
}
