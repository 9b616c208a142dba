//! The emulator's root: a self-signed P-384 CA that outlives restarts.
//!
//! Guarantees: the certificate that `root.pem` holds is the one under which documents are made, so a custodian that was
//! told to trust that file goes on doing so. Assumes: one emulator per folder. Refuses: half of the pair, and a key that
//! is not the certificate's.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use holdfast_shared::attestation::TrustRoot;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, date_time_ymd,
};

use super::NsmError;
use super::chain::distinguished_name;

/// The certificate, for everybody.
pub const ROOT_FILE: &str = "root.pem";
/// The key, readable by its owner alone.
pub const ROOT_KEY_FILE: &str = "root.key.pem";

/// CN of every emulated root. It names no AWS service on purpose.
const ROOT_NAME: &str = "emulated.holdfast.nitro-enclaves";

/// An emulated root and its key.
pub struct EmulatedRoot {
    key: KeyPair,
    der: Vec<u8>,
    pem: String,
}

impl EmulatedRoot {
    /// A new root.
    ///
    /// # Errors
    /// The key or the certificate could not be made.
    pub fn generate() -> Result<Self, NsmError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(ROOT_NAME);
        // Wide enough for every time offset that a test may ask for.
        params.not_before = date_time_ymd(2015, 1, 1);
        params.not_after = date_time_ymd(2049, 12, 31);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self { key, der: certificate.der().to_vec(), pem: certificate.pem() })
    }

    /// The root in a folder, made on first use.
    ///
    /// # Errors
    /// The folder cannot be read or written, or does not hold a certificate with its key.
    pub fn load_or_create(folder: &Path) -> Result<Self, NsmError> {
        let (certificate, key) = (folder.join(ROOT_FILE), folder.join(ROOT_KEY_FILE));
        match (certificate.exists(), key.exists()) {
            (true, true) => Self::load(&certificate, &key),
            (false, false) => {
                fs::create_dir_all(folder).map_err(NsmError::at(folder))?;
                let root = Self::generate()?;
                write(&key, 0o600, &root.key.serialize_pem())?;
                write(&certificate, 0o644, &root.pem)?;
                Ok(root)
            }
            // A crash between the two writes leaves the key alone; nobody can trust that root yet.
            (false, true) => {
                fs::remove_file(&key).map_err(NsmError::at(&key))?;
                Self::load_or_create(folder)
            }
            (true, false) => Err(NsmError::RootKeyMissing(key)),
        }
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate, as [`ROOT_FILE`] holds it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a verifier of this emulator's documents trusts.
    ///
    /// # Errors
    /// The certificate is not one that a verifier takes.
    pub fn trust_root(&self) -> Result<TrustRoot, NsmError> {
        Ok(TrustRoot::emulated(&self.der)?)
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    #[expect(clippy::unused_self, reason = "the name belongs to the root")]
    pub(super) fn common_name(&self) -> &'static str {
        ROOT_NAME
    }

    fn load(certificate: &Path, key: &Path) -> Result<Self, NsmError> {
        let pem = fs::read_to_string(certificate).map_err(NsmError::at(certificate))?;
        let key_text = fs::read_to_string(key).map_err(NsmError::at(key))?;
        let key_pair = KeyPair::from_pem(&key_text)?;
        TrustRoot::emulated_pem(pem.as_bytes())?;
        let der = pem::parse(&pem)?;
        let point = key_pair.public_key_raw();
        if !der.windows(point.len()).any(|window| window == point) {
            return Err(NsmError::RootKeyDiffers(key.to_owned()));
        }
        Ok(Self { key: key_pair, der, pem })
    }
}

mod pem {
    use x509_cert::der::{DecodePem, Encode};

    use super::NsmError;

    /// The DER in a PEM file with one certificate. Both are strict, so encoding gives back the same bytes.
    pub(super) fn parse(pem: &str) -> Result<Vec<u8>, NsmError> {
        x509_cert::Certificate::from_pem(pem)
            .and_then(|certificate| certificate.to_der())
            .map_err(|_| NsmError::RootFile)
    }
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), NsmError> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(NsmError::at(path))
}
