//! An enclave as a custodian sees it: documents of the emulated chain, and messages under its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_custodian::clock::{Clock, SystemClock};
use holdfast_devkit::nsm::DocumentBuilder;
use holdfast_shared::api::{self, RefusalCode};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply};
use holdfast_shared::command::{Command, Outcome, ResultContent, SealedResult, seal_result};
use holdfast_shared::hpke;
use holdfast_shared::ids::{BlobId, BootId, LeaseId};
use holdfast_shared::keystore::{self, Body, Place, SealedKeyStore, TlsIdentity};
use holdfast_shared::labels;
use holdfast_shared::provenance::{VersionUserData, share_set_sha256};
use holdfast_shared::register;
use holdfast_shared::release::{
    self, ChallengeAnswer, ChallengeRequest, ChannelKeys, Commitment, HeldEntry, PROTOCOL, ReleaseBinding,
    ReleaseRequest, ReleaseUserData, Share, ShareSet,
};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::Envelope;
use holdfast_tests::random::{Random, random_bytes};
use ring::rand::SystemRandom;

use crate::fleet::{Fleet, MODULE_ID};

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Told {
    Reply(Reply),
    /// The custodian knows nothing of the lease.
    LeaseEnded,
    /// The connection broke off, or there was no database: nobody knows what became of it.
    Nothing,
}

pub(crate) struct Enclave {
    boot_id: BootId,
    lease_id: LeaseId,
    keys: ChannelKeys,
    counter: u64,
    pub(crate) overlay: Option<Vec<u8>>,
    /// The newest version that it knows of.
    newest: Option<(u64, BlobId)>,
}

impl Enclave {
    /// Obtains a release, at this replica or, if that fails, at the others in turn.
    pub(crate) async fn obtain(fleet: &Fleet, first: usize) -> Self {
        let mut replica = first;
        loop {
            if let Some(document) = Document::make(fleet, replica).await
                && let Ok(answer) = document.hand_in(fleet, replica).await
            {
                return document.open(fleet, &answer);
            }
            replica = (replica + 1) % 2;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Obtains a release, handing the same document to both replicas at once: one of them may answer.
    pub(crate) async fn obtain_twice(fleet: &Fleet, random: &mut Random) -> Self {
        loop {
            if let Some(document) = Document::make(fleet, random.below(2)).await {
                let (one, two) = tokio::join!(document.hand_in(fleet, 0), document.hand_in(fleet, 1));
                assert!(one.is_err() || two.is_err(), "one document obtained two releases");
                if let Ok(answer) = one.or(two) {
                    return document.open(fleet, &answer);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks one replica; what changed something is then shown to the other one, which must refuse it.
    pub(crate) async fn ask(&mut self, fleet: &Fleet, random: &mut Random, ask: &Ask) -> Told {
        let replica = random.below(2);
        self.counter += 1;
        let counter = self.counter;
        let message =
            channel::seal(ask, Direction::Ask, &self.keys.ask, self.lease_id, counter, &SystemRandom::new()).unwrap();
        let answer = match fleet.post(replica, api::CHANNEL, message.clone()).await {
            Ok(answer) => answer,
            Err(error) => {
                return match error.refusal().map(|refusal| refusal.code) {
                    Some(RefusalCode::NotFound) => Told::LeaseEnded,
                    Some(RefusalCode::Internal) | None => Told::Nothing,
                    Some(_) => panic!("{error}"),
                };
            }
        };
        let reply = self.open(&answer, counter);
        if let Err(error) =
            fleet.post(1 - replica, api::CHANNEL, message).await.map(|answer| self.open(&answer, counter))
        {
            let refusal = error.refusal().map(|refusal| refusal.code);
            assert!(matches!(refusal, None | Some(RefusalCode::Internal | RefusalCode::Denied)), "{error}");
        } else {
            panic!("acted twice on one message: {ask:?}");
        }
        Told::Reply(reply)
    }

    fn open(&self, sealed: &[u8], counter: u64) -> Reply {
        let message: ChannelMessage = cbor::decode(sealed).unwrap();
        assert_eq!((message.lease_id, message.counter), (self.lease_id, counter));
        channel::open(&message, Direction::Reply, &self.keys.reply).unwrap()
    }

    /// Ceremony and version 1, before anything is killed.
    pub(crate) async fn found(&mut self, fleet: &Fleet) {
        let mut random = Random::seeded(0);
        let (set, share) = share(fleet);
        let told = self.ask(fleet, &mut random, &Ask::Deposit { set, share }).await;
        assert!(matches!(told, Told::Reply(Reply::Deposited)), "{told:?}");
        assert!(self.publish_next(fleet, &mut random).await.is_some());
    }

    /// Publishes a version after the newest one that it knows of: its number and register entry, if that is acknowledged.
    pub(crate) async fn publish_next(&mut self, fleet: &Fleet, random: &mut Random) -> Option<(u64, Vec<u8>)> {
        let version = self.newest.map_or(1, |(version, _)| version + 1);
        let previous = self.newest.map(|(_, blob_id)| blob_id);
        let blob = blob(fleet, version, previous);
        let evidence = evidence(fleet, version, &blob, previous);
        let ask = Ask::Publish { version, previous, blob: blob.bytes, results: Vec::new(), evidence };
        match self.ask(fleet, random, &ask).await {
            Told::Reply(Reply::Published { register }) => {
                self.newest = Some((version, blob.id));
                Some((version, register))
            }
            Told::Reply(Reply::Conflict { register }) => {
                self.follow(fleet, register.as_ref());
                None
            }
            Told::Reply(other) => panic!("{other:?}"),
            Told::LeaseEnded => panic!("a lease that was granted is gone"),
            Told::Nothing => None,
        }
    }

    fn follow(&mut self, fleet: &Fleet, register: Option<&HeldEntry>) {
        let entry =
            register.map(|held| register::open(&held.signed, fleet.key_store_id, &fleet.record.signing_key).unwrap());
        self.newest = entry.map(|entry| (entry.version, entry.blob_id));
    }

    /// A result that no other enclave would report.
    pub(crate) fn result_for(&self, fleet: &Fleet, command: &[u8]) -> SealedResult {
        let envelope: Envelope = cbor::decode(command).unwrap();
        let command: Command = cbor::decode(envelope.unverified_payload()).unwrap();
        let outcome = SecretBytes::new(cbor::encode(&Outcome::Done).to_vec());
        let content = ResultContent { outcome, document: self.boot_id.as_bytes().to_vec() };
        seal_result(&content, fleet.key_store_id, command.command_id, &fleet.manifest.administrators[0]).unwrap()
    }
}

/// A document for a release, and what opens the answer.
struct Document {
    nonce: [u8; 32],
    user_data: ReleaseUserData,
    key: hpke::PrivateKey,
    bytes: Vec<u8>,
}

impl Document {
    async fn make(fleet: &Fleet, replica: usize) -> Option<Self> {
        let request = ChallengeRequest { protocol: PROTOCOL, key_store_id: fleet.key_store_id };
        let answer = fleet.post(replica, api::CHALLENGE, cbor::encode(&request).to_vec()).await.ok()?;
        let nonce = cbor::decode::<ChallengeAnswer>(&answer).unwrap().nonce;
        let key = hpke::PrivateKey::generate().unwrap();
        let user_data = ReleaseUserData {
            label: labels::ATTEST_RELEASE.to_owned(),
            key_store_id: fleet.key_store_id,
            custodian_id: fleet.record.id(),
            boot_id: BootId(random_bytes()),
            audit_public_key: [9; 32],
        };
        let bytes = builder(fleet)
            .nonce(Some(&nonce))
            .user_data(Some(&cbor::encode(&user_data)))
            .public_key(Some(&key.public_key().0))
            .build()
            .unwrap();
        Some(Self { nonce, user_data, key, bytes })
    }

    async fn hand_in(&self, fleet: &Fleet, replica: usize) -> Result<Vec<u8>, ()> {
        let request =
            ReleaseRequest { protocol: PROTOCOL, key_store_id: fleet.key_store_id, document: self.bytes.clone() };
        fleet.post(replica, api::RELEASE, cbor::encode(&request).to_vec()).await.map_err(|_| ())
    }

    fn open(&self, fleet: &Fleet, answer: &[u8]) -> Enclave {
        let user_data = cbor::encode(&self.user_data);
        let binding = ReleaseBinding {
            custodian_id: fleet.record.id(),
            key_store_id: fleet.key_store_id,
            nonce: &self.nonce,
            user_data: &user_data,
        };
        let (content, _, keys) = release::open(answer, &binding, &fleet.record.signing_key, &self.key).unwrap();
        let mut enclave = Enclave {
            boot_id: self.user_data.boot_id,
            lease_id: content.lease_id,
            keys,
            counter: 0,
            overlay: content.overlay,
            newest: None,
        };
        enclave.follow(fleet, content.register.as_ref());
        enclave
    }
}

fn builder(fleet: &Fleet) -> DocumentBuilder {
    let pcrs: BTreeMap<u8, [u8; 48]> = BTreeMap::from([
        (0, [1; 48]),
        (1, [2; 48]),
        (2, [3; 48]),
        (3, [0; 48]),
        (4, [4; 48]),
        (8, [0; 48]),
        (16, [16; 48]),
    ]);
    DocumentBuilder::new(&fleet.chain, MODULE_ID, SystemClock.now_ms()).pcrs(&pcrs)
}

fn share(fleet: &Fleet) -> (ShareSet, hpke::Sealed) {
    let share = Share { index: 1, value: Secret::take(&mut [7; 32]) };
    let sealed =
        release::seal_share(&share, fleet.key_store_id, fleet.record.id(), &fleet.record.encryption_key).unwrap();
    (share_set(&share), sealed)
}

fn share_set(share: &Share) -> ShareSet {
    ShareSet {
        generation: 1,
        shares_needed: 1,
        commitments: vec![Commitment(share.commitment())],
        kms_ciphertext: None,
    }
}

fn blob(fleet: &Fleet, version: u64, previous: Option<BlobId>) -> SealedKeyStore {
    let manifest = &fleet.manifest;
    let body = Body {
        sharing: None,
        successor: None,
        host_name: manifest.host_name.clone(),
        path_prefix: manifest.path_prefix.clone(),
        tls: TlsIdentity { private_key: SecretBytes::new(vec![5; 40]), chain: Vec::new() },
        credentials: Vec::new(),
        external_keys: Vec::new(),
        administrators: manifest.administrators.clone(),
        thresholds: manifest.thresholds,
        executed: Vec::new(),
        quota: None,
        audit: None,
        client_authentication: None,
        renewal: None,
        policy: None,
        limits: None,
        budgets: None,
    };
    let place = Place { key_store_id: fleet.key_store_id, version, previous, generation: 1 };
    keystore::seal(&Secret::take(&mut [7; 32]), &place, &body, &SystemRandom::new()).unwrap()
}

fn evidence(fleet: &Fleet, version: u64, blob: &SealedKeyStore, previous: Option<BlobId>) -> Vec<u8> {
    let share = Share { index: 1, value: Secret::take(&mut [7; 32]) };
    let user_data = VersionUserData {
        label: labels::ATTEST_VERSION.to_owned(),
        key_store_id: fleet.key_store_id,
        version,
        blob_id: blob.id,
        previous,
        share_set_sha256: share_set_sha256(&share_set(&share)),
        manifest: holdfast_shared::manifest::ManifestId::first(fleet.key_store_id),
        commands: Vec::new(),
    };
    builder(fleet).user_data(Some(&cbor::encode(&user_data))).build().unwrap()
}

/// The epoch of a signed overlay; 0 for none.
pub(crate) fn epoch(signed: Option<&[u8]>) -> u64 {
    signed.map_or(0, |signed| {
        let envelope: Envelope = cbor::decode(signed).unwrap();
        cbor::decode::<BlockOverlay>(envelope.unverified_payload()).unwrap().epoch
    })
}

/// A message of a lease that nobody granted.
pub(crate) fn made_up_message() -> Vec<u8> {
    let message = ChannelMessage {
        protocol: PROTOCOL,
        lease_id: LeaseId(random_bytes()),
        counter: 1,
        nonce: [1; 12],
        ciphertext: vec![0; 100],
    };
    cbor::encode(&message).to_vec()
}
