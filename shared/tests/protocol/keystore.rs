//! Sealed key stores: only the registered blob opens, and only whole.

use holdfast_shared::cbor;
use holdfast_shared::external_key::LegacyProfile;
use holdfast_shared::ids::{BlobId, KeyStoreId};
use holdfast_shared::keystore::{
    Body, ClientAuthentication, CredentialRecord, KeyStoreError, OpenedKeyStore, Place, Quota, SealedKeyStore, blob_id,
    open, seal,
};
use holdfast_shared::labels;
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::secrets::{Secret, SecretBytes};

use crate::fixture::{self, Party, rng};

/// Breaks one rule.
type Change = fn(&mut Body);

const ID: KeyStoreId = KeyStoreId([1; 32]);

fn root() -> Secret<32> {
    Secret::take(&mut [4; 32])
}

fn body() -> Body {
    fixture::body(Party::new().administrator("alice"))
}

fn clients(authorities: usize, length: usize, names: &[&str]) -> ClientAuthentication {
    ClientAuthentication {
        authorities: vec![DerCertificate(vec![7; length]); authorities],
        subject_common_names: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn sealed(version: u64, previous: Option<BlobId>) -> SealedKeyStore {
    seal(&root(), &Place { key_store_id: ID, version, previous, generation: 1 }, &body(), &rng()).unwrap()
}

fn entry(version: u64, blob_id: BlobId, previous: Option<BlobId>) -> RegisterEntry {
    RegisterEntry { label: labels::REGISTER.to_owned(), key_store_id: ID, version, blob_id, previous, recorded_ms: 5 }
}

fn refusal(result: Result<OpenedKeyStore, KeyStoreError>) -> KeyStoreError {
    result.map(|_| ()).unwrap_err()
}

#[test]
fn what_is_sealed_opens_as_it_was() {
    let body = fixture::body(Party::new().administrator("alice"));
    let place = Place { key_store_id: ID, version: 1, previous: None, generation: 1 };
    let blob = seal(&root(), &place, &body, &rng()).unwrap();
    let opened = open(&root(), &entry(1, blob.id, None), &blob.bytes).unwrap();
    assert_eq!(opened.body, body);
    assert_eq!((opened.header.version, opened.header.previous, opened.id), (1, None, blob.id));
}

#[test]
fn two_blobs_of_one_version_differ_and_the_losers_is_refused() {
    let first = sealed(1, None);
    let (winner, loser) = (sealed(2, Some(first.id)), sealed(2, Some(first.id)));
    assert_ne!(winner.id, loser.id);
    let registered = entry(2, winner.id, Some(first.id));
    open(&root(), &registered, &winner.bytes).unwrap();
    let not_registered = KeyStoreError::NotRegistered { version: 2 };
    assert_eq!(refusal(open(&root(), &registered, &loser.bytes)), not_registered);
    assert_eq!(refusal(open(&root(), &registered, &first.bytes)), not_registered, "an old blob");
}

#[test]
fn a_blob_opens_only_in_its_place_under_its_root() {
    let first = sealed(1, None);
    let blob = sealed(2, Some(first.id));
    let not = |version| KeyStoreError::NotRegistered { version };
    assert_eq!(refusal(open(&root(), &entry(3, blob.id, Some(first.id)), &blob.bytes)), not(3));
    assert_eq!(refusal(open(&root(), &entry(2, blob.id, Some(BlobId([0; 32]))), &blob.bytes)), not(2));
    let mut elsewhere = entry(2, blob.id, Some(first.id));
    elsewhere.key_store_id = KeyStoreId([2; 32]);
    assert_eq!(refusal(open(&root(), &elsewhere, &blob.bytes)), not(2));
    let other_root = Secret::take(&mut [5; 32]);
    assert_eq!(refusal(open(&other_root, &entry(2, blob.id, Some(first.id)), &blob.bytes)), KeyStoreError::OpenFailed);
}

#[test]
fn every_changed_byte_is_refused_even_if_the_register_named_it() {
    let blob = sealed(1, None);
    for index in 0..blob.bytes.len() {
        let mut bad = blob.bytes.clone();
        bad[index] ^= 1;
        // The worst case: a hostile custodian registers the changed blob.
        let result = open(&root(), &entry(1, blob_id(&bad), None), &bad);
        assert!(result.is_err(), "byte {index}");
    }
}

#[test]
fn a_body_that_breaks_a_rule_is_neither_sealed_nor_opened() {
    let place = Place { key_store_id: ID, version: 1, previous: None, generation: 1 };
    let table: &[(&str, Change)] = &[
        ("sorted", |b| b.external_keys.reverse()),
        ("sorted", |b| b.external_keys.push(fixture::key_record("b", 1))),
        ("versions numbered upwards", |b| b.external_keys[0].versions.clear()),
        ("versions numbered upwards", |b| b.external_keys[1].versions.reverse()),
        ("versions numbered upwards", |b| b.external_keys[0].versions[0].number = 0),
        ("versions numbered upwards", |b| b.external_keys[0].versions[0].number = 1 << 24),
        ("newest version", |b| b.external_keys[1].versions[2].destroy()),
        ("legacy profile", |b| {
            b.external_keys[1].versions[0].destroy();
            b.external_keys[1].versions[0].legacy = Some(LegacyProfile::AwsSample);
        }),
        ("at most one version", |b| {
            b.external_keys[1].versions.iter_mut().for_each(|v| v.legacy = Some(LegacyProfile::AwsSample));
        }),
        ("a quota has", |b| b.quota = Some(Quota { requests_per_second: 0, burst: 1 })),
        ("a quota has", |b| b.quota = Some(Quota { requests_per_second: 1, burst: 0 })),
        ("a quota has", |b| b.quota = Some(Quota { requests_per_second: 1_000_001, burst: 1 })),
        ("a quota has", |b| b.quota = Some(Quota { requests_per_second: 1, burst: 1_000_001 })),
        ("1 to 8 authorities", |b| b.client_authentication = Some(clients(0, 40, &["a"]))),
        ("1 to 8 authorities", |b| b.client_authentication = Some(clients(9, 40, &["a"]))),
        ("1 to 8 authorities", |b| b.client_authentication = Some(clients(1, 8193, &["a"]))),
        ("subject common names", |b| b.client_authentication = Some(clients(1, 40, &[]))),
        ("subject common names", |b| b.client_authentication = Some(clients(1, 40, &[""]))),
        ("subject common names", |b| b.client_authentication = Some(clients(1, 40, &["\u{e9}"]))),
        ("subject common names", |b| b.client_authentication = Some(clients(1, 40, &["a\n"]))),
        ("subject common names", |b| b.client_authentication = Some(clients(1, 40, &[&"a".repeat(65)]))),
        ("subject common names", |b| b.client_authentication = Some(clients(1, 40, &["a"; 9]))),
        ("chain is too long", |b| b.tls.chain = vec![DerCertificate(vec![7; 40]); 7]),
        ("chain is too long", |b| b.tls.chain = vec![DerCertificate(vec![7; 40]), DerCertificate(vec![7; 8193])]),
        ("43 to 64", |b| b.credentials[0].secret_access_key = SecretBytes::new(vec![b's'; 42])),
        ("administrators", |b| b.administrators.clear()),
    ];
    for (expected, change) in table {
        let mut bad = body();
        change(&mut bad);
        let error = seal(&root(), &place, &bad, &rng()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// What was sealed before there were dates opens, and is sealed again as it was.
#[test]
fn a_credential_without_a_date_is_written_as_before_there_were_dates() {
    let mut credential = body().credentials.remove(0);
    let undated = cbor::encode(&credential).to_vec();
    assert_eq!(undated[0], 0x82, "an array of two");
    assert_eq!(cbor::decode::<CredentialRecord>(&undated).unwrap(), credential);
    credential.created_ms = Some(1_700_000_000_000);
    let dated = cbor::encode(&credential).to_vec();
    assert_eq!((dated[0], &dated[1..undated.len()]), (0x83, &undated[1..]));
    assert_eq!(cbor::decode::<CredentialRecord>(&dated).unwrap(), credential);
}
