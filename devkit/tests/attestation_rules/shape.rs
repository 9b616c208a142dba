//! Shape: the envelope and the payload.

use holdfast_devkit::nsm::document::{bytes, text, unsigned};
use holdfast_shared::attestation::ParseError;

use super::*;

#[test]
fn what_the_device_writes_is_read() {
    let fixture = Fixture::new();
    let good = fixture.good();
    for (name, document) in [
        ("as it comes", good.clone()),
        ("tag 18", good.clone().tag(18)),
        ("other order", good.clone().reversed()),
        ("absent fields", good.clone().without("public_key").without("user_data").without("nonce")),
        ("null fields", good.clone().public_key(None).user_data(None).nonce(None)),
        ("empty fields", good.clone().public_key(Some(&[])).user_data(Some(&[])).nonce(Some(&[]))),
        ("longest fields", {
            let longest: &[u8] = &[7; 1024];
            good.clone().public_key(Some(longest)).user_data(Some(longest)).nonce(Some(longest))
        }),
        ("all registers", good.clone().pcrs(&(0..32).map(|index| (index, [1; 48])).collect())),
        ("one register", good.clone().pcrs(&BTreeMap::from([(31, [1; 48])]))),
        ("timestamp 1", good.clone().field("timestamp", unsigned(1))),
        // Entry 0 is never looked at, so it need not even be a certificate.
        ("another first entry", {
            let mut bundle = fixture.chain.cabundle();
            *bundle.first_mut().unwrap() = vec![0];
            good.clone().cabundle(&bundle)
        }),
    ] {
        assert_eq!(verify(&document, &fixture.trust, NOW_MS), Ok(()), "{name}");
    }
}

#[test]
fn each_rule_of_the_envelope() {
    let good = Fixture::new().good();
    let payload = good.payload_bytes();
    let map_of_nine = |rest: &[u8]| [&[0xbf], rest, &[0xff]].concat();
    for (name, document, error) in [
        ("other algorithm", good.clone().protected(&[0xa1, 0x01, 0x26]), ParseError::ProtectedHeader),
        ("no algorithm", good.clone().protected(&[]), ParseError::ProtectedHeader),
        ("no header map", good.clone().protected(&[0xa0]), ParseError::ProtectedHeader),
        ("long form inside", good.clone().protected(&[0xa1, 0x01, 0x39, 0x00, 0x22]), ParseError::ProtectedHeader),
        ("more headers", good.clone().protected(&[0xa2, 1, 0x38, 0x22, 4, 0x40]), ParseError::ProtectedHeader),
        ("unprotected header", good.clone().unprotected(&[0xa1, 0x04, 0x40]), ParseError::UnprotectedHeader),
        ("unprotected null", good.clone().unprotected(&[0xf6]), ParseError::UnprotectedHeader),
        ("unprotected indefinite", good.clone().unprotected(&[0xbf, 0xff]), ParseError::IndefiniteLength),
        ("unprotected long form", good.clone().unprotected(&[0xb8, 0x00]), ParseError::LongForm),
        ("other tag", good.clone().tag(17), ParseError::Envelope),
        ("empty payload", good.clone().payload(&[]), ParseError::Payload),
        ("long payload", good.clone().payload(&vec![0; 16 * 1024 + 1]), ParseError::Payload),
        ("array payload", good.clone().payload(&[0x80]), ParseError::Payload),
        (
            "indefinite payload",
            good.clone().payload(&map_of_nine(payload.get(1..).unwrap())),
            ParseError::IndefiniteLength,
        ),
        (
            "trailing in payload",
            good.clone().payload(&[payload.as_slice(), &[0xf6]].concat()),
            ParseError::TrailingBytes,
        ),
        ("cut payload", good.clone().payload(payload.get(..payload.len() - 1).unwrap()), ParseError::Cbor),
        ("short signature", good.clone().signature(&[1; 95]), ParseError::Signature),
        ("long signature", good.clone().signature(&[1; 97]), ParseError::Signature),
        ("no signature", good.clone().signature(&[]), ParseError::Signature),
        ("too long", good.clone().signature(&vec![1; 17 * 1024]), ParseError::TooLong),
    ] {
        assert_eq!(ParsedDocument::parse(&document.build().unwrap()).unwrap_err(), error, "{name}");
    }
}

#[test]
fn only_an_array_of_four_is_an_envelope() {
    let good = Fixture::new().good().build().unwrap();
    let rest = good.get(1..).unwrap();
    for (name, document, error) in [
        ("three", [&[0x83], rest].concat(), ParseError::Envelope),
        ("five", [&[0x85], rest, &[0xf6]].concat(), ParseError::Envelope),
        ("indefinite", [&[0x9f], rest, &[0xff]].concat(), ParseError::IndefiniteLength),
        ("long form", [&[0x98, 4], rest].concat(), ParseError::LongForm),
        ("map", [&[0xa2], rest].concat(), ParseError::Envelope),
    ] {
        assert_eq!(ParsedDocument::parse(&document).unwrap_err(), error, "{name}");
    }
}

#[test]
fn each_rule_of_the_payload() {
    let fixture = Fixture::new();
    let good = fixture.good();
    let set = |name: &str, value: &[u8]| good.clone().field(name, value.to_vec());
    let long = bytes(&[7; 1025]);
    let null = [0xf6];
    let pcr = bytes(&[1; 48]);
    let many: Vec<Vec<u8>> = vec![vec![1]; 9];
    let cases = [
        ("module_id", set("module_id", &text("")), ParseError::ModuleId),
        ("module_id", set("module_id", &null), ParseError::ModuleId),
        ("module_id", set("module_id", &bytes(b"i-0")), ParseError::ModuleId),
        ("module_id", set("module_id", &[0x62, 0xff, 0xfe]), ParseError::Cbor),
        ("digest", set("digest", &text("SHA256")), ParseError::Digest),
        ("digest", set("digest", &text("SHA512")), ParseError::Digest),
        ("digest", set("digest", &text("sha384")), ParseError::Digest),
        ("digest", set("digest", &unsigned(1)), ParseError::Digest),
        ("timestamp", set("timestamp", &unsigned(0)), ParseError::Timestamp),
        ("timestamp", set("timestamp", &[0x20]), ParseError::Timestamp),
        ("timestamp", set("timestamp", &[0xfb, 0x42, 0x7a, 0, 0, 0, 0, 0, 0]), ParseError::Timestamp),
        ("timestamp", set("timestamp", &[0x1b, 0, 0, 0, 0, 0, 0, 0, 1]), ParseError::LongForm),
        ("pcrs", set("pcrs", &[0xa0]), ParseError::Pcrs),
        ("pcrs", set("pcrs", &[0x80]), ParseError::Pcrs),
        ("pcrs", set("pcrs", &[0xb8, 33]), ParseError::Pcrs),
        ("pcrs", set("pcrs", &[&[0xa1], unsigned(32).as_slice(), &pcr].concat()), ParseError::Pcrs),
        ("pcrs", set("pcrs", &[&[0xa1], unsigned(256).as_slice(), &pcr].concat()), ParseError::Pcrs),
        ("pcrs", set("pcrs", &[&[0xa1], text("0").as_slice(), &pcr].concat()), ParseError::Pcrs),
        ("pcrs", set("pcrs", &[&[0xa1, 0x18, 0x01], pcr.as_slice()].concat()), ParseError::LongForm),
        ("pcrs", set("pcrs", &[&[0xa2, 0], pcr.as_slice(), &[0], &pcr].concat()), ParseError::DuplicateKey),
        ("pcrs", set("pcrs", &[&[0xa1, 0], bytes(&[1; 47]).as_slice()].concat()), ParseError::PcrLength),
        ("pcrs", set("pcrs", &[&[0xa1, 0], bytes(&[1; 64]).as_slice()].concat()), ParseError::PcrLength),
        ("pcrs", set("pcrs", &[&[0xa1, 0], null.as_slice()].concat()), ParseError::PcrLength),
        ("pcrs", set("pcrs", &[&[0xbf, 0], pcr.as_slice(), &[0xff]].concat()), ParseError::IndefiniteLength),
        ("certificate", set("certificate", &bytes(&[])), ParseError::Certificate),
        ("certificate", set("certificate", &long), ParseError::Certificate),
        ("certificate", set("certificate", &null), ParseError::Certificate),
        ("cabundle", set("cabundle", &[0x80]), ParseError::CaBundle),
        ("cabundle", set("cabundle", &[0xa0]), ParseError::CaBundle),
        ("cabundle", good.clone().cabundle(&many), ParseError::CaBundle),
        ("cabundle", good.clone().cabundle(&[vec![]]), ParseError::CaBundle),
        ("cabundle", good.clone().cabundle(&[vec![1; 1025]]), ParseError::CaBundle),
        ("cabundle", set("cabundle", &[0x81, 0xf6]), ParseError::CaBundle),
        ("cabundle", set("cabundle", &[0x9f, 0x41, 1, 0xff]), ParseError::IndefiniteLength),
        ("public_key", set("public_key", &long), ParseError::PublicKey),
        ("public_key", set("public_key", &text("key")), ParseError::PublicKey),
        ("public_key", set("public_key", &[0x5f, 0x41, 1, 0xff]), ParseError::IndefiniteLength),
        ("user_data", set("user_data", &long), ParseError::UserData),
        ("user_data", set("user_data", &[0xf7]), ParseError::UserData),
        ("nonce", set("nonce", &long), ParseError::Nonce),
        ("nonce", set("nonce", &unsigned(1)), ParseError::Nonce),
        ("unknown key", set("extra", &null), ParseError::UnknownKey),
        ("known key twice", good.clone().duplicate("nonce", null.to_vec()), ParseError::DuplicateKey),
        ("known key twice", good.clone().duplicate("digest", text("SHA384")), ParseError::DuplicateKey),
    ];
    for (name, document, error) in cases {
        assert_eq!(ParsedDocument::parse(&document.build().unwrap()).unwrap_err(), error, "{name}: {error}");
    }
    for name in ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"] {
        let document = good.clone().without(name).build().unwrap();
        assert_eq!(ParsedDocument::parse(&document).unwrap_err(), ParseError::Missing(name));
    }
}

#[test]
fn hostile_counts_and_depths_end_at_once() {
    let good = Fixture::new().good();
    let huge = [0xff; 8];
    for (name, document) in [
        ("entries", good.clone().payload(&[&[0xbb], huge.as_slice()].concat())),
        ("registers", good.clone().field("pcrs", [&[0xbb], huge.as_slice()].concat())),
        ("certificates", good.clone().field("cabundle", [&[0x9b], huge.as_slice()].concat())),
        ("bytes", good.clone().field("nonce", [&[0x5b], huge.as_slice()].concat())),
        ("depth", good.clone().field("user_data", vec![0x81; 8192])),
        ("payload depth", good.clone().payload(&[0xa1; 8192])),
    ] {
        assert!(ParsedDocument::parse(&document.build().unwrap()).is_err(), "{name}");
    }
}
