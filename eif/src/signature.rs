//! The signature of a signed image, which PCR 8 stands for.
//!
//! The section is CBOR: an array of one map {`signing_certificate`: PEM, `signature`: `COSE_Sign1`}. The signature's protected
//! header is {1: −35} (ES384), its payload the map {`register_index`: 0, `register_value`: PCR 0}. AWS's tools write byte strings
//! of both maps as arrays of numbers, so we do. Source: `aws-nitro-enclaves-image-format` 0.8.
//!
//! Guarantees: a signature is valid only over the PCR 0 that is asked about. Assumes: who pins PCR 8 knows the certificate;
//! its validity in time and its issuer are the hypervisor's to look at, and PCR 8 is of the certificate alone.
//! Signing is randomised, so signed images differ in this section and nowhere else.

use core::fmt;

use holdfast_shared::attestation::measurements::PCR_LEN;
use minicbor::{Decoder, Encoder};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_cert::der::{Decode as _, Encode as _};

/// The longest section that is read. A certificate in PEM, as numbers, has some 4 KiB.
const SECTION_MAX: usize = 64 * 1024;
/// {1: −35}: the one algorithm.
const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];

/// Why an image is not signed, or its signature not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The certificate cannot be used.
    #[error("the signing certificate is not a PEM file with an X.509 certificate of a P-384 key")]
    Certificate,
    /// The key cannot be used.
    #[error(
        "the signing key is not a PEM file with a P-384 key in PKCS #8 (openssl pkcs8 -topk8 -nocrypt makes one of others)"
    )]
    Key,
    /// The key is not the certificate's.
    #[error("the signing key does not belong to the signing certificate")]
    Mismatch,
    /// The section is not what it should be.
    #[error("the signature section cannot be read: {0}")]
    Malformed(&'static str),
    /// The signature is over something else, or by another key.
    #[error("the signature is not by its certificate over this image")]
    Invalid,
}

/// A key and certificate that sign images.
pub struct Signer {
    certificate_pem: Vec<u8>,
    key: EcdsaKeyPair,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// From two files in PEM.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn new(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, SignatureError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem).map_err(|_| SignatureError::Key)?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key.secret_pkcs8_der(), &random)
            .map_err(|_| SignatureError::Key)?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem).map_err(|_| SignatureError::Certificate)?;
        if public_point(&certificate)? != key.public_key().as_ref() {
            return Err(SignatureError::Mismatch);
        }
        Ok(Self { certificate_pem: certificate_pem.to_vec(), key })
    }

    /// The signature section of an image with this PCR 0.
    ///
    /// # Errors
    /// No randomness.
    pub fn sign(&self, pcr0: &[u8; PCR_LEN]) -> Result<Vec<u8>, SignatureError> {
        let payload = payload(pcr0);
        let signature =
            self.key.sign(&SystemRandom::new(), &to_be_signed(&payload)).map_err(|_| SignatureError::Key)?;
        let cose = write(|cbor| {
            cbor.array(4)?.bytes(PROTECTED)?.map(0)?.bytes(&payload)?.bytes(signature.as_ref())?;
            Ok(())
        });
        Ok(write(|cbor| {
            cbor.array(1)?.map(2)?.str("signing_certificate")?;
            numbers(cbor, &self.certificate_pem)?;
            cbor.str("signature")?;
            numbers(cbor, &cose)
        }))
    }
}

/// A signature section that was read, and not yet verified.
#[derive(Debug)]
pub struct Signature {
    certificate: CertificateDer<'static>,
    payload: Vec<u8>,
    /// r ‖ s.
    numbers: Vec<u8>,
}

impl Signature {
    /// Reads a section.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn parse(section: &[u8]) -> Result<Self, SignatureError> {
        if section.len() > SECTION_MAX {
            return Err(SignatureError::Malformed("more than 64 KiB"));
        }
        let mut cbor = Decoder::new(section);
        let wrong = SignatureError::Malformed;
        let one = cbor.array().map_err(|_| wrong("not an array"))?;
        if one != Some(1) || cbor.map().map_err(|_| wrong("not an array of a map"))? != Some(2) {
            return Err(wrong("not one map of two fields"));
        }
        let (mut certificate_pem, mut cose) = (None, None);
        for _ in 0..2 {
            let name = cbor.str().map_err(|_| wrong("a field without a name"))?;
            let place = match name {
                "signing_certificate" => &mut certificate_pem,
                "signature" => &mut cose,
                _ => return Err(wrong("an unknown field")),
            };
            if place.replace(byte_string(&mut cbor).ok_or(wrong("a field that is no byte string"))?).is_some() {
                return Err(wrong("a field twice"));
            }
        }
        let (Some(certificate_pem), Some(cose)) = (certificate_pem, cose) else {
            return Err(wrong("a field is missing"));
        };
        if cbor.position() != section.len() {
            return Err(wrong("bytes follow"));
        }
        let certificate =
            CertificateDer::from_pem_slice(&certificate_pem).map_err(|_| SignatureError::Certificate)?.into_owned();
        let (payload, numbers) = sign1(&cose).ok_or(wrong("not a COSE_Sign1 by ES384"))?;
        Ok(Self { certificate, payload, numbers })
    }

    /// The signing certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// Verifies the signature over an image's PCR 0.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, pcr0: &[u8; PCR_LEN]) -> Result<(), SignatureError> {
        if self.payload != payload(pcr0) {
            return Err(SignatureError::Invalid);
        }
        let key = public_point(&self.certificate)?;
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
            .verify(&to_be_signed(&self.payload), &self.numbers)
            .map_err(|_| SignatureError::Invalid)
    }
}

/// {`register_index`: 0, `register_value`: PCR 0}.
fn payload(pcr0: &[u8; PCR_LEN]) -> Vec<u8> {
    write(|cbor| {
        cbor.map(2)?.str("register_index")?.u8(0)?.str("register_value")?;
        numbers(cbor, pcr0)
    })
}

/// `Sig_structure` of RFC 9052, section 4.4, without external data.
fn to_be_signed(payload: &[u8]) -> Vec<u8> {
    write(|cbor| {
        cbor.array(4)?.str("Signature1")?.bytes(PROTECTED)?.bytes(&[])?.bytes(payload)?;
        Ok(())
    })
}

type Written = Result<(), minicbor::encode::Error<core::convert::Infallible>>;

/// Writing into memory cannot fail.
fn write(fields: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Written) -> Vec<u8> {
    let mut out = Vec::new();
    let written = fields(&mut Encoder::new(&mut out));
    debug_assert!(written.is_ok(), "a Vec takes every byte");
    out
}

fn numbers(cbor: &mut Encoder<&mut Vec<u8>>, bytes: &[u8]) -> Written {
    cbor.array(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    for byte in bytes {
        cbor.u8(*byte)?;
    }
    Ok(())
}

/// A byte string, or an array of numbers that stands for one.
fn byte_string(cbor: &mut Decoder<'_>) -> Option<Vec<u8>> {
    if cbor.datatype().ok()? == minicbor::data::Type::Bytes {
        return cbor.bytes().ok().map(<[u8]>::to_vec);
    }
    let count = usize::try_from(cbor.array().ok()??).ok().filter(|count| *count <= SECTION_MAX)?;
    (0..count).map(|_| cbor.u8().ok()).collect()
}

/// Payload and signature.
fn sign1(cose: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut cbor = Decoder::new(cose);
    if cbor.datatype().ok()? == minicbor::data::Type::Tag {
        cbor.tag().ok()?;
    }
    if cbor.array().ok()? != Some(4) || cbor.bytes().ok()? != PROTECTED || cbor.map().ok()? != Some(0) {
        return None;
    }
    let (payload, signature) = (cbor.bytes().ok()?.to_vec(), cbor.bytes().ok()?.to_vec());
    (cbor.position() == cose.len()).then_some((payload, signature))
}

/// The uncompressed point of a certificate's P-384 key.
fn public_point(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, SignatureError> {
    let parsed = x509_cert::Certificate::from_der(certificate).map_err(|_| SignatureError::Certificate)?;
    let key = parsed.tbs_certificate().subject_public_key_info();
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.to_der().ok());
    // 1.2.840.10045.2.1 is an elliptic curve's key; 1.3.132.0.34 is P-384 (RFC 5480, section 2.1.1.1).
    let p384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    if key.algorithm.oid.to_string() != "1.2.840.10045.2.1" || curve.as_deref() != Some(p384) {
        return Err(SignatureError::Certificate);
    }
    key.subject_public_key.as_bytes().map(<[u8]>::to_vec).ok_or(SignatureError::Certificate)
}
