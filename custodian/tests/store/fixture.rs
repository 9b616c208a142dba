//! Values for the tables, and two handles on one database: what two replicas would have.

use std::sync::Arc;

use holdfast_custodian::store::{
    Deposited, Granted, JudgedBy, NewAlarm, NewLease, NewShare, NewVersion, Origin, ReleaseRecord, Store,
    StoredCommand, StoredManifest, Version,
};
use holdfast_shared::alarm::{Alarm, AlarmKind};
use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId, LeaseId};
use holdfast_shared::manifest::ManifestId;
use holdfast_shared::sha256;
use tempfile::TempDir;

use crate::server::Cluster;

pub(crate) const KEY_STORE: KeyStoreId = KeyStoreId([1; 32]);
/// What is in the key store's first manifest.
pub(crate) const FIRST: &str = "manifest";
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;
pub(crate) const LEASE: LeaseId = LeaseId([7; 16]);
pub(crate) const BOOT: BootId = BootId([8; 16]);

/// A database with two handles. With SQLite both are one.
pub(crate) struct Place {
    pub(crate) one: Arc<Store>,
    pub(crate) two: Arc<Store>,
    _directory: Option<TempDir>,
}

impl Place {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let one = Arc::new(Store::create(&directory.path().join("custodian.sqlite")).await.unwrap());
        Self { two: Arc::clone(&one), one, _directory: Some(directory) }
    }

    pub(crate) async fn postgres(cluster: &Cluster) -> Self {
        let server = cluster.database();
        let (one, two) = tokio::join!(Store::connect(&server), Store::connect(&server));
        Self { one: Arc::new(one.unwrap()), two: Arc::new(two.unwrap()), _directory: None }
    }

    /// With these receivers of alarms. Nobody else holds the handles yet.
    pub(crate) fn delivering_to(self, destinations: &[&str]) -> Self {
        let names: Vec<_> = destinations.iter().map(|name| (*name).to_owned()).collect();
        let Self { one, two, _directory: directory } = self;
        if Arc::ptr_eq(&one, &two) {
            drop(two);
            let one = Arc::new(Arc::into_inner(one).unwrap().delivering_to(names));
            return Self { two: Arc::clone(&one), one, _directory: directory };
        }
        let [one, two] = [one, two].map(|store| Arc::new(Arc::into_inner(store).unwrap().delivering_to(names.clone())));
        Self { one, two, _directory: directory }
    }

    /// A handle for each of several that race.
    pub(crate) fn handle(&self, number: usize) -> Arc<Store> {
        Arc::clone(if number.is_multiple_of(2) { &self.one } else { &self.two })
    }

    /// With one key store and one lease.
    pub(crate) async fn enrolled(self) -> Self {
        assert!(self.one.enrol(KEY_STORE, &first(), b"policy", NOW_MS).await.unwrap());
        assert_eq!(self.one.grant(&lease(LEASE, 0), &record(true)).await.unwrap(), Granted::Kept { ended: None });
        self
    }

    /// The same, and with a share of the first generation.
    pub(crate) async fn founded(self) -> Self {
        let place = self.enrolled().await;
        let other = LeaseId([0x77; 16]);
        place.one.grant(&lease(other, 0), &record(true)).await.unwrap();
        let origin = Origin { lease_id: other, ..message(1) };
        assert_eq!(place.one.deposit(&share(1, 11), origin).await.unwrap(), Deposited::Kept);
        place
    }
}

/// A lease whose nonce is made of its id and `nonce`.
pub(crate) fn lease(lease_id: LeaseId, nonce: u8) -> NewLease {
    let mut bytes = [nonce; 32];
    bytes[..16].copy_from_slice(lease_id.as_bytes());
    NewLease {
        lease_id,
        key_store_id: KEY_STORE,
        boot_id: BOOT,
        module_id: "i-1-enc1".to_owned(),
        audit_public_key: [3; 32],
        evidence: vec![4; 3],
        document: vec![5; 3],
        channel_keys: vec![6; 3],
        policy_epoch: 1,
        overlay_epoch: 0,
        nonce: bytes,
        granted_ms: NOW_MS,
        expires_ms: NOW_MS + 60_000,
        boots_max: None,
    }
}

pub(crate) fn record(released: bool) -> ReleaseRecord {
    ReleaseRecord {
        at_ms: NOW_MS,
        key_store_id: KEY_STORE,
        released,
        reason: "because".to_owned(),
        policy_epoch: 1,
        emulated_root: true,
        trust_root: Some([2; 32]),
        module_id: Some("i-1-enc1".to_owned()),
        boot_id: Some(BOOT),
        lease_id: released.then_some(LEASE),
        measurements: None,
    }
}

/// A message of [`LEASE`].
pub(crate) const fn message(counter: u64) -> Origin {
    Origin { lease_id: LEASE, counter, now_ms: NOW_MS }
}

pub(crate) fn share(generation: u32, byte: u8) -> NewShare {
    NewShare {
        key_store_id: KEY_STORE,
        generation,
        share_set: vec![byte; 40],
        wrapped: vec![byte; 60],
        document: vec![9; 5],
        may_start_late: false,
    }
}

pub(crate) fn blob_id(version: u64, byte: u8) -> BlobId {
    let mut id = [byte; 32];
    id[..8].copy_from_slice(&version.to_be_bytes());
    BlobId(id)
}

/// The hash of the set of [`share`].
pub(crate) fn set_sha256(byte: u8) -> [u8; 32] {
    sha256(&[&[byte; 40]])
}

/// A manifest named by the number in its place and what is in it; it is the first where that is [`FIRST`].
pub(crate) fn manifest(sequence: u32, text: &str) -> StoredManifest {
    StoredManifest { id: manifest_id(sequence, text), signed: format!("signed {text}").into_bytes() }
}

pub(crate) fn manifest_id(sequence: u32, text: &str) -> ManifestId {
    ManifestId { sequence, digest: sha256(&[text.as_bytes()]) }
}

pub(crate) fn first() -> [StoredManifest; 1] {
    [manifest(1, FIRST)]
}

/// What decides on an overlay under the first manifest.
pub(crate) fn judged_by(epoch: u64) -> JudgedBy {
    JudgedBy { epoch, manifest: manifest_id(1, FIRST) }
}

/// A version that follows the one made with the same byte, under the share of [`Place::founded`].
pub(crate) fn version(number: u64, byte: u8) -> NewVersion {
    NewVersion { version: copy(number, byte), results: Vec::new(), commit_now: true, overlay_known: 0 }
}

/// The same where it was published elsewhere.
pub(crate) fn copy(number: u64, byte: u8) -> Version {
    Version {
        key_store_id: KEY_STORE,
        number,
        previous: (number > 1).then(|| blob_id(number - 1, byte)),
        blob_id: blob_id(number, byte),
        blob: vec![byte; 100],
        generation: 1,
        share_set_sha256: set_sha256(11),
        manifest: manifest_id(1, FIRST),
        register: vec![byte; 10],
        evidence: vec![byte; 20],
        boot_id: BOOT,
    }
}

pub(crate) const fn command_id(byte: u8) -> CommandId {
    CommandId([byte; 16])
}

pub(crate) fn command(byte: u8, envelope: &[u8]) -> StoredCommand {
    StoredCommand {
        key_store_id: KEY_STORE,
        command_id: command_id(byte),
        envelope: envelope.to_vec(),
        signers: 1,
        expires_ms: NOW_MS + 1_000,
    }
}

/// An alarm that stays quiet for an hour.
pub(crate) fn alarm(kind: AlarmKind, who: &str) -> NewAlarm {
    let alarm = Alarm { kind, key: None, who: who.to_owned(), text: "what was seen".to_owned() };
    NewAlarm { key_store_id: KEY_STORE, boot_id: Some(BOOT), alarm, at_ms: NOW_MS, quiet_ms: 3_600_000 }
}
