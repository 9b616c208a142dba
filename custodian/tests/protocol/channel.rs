//! The sealed channel: counters, deposits, versions, news, renewals, and what survives a restart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_custodian::service::ServiceError;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::command::{self, Action, Outcome, ResultContent, SealedResult, ceremony_id};
use holdfast_shared::hpke;
use holdfast_shared::ids::{BlobId, CommandId, CustodianId, KeyStoreId};
use holdfast_shared::keystore::Place;
use holdfast_shared::limits;
use holdfast_shared::manifest::ReleasePolicy;
use holdfast_shared::query::{Answer, Question, ResultState};
use holdfast_shared::release::{Commitment, HeldEntry, Share, ShareSet, seal_share};
use holdfast_shared::secrets::{Secret, SecretBytes};

use crate::world::{LEASE_MS, Person, World, accepted, custodian_entry, denied, random, refused};

fn watch(seen: Seen) -> Ask {
    Ask::Watch { seen, renew: false }
}

fn renewing() -> Ask {
    Ask::Watch { seen: Seen::default(), renew: true }
}

fn result_for(world: &World, command_id: CommandId, outcome: &Outcome) -> SealedResult {
    let content = ResultContent { outcome: SecretBytes::new(cbor::encode(outcome).to_vec()), document: vec![1, 2, 3] };
    command::seal_result(&content, world.key_store_id, command_id, &world.alice.entry).unwrap()
}

#[tokio::test]
async fn a_message_counts_once_under_its_own_lease() {
    let world = World::start().await;
    let (mut enclave, other) = (world.obtain().await, world.obtain().await);
    let message = enclave.next(&renewing());
    world.custodian.channel(&message).await.unwrap();
    assert!(denied(world.custodian.channel(&message).await).contains("counter"));
    assert!(denied(world.custodian.channel(&enclave.seal(&watch(Seen::default()), 1)).await).contains("counter"));
    assert!(denied(world.custodian.channel(&enclave.seal(&watch(Seen::default()), 0)).await).contains("counter"));
    // A later request may overtake an earlier one.
    world.custodian.channel(&enclave.seal(&renewing(), 9)).await.unwrap();
    world.custodian.channel(&enclave.seal(&renewing(), 8)).await.unwrap();
    assert!(denied(world.custodian.channel(&enclave.seal(&renewing(), 9)).await).contains("counter"));

    let foreign = holdfast_shared::channel::seal(
        &renewing(),
        holdfast_shared::channel::Direction::Ask,
        &other.keys.ask,
        enclave.lease_id(),
        20,
        &crate::world::rng(),
    )
    .unwrap();
    assert!(denied(world.custodian.channel(&foreign).await).contains("does not open"));
    for bit in [0, 40, 400, 900] {
        let mut flipped = enclave.seal(&renewing(), 30);
        let index = bit % (flipped.len() * 8);
        flipped[index / 8] ^= 1 << (index % 8);
        assert!(world.custodian.channel(&flipped).await.is_err(), "bit {bit}");
    }
    // Nothing of the above has used up the counter.
    world.custodian.channel(&enclave.seal(&renewing(), 30)).await.unwrap();
}

#[tokio::test]
async fn a_share_set_is_provisional_until_version_1() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let deposit = |byte| {
        let (set, share) = world.shares(byte);
        Ask::Deposit { set, share }
    };
    let held = async || {
        let shares = world.obtain().await.content.shares;
        shares.iter().map(|held| held.share.value.expose()[0]).collect::<BTreeSet<_>>()
    };
    assert_eq!(enclave.ask(&world, &deposit(8)).await.unwrap(), Reply::Deposited);
    assert_eq!(enclave.ask(&world, &deposit(8)).await.unwrap(), Reply::Deposited, "a retry");
    // That ceremony broke off, or is slow, and another one makes another root key: the shares of both are kept and released.
    assert_eq!(world.obtain().await.ask(&world, &deposit(7)).await.unwrap(), Reply::Deposited);
    assert_eq!(held().await, [7, 8].into());
    let one = world.blob(1, None);
    let evidence = world.evidence(&one, &world.set(&[9]), world.first());
    let lost = Ask::Publish { version: 1, previous: None, blob: one.bytes.clone(), results: Vec::new(), evidence };
    assert!(refused(enclave.ask(&world, &lost).await.unwrap()).contains("another ceremony"), "there is no such share");
    assert!(matches!(enclave.publish(&world, &one, 1, None).await, Reply::Published { .. }));
    assert_eq!(held().await, [7].into());
    let late = enclave.ask(&world, &deposit(8)).await.unwrap();
    assert!(matches!(late, Reply::Conflict { register: Some(_) }), "{late:?}");
    assert_eq!(enclave.ask(&world, &deposit(7)).await.unwrap(), Reply::Deposited);
    assert_eq!(held().await, [7].into());
}

#[tokio::test]
async fn a_share_that_does_not_fit_is_refused() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let key = &world.record.encryption_key;
    let (id, own) = (world.key_store_id, world.id());
    let share = |index, byte| Share { index, value: Secret::take(&mut [byte; 32]) };
    let commitment = |index, byte| Commitment(share(index, byte).commitment());
    let set = |generation, shares_needed, commitments: &[Commitment]| ShareSet {
        generation,
        shares_needed,
        commitments: commitments.to_vec(),
        kms_ciphertext: None,
    };
    let good = set(1, 1, &[commitment(1, 7)]);
    let kms = ShareSet { kms_ciphertext: Some(vec![1; 40]), ..good.clone() };
    let seal = |share: &Share, id: KeyStoreId, own: CustodianId, key: &hpke::PublicKey| {
        seal_share(share, id, own, key).unwrap()
    };
    let stranger = hpke::PrivateKey::generate().unwrap();
    let table = [
        ("another share", good.clone(), seal(&share(1, 8), id, own, key), "commits to"),
        ("another place", set(1, 1, &[commitment(2, 7)]), seal(&share(2, 7), id, own, key), "another place"),
        ("another m", set(1, 2, &[commitment(1, 7)]), seal(&share(1, 7), id, own, key), "number of shares"),
        (
            "another n",
            set(1, 1, &[commitment(1, 7), commitment(2, 7)]),
            seal(&share(1, 7), id, own, key),
            "number of shares",
        ),
        ("a share at AWS KMS", kms, seal(&share(1, 7), id, own, key), "AWS KMS"),
        ("another key store", good.clone(), seal(&share(1, 7), KeyStoreId([1; 32]), own, key), "does not open"),
        ("another custodian", good.clone(), seal(&share(1, 7), id, CustodianId([1; 32]), key), "does not open"),
        ("another key", good.clone(), seal(&share(1, 7), id, own, stranger.public_key()), "does not open"),
    ];
    for (what, set, share, words) in table {
        match enclave.ask(&world, &Ask::Deposit { set, share }).await.unwrap() {
            Reply::Refused { reason, lease_ended: false } => assert!(reason.contains(words), "{what}: {reason}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let sealed = seal(&share(1, 7), id, own, key);
    let late = enclave.ask(&world, &Ask::Deposit { set: set(2, 1, &[commitment(1, 7)]), share: sealed }).await.unwrap();
    assert_eq!(late, Reply::Conflict { register: None }, "another generation than the first");
    assert!(world.obtain().await.content.shares.is_empty());
}

#[tokio::test]
async fn of_two_versions_one_wins_and_the_loser_leaks_nothing() {
    let world = World::start().await;
    let (mut first, one) = world.found().await;
    let mut second = world.obtain().await;
    let (command_id, _) = world.order(Action::CreateCredential).await;
    let (winner, loser) = (world.blob(2, Some(&one)), world.blob(2, Some(&one)));
    assert_ne!(winner.id, loser.id);
    let won = first.ask(&world, &world.publish(&winner, vec![result_for(&world, command_id, &Outcome::Done)])).await;
    let Reply::Published { register } = won.unwrap() else { panic!("the first should win") };
    let entry = world.entry(&register);
    assert_eq!((entry.version, entry.blob_id, entry.previous), (2, winner.id, Some(one.id)));
    let kept = world.ask(Question::Result(command_id)).await;

    let refused = Outcome::Refused { reason: "late".to_owned() };
    let lost =
        second.ask(&world, &world.publish(&loser, vec![result_for(&world, command_id, &refused)])).await.unwrap();
    assert_eq!(lost, Reply::Conflict { register: Some(HeldEntry { signed: register.clone(), is_committed: true }) });
    assert_eq!(world.ask(Question::Result(command_id)).await, kept, "the loser's result is not kept");
    let gone = second.ask(&world, &Ask::Fetch { blob_id: loser.id }).await.unwrap();
    assert!(matches!(gone, Reply::Refused { lease_ended: false, .. }));
    let again = first.ask(&world, &world.publish(&winner, Vec::new())).await.unwrap();
    assert_eq!(again, Reply::Published { register }, "the very same blob, again");
    let old = second.ask(&world, &Ask::Fetch { blob_id: one.id }).await.unwrap();
    let Reply::Blob { blob, evidence } = old else { panic!("earlier versions are kept: {old:?}") };
    assert_eq!(blob, one.bytes);
    assert!(evidence.len() > 1000, "with what vouches for them");
}

#[tokio::test]
async fn a_version_must_say_what_the_request_says() {
    let world = World::start().await;
    let mut early = world.obtain().await;
    let reply = early.publish(&world, &world.blob(1, None), 1, None).await;
    assert!(refused(reply).contains("another share set"));
    let (mut enclave, one) = world.found().await;
    let place = |key_store_id, version, previous, generation| Place { key_store_id, version, previous, generation };
    let id = world.key_store_id;
    let table = [
        ("another key store", place(KeyStoreId([1; 32]), 2, Some(one.id), 1)),
        ("another version", place(id, 3, Some(one.id), 1)),
        ("another predecessor", place(id, 2, Some(BlobId([1; 32])), 1)),
    ];
    for (what, place) in table {
        let reply = enclave.publish(&world, &world.blob_at(&place), 2, Some(&one)).await;
        assert!(matches!(&reply, Reply::Refused { reason, .. } if reason.contains("header")), "{what}: {reply:?}");
    }
    let generation = enclave.publish(&world, &world.blob_at(&place(id, 2, Some(one.id), 2)), 2, Some(&one)).await;
    assert!(refused(generation).contains("another share set"));
    let evidence = world.evidence(&one, &world.set(&[7]), world.first());
    let junk = Ask::Publish { version: 2, previous: Some(one.id), blob: vec![1, 2, 3], results: Vec::new(), evidence };
    assert!(matches!(enclave.ask(&world, &junk).await.unwrap(), Reply::Refused { lease_ended: false, .. }));
    let two = world.blob(2, Some(&one));
    let stranger = result_for(&world, CommandId([1; 16]), &Outcome::Done);
    let unknown = world.publish(&two, vec![stranger]);
    assert!(matches!(enclave.ask(&world, &unknown).await.unwrap(), Reply::Refused { lease_ended: false, .. }));
    let three = world.blob(3, Some(&two));
    assert!(matches!(enclave.publish(&world, &three, 3, Some(&two)).await, Reply::Conflict { register: Some(_) }));
    assert!(matches!(enclave.publish(&world, &two, 2, Some(&one)).await, Reply::Published { .. }));
}

#[tokio::test]
async fn only_the_home_custodian_orders_changes() {
    // The custodian under test is the second of two.
    let mut world = World::unenrolled().await;
    let home = {
        let person = Person::new("home");
        let mut entry = custodian_entry(&world.record);
        entry.signing_key = person.entry.signing_key;
        "home:1".clone_into(&mut entry.address);
        entry
    };
    world.manifest.custodians.insert(0, home);
    world.manifest.shares_needed = 2;
    world.key_store_id = KeyStoreId(holdfast_shared::sha256(&[&cbor::encode(&world.manifest)]));
    world.custodian.enrol(world.signed_manifest()).await.unwrap();
    let mut enclave = world.obtain().await;
    let share = |index: u8| Share { index, value: Secret::take(&mut [index; 32]) };
    let commitments = vec![Commitment(share(1).commitment()), Commitment(share(2).commitment())];
    let set = ShareSet { generation: 1, shares_needed: 2, commitments, kms_ciphertext: None };
    let deposit = |index: u8| Ask::Deposit {
        set: set.clone(),
        share: seal_share(&share(index), world.key_store_id, world.id(), &world.record.encryption_key).unwrap(),
    };
    assert!(matches!(enclave.ask(&world, &deposit(1)).await.unwrap(), Reply::Refused { .. }), "the home's share");
    assert_eq!(enclave.ask(&world, &deposit(2)).await.unwrap(), Reply::Deposited);
    let reply = enclave.publish(&world, &world.blob(1, None), 1, None).await;
    assert!(matches!(&reply, Reply::Refused { reason, .. } if reason.contains("home")), "{reply:?}");
    let command = command::sign(&world.command(Action::ListKeys), &world.alice.signing_key, &crate::world::rng());
    let said = denied(world.custodian.command(cbor::encode(&command.unwrap()).to_vec()).await);
    assert!(said.contains("home:1"), "{said}");
}

#[tokio::test]
async fn news_wakes_whoever_waits_and_only_news_is_sent() {
    let world = Arc::new(World::start().await);
    let (mut enclave, one) = world.found().await;
    let seen = Seen { version: 1, ..Seen::default() };
    // What is there already is answered at once.
    match enclave.ask(&world, &watch(Seen::default())).await.unwrap() {
        Reply::News { lease_ms: None, overlay: None, register: Some(register), commands, enclaves, successors } => {
            assert_eq!(enclaves.get(), 1);
            assert_eq!(world.entry(&register.signed).blob_id, one.id);
            assert!(register.is_committed && successors.is_empty());
            assert!(commands.is_empty());
        }
        other => panic!("{other:?}"),
    }
    let waiting = |message: Vec<u8>| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.custodian.channel(&message).await.unwrap() })
    };
    // A block.
    let task = waiting(enclave.next(&watch(seen.clone())));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!task.is_finished(), "there is no news yet");
    let block = world.signed_overlay(&world.overlay(1, true));
    world.custodian.block(block.clone()).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(1), task).await.expect("within a second").unwrap();
    match enclave.open(&answer, enclave.counter) {
        Reply::News { overlay: Some(overlay), register: None, .. } => assert_eq!(overlay, block),
        other => panic!("{other:?}"),
    }
    // A command, and a version by another enclave.
    let seen = Seen { overlay_epoch: 1, ..seen };
    let task = waiting(enclave.next(&watch(seen.clone())));
    let (command_id, bytes) = world.order(Action::ListKeys).await;
    match enclave.open(&task.await.unwrap(), enclave.counter) {
        Reply::News { overlay: None, register: None, commands, .. } => assert_eq!(commands[0].as_slice(), bytes),
        other => panic!("{other:?}"),
    }
    let seen = Seen { commands: vec![command_id], ..seen };
    let task = waiting(enclave.next(&watch(seen)));
    let two = world.blob(2, Some(&one));
    world.obtain().await.publish(&world, &two, 2, Some(&one)).await;
    match enclave.open(&task.await.unwrap(), enclave.counter) {
        Reply::News { overlay: None, register: Some(register), commands, .. } => {
            assert_eq!(world.entry(&register.signed).version, 2);
            assert!(commands.is_empty(), "seen");
        }
        other => panic!("{other:?}"),
    }
    // The end of the service lets everybody go.
    let seen = Seen { overlay_epoch: 1, version: 2, commands: vec![command_id], manifest_sequence: 1, obeys: None };
    let task = waiting(enclave.next(&watch(seen)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.custodian.stop();
    tokio::time::timeout(Duration::from_secs(5), task).await.expect("it is let go").unwrap();
}

#[tokio::test]
async fn results_end_a_command_and_reach_the_administrator_sealed() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let (command_id, _) = world.order(Action::ListKeys).await;
    assert_eq!(world.ask(Question::Result(command_id)).await, Answer::Result(ResultState::Pending));
    let outcome = Outcome::Keys { keys: Vec::new() };
    let results = vec![result_for(&world, command_id, &outcome)];
    assert_eq!(enclave.ask(&world, &Ask::Report { results: results.clone() }).await.unwrap(), Reply::Reported);
    let Answer::Result(ResultState::Ready(sealed)) = world.ask(Question::Result(command_id)).await else {
        panic!("there should be a result")
    };
    let alice = &world.alice;
    let opened =
        command::open_result(&sealed, world.key_store_id, command_id, alice.entry.id(), &alice.encryption_key).unwrap();
    assert_eq!(cbor::decode::<Outcome>(opened.outcome.expose()).unwrap(), outcome);
    let seen = Seen { version: 1, ..Seen::default() };
    match enclave.renew(&world, seen).await.unwrap() {
        Reply::News { commands, .. } => assert!(commands.is_empty(), "it no longer waits"),
        other => panic!("{other:?}"),
    }
    // A second report changes nothing; a version does, being the truth about its commands.
    let before = world.ask(Question::Result(command_id)).await;
    let other = vec![result_for(&world, command_id, &Outcome::Done)];
    assert_eq!(enclave.ask(&world, &Ask::Report { results: other.clone() }).await.unwrap(), Reply::Reported);
    assert_eq!(world.ask(Question::Result(command_id)).await, before);
    let two = world.blob(2, Some(&one));
    enclave.ask(&world, &world.publish(&two, other)).await.unwrap();
    assert_ne!(world.ask(Question::Result(command_id)).await, before);
    let stranger = vec![result_for(&world, CommandId([1; 16]), &Outcome::Done)];
    let reply = enclave.ask(&world, &Ask::Report { results: stranger }).await.unwrap();
    assert!(matches!(reply, Reply::Refused { lease_ended: false, .. }));
}

#[tokio::test]
async fn a_lease_ends_unless_renewed() {
    let world = World::start().await;
    let (mut kept, mut lost) = (world.obtain().await, world.obtain().await);
    world.clock.step(LEASE_MS - 1);
    match kept.renew(&world, Seen::default()).await.unwrap() {
        Reply::News { lease_ms: Some(lease_ms), .. } => assert_eq!(lease_ms, LEASE_MS),
        other => panic!("{other:?}"),
    }
    world.clock.step(1);
    assert!(matches!(lost.renew(&world, Seen::default()).await, Err(ServiceError::NotFound(_))));
    world.clock.step(LEASE_MS - 2);
    kept.renew(&world, Seen::default()).await.unwrap();
    assert!(matches!(world.ask(Question::Status).await, Answer::Status(status) if status.leases.len() == 1));
}

/// How many enclaves serve: those that live, have a lease, and asked lately.
#[tokio::test]
async fn enclaves_that_ask_are_counted() {
    let world = World::start().await;
    let (mut one, mut two) = (world.obtain().await, world.obtain().await);
    let count = async |lease: Result<Reply, ServiceError>| match lease.unwrap() {
        Reply::News { enclaves, .. } => enclaves.get(),
        other => panic!("{other:?}"),
    };
    assert_eq!(count(one.renew(&world, Seen::default()).await).await, 2);
    world.clock.step(limits::ENCLAVE_SILENT_MS);
    assert_eq!(count(one.renew(&world, Seen::default()).await).await, 2, "not silent for longer than that");
    world.clock.step(1);
    assert_eq!(count(one.renew(&world, Seen::default()).await).await, 1);
    assert_eq!(count(two.renew(&world, Seen::default()).await).await, 2, "whoever is told is one of them");
}

#[tokio::test]
async fn a_renewal_judges_the_evidence_by_the_policy_in_force() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let policy = world.manifest.release_policy.clone();
    let more = holdfast_shared::attestation::Measurements { pcr0: [8; 48], ..accepted() };
    let images = vec![more.clone().into(), accepted().into()];
    let second = ReleasePolicy { epoch: 2, images, lease_ms: 20_000, ..policy.clone() };
    world.change_policy(&second).await;
    match enclave.renew(&world, Seen::default()).await.unwrap() {
        Reply::News { lease_ms, .. } => assert_eq!(lease_ms, Some(20_000)),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.obtain().await.policy_epoch, 2);
    world.change_policy(&ReleasePolicy { epoch: 3, images: vec![more.into()], ..second }).await;
    let user_data = cbor::encode(&world.user_data()).to_vec();
    let key = hpke::PrivateKey::generate().unwrap();
    let document = world.document(&world.challenge(), &user_data, key.public_key()).build().unwrap();
    assert!(denied(world.release(document).await).contains("no accepted measurements"));
    // It changes nothing any more, and its lease ends with the attempt.
    let two = world.blob(2, Some(&one));
    let reply = enclave.publish(&world, &two, 2, Some(&one)).await;
    assert!(matches!(reply, Reply::Refused { lease_ended: true, .. }), "{reply:?}");
    assert!(matches!(enclave.renew(&world, Seen::default()).await, Err(ServiceError::NotFound(_))));
    assert!(matches!(world.ask(Question::Status).await, Answer::Status(status) if status.policy_epoch == 3));
}

#[tokio::test]
async fn a_restart_keeps_everything_that_was_acknowledged() {
    let mut world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let (command_id, bytes) = world.order(Action::ListKeys).await;
    let block = world.signed_overlay(&world.overlay(1, false));
    world.custodian.block(block.clone()).await.unwrap();
    let two = world.blob(2, Some(&one));
    let ceremony = result_for(&world, ceremony_id(world.key_store_id), &Outcome::Done);
    let message = enclave.next(&world.publish(&two, vec![ceremony.clone()]));
    let published = world.custodian.channel(&message).await.unwrap();
    let Reply::Published { register } = enclave.open(&published, enclave.counter) else { panic!("not published") };
    let before = world.ask(Question::Status).await;

    world.restart(true).await;
    assert!(denied(world.custodian.channel(&message).await).contains("counter"), "what changed something, again");
    let Answer::Status(before) = before else { panic!("no status") };
    let Answer::Status(after) = world.ask(Question::Status).await else { panic!("no status") };
    assert_eq!((after.version, after.overlay_epoch, &after.pending), (before.version, 1, &vec![command_id]));
    assert_eq!(after.leases.len(), before.leases.len());
    match enclave.renew(&world, Seen::default()).await.unwrap() {
        Reply::News { lease_ms: Some(_), overlay, register: entry, commands, .. } => {
            assert_eq!(overlay, Some(block));
            assert_eq!(entry, Some(HeldEntry { signed: register, is_committed: true }));
            assert_eq!(commands[0].as_slice(), bytes);
        }
        other => panic!("{other:?}"),
    }
    for blob in [&one, &two] {
        let reply = enclave.ask(&world, &Ask::Fetch { blob_id: blob.id }).await.unwrap();
        assert!(matches!(reply, Reply::Blob { blob: bytes, .. } if bytes == blob.bytes));
    }
    let ceremony_result = world.ask(Question::Result(ceremony_id(world.key_store_id))).await;
    assert_eq!(ceremony_result, Answer::Result(ResultState::Ready(ceremony)));
    assert_eq!(world.obtain().await.content.shares[0].share.value.expose(), &[7; 32]);
}

#[tokio::test]
async fn the_disk_holds_no_secret_in_clear() {
    let world = World::start().await;
    let root_key: [u8; 32] = random();
    let mut enclave = world.obtain().await;
    let share = Share { index: 1, value: Secret::take(&mut root_key.clone()) };
    let set = ShareSet {
        generation: 1,
        shares_needed: 1,
        commitments: vec![Commitment(share.commitment())],
        kms_ciphertext: None,
    };
    let sealed = seal_share(&share, world.key_store_id, world.id(), &world.record.encryption_key).unwrap();
    assert_eq!(enclave.ask(&world, &Ask::Deposit { set, share: sealed }).await.unwrap(), Reply::Deposited);
    let secrets = [&root_key, enclave.keys.ask.expose(), enclave.keys.reply.expose()];
    let mut files = 0;
    for file in std::fs::read_dir(world.directory.path().join("state")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        files += 1;
        for secret in secrets {
            let found = bytes.windows(32).any(|window| window == secret);
            assert!(!found, "{} holds a secret in clear", path.display());
        }
    }
    assert!(files >= 7, "the database and its log are among them");
}

#[tokio::test]
async fn a_message_is_bounded() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let blob = vec![0; limits::BLOB_MAX + 1];
    let ask = Ask::Publish { version: 1, previous: None, blob, results: Vec::new(), evidence: Vec::new() };
    let message = enclave.next(&ask);
    assert!(world.custodian.channel(&message).await.is_err());
    assert!(matches!(
        world.custodian.channel(&vec![0; limits::CHANNEL_MESSAGE_MAX + 1]).await,
        Err(ServiceError::Malformed(_))
    ));
}
