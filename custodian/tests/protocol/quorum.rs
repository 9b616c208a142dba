//! Several custodians: copies of what home ordered, commitment, and changes of the root key.

use std::time::Duration;

use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::command::{self, Action, Outcome, ResultContent, SealedResult};
use holdfast_shared::ids::{BlobId, CommandId, KeyStoreId};
use holdfast_shared::keystore::{Place, SealedKeyStore, header};
use holdfast_shared::labels;
use holdfast_shared::limits;
use holdfast_shared::manifest::ManifestId;
use holdfast_shared::provenance::{VersionUserData, share_set_sha256};
use holdfast_shared::query::{Answer, KeyStoreStatus, Question, ResultState};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::ShareSet;
use holdfast_shared::secrets::SecretBytes;

use crate::world::{Person, World, custodian_entry, manifest_id, refused, rng};

/// Which of three custodians is under test; the tests play the others.
pub(crate) struct Three {
    pub(crate) world: World,
    pub(crate) home: Person,
    pub(crate) set: ShareSet,
}

impl Three {
    pub(crate) async fn with_own_place(place: usize) -> Self {
        let mut world = World::unenrolled().await;
        let home = Person::new("home");
        for person in [&home, &Person::new("third")] {
            let mut entry = custodian_entry(&world.record);
            entry.signing_key = person.entry.signing_key;
            world.manifest.custodians.push(entry);
        }
        world.manifest.custodians.swap(0, place);
        world.manifest.shares_needed = 2;
        world.key_store_id = KeyStoreId(holdfast_shared::sha256(&[&cbor::encode(&world.manifest)]));
        world.custodian.enrol(world.signed_manifest()).await.unwrap();
        let set = world.set(&[7, 8, 9]);
        Self { world, home, set }
    }

    pub(crate) fn signed(&self, blob: &SealedKeyStore, person: &Person) -> Vec<u8> {
        let header = header(&blob.bytes).unwrap();
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: self.world.key_store_id,
            version: header.version,
            blob_id: blob.id,
            previous: header.previous,
            recorded_ms: self.world.now_ms(),
        };
        register::sign(&entry, &person.signing_key, &rng()).unwrap()
    }

    pub(crate) fn copy(&self, blob: &SealedKeyStore) -> Ask {
        let evidence = self.world.evidence(blob, &self.set, self.world.first());
        Ask::Copy { register: self.signed(blob, &self.home), blob: blob.bytes.clone(), evidence }
    }

    /// Publishes at home.
    fn publish(&self, blob: &SealedKeyStore, results: Vec<SealedResult>) -> Ask {
        self.publish_all(blob, results, self.world.first())
    }

    /// Publishes at home what was made under a manifest.
    pub(crate) fn publish_under(&self, blob: &SealedKeyStore, manifest: ManifestId) -> Ask {
        self.publish_all(blob, Vec::new(), manifest)
    }

    fn publish_all(&self, blob: &SealedKeyStore, results: Vec<SealedResult>, manifest: ManifestId) -> Ask {
        let header = header(&blob.bytes).unwrap();
        let evidence = self.world.evidence(blob, &self.set, manifest);
        Ask::Publish { version: header.version, previous: header.previous, blob: blob.bytes.clone(), results, evidence }
    }

    pub(crate) fn deposit(&self, index: u8, byte: u8) -> Ask {
        Ask::Deposit { set: self.set.clone(), share: self.world.seal_share(index, byte) }
    }
}

async fn status(world: &World) -> KeyStoreStatus {
    match world.ask(Question::Status).await {
        Answer::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

fn held(reply: &Reply) -> (u64, bool) {
    match reply {
        Reply::Conflict { register: Some(held) } => {
            let envelope: holdfast_shared::signature::Envelope = cbor::decode(&held.signed).unwrap();
            (cbor::decode::<RegisterEntry>(envelope.unverified_payload()).unwrap().version, held.is_committed)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_copy_is_kept_as_home_signed_it() {
    let three = Three::with_own_place(1).await;
    let world = &three.world;
    let mut enclave = world.obtain().await;
    let one = world.blob(1, None);
    let (register, evidence) = (three.signed(&one, &three.home), world.evidence(&one, &three.set, world.first()));
    let other = world.blob(1, None);
    let next = world.blob(2, Some(&one));
    let place = Place { key_store_id: KeyStoreId([1; 32]), version: 1, previous: None, generation: 1 };
    let foreign = world.blob_at(&place);
    let unlike = VersionUserData {
        label: labels::ATTEST_VERSION.to_owned(),
        key_store_id: world.key_store_id,
        version: 1,
        blob_id: one.id,
        previous: None,
        share_set_sha256: share_set_sha256(&three.set),
        manifest: ManifestId { sequence: 0, ..world.first() },
        commands: Vec::new(),
    };
    let copy = |register: &[u8], blob: &SealedKeyStore, evidence: &[u8]| Ask::Copy {
        register: register.to_vec(),
        blob: blob.bytes.clone(),
        evidence: evidence.to_vec(),
    };
    let stranger = three.signed(&one, &Person::new("stranger"));
    let table = [
        ("signed by a stranger", copy(&stranger, &one, &evidence), "unknown key"),
        ("another blob", copy(&register, &other, &evidence), "not the one that the register entry names"),
        ("another key store's", copy(&three.signed(&foreign, &three.home), &foreign, &evidence), "header"),
        ("no evidence", copy(&register, &one, &[]), "not an attestation document"),
        ("a release's document", copy(&register, &one, &enclave.document), "was not made for a version"),
        (
            "another version's",
            copy(&register, &one, &world.evidence(&next, &three.set, world.first())),
            "another version",
        ),
        ("of no manifest", copy(&register, &one, &world.evidence_of(&unlike)), "was not made for a version"),
    ];
    for (what, ask, words) in table {
        let reason = refused(enclave.ask(world, &ask).await.unwrap());
        assert!(reason.contains(words), "{what}: {reason}");
    }
    assert_eq!(status(world).await.version, None);

    assert_eq!(enclave.ask(world, &three.copy(&one)).await.unwrap(), Reply::Copied);
    assert_eq!(enclave.ask(world, &three.copy(&one)).await.unwrap(), Reply::Copied, "a retry");
    let released = world.obtain().await.content.register.unwrap();
    assert!(!released.is_committed);
    assert_eq!(register::open(&released.signed, world.key_store_id, &three.home.entry.signing_key).unwrap().version, 1);
    let Reply::Blob { blob, evidence } = enclave.ask(world, &Ask::Fetch { blob_id: one.id }).await.unwrap() else {
        panic!("it is held")
    };
    assert_eq!(blob, one.bytes);
    assert!(!evidence.is_empty());

    // Whoever was away takes up where the others are; what is older is refused, and two lines are a fork.
    let two = world.blob(2, Some(&one));
    let four = world.blob(4, Some(&world.blob(3, Some(&two))));
    assert_eq!(enclave.ask(world, &three.copy(&four)).await.unwrap(), Reply::Copied);
    assert_eq!(held(&enclave.ask(world, &three.copy(&two)).await.unwrap()), (4, false));
    for fork in [world.blob(4, Some(&two)), world.blob(5, Some(&two)), world.blob(1, None)] {
        assert_eq!(held(&enclave.ask(world, &three.copy(&fork)).await.unwrap()), (4, false));
        assert!(world.records().await[0].reason.starts_with("fork: the home custodian signed version"));
    }
    assert_eq!(status(world).await.version.unwrap().blob_id, four.id);
}

#[tokio::test]
async fn what_is_committed_stays_committed() {
    let mut three = Three::with_own_place(1).await;
    let mut enclave = three.world.obtain().await;
    let one = three.world.blob(1, None);
    let commit = |version, blob_id| Ask::Commit { version, blob_id };
    let early = enclave.ask(&three.world, &commit(1, one.id)).await.unwrap();
    assert_eq!(early, Reply::Conflict { register: None }, "it is not here");
    enclave.ask(&three.world, &three.copy(&one)).await.unwrap();
    let other = enclave.ask(&three.world, &commit(1, BlobId([1; 32]))).await.unwrap();
    assert_eq!(held(&other), (1, false));
    for _ in 0..2 {
        assert_eq!(enclave.ask(&three.world, &commit(1, one.id)).await.unwrap(), Reply::Committed);
    }
    three.world.restart(true).await;
    assert!(three.world.obtain().await.content.register.unwrap().is_committed);
    assert!(status(&three.world).await.is_committed);
    let two = three.world.blob(2, Some(&one));
    enclave.ask(&three.world, &three.copy(&two)).await.unwrap();
    assert!(!status(&three.world).await.is_committed, "of the newest version it is asked");
}

#[tokio::test]
async fn a_version_is_no_news_until_it_is_committed_or_its_maker_gone() {
    let three = Three::with_own_place(1).await;
    let world = &three.world;
    let (mut maker, mut other) = (world.obtain().await, world.obtain().await);
    let one = world.blob(1, None);
    maker.ask(world, &three.copy(&one)).await.unwrap();
    let message = other.next(&Ask::Watch { seen: Seen::default(), renew: false });
    let custodian = std::sync::Arc::clone(&world.custodian);
    let waiting = tokio::spawn(async move { custodian.channel(&message).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "its maker may commit it yet");
    maker.ask(world, &Ask::Commit { version: 1, blob_id: one.id }).await.unwrap();
    match other.open(&waiting.await.unwrap(), other.counter) {
        Reply::News { register: Some(register), .. } => assert!(register.is_committed),
        news => panic!("{news:?}"),
    }
    let two = world.blob(2, Some(&one));
    maker.ask(world, &three.copy(&two)).await.unwrap();
    let seen = Seen { version: 1, ..Seen::default() };
    match other.renew(world, seen.clone()).await.unwrap() {
        Reply::News { register: None, .. } => {}
        news => panic!("{news:?}"),
    }
    world.clock.step(limits::COMMIT_WAIT_MS);
    match other.ask(world, &Ask::Watch { seen, renew: false }).await.unwrap() {
        Reply::News { register: Some(register), .. } => assert!(!register.is_committed, "others finish the work"),
        news => panic!("{news:?}"),
    }
}

#[tokio::test]
async fn results_show_once_enough_custodians_hold_their_version() {
    let three = Three::with_own_place(0).await;
    let world = &three.world;
    let mut enclave = world.obtain().await;
    assert_eq!(enclave.ask(world, &three.deposit(1, 7)).await.unwrap(), Reply::Deposited);
    let one = world.blob(1, None);
    let published = enclave.ask(world, &three.publish(&one, Vec::new())).await.unwrap();
    assert!(matches!(published, Reply::Published { .. }), "{published:?}");
    assert!(!status(world).await.is_committed, "two must hold it");
    enclave.ask(world, &Ask::Commit { version: 1, blob_id: one.id }).await.unwrap();

    let (command_id, _) = world.order(Action::CreateCredential).await;
    let two = world.blob(2, Some(&one));
    let result = result_for(world, command_id);
    enclave.ask(world, &three.publish(&two, vec![result.clone()])).await.unwrap();
    let state = async || world.ask(Question::Result(command_id)).await;
    assert_eq!(state().await, Answer::Result(ResultState::Pending), "the version may yet be lost");
    enclave.ask(world, &Ask::Commit { version: 2, blob_id: two.id }).await.unwrap();
    assert_eq!(state().await, Answer::Result(ResultState::Ready(result)));
}

/// With three needed of three, one holder is enough for a version; with two of three it was not.
#[tokio::test]
async fn what_puts_a_successor_in_force_counts_under_the_predecessor_too() {
    let three = Three::with_own_place(0).await;
    let world = &three.world;
    let mut enclave = world.obtain().await;
    assert_eq!(enclave.ask(world, &three.deposit(1, 7)).await.unwrap(), Reply::Deposited);
    let one = world.blob(1, None);
    enclave.ask(world, &three.publish(&one, Vec::new())).await.unwrap();
    enclave.ask(world, &Ask::Commit { version: 1, blob_id: one.id }).await.unwrap();
    let (next, signed) = world.successor(|next| next.shares_needed = 3, &[&world.alice]);
    world.custodian.succeed(signed.clone()).await.unwrap();
    assert!(world.obtain().await.content.successors.is_empty(), "it is staged, and no version names it");

    let two = world.blob(2, Some(&one));
    let reply = enclave.ask(world, &three.publish_under(&two, manifest_id(&next))).await.unwrap();
    assert!(matches!(reply, Reply::Published { .. }), "{reply:?}");
    let now = status(world).await;
    assert_eq!((now.is_committed, now.manifest_sequence), (false, 1), "two must hold it under the first manifest");
    // Whoever made it may be gone: the next enclave is told what it needs to finish it.
    assert_eq!(world.obtain().await.content.successors[0].as_slice(), signed);
    enclave.ask(world, &Ask::Commit { version: 2, blob_id: two.id }).await.unwrap();
    let now = status(world).await;
    assert_eq!((now.is_committed, now.manifest_sequence), (true, 2));
}

fn result_for(world: &World, command_id: CommandId) -> SealedResult {
    let outcome = SecretBytes::new(cbor::encode(&Outcome::Done).to_vec());
    let content = ResultContent { outcome, document: vec![1, 2, 3] };
    command::seal_result(&content, world.key_store_id, command_id, &world.alice.entry).unwrap()
}

#[tokio::test]
async fn a_share_that_lost_is_given_up_and_the_winner_may_come_late() {
    let three = Three::with_own_place(1).await;
    let world = &three.world;
    let mut enclave = world.obtain().await;
    let lost = Ask::Deposit { set: world.set(&[4, 5, 6]), share: world.seal_share(2, 5) };
    assert_eq!(enclave.ask(world, &lost).await.unwrap(), Reply::Deposited);
    enclave.ask(world, &three.copy(&world.blob(1, None))).await.unwrap();
    assert!(world.obtain().await.content.shares.is_empty(), "version 1 is sealed under other shares");
    assert_eq!(held(&enclave.ask(world, &lost).await.unwrap()), (1, false));
    assert_eq!(enclave.ask(world, &three.deposit(2, 8)).await.unwrap(), Reply::Deposited);
    assert_eq!(world.obtain().await.content.shares[0].share.value.expose(), &[8; 32]);
}

/// Two changes of the root key at once: the loser's share comes last, and the winner's is still here.
#[tokio::test]
async fn a_late_share_of_the_loser_costs_the_winner_nothing() {
    let mut three = Three::with_own_place(1).await;
    let mut enclave = three.world.obtain().await;
    enclave.ask(&three.world, &three.deposit(2, 8)).await.unwrap();
    let one = three.world.blob(1, None);
    enclave.ask(&three.world, &three.copy(&one)).await.unwrap();
    three.set = ShareSet { generation: 2, ..three.world.set(&[1, 2, 3]) };
    assert_eq!(enclave.ask(&three.world, &three.deposit(2, 2)).await.unwrap(), Reply::Deposited);
    let lost = ShareSet { generation: 2, ..three.world.set(&[4, 5, 6]) };
    let late = Ask::Deposit { set: lost, share: three.world.seal_share(2, 5) };
    assert_eq!(three.world.obtain().await.ask(&three.world, &late).await.unwrap(), Reply::Deposited);
    assert_eq!(three.world.obtain().await.content.shares.len(), 3, "one of the generation in force, and both");
    let key_store_id = three.world.key_store_id;
    let two = three.world.blob_at(&Place { key_store_id, version: 2, previous: Some(one.id), generation: 2 });
    enclave.ask(&three.world, &three.copy(&two)).await.unwrap();
    let shares = three.world.obtain().await.content.shares;
    let kept: Vec<_> = shares.iter().map(|held| (held.set.generation, held.share.value.expose()[0])).collect();
    assert_eq!(kept, [(1, 8), (2, 2)]);
}

#[tokio::test]
async fn a_new_root_key_brings_new_shares_and_the_old_ones_go_when_told() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let generations =
        async || -> Vec<u32> { world.obtain().await.content.shares.iter().map(|held| held.set.generation).collect() };
    let deposit = |generation, byte| {
        let (set, share) = world.shares_of(generation, byte);
        Ask::Deposit { set, share }
    };
    let skipped = enclave.ask(&world, &deposit(3, 9)).await.unwrap();
    assert_eq!(held(&skipped), (1, true), "only the next one");
    for byte in [9, 8] {
        assert_eq!(enclave.ask(&world, &deposit(2, byte)).await.unwrap(), Reply::Deposited, "provisional");
    }
    assert_eq!(generations().await, [1, 2, 2]);
    assert_eq!(status(&world).await.generations, [1, 2]);
    for generation in [1, 2, 3] {
        let reply = enclave.ask(&world, &Ask::Retire { generation }).await.unwrap();
        if generation == 1 {
            assert_eq!(reply, Reply::Retired, "there is none older");
        } else {
            assert!(refused(reply).contains("is committed"));
        }
    }
    assert_eq!(generations().await, [1, 2, 2]);

    let place = Place { key_store_id: world.key_store_id, version: 2, previous: Some(one.id), generation: 2 };
    let two = world.blob_at(&place);
    let evidence = world.evidence(&two, &world.shares_of(2, 8).0, world.first());
    let publish =
        Ask::Publish { version: 2, previous: Some(one.id), blob: two.bytes.clone(), results: Vec::new(), evidence };
    assert!(matches!(enclave.ask(&world, &publish).await.unwrap(), Reply::Published { .. }));
    assert_eq!(generations().await, [1, 2]);
    assert!(
        refused(enclave.ask(&world, &Ask::Retire { generation: 1 }).await.unwrap()).contains("under this generation")
    );
    assert_eq!(enclave.ask(&world, &Ask::Retire { generation: 2 }).await.unwrap(), Reply::Retired);
    assert_eq!(generations().await, [2]);
    assert_eq!(status(&world).await.generations, [2]);
    assert!(world.records().await.iter().any(|record| record.reason.contains("deleted its shares")));
    let back = enclave.publish(&world, &world.blob(3, Some(&two)), 3, Some(&two)).await;
    assert!(refused(back).contains("older root key"));
    assert_eq!(held(&enclave.ask(&world, &deposit(1, 7)).await.unwrap()), (2, true), "the old share is gone for good");
}

#[tokio::test]
async fn shares_go_only_when_the_version_is_committed() {
    let mut three = Three::with_own_place(1).await;
    let mut enclave = three.world.obtain().await;
    enclave.ask(&three.world, &three.deposit(2, 8)).await.unwrap();
    let one = three.world.blob(1, None);
    enclave.ask(&three.world, &three.copy(&one)).await.unwrap();
    three.set = ShareSet { generation: 2, ..three.world.set(&[4, 5, 6]) };
    enclave.ask(&three.world, &three.deposit(2, 5)).await.unwrap();
    let key_store_id = three.world.key_store_id;
    let two = three.world.blob_at(&Place { key_store_id, version: 2, previous: Some(one.id), generation: 2 });
    enclave.ask(&three.world, &three.copy(&two)).await.unwrap();
    assert!(refused(enclave.ask(&three.world, &Ask::Retire { generation: 2 }).await.unwrap()).contains("committed"));
    assert_eq!(status(&three.world).await.generations, [1, 2]);
    enclave.ask(&three.world, &Ask::Commit { version: 2, blob_id: two.id }).await.unwrap();
    assert_eq!(enclave.ask(&three.world, &Ask::Retire { generation: 2 }).await.unwrap(), Reply::Retired);
    assert_eq!(status(&three.world).await.generations, [2]);
}

#[tokio::test]
async fn home_takes_copies_after_a_restored_backup() {
    let mut world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let backup = world.directory.path().join("backup.sqlite");
    world.custodian.store().back_up(&backup).await.unwrap();
    let two = world.blob(2, Some(&one));
    let Reply::Published { register } = enclave.publish(&world, &two, 2, Some(&one)).await else { panic!("published") };
    world.custodian.close().await;
    let state = world.directory.path().join("state");
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(state.join(format!("custodian.sqlite{end}")));
    }
    std::fs::copy(&backup, state.join("custodian.sqlite")).unwrap();
    world.restart(true).await;
    let mut another = world.obtain().await;
    assert_eq!(world.entry(&another.content.register.as_ref().unwrap().signed).version, 1, "rolled back");
    let evidence = world.evidence(&two, &world.set(&[7]), world.first());
    let copy = Ask::Copy { register, blob: two.bytes.clone(), evidence };
    assert_eq!(another.ask(&world, &copy).await.unwrap(), Reply::Copied);
    let three = world.blob(3, Some(&two));
    assert!(matches!(another.publish(&world, &three, 3, Some(&two)).await, Reply::Published { .. }));
}
