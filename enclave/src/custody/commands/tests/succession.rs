//! Successor manifests: what they change, and what makes them void.

use holdfast_shared::keystore::SuccessorInForce;
use holdfast_shared::manifest::{ManifestId, Succession};

use super::*;

fn successor(desk: &Desk, change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
    let mut next = desk.manifest.manifest().clone();
    next.succession = Some(Succession {
        key_store_id: desk.id(),
        sequence: desk.manifest.sequence() + 1,
        predecessor: desk.manifest.digest(),
        overlay_epoch: desk.overlay_epoch,
    });
    change(&mut next);
    cbor::encode(&manifest::sign(&next, &desk.signing, &SystemRandom::new()).unwrap()).to_vec()
}

fn adopt(desk: &mut Desk, signed: Vec<u8>) -> Effect {
    desk.order(Action::AdoptManifest { signed })
}

fn administrator(name: &str) -> Administrator {
    Administrator {
        name: name.to_owned(),
        signing_key: signing_key().verifying_key().unwrap(),
        encryption_key: *hpke::PrivateKey::generate().unwrap().public_key(),
    }
}

#[test]
fn administrators_and_thresholds_change_without_a_new_root_key() {
    let mut desk = Desk::new();
    let bob = administrator("bob");
    let signed = successor(&desk, |next| {
        next.administrators = vec![bob.clone()];
        next.thresholds.block = 1;
    });
    let command = desk.command(Action::AdoptManifest { signed });
    let order = desk.signed(&command);
    let situation = Situation {
        manifest: &desk.manifest,
        overlay_epoch: 0,
        now_ms: NOW_MS,
        version: 3,
        attested_key: &desk.attested,
        fresh: Secret::take(&mut [5; 32]),
    };
    let handled = carry_out(&order, &mut desk.body, situation).unwrap();
    assert_eq!(handled.recipient, desk.manifest.manifest().administrators[0], "who ordered it, though no longer there");
    let Effect::Adopted { manifest, reshare, outcome: Outcome::Done } = handled.effect else { panic!("not adopted") };
    assert_eq!((manifest.sequence(), reshare), (2, false));
    assert_eq!(desk.body.administrators, [bob]);
    let in_force = SuccessorInForce { manifest: manifest.manifest_id(), since_version: 4 };
    assert_eq!(desk.body.successor, Some(in_force));
    assert_eq!(desk.body.executed.len(), 1);
}

#[test]
fn other_custodians_or_numbers_need_a_new_root_key() {
    type Change = fn(&mut Manifest);
    let table: [(&str, Change, bool); 6] = [
        ("a custodian less", |next| drop(next.custodians.pop()), true),
        ("another order", |next| next.custodians.swap(1, 2), true),
        ("another m", |next| next.shares_needed = 3, true),
        ("another f", |next| next.hostile_tolerated = 1, false),
        ("another address", |next| "moved.example.com:1".clone_into(&mut next.custodians[1].address), false),
        ("another name", |next| "ward 8".clone_into(&mut next.name), false),
    ];
    for (what, change, expected) in table {
        let mut desk = Desk::new();
        let signed = successor(&desk, change);
        let Effect::Adopted { reshare, .. } = adopt(&mut desk, signed) else { panic!("{what}") };
        assert_eq!(reshare, expected, "{what}");
    }
}

#[test]
fn another_host_name_needs_another_certificate() {
    let mut desk = Desk::new();
    desk.body.renewal = Some(standing_renewal());
    desk.body.tls.chain = vec![DerCertificate(vec![1])];
    let signed = successor(&desk, |next| next.path_prefix = PathPrefix::parse("/ward-7").unwrap());
    assert!(matches!(adopt(&mut desk, signed), Effect::Adopted { .. }));
    assert_eq!((desk.body.path_prefix.to_string().as_str(), desk.body.tls.chain.len()), ("/ward-7", 1));
    assert!(desk.body.renewal.as_ref().unwrap().progress.attempt.is_some(), "the attempt goes on");

    let mut desk = Desk::new();
    desk.body.renewal = Some(standing_renewal());
    desk.body.tls.chain = vec![DerCertificate(vec![1])];
    let signed = successor(&desk, |next| next.host_name = HostName::parse("kms.example.com").unwrap());
    assert!(matches!(adopt(&mut desk, signed), Effect::Adopted { .. }));
    assert_eq!((desk.body.host_name.as_str(), desk.body.tls.chain.len()), ("kms.example.com", 0));
    // What came of the attempt would be for the old name, and its pause as well.
    assert_begun_anew(&desk.body);
}

#[test]
fn what_does_not_follow_the_manifest_in_force_is_refused() {
    let mut desk = Desk::new();
    let first = cbor::encode(&manifest::sign(desk.manifest.manifest(), &desk.signing, &SystemRandom::new()).unwrap());
    assert!(reason(&adopt(&mut desk, first.to_vec())).contains("not a successor"));
    let skipped = successor(&desk, |next| next.succession = next.succession.map(|s| Succession { sequence: 3, ..s }));
    assert!(reason(&adopt(&mut desk, skipped)).contains("does not succeed the manifest in force"));
    let other_home = successor(&desk, |next| next.custodians.swap(0, 1));
    assert!(reason(&adopt(&mut desk, other_home)).contains("must keep the home custodian"));
    let stranger = {
        let own = core::mem::replace(&mut desk.signing, signing_key());
        let signed = successor(&desk, |_| {});
        desk.signing = own;
        signed
    };
    assert!(reason(&adopt(&mut desk, stranger)).contains("manifest:"));
    let before_the_block = successor(&desk, |_| {});
    desk.overlay_epoch = 4;
    assert!(reason(&adopt(&mut desk, before_the_block)).contains("a block came between"));
    let good = successor(&desk, |_| {});
    let other = ManifestId { sequence: 2, digest: [2; 32] };
    desk.body.successor = Some(SuccessorInForce { manifest: other, since_version: 2 });
    assert!(reason(&adopt(&mut desk, good.clone())).contains("is not known here yet"));
    desk.body.successor = None;
    assert!(matches!(adopt(&mut desk, good), Effect::Adopted { .. }));
}
