//! One misshapen document for each rule of section 6 of the design, and the error that names the rule.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use holdfast_devkit::nsm::chain::{CertificateSpec, EmulatedChain};
use holdfast_devkit::nsm::document::{DocumentBuilder, bytes, text, unsigned};
use holdfast_devkit::nsm::root::EmulatedRoot;
use holdfast_shared::attestation::{
    AppraisalError, CertificateError, Expectations, Expected, Measurements, ParseError, ParsedDocument, Position,
    TrustRoot, VerifiedAttestation, VerifyError, inspect,
};
use rcgen::{BasicConstraints, CustomExtension, IsCa, KeyUsagePurpose};

const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";
/// 2027-01-15 08:00:00 UTC.
const NOW_MS: u64 = 1_800_000_000_000;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const NONCE: &[u8] = b"a nonce of this challenge";
const PUBLIC_KEY: &[u8] = b"a public key";
const USER_DATA: &[u8] = b"user data";

struct Fixture {
    root: EmulatedRoot,
    trust: TrustRoot,
    chain: EmulatedChain,
}

impl Fixture {
    fn new() -> Self {
        let root = EmulatedRoot::generate().unwrap();
        Self {
            trust: root.trust_root().unwrap(),
            chain: EmulatedChain::standard(&root, MODULE_ID, NOW_MS).unwrap(),
            root,
        }
    }

    /// A document that passes every rule.
    fn good(&self) -> DocumentBuilder {
        good(&self.chain)
    }

    /// The verdict on a chain that differs from the standard in some certificate.
    fn verdict_on(&self, change: impl FnOnce(&mut [CertificateSpec; 4])) -> Result<(), VerifyError> {
        let mut specs = CertificateSpec::standard(MODULE_ID, NOW_MS);
        change(&mut specs);
        let chain = EmulatedChain::issue(&self.root, &specs).unwrap();
        let document = good(&chain);
        // A key on P-256 makes no signature of the document's kind.
        let document = if specs[3].p256 { document.signature(&[1; 96]) } else { document };
        verify(&document, &self.trust, NOW_MS)
    }

    fn appraise(
        &self,
        document: &DocumentBuilder,
        expected: &Expectations<'_>,
        now_ms: u64,
    ) -> Result<VerifiedAttestation, AppraisalError> {
        let parsed = ParsedDocument::parse(&document.build().unwrap()).unwrap();
        parsed.verify(&self.trust, NOW_MS).unwrap().appraise(expected, now_ms)
    }
}

fn good(chain: &EmulatedChain) -> DocumentBuilder {
    DocumentBuilder::new(chain, MODULE_ID, NOW_MS)
        .pcrs(&pcrs())
        .nonce(Some(NONCE))
        .public_key(Some(PUBLIC_KEY))
        .user_data(Some(USER_DATA))
}

fn pcrs() -> BTreeMap<u8, [u8; 48]> {
    let measured = |index: u8| if matches!(index, 3 | 5..=15) { 0 } else { index + 1 };
    (0..=16).map(|index| (index, [measured(index); 48])).collect()
}

fn accepted() -> Measurements {
    Measurements::shown_by(&pcrs()).unwrap()
}

fn expectations(accepted: &[Measurements]) -> Expectations<'_> {
    Expectations {
        nonce: NONCE,
        max_age_ms: 5 * MINUTE_MS,
        accepted,
        user_data: Expected::Exactly(USER_DATA),
        public_key: Expected::Present,
    }
}

fn verify(document: &DocumentBuilder, trust: &TrustRoot, now_ms: u64) -> Result<(), VerifyError> {
    ParsedDocument::parse(&document.build().unwrap()).unwrap().verify(trust, now_ms).map(|_| ())
}

fn refused<T>(position: Position, rule: CertificateError) -> Result<T, VerifyError> {
    Err(VerifyError::Certificate { position, rule })
}

// --- Shape --------------------------------------------------------------------------------------------------------------

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

// --- Path and signature ---------------------------------------------------------------------------------------------------

/// A change of the standard chain, and the verdict on a document under it.
type PathCase = (&'static str, Box<dyn FnOnce(&mut [CertificateSpec; 4])>, Result<(), VerifyError>);

fn case(
    name: &'static str,
    expected: Result<(), VerifyError>,
    change: impl FnOnce(&mut [CertificateSpec; 4]) + 'static,
) -> PathCase {
    (name, Box::new(change), expected)
}

fn assert_verdicts(cases: Vec<PathCase>) {
    let fixture = Fixture::new();
    for (name, change, expected) in cases {
        assert_eq!(fixture.verdict_on(change), expected, "{name}");
    }
}

fn ca(path_length: u8) -> IsCa {
    IsCa::Ca(BasicConstraints::Constrained(path_length))
}

/// inhibitAnyPolicy (RFC 5280, section 4.2.1.14): a real extension that the NSM's hierarchy does not use.
fn unknown_extension(critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 54], vec![0x02, 0x01, 0x00]);
    extension.set_criticality(critical);
    extension
}

#[test]
fn each_rule_of_the_path_for_cas() {
    let (region, zone, instance) = (Position::CaBundle(1), Position::CaBundle(2), Position::CaBundle(3));
    let other = || Some("other".to_owned());
    assert_verdicts(vec![
        case("standard", Ok(()), |_| {}),
        case("name", refused(zone, CertificateError::Issuer), move |specs| specs[1].issuer_name = other()),
        case("root's name", refused(region, CertificateError::Issuer), move |specs| specs[0].issuer_name = other()),
        case("no CA", refused(instance, CertificateError::NotCa), |specs| specs[2].is_ca = IsCa::ExplicitNoCa),
        case("no constraints", refused(region, CertificateError::NotCa), |specs| specs[0].is_ca = IsCa::NoCa),
        case("no keyCertSign", refused(zone, CertificateError::KeyCertSign), |specs| {
            specs[1].key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        }),
        case("no keyUsage", refused(zone, CertificateError::KeyCertSign), |specs| specs[1].key_usages.clear()),
        case("length 1 for 2", refused(region, CertificateError::PathLength), |specs| specs[0].is_ca = ca(1)),
        case("length 0 for 1", refused(zone, CertificateError::PathLength), |specs| specs[1].is_ca = ca(0)),
        case("longer than needed", Ok(()), |specs| specs[2].is_ca = ca(7)),
        case("no length", Ok(()), |specs| specs[2].is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        case("critical", refused(region, CertificateError::UnknownCriticalExtension), |specs| {
            specs[0].extensions.push(unknown_extension(true));
        }),
        case("P-256", refused(instance, CertificateError::PublicKey), |specs| specs[2].p256 = true),
        case("expired", refused(zone, CertificateError::Expired), |specs| specs[1].not_after_ms = NOW_MS - 1000),
        case("not yet", refused(instance, CertificateError::NotYetValid), |specs| {
            specs[2].not_before_ms = NOW_MS + 1000;
        }),
    ]);
}

#[test]
fn each_rule_of_the_path_for_the_leaf() {
    let leaf = Position::Leaf;
    assert_verdicts(vec![
        case("name", refused(leaf, CertificateError::Issuer), |specs| specs[3].issuer_name = Some("other".into())),
        case("CA", refused(leaf, CertificateError::Ca), |specs| specs[3].is_ca = ca(0)),
        case("no constraints", Ok(()), |specs| specs[3].is_ca = IsCa::NoCa),
        case("no digitalSignature", refused(leaf, CertificateError::DigitalSignature), |specs| {
            specs[3].key_usages = vec![KeyUsagePurpose::ContentCommitment];
        }),
        case("no keyUsage", refused(leaf, CertificateError::DigitalSignature), |specs| specs[3].key_usages.clear()),
        case("critical", refused(leaf, CertificateError::UnknownCriticalExtension), |specs| {
            specs[3].extensions.push(unknown_extension(true));
        }),
        case("not critical", Ok(()), |specs| specs[3].extensions.push(unknown_extension(false))),
        case("extension twice", refused(leaf, CertificateError::Extensions), |specs| {
            specs[3].extensions = vec![unknown_extension(false), unknown_extension(false)];
        }),
        case("keyUsage twice", refused(leaf, CertificateError::Extensions), |specs| {
            let usage = vec![0x03, 0x02, 0x07, 0x80];
            specs[3].extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], usage));
        }),
        case("P-256", refused(leaf, CertificateError::PublicKey), |specs| specs[3].p256 = true),
        case("expired", refused(leaf, CertificateError::Expired), |specs| specs[3].not_after_ms = NOW_MS - 1000),
        case("last second", Ok(()), |specs| specs[3].not_after_ms = NOW_MS),
        case("first second", Ok(()), |specs| specs[3].not_before_ms = NOW_MS),
        case("not yet", refused(leaf, CertificateError::NotYetValid), |specs| specs[3].not_before_ms = NOW_MS + 1000),
    ]);
}

#[test]
fn validity_is_that_of_the_verifiers_now() {
    let fixture = Fixture::new();
    let good = fixture.good();
    for (now_ms, expected) in [
        (NOW_MS + 2 * HOUR_MS, Ok(())),
        (NOW_MS + 3 * HOUR_MS, refused(Position::Leaf, CertificateError::Expired)),
        (NOW_MS - 2 * MINUTE_MS, refused(Position::Leaf, CertificateError::NotYetValid)),
        (NOW_MS + 24 * HOUR_MS, refused(Position::CaBundle(3), CertificateError::Expired)),
        (NOW_MS + 30 * 24 * HOUR_MS, refused(Position::CaBundle(1), CertificateError::Expired)),
    ] {
        assert_eq!(verify(&good, &fixture.trust, now_ms), expected, "{now_ms}");
    }
}

#[test]
fn no_other_root_vouches_for_it() {
    let fixture = Fixture::new();
    let other = Fixture::new();
    let good = fixture.good();
    // The same names, another key.
    assert_eq!(verify(&good, &other.trust, NOW_MS), refused(Position::CaBundle(1), CertificateError::Signature));
    assert_eq!(verify(&good, &TrustRoot::aws(), NOW_MS), refused(Position::CaBundle(1), CertificateError::Issuer));
    // The root that the document brings along counts for nothing.
    let mut bundle = fixture.chain.cabundle();
    *bundle.first_mut().unwrap() = other.root.der().to_vec();
    let document = good.clone().cabundle(&bundle);
    assert_eq!(verify(&document, &other.trust, NOW_MS), refused(Position::CaBundle(1), CertificateError::Signature));
    assert_eq!(verify(&document, &fixture.trust, NOW_MS), Ok(()));
}

#[test]
fn the_bundle_is_a_path_in_order() {
    let fixture = Fixture::new();
    let bundle = fixture.chain.cabundle();
    let pick = |indexes: &[usize]| -> Vec<Vec<u8>> {
        indexes.iter().map(|&index| bundle.get(index).unwrap().clone()).collect()
    };
    let other = Fixture::new();
    for (name, bundle, expected) in [
        ("swapped", pick(&[0, 2, 1, 3]), refused(Position::CaBundle(1), CertificateError::Issuer)),
        ("reversed", pick(&[3, 2, 1, 0]), refused(Position::CaBundle(1), CertificateError::Issuer)),
        ("one left out", pick(&[0, 1, 3]), refused(Position::CaBundle(2), CertificateError::Issuer)),
        ("last left out", pick(&[0, 1, 2]), refused(Position::Leaf, CertificateError::Issuer)),
        ("root alone", pick(&[0]), refused(Position::Leaf, CertificateError::Issuer)),
        ("root left out", pick(&[1, 2, 3]), refused(Position::CaBundle(1), CertificateError::Issuer)),
        ("twice", pick(&[0, 1, 1, 2, 3]), refused(Position::CaBundle(1), CertificateError::PathLength)),
        // The root names itself as issuer and signed itself, so only path lengths stop it from being put in again.
        ("root twice", pick(&[0, 0, 1, 2, 3]), Ok(())),
        ("of another hierarchy", other.chain.cabundle(), refused(Position::CaBundle(1), CertificateError::Signature)),
    ] {
        assert_eq!(verify(&fixture.good().cabundle(&bundle), &fixture.trust, NOW_MS), expected, "{name}");
    }
    let leaf = other.chain.certificate();
    let swapped = fixture.good().field("certificate", bytes(leaf));
    assert_eq!(verify(&swapped, &fixture.trust, NOW_MS), refused(Position::Leaf, CertificateError::Signature));
    // A document signed by a CA's key: the instance certificate in the leaf's place.
    let instance = fixture.good().field("certificate", bytes(bundle.get(3).unwrap())).cabundle(&pick(&[0, 1, 2]));
    assert_eq!(verify(&instance, &fixture.trust, NOW_MS), refused(Position::Leaf, CertificateError::Ca));
}

#[test]
fn each_rule_of_a_certificates_shape() {
    /// The certificate with the first occurrence of a pattern replaced.
    fn patched(der: &[u8], pattern: &[u8], replacement: &[u8]) -> Vec<u8> {
        let at = der.windows(pattern.len()).position(|window| window == pattern).unwrap();
        let mut der = der.to_vec();
        der.splice(at..at + pattern.len(), replacement.iter().copied());
        der
    }
    let fixture = Fixture::new();
    let leaf = fixture.chain.certificate();
    let ecdsa_with_sha384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
    let ecdsa_with_sha512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
    let secp384r1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    let secp521r1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
    let version3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
    let both = patched(&patched(leaf, ecdsa_with_sha384, ecdsa_with_sha512), ecdsa_with_sha384, ecdsa_with_sha512);
    for (name, der, rule) in [
        ("version 2", patched(leaf, version3, &[0xa0, 0x03, 0x02, 0x01, 0x01]), CertificateError::Version),
        ("inner algorithm", patched(leaf, ecdsa_with_sha384, ecdsa_with_sha512), CertificateError::Algorithm),
        ("both algorithms", both, CertificateError::Algorithm),
        ("curve", patched(leaf, secp384r1, secp521r1), CertificateError::PublicKey),
        (
            "compressed point",
            patched(leaf, &[0x03, 0x62, 0x00, 0x04], &[0x03, 0x62, 0x00, 0x02]),
            CertificateError::PublicKey,
        ),
        ("trailing byte", [leaf, &[0]].concat(), CertificateError::Der),
        ("cut", leaf.get(..leaf.len() - 1).unwrap().to_vec(), CertificateError::Der),
        ("no certificate", vec![0x30, 0x00], CertificateError::Der),
        ("indefinite length", patched(leaf, &leaf[..4], &[0x30, 0x80]), CertificateError::Der),
    ] {
        let document = fixture.good().field("certificate", bytes(&der));
        assert_eq!(verify(&document, &fixture.trust, NOW_MS), refused(Position::Leaf, rule), "{name}");
    }
    for index in (0..leaf.len()).step_by(3) {
        let mut der = leaf.to_vec();
        *der.get_mut(index).unwrap() ^= 1 << (index % 8);
        let document = fixture.good().field("certificate", bytes(&der));
        assert!(verify(&document, &fixture.trust, NOW_MS).is_err(), "byte {index}");
    }
}

#[test]
fn only_the_leafs_key_signs() {
    let fixture = Fixture::new();
    let other = EmulatedChain::standard(&fixture.root, MODULE_ID, NOW_MS).unwrap();
    let by_other_key = good(&other).field("certificate", bytes(fixture.chain.certificate()));
    let by_other_key = by_other_key.cabundle(&fixture.chain.cabundle());
    let zeros = fixture.good().signature(&[0; 96]);
    let ones = fixture.good().signature(&[0xff; 96]);
    let signed = fixture.good().build().unwrap();
    let transplanted = fixture.good().nonce(Some(b"other")).signature(signed.get(signed.len() - 96..).unwrap());
    for (name, document) in
        [("other key", by_other_key), ("zeros", zeros), ("ones", ones), ("of another payload", transplanted)]
    {
        assert_eq!(verify(&document, &fixture.trust, NOW_MS), Err(VerifyError::Signature), "{name}");
    }
}

// --- Appraisal ------------------------------------------------------------------------------------------------------------

#[test]
fn a_good_document_yields_what_was_verified() {
    let fixture = Fixture::new();
    let other = Measurements { pcr0: [9; 48], ..accepted() };
    let sets = [other.clone(), accepted()];
    let attestation = fixture.appraise(&fixture.good(), &expectations(&sets), NOW_MS).unwrap();
    assert_eq!(attestation.module_id(), MODULE_ID);
    assert_eq!(attestation.timestamp_ms(), NOW_MS);
    assert_eq!(attestation.pcrs(), &pcrs());
    assert_eq!(attestation.measurements(), &accepted());
    assert_eq!(attestation.accepted_index(), 1);
    assert_eq!(attestation.public_key(), Some(PUBLIC_KEY));
    assert_eq!(attestation.user_data(), Some(USER_DATA));
    assert_eq!(attestation.nonce(), NONCE);
    assert_eq!(attestation.root_fingerprint(), fixture.trust.fingerprint());
    assert_eq!(attestation.clone().reappraise(&[accepted()]).unwrap().accepted_index(), 0);
    assert_eq!(attestation.reappraise(&[other]).unwrap_err(), AppraisalError::Measurements);
}

#[test]
fn each_rule_of_the_challenge() {
    let fixture = Fixture::new();
    let sets = [accepted()];
    let expected = expectations(&sets);
    for (name, nonce) in [
        ("none", None),
        ("empty", Some(&b""[..])),
        ("other", Some(b"a nonce of that challenge")),
        ("prefix", NONCE.get(..8)),
        ("longer", Some(b"a nonce of this challenge!")),
    ] {
        let outcome = fixture.appraise(&fixture.good().nonce(nonce), &expected, NOW_MS);
        assert_eq!(outcome.unwrap_err(), AppraisalError::Nonce, "{name}");
    }
    // Time to live and one minute of skew before, one minute after.
    let oldest_ms = expected.max_age_ms + MINUTE_MS;
    for (now_ms, outcome) in [
        (NOW_MS, None),
        (NOW_MS + oldest_ms, None),
        (NOW_MS + oldest_ms + 1, Some(AppraisalError::Stale)),
        (u64::MAX, Some(AppraisalError::Stale)),
        (NOW_MS - MINUTE_MS, None),
        (NOW_MS - MINUTE_MS - 1, Some(AppraisalError::Future)),
        (0, Some(AppraisalError::Future)),
    ] {
        assert_eq!(fixture.appraise(&fixture.good(), &expected, now_ms).err(), outcome, "at {now_ms}");
    }
}

#[test]
fn each_rule_of_the_measurements() {
    let fixture = Fixture::new();
    let with = |index: u8, value: Option<[u8; 48]>| {
        let mut pcrs = pcrs();
        match value {
            Some(value) => pcrs.insert(index, value),
            None => pcrs.remove(&index),
        };
        pcrs
    };
    let zero = Some([0; 48]);
    let other = Some([0xee; 48]);
    let all_zero: BTreeMap<u8, [u8; 48]> = (0..=16).map(|index| (index, [0; 48])).collect();
    let mut cases = vec![("debug".to_owned(), all_zero.clone(), AppraisalError::DebugMode)];
    for index in 0..=2 {
        cases.push((format!("no PCR {index}"), with(index, None), AppraisalError::MissingPcr(index)));
        cases.push((format!("zero PCR {index}"), with(index, zero), AppraisalError::ZeroPcr(index)));
    }
    for index in [0, 1, 2, 4, 16] {
        cases.push((format!("other PCR {index}"), with(index, other), AppraisalError::Measurements));
    }
    for index in [4, 16] {
        cases.push((format!("no PCR {index}"), with(index, None), AppraisalError::Measurements));
        cases.push((format!("zero PCR {index}"), with(index, zero), AppraisalError::Measurements));
    }
    let sets = [accepted()];
    for (name, pcrs, error) in cases {
        let outcome = fixture.appraise(&fixture.good().pcrs(&pcrs), &expectations(&sets), NOW_MS);
        assert_eq!(outcome.unwrap_err(), error, "{name}");
    }
    // Debug mode is refused even by a policy that would have it.
    let zeros =
        [Measurements { pcr0: [0; 48], pcr1: [0; 48], pcr2: [0; 48], pcr16: [0; 48], pcr4: None, ..accepted() }];
    let outcome = fixture.appraise(&fixture.good().pcrs(&all_zero), &expectations(&zeros), NOW_MS);
    assert_eq!(outcome.unwrap_err(), AppraisalError::DebugMode);
    // Parts of two sets are not a set, and no set accepts nothing.
    let halves = [Measurements { pcr0: [9; 48], ..accepted() }, Measurements { pcr1: [9; 48], ..accepted() }];
    for sets in [&halves[..], &[]] {
        let outcome = fixture.appraise(&fixture.good(), &expectations(sets), NOW_MS);
        assert_eq!(outcome.unwrap_err(), AppraisalError::Measurements);
    }
}

#[test]
fn each_rule_of_the_fields() {
    let fixture = Fixture::new();
    let sets = [accepted()];
    for (field, expected, accepted) in [
        (None, Expected::Absent, true),
        (None, Expected::Exactly(b""), false),
        (None, Expected::Present, false),
        (None, Expected::Any, true),
        (Some(&b""[..]), Expected::Absent, false),
        (Some(b""), Expected::Exactly(b""), true),
        (Some(b"x"), Expected::Absent, false),
        (Some(b"x"), Expected::Exactly(b"x"), true),
        (Some(b"x"), Expected::Exactly(b"y"), false),
        (Some(b"x"), Expected::Present, true),
        (Some(b"x"), Expected::Any, true),
    ] {
        let document = fixture.good().user_data(field);
        let outcome = fixture.appraise(&document, &Expectations { user_data: expected, ..expectations(&sets) }, NOW_MS);
        assert_eq!(outcome.err(), (!accepted).then_some(AppraisalError::UserData), "{field:?} {expected:?}");
        let document = fixture.good().public_key(field);
        let outcome =
            fixture.appraise(&document, &Expectations { public_key: expected, ..expectations(&sets) }, NOW_MS);
        assert_eq!(outcome.err(), (!accepted).then_some(AppraisalError::PublicKey), "{field:?} {expected:?}");
    }
}

#[test]
fn inspection_marks_an_emulation_and_debug_mode() {
    let fixture = Fixture::new();
    let debug = fixture.good().pcrs(&(0..16).map(|index| (index, [0; 48])).collect()).build().unwrap();
    let report = inspect(&debug, &fixture.trust, NOW_MS);
    assert!(report.verified && !report.root_is_aws);
    assert!(report.statement.unwrap().debug_mode);
    assert_eq!(report.chain.len(), 5);
}
