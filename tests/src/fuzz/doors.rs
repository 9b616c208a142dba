//! Signed messages, opened by those who would act on them.
//!
//! The first byte names the message, the second how it comes: `r`, the rest is what arrived; `s`, the rest is a payload that the
//! one entitled to it signs now, so that hostile insiders reach everything behind the signature; `o`, somebody else signs it.

use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::cbor::{self, Message};
use holdfast_shared::command::{self, Command};
use holdfast_shared::ids::BlobId;
use holdfast_shared::keystore::{self};
use holdfast_shared::labels;
use holdfast_shared::limits::QUERY_AGE_MAX_MS;
use holdfast_shared::manifest::{Manifest, Thresholds, VerifiedManifest};
use holdfast_shared::query::{self, Query, QueryAnswer, Question};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::signature::{Envelope, VerifyingKey};
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::Verdict;
use super::cbor_reader;
use super::input::Input;
use super::messages::decode_checked;
use super::party::{ALICE, KEY_STORE, NOW_MS, Party, VAULT, rng};

/// One kind of signed message: who signs, under which label, how it is opened, and what a payload must be.
struct Kind {
    label: &'static str,
    signer: &'static Party,
    /// What opening gives, encoded.
    open: fn(&[u8]) -> Option<Vec<u8>>,
    /// What it must give for a payload that is signed properly.
    expected: fn(&[u8]) -> Option<Vec<u8>>,
}

/// A signed message.
pub fn signed_messages(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let Some(kind) = kind(input.byte()) else { return Verdict::Refused };
    let how = input.byte();
    let rest = input.rest();
    let signer = match how {
        b'r' => {
            let opened = (kind.open)(rest);
            assert!(opened.is_none() || is_signed(rest, &kind), "what nobody signed opens");
            return Verdict::from(opened.is_some());
        }
        b's' => kind.signer,
        _ if kind.signer.signing.verifying_key() == ALICE.signing.verifying_key() => &*VAULT,
        _ => &*ALICE,
    };
    let envelope = Envelope::seal(kind.label, rest, &signer.signing, &rng()).unwrap();
    let opened = (kind.open)(&cbor::encode(&envelope));
    let expected = if how == b's' { (kind.expected)(rest) } else { None };
    assert_eq!(opened, expected, "{}", kind.label);
    // Signed for another purpose it is worth nothing.
    let elsewhere = Envelope::seal(labels::QUERY_ANSWER, rest, &signer.signing, &rng()).unwrap();
    assert!(kind.label == labels::QUERY_ANSWER || (kind.open)(&cbor::encode(&elsewhere)).is_none());
    Verdict::from(opened.is_some())
}

fn kind(selector: u8) -> Option<Kind> {
    Some(match selector {
        b'm' => Kind {
            label: labels::MANIFEST,
            signer: &ALICE,
            open: |signed| {
                let verified = VerifiedManifest::verify(signed).ok()?;
                assert_eq!(verified.signed_bytes(), signed);
                let payload = cbor::encode(verified.manifest()).to_vec();
                assert_eq!(verified.id().0, holdfast_shared::sha256(&[&payload]));
                Some(payload)
            },
            expected: |payload| {
                encoded::<Manifest>(payload, |manifest| {
                    let keys: Vec<_> = manifest.administrators.iter().map(|each| each.signing_key).collect();
                    keys == [ALICE.administrator().signing_key]
                })
            },
        },
        b'c' => Kind {
            label: labels::COMMAND,
            signer: &ALICE,
            open: |signed| {
                let claimed = command::claimed_id(signed);
                let (opened, signers) = command::open(signed, KEY_STORE, &[ALICE.administrator()]).ok()?;
                assert_eq!((claimed, signers), (Ok(opened.command_id), vec![ALICE.administrator().id()]));
                Some(cbor::encode(&opened).to_vec())
            },
            expected: |payload| encoded::<Command>(payload, |command| command.key_store_id == KEY_STORE),
        },
        b'b' => Kind {
            label: labels::BLOCK,
            signer: &ALICE,
            open: |signed| {
                let (administrators, current) = ([ALICE.administrator()], overlay_in_force());
                let thresholds = Thresholds::ONE;
                let opened = block::open(signed, KEY_STORE, &administrators, thresholds, Some(&current)).ok()?;
                let strict = Thresholds { unblock: 2, ..thresholds };
                let lifted = block::open(signed, KEY_STORE, &administrators, strict, Some(&current)).is_err();
                assert_eq!(lifted, current.lifts(&opened), "lifting needs the signatures that lifting needs");
                Some(cbor::encode(&opened).to_vec())
            },
            expected: |payload| {
                let current = overlay_in_force();
                encoded::<BlockOverlay>(payload, |new| new.key_store_id == KEY_STORE && new.epoch > current.epoch)
            },
        },
        b'r' => Kind {
            label: labels::REGISTER,
            signer: &VAULT,
            open: |signed| {
                let opened = register::open(signed, KEY_STORE, &vault_key()).ok()?;
                Some(cbor::encode(&opened).to_vec())
            },
            expected: |payload| encoded::<RegisterEntry>(payload, |entry| entry.key_store_id == KEY_STORE),
        },
        b'q' => Kind {
            label: labels::QUERY,
            signer: &ALICE,
            open: |signed| {
                let claimed = query::key_store_of(signed);
                let custodian = VAULT.custodian().id();
                let opened = query::open(signed, KEY_STORE, custodian, &[ALICE.administrator()], NOW_MS).ok()?;
                assert_eq!(claimed, Ok(KEY_STORE));
                Some(cbor::encode(&opened).to_vec())
            },
            expected: |payload| {
                encoded::<Query>(payload, |query| {
                    query.key_store_id == KEY_STORE
                        && query.custodian_id == VAULT.custodian().id()
                        && query.issued_ms.abs_diff(NOW_MS) <= QUERY_AGE_MAX_MS
                })
            },
        },
        b'a' => Kind {
            label: labels::QUERY_ANSWER,
            signer: &VAULT,
            open: |signed| {
                let answer = query::open_answer(signed, &asked(), &vault_key()).ok()?;
                Some(cbor::encode(&QueryAnswer { query_sha256: asked_sha256(), answer }).to_vec())
            },
            expected: |payload| encoded::<QueryAnswer>(payload, |answer| answer.query_sha256 == asked_sha256()),
        },
        _ => return None,
    })
}

/// The payload itself, if it is a message for which `rule` holds.
fn encoded<T: Message>(payload: &[u8], rule: impl FnOnce(&T) -> bool) -> Option<Vec<u8>> {
    decode_checked::<T>(payload).filter(rule).map(|_| payload.to_vec())
}

/// Reads the envelope and checks the one signature that it must have, with nothing of ours.
fn is_signed(signed: &[u8], kind: &Kind) -> bool {
    let Some(envelope) = cbor_reader::read(signed) else { return false };
    let Some([payload, signatures]) = envelope.array() else { return false };
    let (Some(payload), Some([signature])) = (payload.bytes(), signatures.array()) else { return false };
    let Some([_, signature]) = signature.array() else { return false };
    let message = [kind.label.as_bytes(), &[0], payload].concat();
    let key = kind.signer.signing.verifying_key().unwrap();
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key.0)
        .verify(&message, signature.bytes().unwrap_or_default())
        .is_ok()
}

fn vault_key() -> VerifyingKey {
    VAULT.signing.verifying_key().unwrap()
}

/// What is blocked already: the store, and one key.
pub(super) fn overlay_in_force() -> BlockOverlay {
    BlockOverlay {
        label: labels::BLOCK.to_owned(),
        key_store_id: KEY_STORE,
        epoch: 5,
        store: true,
        keys: vec!["blocked".parse().unwrap()],
        issued_ms: NOW_MS,
    }
}

/// A query that was asked.
pub(super) fn asked() -> Query {
    Query {
        label: labels::QUERY.to_owned(),
        key_store_id: KEY_STORE,
        custodian_id: VAULT.custodian().id(),
        nonce: [4; 16],
        issued_ms: NOW_MS,
        question: Question::Status,
    }
}

pub(super) fn asked_sha256() -> [u8; 32] {
    holdfast_shared::sha256(&[&cbor::encode(&asked())])
}

/// A register entry for a blob.
pub(super) fn entry(version: u64, blob: &[u8], previous: Option<BlobId>) -> RegisterEntry {
    RegisterEntry {
        label: labels::REGISTER.to_owned(),
        key_store_id: KEY_STORE,
        version,
        blob_id: keystore::blob_id(blob),
        previous,
        recorded_ms: NOW_MS,
    }
}
