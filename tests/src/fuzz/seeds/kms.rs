//! Answers of AWS KMS, and what other programs write in their form (`tests/vectors/kms`).

use super::Seeds;

const VECTORS: [(&str, &str); 6] = [
    ("kms-2020", include_str!("../../../vectors/kms/kms-2020.json")),
    ("kms-2025", include_str!("../../../vectors/kms/kms-2025.json")),
    ("made-share", include_str!("../../../vectors/kms/made-share.json")),
    ("made-share-primitive", include_str!("../../../vectors/kms/made-share-primitive.json")),
    ("made-largest", include_str!("../../../vectors/kms/made-largest.json")),
    ("openssl-share", include_str!("../../../vectors/kms/openssl-share.json")),
];

pub(super) fn answers(seeds: &mut Seeds) {
    for (name, text) in VECTORS {
        let case: serde_json::Value = serde_json::from_str(text).unwrap();
        let message = hex::decode(case["message"].as_str().unwrap()).unwrap();
        if name == "kms-2025" {
            for (refused, change) in CHANGES {
                let mut changed = message.clone();
                change(&mut changed);
                seeds.refuse("kms_answer", refused, changed);
            }
        }
        seeds.add("kms_answer", name, message);
    }
}

type Change = fn(&mut Vec<u8>);

/// Changes of a message with an identifier of 32 bytes (at 33) and one block of content (at 435).
const CHANGES: [(&str, Change); 6] = [
    ("trailing", |message| message.push(0)),
    ("cut", |message| message.truncate(message.len() - 2)),
    ("long-length", |message| {
        message.splice(32..33, [0x81, 32]);
        // The lengths of the recipients and of the recipient.
        message[23] += 1;
        message[27] += 1;
    }),
    ("other-cipher", |message| message[412] = 0x2e),
    ("half-block", |message| {
        message[434] = 8;
        message.drain(435..443);
    }),
    ("empty-piece", |message| {
        message.splice(451..451, [0x04, 0x00]);
    }),
];
