//! The path of certificates from the trusted root, and the signature of its end.

use holdfast_devkit::nsm::document::bytes;
use rcgen::{BasicConstraints, CustomExtension, IsCa, KeyUsagePurpose};

use super::*;

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
