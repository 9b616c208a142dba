//! Manifests: every rule, and the id that commits to every byte.

use holdfast_shared::manifest::{Manifest, VerifiedManifest, sign};
use holdfast_shared::signature::Envelope;
use holdfast_shared::{cbor, labels};

use crate::fixture::{self, Party, rng};

/// Breaks one rule.
type Change = fn(&mut Manifest);

fn signed(manifest: &Manifest, by: &[&Party]) -> Vec<u8> {
    let mut envelope = Envelope::seal(labels::MANIFEST, &cbor::encode(manifest), &by[0].signing, &rng()).unwrap();
    for party in &by[1..] {
        envelope.add_signature(labels::MANIFEST, &party.signing, &rng()).unwrap();
    }
    cbor::encode(&envelope).to_vec()
}

#[test]
fn every_administrator_must_sign() {
    let (alice, bob, eve, vault) = (Party::new(), Party::new(), Party::new(), Party::new());
    let manifest = fixture::manifest(&[&alice, &bob], &[&vault]);
    let id = VerifiedManifest::verify(&signed(&manifest, &[&alice, &bob])).unwrap().id();
    assert_eq!(id.0, holdfast_shared::sha256(&[&cbor::encode(&manifest)]));
    assert_eq!(VerifiedManifest::verify(&signed(&manifest, &[&bob, &alice])).unwrap().id(), id, "order of signatures");
    for by in [&[&alice][..], &[&bob][..], &[&alice, &eve][..], &[&eve][..], &[&alice, &bob, &eve][..]] {
        assert!(VerifiedManifest::verify(&signed(&manifest, by)).is_err());
    }
}

#[test]
fn an_exchanged_custodian_or_administrator_is_another_key_store() {
    let (alice, vault, host) = (Party::new(), Party::new(), Party::new());
    let id = |administrators: &[&Party], custodians: &[&Party], by: &[&Party]| {
        let manifest = fixture::manifest(administrators, custodians);
        VerifiedManifest::verify(&signed(&manifest, by)).unwrap().id()
    };
    let real = id(&[&alice], &[&vault], &[&alice]);
    assert_ne!(real, id(&[&host], &[&vault], &[&host]), "the host names itself administrator");
    assert_ne!(real, id(&[&host], &[&host], &[&host]), "and custodian");
}

#[test]
fn rules() {
    let (alice, bob, vault, second) = (Party::new(), Party::new(), Party::new(), Party::new());
    let table: &[(&str, Change)] = &[
        ("is not a manifest", |m| "holdfast manifest v2".clone_into(&mut m.label)),
        ("the name must have", |m| m.name.clear()),
        ("the name must have", |m| "a\u{7}".clone_into(&mut m.name)),
        ("needs 1 to 16 administrators", |m| m.administrators.clear()),
        ("needs 1 to 16 custodians", |m| m.custodians.clear()),
        ("each administrator and custodian needs a name", |m| m.custodians[0].name.clear()),
        ("two administrators share", |m| m.administrators[1] = m.administrators[0].clone()),
        ("two custodians share", |m| m.custodians[1] = m.custodians[0].clone()),
        ("each threshold must be", |m| m.thresholds.keys = 0),
        ("each threshold must be", |m| m.thresholds.unblock = 3),
        ("the shares needed must be", |m| m.shares_needed = 0),
        ("the shares needed must be", |m| m.shares_needed = 3),
        ("the hostile custodians tolerated", |m| m.hostile_tolerated = 1),
        ("address must be host:port", |m| "vault".clone_into(&mut m.custodians[0].address)),
        ("address must be host:port", |m| "Vault:1".clone_into(&mut m.custodians[0].address)),
        ("address must be host:port", |m| "vault:0".clone_into(&mut m.custodians[0].address)),
        ("needs 1 to 6 TLS roots", |m| m.custodians[0].tls_roots.clear()),
        ("the first release policy has epoch 1", |m| m.release_policy.epoch = 2),
        ("needs 1 to 16 accepted measurements", |m| m.release_policy.images.clear()),
        ("must not accept debug mode", |m| m.release_policy.images[0].measurements.pcr1 = [0; 48]),
        ("a lease lasts from 10 seconds", |m| m.release_policy.lease_ms = 9_999),
        ("a lease lasts from 10 seconds", |m| m.release_policy.lease_ms = u64::MAX),
    ];
    let good = fixture::manifest(&[&alice, &bob], &[&vault, &second]);
    sign(&good, &alice.signing, &rng()).unwrap();
    for (expected, change) in table {
        let mut bad = good.clone();
        change(&mut bad);
        let error = VerifiedManifest::verify(&signed(&bad, &[&alice, &bob])).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
