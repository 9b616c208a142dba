//! What a sealed key store holds, manifests, and envelopes around them.

use holdfast_shared::cbor;
use holdfast_shared::external_key::{ExternalKeyId, LegacyProfile};
use holdfast_shared::hpke::PublicKey;
use holdfast_shared::ids::{BlobId, CommandId, KeyStoreId};
use holdfast_shared::keystore::{Body, ExecutedCommand, ExternalKeyRecord, Header, KeyVersionRecord, TlsIdentity};
use holdfast_shared::labels;
use holdfast_shared::manifest::{Administrator, Custodian, Manifest, ReleasePolicy, Thresholds};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::{Envelope, SigningKey, VerifyingKey};
use holdfast_shared::xks::{HostName, PathPrefix};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use ring::rand::SystemRandom;

use crate::parts::{
    Change, array, audit_settings, bytes, certificates, client_authentication, credential, holds, key_ids,
    measurements, quota, standing_renewal, state, usage, use_budgets, use_limits, use_policy,
};

/// A version's number, material (none once destroyed), and whether it has the legacy profile.
fn versions() -> impl Strategy<Value = Vec<KeyVersionRecord>> {
    (btree_map(1..1_u32 << 24, option::of(any::<[u8; 32]>()), 1..5), any::<[u8; 32]>(), any::<bool>()).prop_map(
        |(versions, newest, legacy)| {
            let last = versions.len() - 1;
            let records = versions.into_iter().enumerate().map(|(at, (number, material))| {
                let material = if at == last { Some(newest) } else { material };
                let legacy = (legacy && at == last).then_some(LegacyProfile::AwsSample);
                KeyVersionRecord { number, material: material.map(|mut bytes| Secret::take(&mut bytes)), legacy }
            });
            records.collect()
        },
    )
}

fn external_keys() -> impl Strategy<Value = Vec<ExternalKeyRecord>> {
    (key_ids(4), vec((usage(), state(), versions()), 4)).prop_map(|(ids, rest)| {
        let join = |(id, (usage, state, versions)): (ExternalKeyId, _)| ExternalKeyRecord {
            id,
            usage,
            state,
            versions,
            destroy_after_ms: None,
        };
        ids.into_iter().zip(rest).map(join).collect()
    })
}

fn administrators() -> impl Strategy<Value = Vec<Administrator>> {
    vec(("[ -~]{1,64}", array::<97>(), array::<97>()), 1..4).prop_map(|parties| {
        let administrator = |(name, signing, encryption)| Administrator {
            name,
            signing_key: VerifyingKey(signing),
            encryption_key: PublicKey(encryption),
        };
        parties.into_iter().map(administrator).collect()
    })
}

fn custodians() -> impl Strategy<Value = Vec<Custodian>> {
    let address = ("[a-z0-9-]{1,20}(\\.[a-z0-9-]{1,20}){0,3}", 1..=u16::MAX);
    vec(("[ -~]{1,64}", array::<97>(), address, certificates(1..=3)), 1..4).prop_map(|parties| {
        let custodian = |(name, key, (host, port), tls_roots)| Custodian {
            name,
            signing_key: VerifyingKey(key),
            encryption_key: PublicKey(key),
            address: format!("{host}:{port}"),
            tls_roots,
        };
        parties.into_iter().map(custodian).collect()
    })
}

fn host_name() -> impl Strategy<Value = HostName> {
    "[a-z0-9]{1,10}(-[a-z0-9]{1,5})?(\\.[a-z]{1,10}){1,3}".prop_map(|text| HostName::parse(&text).unwrap())
}

fn path_prefix() -> impl Strategy<Value = PathPrefix> {
    "(/[A-Za-z0-9_-]{1,20}){0,4}".prop_map(|text| PathPrefix::parse(&text).unwrap())
}

fn policy() -> impl Strategy<Value = ReleasePolicy> {
    (any::<[u8; 32]>(), vec(measurements(), 1..3), 10_000..31 * 86_400_000_u64).prop_map(
        |(trust_root, mut measurements, lease_ms)| {
            for set in &mut measurements {
                (set.pcr0[0], set.pcr1[0], set.pcr2[0]) = (1, 1, 1);
            }
            ReleasePolicy::first(trust_root, measurements, lease_ms)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn bodies(
        names in (host_name(), path_prefix()),
        tls in (bytes(150), certificates(0..=6)),
        credentials in vec(credential(), 0..4),
        external_keys in external_keys(),
        administrators in administrators(),
        thresholds: [u8; 6],
        executed in vec(any::<([u8; 16], u64)>(), 0..4),
        settings in (option::of(quota()), option::of(client_authentication()), option::of(standing_renewal()), option::of(audit_settings())),
        using in (option::of(use_policy()), option::of(use_limits()), option::of(use_budgets())),
        change: Change,
    ) {
        let [keys, credentials_needed, identity, block, unblock, custody] = thresholds;
        let executed = executed.into_iter().map(|(id, expires_ms)| ExecutedCommand { command_id: CommandId(id), expires_ms });
        let body = Body {
            host_name: names.0,
            path_prefix: names.1,
            tls: TlsIdentity { private_key: SecretBytes::new(tls.0), chain: tls.1 },
            credentials,
            external_keys,
            administrators,
            thresholds: Thresholds { keys, credentials: credentials_needed, identity, block, unblock, custody },
            executed: executed.collect(),
            quota: settings.0,
            client_authentication: settings.1,
            renewal: settings.2,
            policy: using.0,
            limits: using.1,
            budgets: using.2,
            audit: settings.3,
            sharing: None,
            successor: None,
        };
        holds(&body, change)?;
        for credential in &body.credentials {
            holds(credential, change)?;
        }
        if let Some(quota) = &body.quota {
            holds(quota, change)?;
        }
        if let Some(settings) = &body.client_authentication {
            holds(settings, change)?;
        }
        if let Some(policy) = &body.policy {
            holds(policy, change)?;
        }
        if let Some(limits) = &body.limits {
            holds(limits, change)?;
        }
        if let Some(budgets) = &body.budgets {
            holds(budgets, change)?;
        }
        if let Some(renewal) = &body.renewal {
            holds(renewal, change)?;
            holds(&renewal.order, change)?;
            holds(&renewal.progress, change)?;
        }
    }

    #[test]
    fn headers(store: [u8; 32], version in 1..u64::MAX, previous: [u8; 32], generation: u32, salt: [u8; 32], change: Change) {
        let header = Header {
            label: labels::SEAL.to_owned(),
            key_store_id: KeyStoreId(store),
            version,
            previous: (version > 1).then_some(BlobId(previous)),
            generation,
            salt,
        };
        holds(&header, change)?;
    }

    #[test]
    fn manifests(
        nonce: [u8; 16],
        name in "[ -~]{1,64}",
        administrators in administrators(),
        custodians in custodians(),
        names in (host_name(), path_prefix()),
        release_policy in policy(),
        change: Change,
    ) {
        let shares_needed = u8::try_from(custodians.len()).unwrap();
        let manifest = Manifest {
            label: labels::MANIFEST.to_owned(),
            nonce,
            name,
            administrators,
            thresholds: Thresholds::ONE,
            custodians,
            shares_needed,
            hostile_tolerated: shares_needed - 1,
            host_name: names.0,
            path_prefix: names.1,
            release_policy,
            succession: None,
            kms_share: None,
        };
        holds(&manifest, change)?;
    }

    #[test]
    fn envelopes(payload in bytes(100), change: Change) {
        let rng = SystemRandom::new();
        let key = SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap();
        let envelope = Envelope::seal(labels::COMMAND, &payload, &key, &rng).unwrap();
        holds(&envelope, change)?;
        let mut bytes = cbor::encode(&envelope).to_vec();
        let index = change.0 % bytes.len();
        bytes[index] ^= change.1.max(1);
        let keys = [key.verifying_key().unwrap()];
        let opened = cbor::decode::<Envelope>(&bytes).is_ok_and(|changed| changed.open(labels::COMMAND, &keys, 1).is_ok());
        prop_assert!(!opened, "byte {} changed", index);
    }
}
