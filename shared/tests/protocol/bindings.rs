//! To what each message is bound: it must not open for another party, purpose, place or time.

use core::num::NonZeroU32;

use holdfast_shared::block::{self, BlockError, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply, Seen};
use holdfast_shared::command::{self, Action, Command, CommandError, Outcome, Precondition, ResultContent};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::{BlobId, CommandId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::manifest::{self, Thresholds, VerifiedManifest};
use holdfast_shared::query::{self, Answer, Query, Question, ResultState};
use holdfast_shared::register::{self, RegisterEntry, RegisterError};
use holdfast_shared::release::{
    self, Commitment, EarlierHead, HeldEntry, HeldShare, ReleaseBinding, ReleaseContent, Share, ShareSet,
};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::SignatureError;

use crate::fixture::{self, Party, rng};

const ID: KeyStoreId = KeyStoreId([1; 32]);
const OTHER: KeyStoreId = KeyStoreId([2; 32]);

fn content() -> ReleaseContent {
    let share = Share { index: 1, value: Secret::take(&mut [7; 32]) };
    let set = ShareSet {
        generation: 1,
        shares_needed: 1,
        commitments: vec![Commitment(share.commitment())],
        kms_ciphertext: None,
    };
    ReleaseContent {
        lease_id: LeaseId([3; 16]),
        lease_ms: 60_000,
        shares: vec![HeldShare { share, set }],
        overlay: Some(vec![1, 2]),
        register: None,
        audit_heads: vec![EarlierHead { checkpoint: vec![9], audit_public_key: [9; 32] }],
        successors: vec![vec![8].into()],
    }
}

#[test]
fn a_release_opens_only_for_its_document_custodian_key_store_epoch_and_nonce() {
    let (vault, other_vault, enclave, other_enclave) = (Party::new(), Party::new(), Party::new(), Party::new());
    let custodian_id = vault.custodian("vault").id();
    let binding = ReleaseBinding { custodian_id, key_store_id: ID, nonce: &[5; 32], user_data: b"user data" };
    let (signed, sender_keys) =
        release::seal(&content(), 4, &binding, enclave.encryption.public_key(), &vault.signing, &rng()).unwrap();
    let key = vault.signing.verifying_key().unwrap();
    let (opened, epoch, keys) = release::open(&signed, &binding, &key, &enclave.encryption).unwrap();
    assert_eq!((opened, epoch, &keys), (content(), 4, &sender_keys));
    assert_ne!(keys.ask, keys.reply, "one key for each direction");

    let refused = |what: &str, binding: &ReleaseBinding<'_>| {
        assert!(release::open(&signed, binding, &key, &enclave.encryption).is_err(), "{what}");
    };
    refused("another custodian", &ReleaseBinding { custodian_id: CustodianId([0; 32]), ..binding });
    refused("another key store", &ReleaseBinding { key_store_id: OTHER, ..binding });
    refused("another nonce", &ReleaseBinding { nonce: &[6; 32], ..binding });
    refused("another document", &ReleaseBinding { user_data: b"user datb", ..binding });
    assert!(release::open(&signed, &binding, &key, &other_enclave.encryption).is_err(), "another enclave");
    let foreign = other_vault.signing.verifying_key().unwrap();
    assert!(release::open(&signed, &binding, &foreign, &enclave.encryption).is_err(), "another signer");
    for index in 0..signed.len() {
        let mut bad = signed.clone();
        bad[index] ^= 1;
        assert!(release::open(&bad, &binding, &key, &enclave.encryption).is_err(), "byte {index}");
    }
}

#[test]
fn a_share_opens_only_for_its_custodian_and_key_store() {
    let (vault, other) = (Party::new(), Party::new());
    let custodian_id = vault.custodian("vault").id();
    let share = Share { index: 1, value: Secret::take(&mut [7; 32]) };
    let sealed = release::seal_share(&share, ID, custodian_id, vault.encryption.public_key()).unwrap();
    assert_eq!(release::open_share(&sealed, ID, custodian_id, &vault.encryption).unwrap(), share);
    assert!(release::open_share(&sealed, OTHER, custodian_id, &vault.encryption).is_err());
    assert!(release::open_share(&sealed, ID, CustodianId([0; 32]), &vault.encryption).is_err());
    assert!(release::open_share(&sealed, ID, custodian_id, &other.encryption).is_err());
    let wrong = Share { index: 1, value: Secret::take(&mut [8; 32]) };
    let moved = Share { index: 2, value: Secret::take(&mut [7; 32]) };
    assert_ne!(share.commitment(), wrong.commitment());
    assert_ne!(share.commitment(), moved.commitment(), "the index is committed to");
}

#[test]
fn a_channel_message_opens_only_under_its_lease_direction_and_counter() {
    let key = Secret::take(&mut [1; 32]);
    let other_key = Secret::take(&mut [2; 32]);
    let ask = Ask::Watch { seen: Seen::default(), renew: true };
    let sealed = channel::seal(&ask, Direction::Ask, &key, LeaseId([3; 16]), 7, &rng()).unwrap();
    let message: ChannelMessage = cbor::decode(&sealed).unwrap();
    assert_eq!(channel::open::<Ask>(&message, Direction::Ask, &key).unwrap(), ask);
    let refused = |what: &str, message: &ChannelMessage, direction, key: &Secret<32>| {
        assert!(channel::open::<Ask>(message, direction, key).is_err(), "{what}");
    };
    refused("another key", &message, Direction::Ask, &other_key);
    refused("the other direction", &message, Direction::Reply, &key);
    refused("another counter", &ChannelMessage { counter: 8, ..message.clone() }, Direction::Ask, &key);
    refused("another lease", &ChannelMessage { lease_id: LeaseId([4; 16]), ..message.clone() }, Direction::Ask, &key);
    for index in 0..message.ciphertext.len() {
        let mut bad = message.clone();
        bad.ciphertext[index] ^= 1;
        refused("changed bytes", &bad, Direction::Ask, &key);
    }
}

#[test]
fn every_kind_of_channel_message_survives_its_encoding() {
    let vault = Party::new();
    let share = Share { index: 1, value: Secret::take(&mut [7; 32]) };
    let sealed = release::seal_share(&share, ID, CustodianId([0; 32]), vault.encryption.public_key()).unwrap();
    let set =
        ShareSet { generation: 1, shares_needed: 1, commitments: vec![Commitment([1; 32])], kms_ciphertext: None };
    let result = || command::SealedResult {
        command_id: CommandId([1; 16]),
        recipient: vault.administrator("a").id(),
        sealed: sealed.clone(),
    };
    let asks = [
        Ask::Watch {
            seen: Seen {
                overlay_epoch: 1,
                version: 2,
                commands: vec![CommandId([1; 16])],
                manifest_sequence: 1,
                obeys: None,
            },
            renew: false,
        },
        Ask::Fetch { blob_id: BlobId([1; 32]) },
        Ask::Deposit { set, share: sealed.clone() },
        Ask::Publish { version: 1, previous: None, blob: vec![1], results: vec![result()], evidence: vec![4] },
        Ask::Publish { version: 2, previous: Some(BlobId([1; 32])), blob: vec![], results: vec![], evidence: vec![] },
        Ask::Report { results: vec![result()] },
        Ask::Copy { register: vec![1], blob: vec![2], evidence: vec![3] },
        Ask::Commit { version: 3, blob_id: BlobId([1; 32]) },
        Ask::Retire { generation: 2 },
    ];
    for ask in asks {
        assert_eq!(cbor::decode::<Ask>(&cbor::encode(&ask)).unwrap(), ask);
    }
    let held = HeldEntry { signed: vec![2], is_committed: true };
    let replies = [
        Reply::News {
            lease_ms: Some(60_000),
            overlay: Some(vec![1]),
            register: None,
            commands: vec![vec![1].into()],
            enclaves: NonZeroU32::MAX,
            successors: vec![vec![5].into()],
        },
        Reply::News {
            lease_ms: None,
            overlay: None,
            register: Some(held.clone()),
            commands: vec![],
            enclaves: NonZeroU32::MIN,
            successors: vec![],
        },
        Reply::Blob { blob: vec![1, 2], evidence: vec![3] },
        Reply::Copied,
        Reply::Committed,
        Reply::Retired,
        Reply::Deposited,
        Reply::Published { register: vec![1] },
        Reply::Conflict { register: None },
        Reply::Conflict { register: Some(held) },
        Reply::Reported,
        Reply::Refused { reason: "no".to_owned(), lease_ended: true },
    ];
    for reply in replies {
        assert_eq!(cbor::decode::<Reply>(&cbor::encode(&reply)).unwrap(), reply);
    }
    let orphan = Ask::Publish { version: 2, previous: None, blob: vec![], results: vec![], evidence: vec![] };
    assert!(cbor::decode::<Ask>(&cbor::encode(&orphan)).is_err());
    let eternal = Reply::News {
        lease_ms: Some(u64::MAX),
        overlay: None,
        register: None,
        commands: vec![],
        enclaves: NonZeroU32::MIN,
        successors: vec![],
    };
    assert!(cbor::decode::<Reply>(&cbor::encode(&eternal)).is_err());
}

#[test]
fn a_register_entry_is_the_home_custodians_for_one_key_store() {
    let (vault, other) = (Party::new(), Party::new());
    let key = vault.signing.verifying_key().unwrap();
    let entry = RegisterEntry {
        label: labels::REGISTER.to_owned(),
        key_store_id: ID,
        version: 2,
        blob_id: BlobId([1; 32]),
        previous: Some(BlobId([0; 32])),
        recorded_ms: 5,
    };
    let signed = register::sign(&entry, &vault.signing, &rng()).unwrap();
    assert_eq!(register::open(&signed, ID, &key).unwrap(), entry);
    assert_eq!(register::open(&signed, OTHER, &key), Err(RegisterError::OtherKeyStore));
    let foreign = other.signing.verifying_key().unwrap();
    assert_eq!(register::open(&signed, ID, &foreign), Err(RegisterError::Signature(SignatureError::UnknownSigner)));
    let orphan = register::sign(&RegisterEntry { previous: None, ..entry }, &vault.signing, &rng()).unwrap();
    assert!(register::open(&orphan, ID, &key).is_err());
}

fn overlay(epoch: u64, store: bool, keys: &[&str]) -> BlockOverlay {
    BlockOverlay {
        label: labels::BLOCK.to_owned(),
        key_store_id: ID,
        epoch,
        store,
        keys: keys.iter().map(|key| ExternalKeyId::parse(key).unwrap()).collect(),
        issued_ms: 1,
    }
}

#[test]
fn an_old_overlay_does_nothing_and_lifting_may_need_more_signatures() {
    let (alice, bob) = (Party::new(), Party::new());
    let administrators = [alice.administrator("alice"), bob.administrator("bob")];
    let thresholds = Thresholds { unblock: 2, ..Thresholds::ONE };
    let open = |overlay: &BlockOverlay, both: bool, current: Option<&BlockOverlay>| {
        let mut envelope = block::sign(overlay, &alice.signing, &rng()).unwrap();
        if both {
            envelope.add_signature(labels::BLOCK, &bob.signing, &rng()).unwrap();
        }
        block::open(&cbor::encode(&envelope), ID, &administrators, thresholds, current)
    };
    let first = overlay(1, false, &["a"]);
    assert_eq!(open(&first, false, None), Ok(first.clone()));
    let second = overlay(2, true, &["a", "b"]);
    assert_eq!(open(&second, false, Some(&first)), Ok(second.clone()), "one blocks more");
    let lifted = overlay(3, true, &["b"]);
    let too_few = BlockError::Signature(SignatureError::TooFew { needed: 2, has: 1 });
    assert_eq!(open(&lifted, false, Some(&second)), Err(too_few), "one lifts nothing");
    assert_eq!(open(&lifted, true, Some(&second)), Ok(lifted), "two lift");
    let stale = BlockError::Stale { current: 2, offered: 1 };
    assert_eq!(open(&first, true, Some(&second)), Err(stale), "a replay");
    assert!(matches!(open(&overlay(3, true, &["b", "a"]), true, Some(&second)), Err(BlockError::Decode(_))));
    let elsewhere = BlockOverlay { key_store_id: OTHER, ..overlay(9, true, &[]) };
    assert_eq!(open(&elsewhere, true, None), Err(BlockError::OtherKeyStore));
}

/// Epoch, store, keys.
type Blocked<'e> = Option<(u64, bool, &'e [&'e str])>;

#[test]
fn only_what_enough_signed_for_lifting_takes_a_block_back() {
    let (alice, bob, vault, mallory) = (Party::new(), Party::new(), Party::new(), Party::new());
    let mut manifest = fixture::manifest(&[&alice, &bob], &[&vault]);
    manifest.thresholds.unblock = 2;
    let mut envelope = manifest::sign(&manifest, &alice.signing, &rng()).unwrap();
    envelope.add_signature(labels::MANIFEST, &bob.signing, &rng()).unwrap();
    let manifest = VerifiedManifest::verify(&cbor::encode(&envelope)).unwrap();
    let read = |epoch, store, keys: &[&str], signers: &[&Party]| {
        let overlay = BlockOverlay { key_store_id: manifest.id(), ..overlay(epoch, store, keys) };
        let mut envelope = block::sign(&overlay, &signers[0].signing, &rng()).unwrap();
        for signer in &signers[1..] {
            envelope.add_signature(labels::BLOCK, &signer.signing, &rng()).unwrap();
        }
        block::read(&cbor::encode(&envelope), &manifest)
    };
    let alone = |epoch, store, keys: &[&str]| read(epoch, store, keys, &[&alice]).unwrap();
    let both = |epoch, store, keys: &[&str]| read(epoch, store, keys, &[&alice, &bob]).unwrap();
    assert!(!alone(1, false, &[]).may_lift && both(1, false, &[]).may_lift);
    assert!(matches!(read(1, false, &[], &[&mallory]), Err(BlockError::Signature(_))));
    let table: [(&str, Vec<block::SignedOverlay>, Blocked<'_>); 7] = [
        ("nothing", vec![], None),
        ("one", vec![alone(3, true, &["a"])], Some((3, true, &["a"]))),
        (
            "two of one epoch",
            vec![alone(4, false, &["a", "c"]), alone(4, true, &["b", "c"])],
            Some((4, true, &["a", "b", "c"])),
        ),
        ("too few lift nothing", vec![alone(1, false, &["a"]), alone(9, false, &[])], Some((9, false, &["a"]))),
        ("enough lift", vec![alone(1, true, &["a"]), both(2, false, &["b"])], Some((2, false, &["b"]))),
        (
            "what comes after that adds",
            vec![alone(3, false, &["c"]), both(2, false, &["b"])],
            Some((3, false, &["b", "c"])),
        ),
        ("the newest lifts", vec![both(2, true, &["b"]), both(3, false, &[])], Some((3, false, &[]))),
    ];
    for (what, overlays, expected) in table {
        for overlays in [overlays.iter().collect::<Vec<_>>(), overlays.iter().rev().collect()] {
            let blocks = block::in_force(overlays.into_iter());
            let expected = expected.map(|(epoch, store, keys)| BlockOverlay {
                key_store_id: manifest.id(),
                ..overlay(epoch, store, keys)
            });
            assert_eq!(blocks, expected, "{what}");
        }
    }
}

fn list_command(id: u8) -> Command {
    Command {
        label: labels::COMMAND.to_owned(),
        key_store_id: ID,
        command_id: CommandId([id; 16]),
        issued_ms: 10,
        expires_ms: 20,
        precondition: Precondition::None,
        action: Action::ListKeys,
    }
}

#[test]
fn a_command_is_signed_by_administrators_for_one_key_store() {
    let (alice, eve) = (Party::new(), Party::new());
    let administrators = [alice.administrator("alice")];
    let signed = |by: &Party| cbor::encode(&command::sign(&list_command(1), &by.signing, &rng()).unwrap()).to_vec();
    let (opened, signers) = command::open(&signed(&alice), ID, &administrators).unwrap();
    assert_eq!((opened, signers), (list_command(1), vec![administrators[0].id()]));
    assert_eq!(command::open(&signed(&alice), OTHER, &administrators), Err(CommandError::OtherKeyStore));
    assert!(command::open(&signed(&eve), ID, &administrators).is_err());
    for (issued_ms, expires_ms) in [(20, 10), (0, u64::MAX)] {
        let bad = Command { issued_ms, expires_ms, ..list_command(1) };
        assert!(command::sign(&bad, &alice.signing, &rng()).is_err());
    }
}

#[test]
fn a_result_opens_only_for_its_recipient_and_command() {
    let (alice, bob) = (Party::new(), Party::new());
    let recipient = alice.administrator("alice");
    let outcome = cbor::encode(&Outcome::Done).to_vec();
    let content = ResultContent { outcome: SecretBytes::new(outcome), document: vec![1, 2] };
    let command_id = CommandId([4; 16]);
    let result = command::seal_result(&content, ID, command_id, &recipient).unwrap();
    let open = |id, command_id, admin, key| command::open_result(&result, id, command_id, admin, key);
    assert_eq!(open(ID, command_id, recipient.id(), &alice.encryption).unwrap(), content);
    assert!(open(OTHER, command_id, recipient.id(), &alice.encryption).is_err());
    assert!(open(ID, CommandId([5; 16]), recipient.id(), &alice.encryption).is_err());
    assert!(open(ID, command_id, bob.administrator("b").id(), &alice.encryption).is_err());
    assert!(open(ID, command_id, recipient.id(), &bob.encryption).is_err());
}

#[test]
fn a_query_and_its_answer_belong_together() {
    let (alice, eve, vault) = (Party::new(), Party::new(), Party::new());
    let administrators = [alice.administrator("alice")];
    let custodian_id = vault.custodian("vault").id();
    let query = Query {
        label: labels::QUERY.to_owned(),
        key_store_id: ID,
        custodian_id,
        nonce: [1; 16],
        issued_ms: 1_000_000,
        question: Question::Result(CommandId([1; 16])),
    };
    let signed = query::sign(&query, &alice.signing, &rng()).unwrap();
    assert_eq!(query::key_store_of(&signed).unwrap(), ID);
    let open = |signed: &[u8], id, custodian, now_ms| query::open(signed, id, custodian, &administrators, now_ms);
    assert_eq!(open(&signed, ID, custodian_id, 1_300_000).unwrap(), query);
    assert!(open(&signed, ID, custodian_id, 1_300_001).is_err(), "too old");
    assert!(open(&signed, ID, custodian_id, 699_999).is_err(), "from the future");
    assert!(open(&signed, OTHER, custodian_id, 1_000_000).is_err());
    assert!(open(&signed, ID, CustodianId([0; 32]), 1_000_000).is_err());
    let foreign = query::sign(&query, &eve.signing, &rng()).unwrap();
    assert!(open(&foreign, ID, custodian_id, 1_000_000).is_err());

    let key = vault.signing.verifying_key().unwrap();
    let answer = query::sign_answer(Answer::Result(ResultState::Pending), &query, &vault.signing, &rng()).unwrap();
    assert_eq!(query::open_answer(&answer, &query, &key).unwrap(), Answer::Result(ResultState::Pending));
    let another = Query { nonce: [2; 16], ..query.clone() };
    assert!(query::open_answer(&answer, &another, &key).is_err(), "the answer to another query");
    let forged = query::sign_answer(Answer::Result(ResultState::Unknown), &query, &eve.signing, &rng()).unwrap();
    assert!(query::open_answer(&forged, &query, &key).is_err());
}
