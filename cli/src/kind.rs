//! What a file seems to be, for the error about one that is not what belongs in its place.
//!
//! Guarantees: nothing of the file's content is repeated. Assumes nothing: it is a guess for people, and decides nothing.

use std::collections::BTreeMap;

use holdfast_shared::cbor;
use holdfast_shared::manifest::ManifestChain;
use holdfast_shared::signature::Envelope;
use serde::de::IgnoredAny;

/// Kinds of files that the tool and its neighbours read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Empty,
    Image,
    Pem,
    SignedDocument,
    Custodian,
    Administrator,
    Measurements,
    Credential,
    StaticConfiguration,
    Auditor,
}

/// Kinds of JSON objects, by fields that no kind further down has all of.
const OBJECTS: [(&[&str], Kind); 7] = [
    (&["tls_roots", "signing_key"], Kind::Custodian),
    (&["signing_key", "id"], Kind::Administrator),
    (&["pcr0"], Kind::Measurements),
    (&["AccessKeyId"], Kind::Credential),
    (&["access_key_id"], Kind::Credential),
    (&["regions"], Kind::StaticConfiguration),
    (&["encryption_key"], Kind::Auditor),
];

impl Kind {
    /// The kind of a file with this content, if it is plain.
    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::Empty);
        }
        if bytes.starts_with(b".eif") {
            return Some(Self::Image);
        }
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Some(Self::Pem);
        }
        if cbor::decode::<Envelope>(bytes).is_ok() || cbor::decode::<ManifestChain>(bytes).is_ok() {
            return Some(Self::SignedDocument);
        }
        #[expect(clippy::zero_sized_map_values, reason = "an object is read as a map, and its values may be secret")]
        let fields = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(bytes).ok()?;
        let has_all = |wanted: &[&str]| wanted.iter().all(|name| fields.contains_key(*name));
        OBJECTS.iter().find(|(wanted, _)| has_all(wanted)).map(|(_, kind)| *kind)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Empty => "an empty file",
            Self::Image => "an image (EIF)",
            Self::Pem => "a PEM file",
            Self::SignedDocument => "a manifest or another signed document",
            Self::Custodian => "a custodian's custodian.json",
            Self::Administrator => "an administrator's administrator.json",
            Self::Measurements => "measurements",
            Self::Credential => "a credential",
            Self::StaticConfiguration => "a static configuration",
            Self::Auditor => "an auditor's key",
        }
    }
}

/// `; it looks like …`, or nothing where that cannot be said or is what the file should be.
pub(crate) fn guess(bytes: &[u8], expected: Kind) -> String {
    match Kind::of(bytes) {
        Some(kind) if kind != expected => format!("; it looks like {}", kind.name()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_from_the_others() {
        let measured = include_bytes!("../../tests/vectors/attestation/measurements.json");
        for (bytes, expected) in [
            (b"".as_slice(), Kind::Empty),
            (b".eif\0\0\0\x04", Kind::Image),
            (b"\n-----BEGIN CERTIFICATE-----\n", Kind::Pem),
            (
                br#"{"name": "v", "signing_key": "", "encryption_key": "", "address": "", "tls_roots": []}"#,
                Kind::Custodian,
            ),
            (br#"{"name": "a", "id": "", "signing_key": "", "encryption_key": ""}"#, Kind::Administrator),
            (br#"{"name": "a", "encryption_key": ""}"#, Kind::Auditor),
            (br#"{"AccessKeyId": "A", "RawSecretAccessKey": "S"}"#, Kind::Credential),
            (br#"{"access_key_id": "A"}"#, Kind::Credential),
            (br#"{"pcr0": "", "pcr1": ""}"#, Kind::Measurements),
            (br#"{"regions": ["us-east-1"]}"#, Kind::StaticConfiguration),
            (measured, Kind::Measurements),
        ] {
            assert_eq!(Kind::of(bytes), Some(expected));
            assert_eq!(guess(bytes, expected), "", "nothing is said where the kind is right");
            let other = if expected == Kind::Pem { Kind::Image } else { Kind::Pem };
            assert_eq!(guess(bytes, other), format!("; it looks like {}", expected.name()));
        }
        for unknown in [b"text".as_slice(), b"{}", b"[1]", &[0xFF; 40]] {
            assert_eq!(guess(unknown, Kind::Pem), "");
        }
    }
}
