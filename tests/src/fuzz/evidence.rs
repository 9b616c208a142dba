//! What the operator's tool concludes from documents that a custodian hands it.
//!
//! The first byte names the use (`l`, the document of a lease; `r`, of a result); the rest are changes of a good document, as in
//! [`super::attestation`].

use std::sync::LazyLock;

use holdfast_cli::evidence;
use holdfast_cli::home::KeyStore;
use holdfast_shared::attestation::Measurements;
use holdfast_shared::cbor;
use holdfast_shared::command::ResultUserData;
use holdfast_shared::hpke;
use holdfast_shared::ids::{BootId, CommandId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::manifest::{self, VerifiedManifest};
use holdfast_shared::query::LeaseInfo;
use holdfast_shared::release::ReleaseUserData;

use super::Verdict;
use super::attestation::{build, read, root};
use super::input::Input;
use super::party::{self, ALICE, NOW_MS, VAULT, rng};

const BOOT: BootId = BootId([0x61; 16]);
const COMMAND: CommandId = CommandId([0x62; 16]);
const OUTCOME: &[u8] = b"outcome";

static STORE: LazyLock<KeyStore> = LazyLock::new(|| {
    let signed = manifest::sign(&party::manifest(root().fingerprint()), &ALICE.signing, &rng()).unwrap();
    KeyStore::new(VerifiedManifest::verify(&cbor::encode(&signed)).unwrap(), root().clone())
});

/// A document behind a lease or a result.
pub fn cli_evidence(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let of_lease = input.byte() == b'l';
    let (store, mut flips) = (&*STORE, Vec::new());
    let released = cbor::encode(&ReleaseUserData {
        label: labels::ATTEST_RELEASE.to_owned(),
        key_store_id: store.manifest.id(),
        custodian_id: VAULT.custodian().id(),
        boot_id: BOOT,
        audit_public_key: [7; 32],
    });
    let vouched = cbor::encode(&ResultUserData::new(store.manifest.id(), COMMAND, OUTCOME));
    let user_data = if of_lease { &released } else { &vouched };
    let mut document = build(input, &mut flips, |builder| {
        let builder = builder.user_data(Some(user_data)).nonce(Some(COMMAND.as_bytes()));
        if of_lease { builder.public_key(Some(&ALICE.encryption.public_key().0)) } else { builder }
    });
    for (position, flip) in flips {
        let at = position % document.len();
        document[at] ^= flip;
    }
    let evidence = if of_lease {
        let found = evidence::of_lease(&lease(&document), store, VAULT.custodian().id(), NOW_MS);
        found.map(|(evidence, key)| (evidence, Some(key)))
    } else {
        evidence::of_result(&document, OUTCOME, store, COMMAND, 60_000, NOW_MS).map(|evidence| (evidence, None))
    };
    let Ok((evidence, key)) = evidence else { return Verdict::Refused };
    // What is concluded stands in the document, for this very use.
    let second = read(&document).unwrap();
    assert_eq!((second.timestamp_ms, second.user_data), (evidence.timestamp_ms, Some(user_data.as_slice())));
    assert_eq!(
        key.map(|hpke::PublicKey(key)| key.to_vec()),
        second.public_key.filter(|_| of_lease).map(<[u8]>::to_vec)
    );
    assert!(of_lease || second.nonce == Some(COMMAND.as_bytes()));
    assert!(evidence.emulated && evidence.summary().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    Verdict::Accepted
}

fn lease(document: &[u8]) -> LeaseInfo {
    let pcr = [7; 48];
    LeaseInfo {
        lease_id: LeaseId([1; 16]),
        boot_id: BOOT,
        module_id: String::new(),
        measurements: Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None },
        granted_ms: NOW_MS,
        expires_ms: NOW_MS,
        seen_ms: NOW_MS,
        document: document.to_vec(),
        obeys: None,
    }
}
