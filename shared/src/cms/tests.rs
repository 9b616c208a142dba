use proptest::prelude::*;

use super::*;

fn vector(name: &str) -> serde_json::Value {
    let path = format!("{}/../tests/vectors/kms/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(case: &serde_json::Value, field: &str) -> Vec<u8> {
    hex::decode(case[field].as_str().unwrap()).unwrap()
}

/// A message in the form of KMS, from its parts: the writer that the reader is held against.
#[derive(Clone, Debug)]
struct Parts {
    identifier: Vec<u8>,
    has_null: bool,
    key: Vec<u8>,
    iv: Vec<u8>,
    /// One piece that is primitive, or any number that are not.
    pieces: Result<Vec<Vec<u8>>, Vec<u8>>,
}

impl Parts {
    fn plain() -> Self {
        Self {
            identifier: vec![7; 32],
            has_null: true,
            key: vec![0xa5; 256],
            iv: vec![0x5a; 16],
            pieces: Ok(vec![vec![0xc3; 48]]),
        }
    }

    fn recipient(&self) -> Vec<u8> {
        let oaep = if self.has_null { RSAES_OAEP } else { RSAES_OAEP_NO_NULL };
        element(0x30, &[RECIPIENT_VERSION, &element(0x80, &self.identifier), oaep, &element(4, &self.key)].concat())
    }

    fn write(&self) -> Vec<u8> {
        self.write_with(&element(0x31, &self.recipient()))
    }

    fn write_with(&self, recipients: &[u8]) -> Vec<u8> {
        let content = match &self.pieces {
            Ok(pieces) => {
                let pieces: Vec<u8> = pieces.iter().flat_map(|piece| element(4, piece)).collect();
                [PIECES, &pieces, END].concat()
            }
            Err(whole) => element(0x80, whole),
        };
        [HEAD, recipients, CONTENT_HEAD, AES_256_CBC, &self.iv, &content, END, END, END, END].concat()
    }
}

fn element(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    let head = match body.len() {
        0..=0x7f => vec![tag, len[1]],
        0x80..=0xff => vec![tag, 0x81, len[1]],
        _ => vec![tag, 0x82, len[0], len[1]],
    };
    [head, body.to_vec()].concat()
}

#[test]
fn answers_of_kms_itself_are_read() {
    for name in ["kms-2020", "kms-2025"] {
        let case = vector(name);
        let message = bytes(&case, "message");
        let read = EnvelopedData::parse(&message).unwrap();
        assert_eq!(read.content(), bytes(&case, "content"), "{name}");
        let parts = Parts {
            identifier: message[33..65].to_vec(),
            key: read.encrypted_key().to_vec(),
            iv: read.iv().to_vec(),
            pieces: Ok(vec![read.content().to_vec()]),
            has_null: true,
        };
        assert_eq!(parts.write(), message, "{name}: written anew from what was read");
    }
}

#[test]
fn what_other_programs_write_in_that_form_is_read() {
    for name in ["made-share", "made-share-primitive", "made-block", "made-largest", "openssl-share", "openssl-largest"]
    {
        let case = vector(name);
        let message = bytes(&case, "message");
        let read = EnvelopedData::parse(&message).unwrap();
        assert_eq!(read.content().len(), bytes(&case, "plaintext").len() / 16 * 16 + 16, "{name}");
    }
}

#[test]
fn each_rule() {
    let plain = Parts::plain();
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = plain.clone();
        change(&mut parts);
        parts.write()
    };
    let recipient = plain.recipient();
    let accepted = [
        with(&|_| ()),
        with(&|parts| parts.has_null = false),
        with(&|parts| parts.identifier = vec![1; 20]),
        with(&|parts| parts.pieces = Ok(vec![vec![1; 1000]; 2])),
        with(&|parts| parts.pieces = Ok(vec![vec![1; 1]; 16])),
        with(&|parts| parts.pieces = Ok(vec![vec![1; CONTENT_MAX]])),
        with(&|parts| parts.pieces = Err(vec![1; 16])),
    ];
    for message in accepted {
        assert!(EnvelopedData::parse(&message).is_ok(), "{}", hex::encode(message));
    }
    let refused = [
        ("trailing", [plain.write(), vec![0]].concat()),
        ("one end too many", [plain.write(), vec![0, 0]].concat()),
        ("one end too few", plain.write()[..plain.write().len() - 2].to_vec()),
        ("no recipient", plain.write_with(&element(0x31, &[]))),
        ("two recipients", plain.write_with(&element(0x31, &[&*recipient, &*recipient].concat()))),
        ("recipients of indefinite length", plain.write_with(&[&[0x31, 0x80], &*recipient, END].concat())),
        ("an originator", plain.write_with(&[&[0xa0, 0], &*element(0x31, &recipient)].concat())),
        ("another recipient info", plain.write_with(&element(0x31, &element(0xa1, &recipient[4..])))),
        (
            "something after the key",
            plain.write_with(&element(0x31, &element(0x30, &[&recipient[4..], &[5, 0]].concat()))),
        ),
        ("no identifier", with(&|parts| parts.identifier.clear())),
        ("a long identifier", with(&|parts| parts.identifier = vec![1; KMS_RECIPIENT_ID_MAX + 1])),
        ("a short key", with(&|parts| parts.key.truncate(255))),
        ("a long key", with(&|parts| parts.key.push(0))),
        ("a short IV", with(&|parts| parts.iv.truncate(15))),
        ("no pieces", with(&|parts| parts.pieces = Ok(vec![]))),
        ("an empty piece", with(&|parts| parts.pieces = Ok(vec![vec![1; 16], vec![]]))),
        ("half a block", with(&|parts| parts.pieces = Ok(vec![vec![1; 16], vec![1; 8]]))),
        ("empty content", with(&|parts| parts.pieces = Err(vec![]))),
        ("content too long", with(&|parts| parts.pieces = Ok(vec![vec![1; CONTENT_MAX], vec![1; 16]]))),
    ];
    for (name, message) in refused {
        assert!(EnvelopedData::parse(&message).is_err(), "{name}");
    }
    let mut null_once = plain.write();
    // The first SHA-256 with NULL, the second without: neither of the two spellings.
    let at = null_once.windows(2).rposition(|pair| pair == [0x05, 0x00]).unwrap();
    null_once.drain(at..at + 2);
    assert!(EnvelopedData::parse(&null_once).is_err());
    assert_eq!(EnvelopedData::parse(&vec![0x30; CIPHERTEXT_FOR_RECIPIENT_MAX + 1]), Err(CmsError::TooLong));
}

#[test]
fn lengths_are_as_short_as_can_be() {
    let message = Parts::plain().write();
    // The identifier's length in more bytes than needed, and the lengths around it as they must be then.
    let at = message.windows(3).position(|window| window == [0x80, 32, 7]).unwrap();
    for (spelling, more) in [([0x81, 32].as_slice(), 1), (&[0x82, 0, 32], 2)] {
        let mut long = message.clone();
        long.splice(at + 1..at + 2, spelling.iter().copied());
        for around in [22, 26] {
            assert_eq!(long[around], 0x01);
            long[around + 1] += more;
        }
        let expected = CmsError::Unexpected("a length is not definite and as short as can be");
        assert_eq!(EnvelopedData::parse(&long), Err(expected), "{spelling:?}");
    }
    for length in [[0x82, 0x00, 0x80].as_slice(), &[0x83, 0, 1, 0], &[0x80], &[0xff]] {
        let mut other = message.clone();
        other.splice(at + 1..at + 2, length.iter().copied());
        assert!(EnvelopedData::parse(&other).is_err(), "{length:?}");
    }
}

#[test]
fn every_cut_and_every_changed_byte_outside_the_values_is_refused() {
    let message = Parts::plain().write();
    for len in 0..message.len() {
        assert!(EnvelopedData::parse(&message[..len]).is_err(), "cut to {len}");
    }
    for at in 0..message.len() {
        let mut changed = message.clone();
        changed[at] ^= 1;
        let is_value = [7, 0xa5, 0x5a, 0xc3].contains(&message[at]) && !(13..33).contains(&at);
        // 07 stands in two object identifiers and 05 a5 nowhere else; where the values lie is told by what is read.
        let read = EnvelopedData::parse(&changed);
        if read.is_ok() {
            assert!(is_value, "byte {at} ({:02x}) may be anything", message[at]);
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        identifier in proptest::collection::vec(any::<u8>(), 1..=KMS_RECIPIENT_ID_MAX),
        has_null in any::<bool>(),
        key in proptest::collection::vec(any::<u8>(), 256),
        iv in proptest::collection::vec(any::<u8>(), 16),
        content in proptest::collection::vec(any::<[u8; 16]>(), 1..=257),
        piece in 1_usize..1500,
        is_primitive in any::<bool>(),
    ) {
        let content = content.concat();
        let pieces =
            if is_primitive { Err(content.clone()) } else { Ok(content.chunks(piece).map(<[u8]>::to_vec).collect()) };
        let message = Parts { identifier, has_null, key: key.clone(), iv: iv.clone(), pieces }.write();
        if message.len() > CIPHERTEXT_FOR_RECIPIENT_MAX {
            prop_assert_eq!(EnvelopedData::parse(&message), Err(CmsError::TooLong));
        } else {
            let read = EnvelopedData::parse(&message).unwrap();
            prop_assert_eq!(read.encrypted_key().as_slice(), &*key);
            prop_assert_eq!(read.iv().as_slice(), &*iv);
            prop_assert_eq!(read.content(), &*content);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(start in 0_usize..500, noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut message = Parts::plain().write();
        message.truncate(start);
        message.extend(noise);
        let _ = EnvelopedData::parse(&message);
    }
}
