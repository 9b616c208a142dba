//! Keys that are the same in every process, so that a seed that was signed once stays signed. They protect nothing.

use std::sync::LazyLock;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::hpke;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::labels;
use holdfast_shared::manifest::{Administrator, Custodian, DerCertificate, Manifest, ReleasePolicy, Thresholds};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::SigningKey;
use holdfast_shared::xks::{HostName, PathPrefix};
use ring::rand::SystemRandom;

/// The key store of every target.
pub(super) const KEY_STORE: KeyStoreId = KeyStoreId([0x11; 32]);

/// The time in every target, milliseconds since 1970.
pub(super) const NOW_MS: u64 = 1_790_000_000_000;

/// Somebody with a signing key and an encryption key.
pub(super) struct Party {
    pub(super) signing: SigningKey,
    pub(super) encryption: hpke::PrivateKey,
    name: &'static str,
}

/// An administrator.
pub(super) static ALICE: LazyLock<Party> = LazyLock::new(|| Party::new("alice", 0x21));
/// A custodian.
pub(super) static VAULT: LazyLock<Party> = LazyLock::new(|| Party::new("vault", 0x22));

/// PKCS #8 of a P-384 key up to its number, and from there to its point (RFC 5915, RFC 5958).
const PKCS8_HEAD: &str = "3081b6020100301006072a8648ce3d020106052b8104002204819e30819b0201010430";
const PKCS8_MIDDLE: &str = "a164036200";

impl Party {
    fn new(name: &'static str, fill: u8) -> Self {
        let scalar = || Secret::take(&mut [fill; 48]);
        let encryption = hpke::PrivateKey::from_bytes(&scalar()).unwrap();
        let pkcs8 = [
            hex::decode(PKCS8_HEAD).unwrap().as_slice(),
            scalar().expose(),
            &hex::decode(PKCS8_MIDDLE).unwrap(),
            &encryption.public_key().0,
        ]
        .concat();
        let signing = SigningKey::from_pkcs8(&SecretBytes::new(pkcs8), &rng()).unwrap();
        Self { signing, encryption, name }
    }

    pub(super) fn administrator(&self) -> Administrator {
        Administrator {
            name: self.name.to_owned(),
            signing_key: self.signing.verifying_key().unwrap(),
            encryption_key: *self.encryption.public_key(),
        }
    }

    pub(super) fn custodian(&self) -> Custodian {
        Custodian {
            name: self.name.to_owned(),
            signing_key: self.signing.verifying_key().unwrap(),
            encryption_key: *self.encryption.public_key(),
            address: "custodian.example.com:8443".to_owned(),
            tls_roots: vec![DerCertificate(vec![1, 2, 3])],
        }
    }
}

pub(super) fn rng() -> SystemRandom {
    SystemRandom::new()
}

/// A manifest of Alice and the vault under a trust root.
pub(super) fn manifest(trust_root: [u8; 32]) -> Manifest {
    let pcr = [7; 48];
    let measurements = Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None };
    Manifest {
        label: labels::MANIFEST.to_owned(),
        nonce: [9; 16],
        name: "ward 7".to_owned(),
        administrators: vec![ALICE.administrator()],
        thresholds: Thresholds::ONE,
        custodians: vec![VAULT.custodian()],
        shares_needed: 1,
        hostile_tolerated: 0,
        host_name: HostName::parse("xks.example.com").unwrap(),
        path_prefix: PathPrefix::parse("/ward-7").unwrap(),
        release_policy: ReleasePolicy::first(trust_root, vec![measurements], 86_400_000),
        succession: None,
        kms_share: None,
    }
}
