//! Parties and values that the tests of the protocol share.

use holdfast_shared::attestation::Measurements;
use holdfast_shared::external_key::{ExternalKeyId, KeyState, KeyUsage};
use holdfast_shared::hpke;
use holdfast_shared::ids::CommandId;
use holdfast_shared::keystore::{
    Body, CredentialRecord, ExecutedCommand, ExternalKeyRecord, KeyVersionRecord, TlsIdentity,
};
use holdfast_shared::labels;
use holdfast_shared::manifest::{Administrator, Custodian, DerCertificate, Manifest, ReleasePolicy, Thresholds};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::SigningKey;
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::{HostName, PathPrefix};
use ring::rand::SystemRandom;

pub(crate) fn rng() -> SystemRandom {
    SystemRandom::new()
}

/// Somebody with a signing key and an encryption key.
pub(crate) struct Party {
    pub(crate) signing: SigningKey,
    pub(crate) encryption: hpke::PrivateKey,
}

impl Party {
    pub(crate) fn new() -> Self {
        let signing = SigningKey::from_pkcs8(&SigningKey::generate(&rng()).unwrap(), &rng()).unwrap();
        Self { signing, encryption: hpke::PrivateKey::generate().unwrap() }
    }

    pub(crate) fn administrator(&self, name: &str) -> Administrator {
        Administrator {
            name: name.to_owned(),
            signing_key: self.signing.verifying_key().unwrap(),
            encryption_key: *self.encryption.public_key(),
        }
    }

    pub(crate) fn custodian(&self, name: &str) -> Custodian {
        Custodian {
            name: name.to_owned(),
            signing_key: self.signing.verifying_key().unwrap(),
            encryption_key: *self.encryption.public_key(),
            address: "custodian.example.com:8443".to_owned(),
            tls_roots: vec![DerCertificate(vec![1, 2, 3])],
        }
    }
}

pub(crate) fn measurements(fill: u8) -> Measurements {
    Measurements {
        pcr0: [fill; 48],
        pcr1: [fill; 48],
        pcr2: [fill; 48],
        pcr16: [fill; 48],
        pcr3: None,
        pcr4: None,
        pcr8: None,
    }
}

pub(crate) fn manifest(administrators: &[&Party], custodians: &[&Party]) -> Manifest {
    Manifest {
        label: labels::MANIFEST.to_owned(),
        nonce: [9; 16],
        name: "ward 7".to_owned(),
        administrators: administrators.iter().map(|party| party.administrator("alice")).collect(),
        thresholds: Thresholds::ONE,
        custodians: custodians.iter().map(|party| party.custodian("vault")).collect(),
        shares_needed: 1,
        hostile_tolerated: 0,
        host_name: HostName::parse("xks.example.com").unwrap(),
        path_prefix: PathPrefix::parse("/ward-7").unwrap(),
        release_policy: ReleasePolicy::first([3; 32], vec![measurements(1)], 86_400_000),
        succession: None,
        kms_share: None,
    }
}

pub(crate) fn key_record(id: &str, versions: u32) -> ExternalKeyRecord {
    ExternalKeyRecord {
        id: ExternalKeyId::parse(id).unwrap(),
        usage: KeyUsage::ENCRYPT_DECRYPT,
        state: KeyState::Enabled,
        versions: (1..=versions)
            .map(|number| KeyVersionRecord::new(number, Secret::take(&mut [number.to_le_bytes()[0]; 32])))
            .collect(),
        destroy_after_ms: None,
    }
}

pub(crate) fn body(administrator: Administrator) -> Body {
    Body {
        host_name: HostName::parse("xks.example.com").unwrap(),
        path_prefix: PathPrefix::parse("/ward-7").unwrap(),
        tls: TlsIdentity { private_key: SecretBytes::new(vec![6; 138]), chain: vec![DerCertificate(vec![5; 40])] },
        credentials: vec![CredentialRecord {
            access_key_id: AccessKeyId::parse("AAAAABBBBBCCCCCDDDDD").unwrap(),
            secret_access_key: SecretBytes::new(vec![b's'; 43]),
            created_ms: None,
        }],
        external_keys: vec![key_record("a", 1), key_record("b", 3)],
        administrators: vec![administrator],
        thresholds: Thresholds::ONE,
        executed: vec![ExecutedCommand { command_id: CommandId([8; 16]), expires_ms: 99 }],
        quota: None,
        audit: None,
        client_authentication: None,
        renewal: None,
        policy: None,
        limits: None,
        budgets: None,
        sharing: None,
        successor: None,
    }
}
