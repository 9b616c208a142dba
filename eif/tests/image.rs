//! Images: one encoding, one reading, and registers that somebody else computed, too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use holdfast_eif::image::{Image, ParseError};
use holdfast_eif::registers::Registers;
use holdfast_eif::signature::{Signature, SignatureError, Signer};
use proptest::collection::vec;
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm};

/// Where the header's tables begin.
const OFFSETS: usize = 4 + 2 + 2 + 8 + 8 + 2 + 2;
const SIZES: usize = OFFSETS + 32 * 8;
/// Where the checksum and the first section do.
const CRC: usize = 544;
const FIRST: usize = 548;

// Python: x = lambda *p: sha384(bytes(48) + sha384(b"".join(p)).digest()).hexdigest()
const PCR0: &str = "7964a1fa18da209f99296d4c968eff3f029d53bca6be405aeaba9643ea4899e786c53afb4a350234370c389c3d163e5e";
const PCR1: &str = "685080a22b8c560c6d54a155c0e46f52c9ac0581f1721309cec9104eb6d54d66e2d910cd4f5dc243dc935d37bc2099ca";
const PCR2: &str = "8a45599e5e77b24c4b6472869c24e10490c4d5df715fbd0811fc4b33d370276cf00bb24871d3a1987587d6b9283d4f42";

fn small() -> Image {
    Image {
        kernel: b"kernel".to_vec(),
        command_line: "reboot=t console=ttyS0".to_owned(),
        ramdisks: vec![b"boot".to_vec(), b"application".to_vec()],
        metadata: b"{}".to_vec(),
        signature: None,
    }
}

/// A signer whose certificate has a key of this kind.
fn signer(algorithm: &'static SignatureAlgorithm) -> Result<Signer, SignatureError> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let certificate = CertificateParams::new(vec!["image.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    Signer::new(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
}

fn signed() -> Image {
    let mut image = small();
    let pcr0 = Registers::of(&image).unwrap().pcr0;
    image.signature = Some(signer(&PKCS_ECDSA_P384_SHA384).unwrap().sign(&pcr0).unwrap());
    image
}

#[test]
fn the_registers_are_those_of_another_computation() {
    let registers = Registers::of(&small()).unwrap();
    assert_eq!(hex::encode(registers.pcr0), PCR0);
    assert_eq!(hex::encode(registers.pcr1), PCR1);
    assert_eq!(hex::encode(registers.pcr2), PCR2);
    assert_eq!(registers.pcr8, None);
}

#[test]
fn every_part_counts_in_its_registers_and_no_other() {
    type Change = fn(&mut Image);
    let before = Registers::of(&small()).unwrap();
    // What is changed, and whether PCR 0, 1 and 2 change.
    let table: [(Change, [bool; 3]); 5] = [
        (|image| image.kernel[0] ^= 1, [true, true, false]),
        (|image| image.command_line.push(' '), [true, true, false]),
        (|image| image.ramdisks[0][0] ^= 1, [true, true, false]),
        (|image| image.ramdisks[1][0] ^= 1, [true, false, true]),
        (|image| image.metadata.push(b' '), [false, false, false]),
    ];
    for (index, (change, expected)) in table.into_iter().enumerate() {
        let mut image = small();
        change(&mut image);
        let after = Registers::of(&image).unwrap();
        let changed = [before.pcr0 != after.pcr0, before.pcr1 != after.pcr1, before.pcr2 != after.pcr2];
        assert_eq!(changed, expected, "row {index}");
    }
}

#[test]
fn a_file_that_is_cut_changed_or_longer_is_no_image() {
    for image in [small(), signed()] {
        let file = image.to_bytes();
        assert_eq!(Image::parse(&file).unwrap(), image);
        for length in 0..file.len() {
            assert!(Image::parse(&file[..length]).is_err(), "{length} of {} bytes", file.len());
        }
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 0x10;
            assert!(Image::parse(&changed).is_err(), "byte {index} changed");
        }
        let longer = [file.as_slice(), &[0]].concat();
        assert!(matches!(Image::parse(&longer), Err(ParseError::Trailing(1))));
    }
}

/// With a right checksum, so that each rule stands alone.
#[test]
fn an_image_has_one_layout() {
    type Change = fn(&mut Vec<u8>);
    let table: [(&str, Change, &str); 10] = [
        ("magic", |file| file[0] = b'x', "does not begin with .eif"),
        ("version", |file| file[5] = 3, "version 3"),
        ("architecture", |file| file[7] = 1, "flags are 0x0001"),
        ("an offset", |file| file[OFFSETS + 15] ^= 1, "disagree"),
        ("a size in the header", |file| file[SIZES + 7] ^= 1, "disagree"),
        ("a size in the section", |file| file[FIRST + 11] ^= 1, "disagree"),
        ("a section's flags", |file| file[FIRST + 3] = 1, "disagree"),
        ("a section's type", |file| file[FIRST + 1] = 9, "type 9"),
        ("two command lines", |file| file[FIRST + 1] = 2, "there must be one"),
        ("no kernel", |file| file[FIRST + 1] = 3, "there must be one kernel"),
    ];
    for (what, change, expected) in table {
        let mut file = small().to_bytes();
        change(&mut file);
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&[&file[..CRC], &file[FIRST..]].concat());
        file[CRC..FIRST].copy_from_slice(&crc.to_be_bytes());
        let refused = Image::parse(&file).unwrap_err().to_string();
        assert!(refused.contains(expected), "{what}: {refused}");
    }
}

#[test]
fn a_command_line_is_printable() {
    for command_line in ["a\nb", "a\0", "é"] {
        let file = Image { command_line: command_line.to_owned(), ..small() }.to_bytes();
        assert_eq!(Image::parse(&file).unwrap_err(), ParseError::CommandLine);
    }
}

#[test]
fn a_signature_is_over_this_image_by_its_certificate() {
    let image = signed();
    let registers = Registers::of(&image).unwrap();
    assert!(registers.pcr8.is_some());
    assert_eq!(registers.pcr0, Registers::of(&small()).unwrap().pcr0, "signing changes nothing else");

    let mut other = image.clone();
    other.kernel.push(0);
    assert_eq!(Registers::of(&other).unwrap_err(), SignatureError::Invalid, "another image");

    let section = image.signature.unwrap();
    for index in 0..section.len() {
        let mut changed = section.clone();
        changed[index] ^= 1;
        // What is still accepted has another certificate around the same key, which PCR 8 tells apart, or the same in
        // another spelling of PEM.
        if let Ok(after) = Registers::of(&Image { signature: Some(changed.clone()), ..small() }) {
            let der = |section: &[u8]| Signature::parse(section).unwrap().certificate_der().to_vec();
            assert_eq!(after.pcr8 == registers.pcr8, der(&changed) == der(&section), "byte {index}");
        }
    }
    for length in 0..section.len() {
        assert!(Signature::parse(&section[..length]).is_err(), "{length} bytes");
    }
    assert!(Signature::parse(&[section.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn only_a_p384_key_of_the_certificate_signs() {
    assert!(signer(&PKCS_ECDSA_P256_SHA256).is_err());
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = CertificateParams::new(vec!["image.test".to_owned()]).unwrap().self_signed(&key()).unwrap();
    let refused = Signer::new(certificate.pem().as_bytes(), key().serialize_pem().as_bytes()).unwrap_err();
    assert_eq!(refused, SignatureError::Mismatch);
    assert_eq!(Signer::new(b"", key().serialize_pem().as_bytes()).unwrap_err(), SignatureError::Certificate);
    assert_eq!(Signer::new(certificate.pem().as_bytes(), b"").unwrap_err(), SignatureError::Key);
    assert_eq!(format!("{:?}", signer(&PKCS_ECDSA_P384_SHA384).unwrap()), "Signer { .. }");
}

proptest! {
    #[test]
    fn an_image_is_read_as_it_was_written(
        kernel in vec(any::<u8>(), 0..200),
        command_line in "[ -~]{0,100}",
        ramdisks in vec(vec(any::<u8>(), 0..100), 1..6),
        metadata in vec(any::<u8>(), 0..50),
        signature in proptest::option::of(vec(any::<u8>(), 0..50)),
    ) {
        let image = Image { kernel, command_line, ramdisks, metadata, signature };
        let file = image.to_bytes();
        prop_assert_eq!(Image::parse(&file).unwrap(), image.clone());
        prop_assert_eq!(Image::parse(&file).unwrap().to_bytes(), file);
    }

    #[test]
    fn no_bytes_make_the_reader_stumble(bytes in vec(any::<u8>(), 0..2000)) {
        prop_assert!(Image::parse(&bytes).is_err());
        let _ = Signature::parse(&bytes);
        let headed = [b".eif\0\x04\0\0".as_slice(), &bytes].concat();
        prop_assert!(Image::parse(&headed).is_err());
    }
}
