//! Values that messages are made of.

use core::fmt::Debug;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::audit::{AuditMode, AuditSettings, Auditor, MaxUnwitnessed};
use holdfast_shared::cbor::{self, Message};
use holdfast_shared::command::SealedResult;
use holdfast_shared::external_key::{ExternalKeyId, KeyState, KeyUsage};
use holdfast_shared::hpke::{PublicKey, Sealed};
use holdfast_shared::ids::{AdministratorId, CommandId};
use holdfast_shared::keystore::{
    AcmeOrder, Budget, BudgetSpan, BudgetWindow, ClientAuthentication, CredentialRecord, KeyBudget, KeyLimit, Quota,
    RenewalAttempt, RenewalProgress, StandingRenewal, UseBudgets, UseLimits, UsePolicy, VersionState,
};
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::release::{Commitment, ShareSet};
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::AccessKeyId;
use minicbor::bytes::ByteVec;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// Where a byte is changed, and how.
pub(crate) type Change = (usize, u8);

/// What is encoded decodes to itself; a changed byte gives an error or the one encoding of another message; a shorter or longer
/// text of it gives an error.
pub(crate) fn holds<T: Message + PartialEq + Debug>(value: &T, (position, flip): Change) -> Result<(), TestCaseError> {
    let bytes = cbor::encode(value);
    let decoded = cbor::decode::<T>(&bytes);
    prop_assert_eq!(decoded.as_ref(), Ok(value));
    prop_assert!(bytes.len() <= T::MAX);
    let mut changed = bytes.to_vec();
    let index = position % changed.len();
    changed[index] ^= flip.max(1);
    if let Ok(other) = cbor::decode::<T>(&changed) {
        prop_assert_ne!(&other, value);
        let again = cbor::encode(&other);
        prop_assert_eq!(again.as_slice(), changed.as_slice());
    }
    prop_assert!(cbor::decode::<T>(&bytes[..index]).is_err(), "cut off at {}", index);
    let longer = [bytes.as_slice(), &[flip]].concat();
    prop_assert!(cbor::decode::<T>(&longer).is_err(), "a byte more");
    Ok(())
}

pub(crate) fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=most)
}

pub(crate) fn array<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    vec(any::<u8>(), N).prop_map(|bytes| bytes.try_into().unwrap())
}

pub(crate) fn key_id() -> impl Strategy<Value = ExternalKeyId> {
    "[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}".prop_map(|text| ExternalKeyId::parse(&text).unwrap())
}

/// Sorted, each once.
pub(crate) fn key_ids(most: usize) -> impl Strategy<Value = Vec<ExternalKeyId>> {
    btree_set(key_id(), 0..=most).prop_map(|ids| ids.into_iter().collect())
}

pub(crate) fn usage() -> impl Strategy<Value = KeyUsage> {
    any::<(bool, bool)>().prop_map(|(encrypt, decrypt)| KeyUsage { encrypt, decrypt })
}

pub(crate) fn state() -> impl Strategy<Value = KeyState> {
    prop::sample::select(&[KeyState::Enabled, KeyState::Disabled, KeyState::PendingDestruction])
}

pub(crate) fn version_state() -> impl Strategy<Value = VersionState> {
    prop::sample::select(&[VersionState::Live, VersionState::LiveWithLegacy, VersionState::Destroyed])
}

pub(crate) fn public_key() -> impl Strategy<Value = PublicKey> {
    array::<97>().prop_map(PublicKey)
}

pub(crate) fn sealed() -> impl Strategy<Value = Sealed> {
    (array::<97>(), bytes(48)).prop_map(|(encapsulated_key, ciphertext)| Sealed { encapsulated_key, ciphertext })
}

pub(crate) fn sealed_result() -> impl Strategy<Value = SealedResult> {
    (any::<[u8; 16]>(), any::<[u8; 32]>(), sealed()).prop_map(|(command, recipient, sealed)| SealedResult {
        command_id: CommandId(command),
        recipient: AdministratorId(recipient),
        sealed,
    })
}

pub(crate) fn command_ids() -> impl Strategy<Value = Vec<CommandId>> {
    vec(any::<[u8; 16]>().prop_map(CommandId), 0..8)
}

pub(crate) fn share_set() -> impl Strategy<Value = ShareSet> {
    (1..=u32::MAX, 1..=u8::MAX, vec(any::<[u8; 32]>().prop_map(Commitment), 0..4)).prop_map(
        |(generation, shares_needed, commitments)| ShareSet {
            generation,
            shares_needed,
            commitments,
            kms_ciphertext: None,
        },
    )
}

pub(crate) fn credential() -> impl Strategy<Value = CredentialRecord> {
    ("[A-Z2-7]{20,30}", "[A-Za-z0-9/+=]{43,64}", any::<Option<u64>>()).prop_map(|(id, secret, created_ms)| {
        CredentialRecord {
            access_key_id: AccessKeyId::parse(&id).unwrap(),
            secret_access_key: SecretBytes::new(secret.into_bytes()),
            created_ms,
        }
    })
}

pub(crate) fn certificates(count: core::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<DerCertificate>> {
    vec(bytes(40).prop_map(DerCertificate), count)
}

pub(crate) fn quota() -> impl Strategy<Value = Quota> {
    (1..=1_000_000_u32, 1..=1_000_000_u32).prop_map(|(requests_per_second, burst)| Quota { requests_per_second, burst })
}

pub(crate) fn use_policy() -> impl Strategy<Value = UsePolicy> {
    "\\PC{1,80}".prop_map(|text| UsePolicy { text })
}

pub(crate) fn use_limits() -> impl Strategy<Value = UseLimits> {
    let keys = prop::collection::btree_map("[a-z]{1,8}", quota(), 0..4);
    (quota(), keys, prop::option::of(quota())).prop_map(|(per_key, keys, per_principal)| UseLimits {
        per_key: Some(per_key),
        keys: keys.into_iter().map(|(id, quota)| KeyLimit { id: id.parse().unwrap(), quota }).collect(),
        per_principal,
    })
}

pub(crate) fn use_budgets() -> impl Strategy<Value = UseBudgets> {
    let budget = || {
        (1..=1_000_000_000_u32, prop::option::of(1..=1_000_000_000_u32), any::<bool>()).prop_map(
            |(one, other, is_hour)| {
                let (per_hour, per_day) = if is_hour { (Some(one), other) } else { (other, Some(one)) };
                Budget { per_hour, per_day }
            },
        )
    };
    (budget(), prop::collection::btree_map("[a-z]{1,8}", budget(), 0..4)).prop_map(|(every_key, keys)| UseBudgets {
        every_key: Some(every_key),
        keys: keys.into_iter().map(|(id, budget)| KeyBudget { id: id.parse().unwrap(), budget }).collect(),
    })
}

pub(crate) fn budget_window() -> impl Strategy<Value = BudgetWindow> {
    (prop::sample::select(&BudgetSpan::ALL), any::<u32>()).prop_map(|(span, number)| BudgetWindow { span, number })
}

pub(crate) fn client_authentication() -> impl Strategy<Value = ClientAuthentication> {
    (certificates(1..=8), vec("[ -~]{1,64}", 1..=8))
        .prop_map(|(authorities, subject_common_names)| ClientAuthentication { authorities, subject_common_names })
}

pub(crate) fn audit_settings() -> impl Strategy<Value = AuditSettings> {
    let auditors = prop::collection::btree_map("[ -~]{1,64}", any::<u8>(), 0..=8);
    (auditors, any::<[bool; 2]>(), 2..=86_400_u32, 10..=100_000_000_u64).prop_map(
        |(auditors, [read, strict], seconds, records)| {
            // Told apart by their places, so that no key comes twice.
            let key = |(at, (name, fill)): (usize, (String, u8))| {
                let mut key = [fill; 97];
                key[0] = u8::try_from(at).unwrap();
                Auditor { name, encryption_key: PublicKey(key) }
            };
            let auditors: Vec<_> = auditors.into_iter().enumerate().map(key).collect();
            let mode = if strict { AuditMode::Strict } else { AuditMode::Relaxed };
            let administrators_read = read || auditors.is_empty();
            AuditSettings { auditors, administrators_read, mode, max_unwitnessed: MaxUnwitnessed { seconds, records } }
        },
    )
}

pub(crate) fn acme_order() -> impl Strategy<Value = AcmeOrder> {
    (
        "https://[a-z.]{1,30}(:[0-9]{1,5})?/[a-z/]{0,20}",
        (certificates(1..=4), certificates(1..=4)),
        vec("mailto:[a-z@.]{1,20}", 0..=4),
        any::<u64>(),
    )
        .prop_map(|(directory, (directory_roots, issuing_roots), contacts, until_ms)| AcmeOrder {
            directory,
            directory_roots,
            contacts,
            until_ms,
            issuing_roots,
        })
}

pub(crate) fn renewal_progress() -> impl Strategy<Value = RenewalProgress> {
    let attempt = (any::<[u8; 16]>(), any::<u64>(), proptest::option::of(any::<[u8; 32]>()));
    let attempt = attempt.prop_map(|(id, started_ms, key_authorization_sha256)| RenewalAttempt {
        id,
        started_ms,
        key_authorization_sha256,
    });
    let text = || proptest::option::of("[ -~]{0,300}");
    (text(), proptest::option::of(attempt), any::<(u32, u64)>(), text()).prop_map(
        |(account, attempt, (failures, again_ms), last_failure)| RenewalProgress {
            account,
            attempt,
            failures,
            again_ms,
            last_failure,
        },
    )
}

pub(crate) fn standing_renewal() -> impl Strategy<Value = StandingRenewal> {
    (acme_order(), bytes(150), renewal_progress()).prop_map(|(order, key, progress)| StandingRenewal {
        order,
        account_key: SecretBytes::new(key),
        progress,
    })
}

pub(crate) fn measurements() -> impl Strategy<Value = Measurements> {
    let pcr = array::<48>;
    let pinned = || proptest::option::of(pcr());
    (pcr(), pcr(), pcr(), pcr(), pinned(), pinned(), pinned()).prop_map(
        |(pcr0, pcr1, pcr2, pcr16, pcr3, pcr4, pcr8)| Measurements { pcr0, pcr1, pcr2, pcr16, pcr3, pcr4, pcr8 },
    )
}

pub(crate) fn signed() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(bytes(60))
}

pub(crate) fn byte_vecs() -> impl Strategy<Value = Vec<ByteVec>> {
    vec(bytes(40).prop_map(ByteVec::from), 0..4)
}
