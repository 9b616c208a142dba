//! The real document of an AWS Nitro enclave: it verifies at its own time, and nothing near it does.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use holdfast_shared::attestation::{
    AppraisalError, CertificateError, Expectations, Expected, Measurements, ParseError, ParsedDocument, Position,
    TrustRoot, VerifyError, inspect,
};

static DOCUMENT: &[u8] = include_bytes!("../../tests/vectors/attestation/nitro-attestation-2024-12-13.cbor");
static ROOT_PEM: &[u8] = include_bytes!("../../tests/vectors/attestation/aws-nitro-enclaves-root-g1.pem");

/// The document's own timestamp.
const MADE_MS: u64 = 1_734_075_478_960;
/// 2024-12-13 05:57:42 and 08:57:45 UTC, the ends of the leaf's validity.
const LEAF_FROM_MS: u64 = 1_734_069_462_000;
const LEAF_UNTIL_MS: u64 = 1_734_080_265_000;
/// 2026-01-01 00:00:00 UTC.
const LATER_MS: u64 = 1_767_225_600_000;

/// Refused by parsing or by verification, at the document's own time.
fn is_refused(document: &[u8], root: &TrustRoot) -> bool {
    ParsedDocument::parse(document).map_or(true, |parsed| parsed.verify(root, MADE_MS).is_err())
}

/// Whether the document is refused with the bit flipped, for each of the given bits; says which one is not.
fn assert_refused(bits: impl Iterator<Item = usize>) {
    let root = TrustRoot::aws();
    let mut document = DOCUMENT.to_vec();
    for bit in bits {
        let flip = 1 << (bit % 8);
        *document.get_mut(bit / 8).unwrap() ^= flip;
        assert!(is_refused(&document, &root), "bit {bit} is not protected");
        *document.get_mut(bit / 8).unwrap() ^= flip;
    }
    assert!(!is_refused(&document, &root), "the document itself verifies");
}

#[test]
fn verifies_at_its_own_time() {
    let verified = ParsedDocument::parse(DOCUMENT).unwrap().verify(&TrustRoot::aws(), MADE_MS).unwrap();
    assert_eq!(verified.timestamp_ms(), MADE_MS);
    assert_eq!(verified.module_id(), "i-0f1cd77d37fd8bcc9-enc018e7aa61e2040ff");
    assert_eq!(verified.root_fingerprint(), TrustRoot::aws().fingerprint());
    assert_eq!(verified.pcrs().len(), 16);
    let not_zero: Vec<u8> =
        verified.pcrs().iter().filter(|(_, value)| **value != [0; 48]).map(|(index, _)| *index).collect();
    assert_eq!(not_zero, [0, 1, 2, 4]);
}

#[test]
fn is_refused_outside_its_leafs_validity() {
    let leaf = |rule| Err(VerifyError::Certificate { position: Position::Leaf, rule });
    for (now_ms, expected) in [
        (LEAF_FROM_MS - 1, leaf(CertificateError::NotYetValid)),
        (LEAF_FROM_MS, Ok(())),
        (MADE_MS, Ok(())),
        (LEAF_UNTIL_MS, Ok(())),
        (LEAF_UNTIL_MS + 999, Ok(())),
        (LEAF_UNTIL_MS + 1000, leaf(CertificateError::Expired)),
    ] {
        let outcome = ParsedDocument::parse(DOCUMENT).unwrap().verify(&TrustRoot::aws(), now_ms);
        assert_eq!(outcome.map(|_| ()), expected, "at {now_ms}");
    }
    for (now_ms, position, rule) in [
        (LATER_MS, Position::CaBundle(1), CertificateError::Expired),
        (0, Position::Root, CertificateError::NotYetValid),
        (u64::MAX, Position::Root, CertificateError::Expired),
    ] {
        let outcome = ParsedDocument::parse(DOCUMENT).unwrap().verify(&TrustRoot::aws(), now_ms);
        assert_eq!(outcome.unwrap_err(), VerifyError::Certificate { position, rule }, "at {now_ms}");
    }
}

#[test]
fn one_flipped_bit_in_every_sixteenth_byte_is_refused() {
    assert_refused((0..DOCUMENT.len()).step_by(16).map(|byte| byte * 8 + byte / 16 % 8));
}

#[test]
fn every_flipped_bit_of_the_headers_and_the_signature_is_refused() {
    // Envelope head, protected and unprotected header, head of the payload; and the signature with its head.
    let headers = 0..9 * 8;
    let signature = (DOCUMENT.len() - 98) * 8..DOCUMENT.len() * 8;
    assert_refused(headers.chain(signature));
}

#[test]
fn long_every_flipped_bit_is_refused() {
    let bits = DOCUMENT.len() * 8;
    std::thread::scope(|scope| {
        let half = bits / 2;
        scope.spawn(move || assert_refused(0..half));
        scope.spawn(move || assert_refused(half..bits));
    });
}

#[test]
fn every_truncation_is_refused() {
    for len in 0..DOCUMENT.len() {
        let outcome = ParsedDocument::parse(DOCUMENT.get(..len).unwrap());
        assert_eq!(outcome.unwrap_err(), ParseError::Cbor, "{len} bytes");
    }
}

#[test]
fn nothing_may_follow() {
    for extra in [0x00, 0xf6, 0xff] {
        let outcome = ParsedDocument::parse(&[DOCUMENT, &[extra]].concat());
        assert_eq!(outcome.unwrap_err(), ParseError::TrailingBytes);
    }
}

#[test]
fn the_tag_of_cose_sign1_is_optional_and_no_other_is_known() {
    assert!(!is_refused(&[&[0xd2], DOCUMENT].concat(), &TrustRoot::aws()));
    for (tag, error) in [
        (&[0xd1][..], ParseError::Envelope),
        (&[0xd8, 18], ParseError::LongForm),
        (&[0xd2, 0xd2], ParseError::Envelope),
        (&[0xd9, 0xd9, 0xf7], ParseError::Envelope),
    ] {
        assert_eq!(ParsedDocument::parse(&[tag, DOCUMENT].concat()).unwrap_err(), error);
    }
}

#[test]
fn appraisal_of_a_document_without_a_nonce_fails() {
    let verified = ParsedDocument::parse(DOCUMENT).unwrap().verify(&TrustRoot::aws(), MADE_MS).unwrap();
    let pcr = |index: u8| *verified.pcrs().get(&index).unwrap();
    let accepted =
        [Measurements { pcr0: pcr(0), pcr1: pcr(1), pcr2: pcr(2), pcr16: [0; 48], pcr3: None, pcr4: None, pcr8: None }];
    let expected = Expectations {
        nonce: &[],
        max_age_ms: 60_000,
        accepted: &accepted,
        user_data: Expected::Absent,
        public_key: Expected::Present,
    };
    assert_eq!(verified.appraise(&expected, MADE_MS).unwrap_err(), AppraisalError::Nonce);
}

#[test]
fn inspection_shows_what_is_proven_and_what_is_broken() {
    let root = TrustRoot::emulated_pem(ROOT_PEM).unwrap();
    let report = inspect(DOCUMENT, &root, MADE_MS);
    assert!(report.verified && report.root_is_aws);
    assert_eq!(report.broken, None);
    let subjects: Vec<&str> = report.chain.iter().map(|certificate| certificate.subject.as_str()).collect();
    assert_eq!(subjects.len(), 5);
    assert_eq!(subjects.first(), Some(&"CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"));
    assert!(subjects.last().unwrap().starts_with("CN=i-0f1cd77d37fd8bcc9-enc018e7aa61e2040ff.ap-south-1.aws,"));
    let path_lengths: Vec<_> = report.chain.iter().map(|certificate| certificate.path_length).collect();
    assert_eq!(path_lengths, [None, Some(2), Some(1), Some(0), None]);
    let statement = report.statement.unwrap();
    assert!(!statement.debug_mode);
    assert_eq!(statement.pcrs.len(), 4);
    assert_eq!(statement.public_key.map(|key| key.len()), Some(128));

    let json = serde_json::to_value(inspect(DOCUMENT, &root, LATER_MS)).unwrap();
    assert_eq!(json["verified"], false);
    assert_eq!(json["broken"]["stage"], "verify");
    assert_eq!(json["broken"]["rule"], "`cabundle`[1] is refused: it has expired");
    assert_eq!(json["chain"].as_array().unwrap().len(), 5);

    let json = serde_json::to_value(inspect(&[0x84], &root, MADE_MS)).unwrap();
    assert_eq!(json["broken"]["stage"], "parse");
    assert!(json["statement"].is_null());
}

mod properties {
    use holdfast_shared::attestation::{ParsedDocument, TrustRoot, inspect};
    use proptest::prelude::*;

    use super::{DOCUMENT, MADE_MS};

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            prop_assert!(ParsedDocument::parse(&bytes).is_err());
            prop_assert!(TrustRoot::emulated(&bytes).is_err());
        }

        #[test]
        fn no_splice_of_a_document_panics_or_verifies(
            at in 0..DOCUMENT.len(),
            removed in 0_usize..64,
            inserted in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut document = DOCUMENT.to_vec();
            let end = (at + removed).min(document.len());
            document.splice(at..end, inserted);
            prop_assume!(document != DOCUMENT);
            prop_assert!(!inspect(&document, &TrustRoot::aws(), MADE_MS).verified);
        }
    }
}
