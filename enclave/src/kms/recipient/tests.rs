use std::collections::BTreeSet;

use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey};
use rsa::traits::PublicKeyParts;
use rsa::{RsaPublicKey, rand_core::Rng};

use super::*;

fn vectors() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/kms")
}

fn vector(name: &str) -> (Vec<u8>, Vec<u8>) {
    let text = std::fs::read(vectors().join(format!("{name}.json"))).unwrap();
    let case: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let field = |name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
    (field("message"), field("plaintext"))
}

fn rng(seed: u8) -> SeededRng {
    SeededRng { seed: Secret::take(&mut [seed; 32]), counter: 0 }
}

/// The key of the vectors.
fn key() -> RecipientKey {
    let pem = std::fs::read_to_string(vectors().join("recipient.pem")).unwrap();
    RecipientKey::of(RsaPrivateKey::from_pkcs8_pem(&pem).unwrap(), rng(1)).unwrap()
}

fn opened(key: RecipientKey, message: &[u8]) -> Result<SecretBytes, RecipientError> {
    key.open_here(&EnvelopedData::parse(message)?)
}

#[test]
fn what_other_programs_encrypt_in_the_form_of_kms_opens() {
    for name in ["made-share", "made-share-primitive", "made-block", "made-largest", "openssl-share", "openssl-largest"]
    {
        let (message, plaintext) = vector(name);
        assert_eq!(opened(key(), &message).unwrap().expose(), plaintext, "{name}");
    }
}

#[test]
fn a_key_is_fresh_and_opens_nothing_that_was_encrypted_to_another() {
    let make = |seed| RecipientKey::of(RsaPrivateKey::new(&mut rng(seed), BITS).unwrap(), rng(seed)).unwrap();
    let (one, other) = (make(2), make(3));
    assert_ne!(one.public_key(), other.public_key());
    let public = RsaPublicKey::from_public_key_der(one.public_key()).unwrap();
    assert_eq!((public.size(), one.public_key().len()), (256, 294));
    assert!(matches!(opened(one, &vector("made-share").0), Err(RecipientError::Closed)));
}

/// No changed byte goes unnoticed by the form, by OAEP or by the padding, but in three places: the recipient's identifier, which
/// says nothing; and IV and content, where CBC lets the plaintext change in what the padding does not cover. There the share's
/// commitment decides, so what matters is that nothing but a changed plaintext can come out.
#[test]
fn a_changed_byte_is_an_error_or_another_plaintext() {
    let (message, plaintext) = vector("made-share");
    // Head, identifier, encrypted key, IV, content; the offsets are those of every message with an identifier of 32 bytes.
    let (identifier, key_bytes, iv, content) = (33..65, 131..387, 415..431, 435..483);
    let read = EnvelopedData::parse(&message).unwrap();
    assert_eq!(&message[key_bytes.clone()], read.encrypted_key());
    assert_eq!((&message[iv.clone()], &message[content.clone()]), (read.iv().as_slice(), read.content()));
    for at in (0..message.len()).filter(|at| !key_bytes.contains(at) || at % 8 == 3) {
        let mut changed = message.clone();
        changed[at] ^= 0x10;
        match opened(key(), &changed) {
            Ok(found) if identifier.contains(&at) => assert_eq!(found.expose(), plaintext, "byte {at}"),
            Ok(found) => {
                assert!(iv.contains(&at) || content.contains(&at), "byte {at} opened");
                assert_ne!(found.expose(), plaintext, "byte {at}");
            }
            Err(RecipientError::Closed) => {
                assert!(key_bytes.contains(&at) || content.contains(&at), "byte {at} is read");
            }
            Err(RecipientError::Cms(_)) => {
                let is_value = [&identifier, &key_bytes, &iv, &content].iter().any(|range| range.contains(&at));
                assert!(!is_value, "byte {at} is a value");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

#[test]
fn content_keys_of_other_lengths_open_nothing() {
    let (message, _) = vector("made-share");
    let public = key().private.to_public_key();
    for len in [0, 16, 24, 31, 33] {
        let mut changed = message.clone();
        let encrypted = public.encrypt(&mut rng(4), Oaep::<Sha256>::new(), &vec![7; len]).unwrap();
        changed[131..387].copy_from_slice(&encrypted);
        assert!(matches!(opened(key(), &changed), Err(RecipientError::Closed)), "{len} bytes");
    }
}

#[test]
fn the_stream_of_a_seed_does_not_repeat() {
    let mut one = rng(5);
    let blocks: BTreeSet<[u8; 32]> = (0..1000).map(|_| one.array()).collect();
    assert_eq!(blocks.len(), 1000);
    let (mut again, mut other) = (rng(5), rng(6));
    assert_ne!(again.next_u64(), other.next_u64());
    let mut long = [0; 100];
    rng(5).fill(&mut long);
    assert_eq!(long[..32], rng(5).array::<32>());
    assert!(long.chunks(32).collect::<BTreeSet<_>>().len() == 4);
}
