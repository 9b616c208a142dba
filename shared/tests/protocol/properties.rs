//! Round trips over generated messages, and what becomes of changed bytes.

use holdfast_shared::attestation::Measurements;
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor::{self, Message};
use holdfast_shared::channel::{Ask, Seen};
use holdfast_shared::command::{Action, Command, KeyDescription, Outcome, Precondition, VersionRun};
use holdfast_shared::external_key::{ExternalKeyId, KeyState, KeyUsage, LegacyProfile};
use holdfast_shared::ids::{BlobId, CommandId, KeyStoreId};
use holdfast_shared::keystore::{
    self, ClientAuthentication, ExternalKeyRecord, KeyVersionRecord, Place, Quota, VersionState,
};
use holdfast_shared::manifest::{DerCertificate, Manifest, ReleasePolicy};
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::secrets::Secret;
use holdfast_shared::{hpke, labels, limits};
use proptest::prelude::*;

use crate::fixture::{self, Party, rng};

/// What is encoded decodes to itself; a changed byte gives an error or the one encoding of another message.
fn holds<T: Message + PartialEq + core::fmt::Debug>(value: &T, position: usize, flip: u8) {
    let bytes = cbor::encode(value);
    assert_eq!(&cbor::decode::<T>(&bytes).unwrap(), value);
    let mut changed = bytes.to_vec();
    let index = position % changed.len();
    changed[index] ^= flip.max(1);
    if let Ok(other) = cbor::decode::<T>(&changed) {
        assert_ne!(&other, value);
        assert_eq!(cbor::encode(&other).as_slice(), changed);
    }
    changed.truncate(index);
    assert!(cbor::decode::<T>(&changed).is_err(), "cut off");
}

fn key_id() -> impl Strategy<Value = ExternalKeyId> {
    "[A-Za-z0-9_-]{1,128}".prop_map(|text| ExternalKeyId::parse(&text).unwrap())
}

fn key_ids() -> impl Strategy<Value = Vec<ExternalKeyId>> {
    prop::collection::btree_set(key_id(), 0..8).prop_map(|ids| ids.into_iter().collect())
}

fn quota() -> impl Strategy<Value = Quota> {
    (limits::QUOTA, limits::QUOTA).prop_map(|(requests_per_second, burst)| Quota { requests_per_second, burst })
}

fn client_authentication() -> impl Strategy<Value = ClientAuthentication> {
    let authority = prop::collection::vec(any::<u8>(), 1..64).prop_map(DerCertificate);
    (prop::collection::vec(authority, 1..=8), prop::collection::vec("[ -~]{1,64}", 1..=8))
        .prop_map(|(authorities, subject_common_names)| ClientAuthentication { authorities, subject_common_names })
}

fn version(number: u32) -> impl Strategy<Value = KeyVersionRecord> {
    (any::<u8>(), any::<[u8; 32]>()).prop_map(move |(kind, mut material)| {
        let mut version = KeyVersionRecord::new(number, Secret::take(&mut material));
        if kind % 3 == 0 {
            version.destroy();
        }
        version
    })
}

fn versions() -> impl Strategy<Value = Vec<KeyVersionRecord>> {
    (prop::collection::btree_set(1..1_u32 << 24, 1..6), any::<[u8; 32]>(), any::<bool>()).prop_flat_map(
        |(numbers, material, legacy)| {
            let newest = *numbers.last().unwrap();
            let old: Vec<_> = numbers.into_iter().filter(|number| *number != newest).map(version).collect();
            old.prop_map(move |mut versions| {
                let legacy = legacy.then_some(LegacyProfile::AwsSample);
                let material = Secret::take(&mut material.clone());
                versions.push(KeyVersionRecord { legacy, ..KeyVersionRecord::new(newest, material) });
                versions
            })
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (key_id(), any::<bool>(), any::<bool>())
            .prop_map(|(id, encrypt, decrypt)| Action::CreateKey { id, usage: KeyUsage { encrypt, decrypt } }),
        key_id().prop_map(|id| Action::EnableKey { id }),
        key_id().prop_map(|id| Action::DisableKey { id }),
        Just(Action::ListKeys),
        key_id().prop_map(|id| Action::RotateKey { id }),
        (key_id(), any::<u32>()).prop_map(|(id, number)| Action::DestroyKeyVersion { id, number }),
        (key_id(), any::<bool>(), any::<[u8; 97]>(), any::<[u8; 97]>(), prop::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(id, legacy, recipient, encapsulated_key, ciphertext)| Action::ImportKey {
                id,
                usage: KeyUsage::DECRYPT,
                legacy,
                recipient: hpke::PublicKey(recipient),
                sealed: hpke::Sealed { encapsulated_key, ciphertext },
            }),
        prop::option::of(quota()).prop_map(|quota| Action::SetQuota { quota }),
        prop::option::of(client_authentication()).prop_map(|settings| Action::SetClientAuthentication { settings }),
        Just(Action::CreateCredential),
        Just(Action::RequestCertificate),
        Just(Action::ShowSettings),
        Just(Action::ShowTls),
    ]
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        Just(Precondition::None),
        any::<u64>().prop_map(Precondition::Version),
        Just(Precondition::KeyState(KeyState::Disabled)),
    ]
}

proptest! {
    #[test]
    fn commands(
        action in action(),
        precondition in precondition(),
        ids: ([u8; 32], [u8; 16]),
        issued_ms in 0..u64::MAX / 2,
        life in 0..86_400_000_u64,
        position: usize,
        flip: u8,
    ) {
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: KeyStoreId(ids.0),
            command_id: CommandId(ids.1),
            issued_ms,
            expires_ms: issued_ms + life,
            precondition,
            action,
        };
        holds(&command, position, flip);
    }

    #[test]
    fn outcomes(
        ids in key_ids(),
        numbers in prop::collection::btree_set(any::<u32>(), 0..8),
        quota in prop::option::of(quota()),
        client_authentication in prop::option::of(client_authentication()),
        position: usize,
        flip: u8,
    ) {
        holds(&Outcome::Settings { quota, client_authentication, limits: None, audit: None, budgets: None }, position, flip);
        let states = [VersionState::Live, VersionState::LiveWithLegacy, VersionState::Destroyed];
        let ends: Vec<_> = numbers.into_iter().collect();
        let run = |(at, ends): (usize, &[u32])| VersionRun { first: ends[0], last: ends[1], state: states[at % 3] };
        let runs: Vec<_> = ends.chunks_exact(2).enumerate().map(run).collect();
        let key = |id: ExternalKeyId| KeyDescription {
            destroy_after_ms: None,
            id,
            usage: KeyUsage::DECRYPT,
            state: KeyState::Disabled,
            current_version: 1,
            versions: 1,
            runs: runs.clone(),
        };
        holds(&Outcome::Keys { keys: ids.into_iter().map(key).collect() }, position, flip);
    }

    #[test]
    fn overlays_and_register_entries(
        keys in key_ids(),
        store: bool,
        epoch in 1..u64::MAX,
        blob: [u8; 32],
        position: usize,
        flip: u8,
    ) {
        let key_store_id = KeyStoreId(blob);
        let label = labels::BLOCK.to_owned();
        holds(&BlockOverlay { label, key_store_id, epoch, store, keys, issued_ms: epoch }, position, flip);
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id,
            version: epoch,
            blob_id: BlobId(blob),
            previous: (epoch > 1).then_some(BlobId(blob)),
            recorded_ms: epoch,
        };
        holds(&entry, position, flip);
    }

    #[test]
    fn channel_requests(
        epochs: (u64, u64),
        commands in prop::collection::vec(any::<[u8; 16]>(), 0..8),
        blob in prop::collection::vec(any::<u8>(), 0..64),
        renew: bool,
        position: usize,
        flip: u8,
    ) {
        let commands = commands.into_iter().map(CommandId).collect();
        let seen = Seen { overlay_epoch: epochs.0, version: epochs.1, commands, manifest_sequence: 1, obeys: None };
        holds(&Ask::Watch { seen, renew }, position, flip);
        let previous = Some(BlobId([1; 32]));
        holds(&Ask::Publish { version: epochs.0.max(2), previous, blob, results: vec![], evidence: vec![] }, position, flip);
    }

    #[test]
    fn manifests(
        name in "[ -~]{1,64}",
        pcrs: [u8; 3],
        pinned: Option<u8>,
        lease_ms in 10_000..86_400_000_u64,
        position: usize,
        flip: u8,
    ) {
        let alice = Party::new();
        let accepted = Measurements {
            pcr0: [pcrs[0].max(1); 48],
            pcr3: pinned.map(|fill| [fill; 48]),
            ..fixture::measurements(pcrs[1].max(1))
        };
        let release_policy = ReleasePolicy::first([pcrs[2]; 32], vec![accepted], lease_ms);
        holds(&Manifest { name, release_policy, ..fixture::manifest(&[&alice], &[&alice]) }, position, flip);
    }

    #[test]
    fn sealed_key_stores(
        ids in key_ids(),
        versions in prop::collection::vec(versions(), 8),
        quota in prop::option::of(quota()),
        client_authentication in prop::option::of(client_authentication()),
        root: [u8; 32],
    ) {
        let mut body = fixture::body(Party::new().administrator("alice"));
        body.external_keys = ids
            .iter()
            .zip(versions)
            .map(|(id, versions)| ExternalKeyRecord { versions, ..fixture::key_record(id.as_str(), 1) })
            .collect();
        (body.quota, body.client_authentication) = (quota, client_authentication);
        let place = Place { key_store_id: KeyStoreId(root), version: 1, previous: None, generation: 1 };
        let root = || Secret::take(&mut root.clone());
        let sealed = keystore::seal(&root(), &place, &body, &rng()).unwrap();
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: place.key_store_id,
            version: 1,
            blob_id: sealed.id,
            previous: None,
            recorded_ms: 0,
        };
        prop_assert_eq!(keystore::open(&root(), &entry, &sealed.bytes).unwrap().body, body);
    }
}
