//! Sealed messages: what does not come from the holder of the key never opens, and what a hostile holder of the key puts inside
//! is read by the same strict codec. Keys and contexts are derived here a second time.
//!
//! In each target the first byte says how the rest comes: `r`, it is what arrived; `s`, it is sealed now, properly, by somebody
//! who has the key.

use holdfast_shared::attestation::ParsedDocument;
use holdfast_shared::cbor::{self, Message};
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply};
use holdfast_shared::command::{self, ResultContent, SealedResult};
use holdfast_shared::hpke;
use holdfast_shared::ids::{CommandId, LeaseId};
use holdfast_shared::keystore::{self, Body, CredentialRecord, Header};
use holdfast_shared::labels;
use holdfast_shared::release::{self, PROTOCOL, ReleaseAnswer, ReleaseBinding, ReleaseContent, ReleaseRequest, Share};
use holdfast_shared::secrets::Secret;
use holdfast_shared::signature::Envelope;
use minicbor::encode::Encoder;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::Verdict;
use super::cbor_reader;
use super::doors::entry;
use super::input::Input;
use super::messages::decode_checked;
use super::party::{ALICE, KEY_STORE, VAULT, rng};

const LEASE: LeaseId = LeaseId([0x51; 16]);
const COMMAND: CommandId = CommandId([0x52; 16]);
const KEY: [u8; 32] = [0x53; 32];
const RELEASE_NONCE: [u8; 32] = [0x54; 32];
const USER_DATA: &[u8] = b"user data";

/// The sealed channel of a lease.
pub fn sealed_channel(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let (how, which) = (input.byte(), input.byte());
    if which == b'a' {
        channel_message::<Ask>(how, input, Direction::Ask)
    } else {
        channel_message::<Reply>(how, input, Direction::Reply)
    }
}

fn channel_message<T: Message>(how: u8, input: Input<'_>, direction: Direction) -> Verdict {
    let key = || Secret::take(&mut KEY.clone());
    let (label, other) = match direction {
        Direction::Ask => (labels::CHANNEL_ASK, Direction::Reply),
        Direction::Reply => (labels::CHANNEL_REPLY, Direction::Ask),
    };
    let message = if how == b's' {
        let plaintext = input.rest();
        let nonce = holdfast_shared::sha256(&[plaintext])[..12].try_into().unwrap();
        let message = ChannelMessage { protocol: PROTOCOL, lease_id: LEASE, counter: 7, nonce, ciphertext: Vec::new() };
        let ciphertext = seal_aes(&KEY, nonce, &channel_aad(label, &message), plaintext);
        ChannelMessage { ciphertext, ..message }
    } else {
        let Some(message) = decode_checked::<ChannelMessage>(input.rest()) else { return Verdict::Refused };
        message
    };
    let opened = channel::open::<T>(&message, direction, &key());
    let plaintext = open_aes(&KEY, message.nonce, &channel_aad(label, &message), &message.ciphertext);
    let expected = plaintext.filter(|plaintext| decode_checked::<T>(plaintext).is_some());
    assert_eq!(opened.ok().map(|value| cbor::encode(&value).to_vec()), expected, "two readers disagree");
    // Not the other way, not for another counter or lease.
    let refused = |message: &ChannelMessage, direction| channel::open::<T>(message, direction, &key()).is_err();
    assert!(refused(&message, other));
    assert!(refused(&ChannelMessage { counter: message.counter ^ 1, ..message.clone() }, direction));
    assert!(refused(&ChannelMessage { lease_id: LeaseId([1; 16]), ..message }, direction));
    Verdict::from(expected.is_some())
}

fn channel_aad(label: &str, message: &ChannelMessage) -> Vec<u8> {
    framed(label, &[message.lease_id.as_bytes(), &message.counter.to_be_bytes()])
}

/// Sealed key stores. `s` takes a header (with its length) and a body.
pub fn sealed_key_store(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let root = || Secret::take(&mut KEY.clone());
    let blob = if input.byte() == b's' {
        let header = input.field();
        let ciphertext = match cbor::decode::<Header>(header) {
            Ok(parsed) => seal_aes(&sealing_key(&parsed), [0; 12], header, input.rest()),
            Err(_) => input.rest().to_vec(),
        };
        let mut encoder = Encoder::new(Vec::new());
        encoder.array(2).unwrap().bytes(header).unwrap().bytes(&ciphertext).unwrap();
        encoder.into_writer()
    } else {
        input.rest().to_vec()
    };
    let shown = keystore::header(&blob);
    let second = cbor_reader::read(&blob).and_then(|blob| {
        let [header, ciphertext] = blob.array()? else { return None };
        let bytes = header.bytes()?;
        Some((bytes, decode_checked::<Header>(bytes)?, ciphertext.bytes()?))
    });
    assert_eq!(shown.as_ref().ok(), second.as_ref().map(|(_, header, _)| header), "two readers disagree");
    let Some((bytes, header, ciphertext)) = second else {
        assert!(keystore::open(&root(), &entry(1, &blob, None), &blob).is_err());
        return Verdict::Refused;
    };
    let named = entry(header.version, &blob, header.previous);
    let opened = keystore::open(&root(), &named, &blob);
    let plaintext = open_aes(&sealing_key(&header), [0; 12], bytes, ciphertext);
    let expected =
        plaintext.filter(|plaintext| header.key_store_id == KEY_STORE && decode_checked::<Body>(plaintext).is_some());
    assert_eq!(opened.ok().map(|store| cbor::encode(&store.body).to_vec()), expected, "two readers disagree");
    let refused = |entry| keystore::open(&root(), &entry, &blob).is_err();
    assert!(refused(entry(header.version.wrapping_add(1).max(2), &blob, header.previous)), "another version");
    assert!(refused(entry(header.version, &[&blob[..], b"."].concat(), header.previous)), "another blob");
    assert!(keystore::open(&Secret::take(&mut [1; 32]), &named, &blob).is_err(), "another root key");
    Verdict::from(expected.is_some())
}

/// Section 4 of the design.
fn sealing_key(header: &Header) -> [u8; 32] {
    let info = framed(labels::SEAL, &[header.key_store_id.as_bytes(), &header.version.to_be_bytes()]);
    let mut key = [0; 32];
    let prk = Salt::new(HKDF_SHA256, &header.salt).extract(&KEY);
    prk.expand(&[&info], HKDF_SHA256).unwrap().fill(&mut key).unwrap();
    key
}

/// Release messages. `r`: an answer arrives at the enclave. `s`: the custodian itself encrypts and signs this content. `e`: the
/// custodian signs this instead of an encrypted content. `q`: a request arrives at the custodian.
pub fn release_messages(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let how = input.byte();
    let rest = input.rest();
    let (custodian_id, key) = (VAULT.custodian().id(), VAULT.signing.verifying_key().unwrap());
    let binding = ReleaseBinding { custodian_id, key_store_id: KEY_STORE, nonce: &RELEASE_NONCE, user_data: USER_DATA };
    let open = |signed: &[u8]| release::open(signed, &binding, &key, &ALICE.encryption);
    let sign = |payload: &[u8]| {
        let envelope = Envelope::seal(labels::RELEASE, payload, &VAULT.signing, &rng()).unwrap();
        cbor::encode(&envelope).to_vec()
    };
    match how {
        b's' => {
            let epoch = 3_u64;
            let info = framed(
                labels::RELEASE,
                &[
                    &PROTOCOL.to_be_bytes(),
                    custodian_id.as_bytes(),
                    KEY_STORE.as_bytes(),
                    &epoch.to_be_bytes(),
                    &RELEASE_NONCE,
                ],
            );
            let aad = holdfast_shared::sha384(&[USER_DATA]);
            let (sealed, _) = hpke::seal(ALICE.encryption.public_key(), &info, &aad, rest).unwrap();
            let signed = sign(&cbor::encode(&ReleaseAnswer { policy_epoch: epoch, sealed }));
            let opened = open(&signed).ok().map(|(content, epoch, _)| (cbor::encode(&content).to_vec(), epoch));
            let expected = decode_checked::<ReleaseContent>(rest).map(|_| (rest.to_vec(), epoch));
            assert_eq!(opened, expected, "two readers disagree");
            Verdict::from(opened.is_some())
        }
        b'e' => {
            assert!(open(&sign(rest)).is_err(), "what was encrypted to nobody opens");
            Verdict::from(decode_checked::<ReleaseAnswer>(rest).is_some())
        }
        b'q' => {
            let Some(request) = decode_checked::<ReleaseRequest>(rest) else { return Verdict::Refused };
            Verdict::from(ParsedDocument::parse(&request.document).is_ok())
        }
        _ => {
            let opened = open(rest);
            if opened.is_err() {
                return Verdict::Refused;
            }
            // Only a release that was made for this nonce, key and custodian opens: it is one of the seeds, byte for byte or
            // with another signature of the same custodian.
            let envelope = decode_checked::<Envelope>(rest).unwrap();
            envelope.open(labels::RELEASE, &[key], 1).unwrap();
            Verdict::Accepted
        }
    }
}

/// What administrators and custodians encrypt to each other: a share, a result, a credential, key material. The first byte
/// names it, the second is `r` (encapsulated key and ciphertext arrive) or `s` (the rest is encrypted now).
pub fn hpke_payloads(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let (what, how) = (input.byte(), input.byte());
    let (vault, alice) = (VAULT.custodian().id(), ALICE.administrator().id());
    let info = match what {
        b's' => framed(labels::HPKE_SHARE, &[KEY_STORE.as_bytes(), vault.as_bytes()]),
        b'r' => framed(labels::HPKE_RESULT, &[KEY_STORE.as_bytes(), COMMAND.as_bytes(), alice.as_bytes()]),
        b'c' => framed(labels::HPKE_IMPORT, &[KEY_STORE.as_bytes(), COMMAND.as_bytes()]),
        _ => framed(labels::HPKE_IMPORT_KEY, &[KEY_STORE.as_bytes(), COMMAND.as_bytes()]),
    };
    let key = &ALICE.encryption;
    let (sealed, second) = if how == b's' {
        let (sealed, _) = hpke::seal(key.public_key(), &info, &[], input.rest()).unwrap();
        (sealed, Some(input.rest().to_vec()))
    } else {
        let Some((encapsulated_key, ciphertext)) = input.rest().split_first_chunk() else { return Verdict::Refused };
        let sealed = hpke::Sealed { encapsulated_key: *encapsulated_key, ciphertext: ciphertext.to_vec() };
        let second = hpke::open(key, &info, &[], &sealed).ok().map(|(plaintext, _)| plaintext.to_vec());
        (sealed, second)
    };
    let (opened, fits): (_, fn(&[u8]) -> bool) = match what {
        b's' => (
            release::open_share(&sealed, KEY_STORE, vault, key).ok().map(|share| cbor::encode(&share).to_vec()),
            |plaintext| decode_checked::<Share>(plaintext).is_some(),
        ),
        b'r' => {
            let result = SealedResult { command_id: COMMAND, recipient: alice, sealed };
            let opened = command::open_result(&result, KEY_STORE, COMMAND, alice, key);
            (opened.ok().map(|content| cbor::encode(&content).to_vec()), |plaintext| {
                decode_checked::<ResultContent>(plaintext).is_some()
            })
        }
        b'c' => {
            let opened = command::open_credential(&sealed, KEY_STORE, COMMAND, key);
            (opened.ok().map(|credential| cbor::encode(&credential).to_vec()), |plaintext| {
                decode_checked::<CredentialRecord>(plaintext).is_some()
            })
        }
        _ => {
            let opened = command::open_material(&sealed, KEY_STORE, COMMAND, key);
            (opened.ok().map(|material| material.expose().to_vec()), |plaintext| plaintext.len() == 32)
        }
    };
    assert_eq!(opened, second.filter(|plaintext| fits(plaintext)), "two readers disagree");
    Verdict::from(opened.is_some())
}

/// How parts are joined: label, zero, each part after its length in eight bytes.
fn framed(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = [label.as_bytes(), &[0]].concat();
    for part in parts {
        out.extend(u64::try_from(part.len()).unwrap().to_be_bytes());
        out.extend(*part);
    }
    out
}

fn aes(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap())
}

fn seal_aes(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = plaintext.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    aes(key).seal_in_place_append_tag(nonce, Aad::from(aad), &mut buffer).unwrap();
    buffer
}

fn open_aes(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], ciphertext: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = ciphertext.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    aes(key).open_in_place(nonce, Aad::from(aad), &mut buffer).ok().map(|plaintext| plaintext.to_vec())
}
