//! Servers of other people's in which a custodian's key-encryption key can live: `OpenBao`, and `PyKMIP`'s.
//!
//! Guarantees: each keeps its data in a folder of the test's, so that it can be killed and started again, and ends with its
//! value. Before each stands a [`crate::tap::Tap`], at an address that stays. Assumes: `scripts/test-python` made the
//! environment that holds them; without it a test fails.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

mod kmip;
mod openbao;

pub use kmip::KmipServer;
pub use openbao::OpenBao;

/// An authority, a certificate of the server's for `localhost`, and one of a client's, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority.
    pub roots: PathBuf,
    /// The server's.
    pub server: Identity,
    /// The client's.
    pub client: Identity,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, mode 0600.
    pub private_key: PathBuf,
}

impl Certificates {
    /// Makes them all in a folder.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.distinguished_name.push(DnType::CommonName, "authority of a test");
        let roots = folder.join("roots.pem");
        std::fs::write(&roots, authority.self_signed(&authority_key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let issue = |name: &str, names: &[&str], usage| {
            let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let mut leaf = CertificateParams::new(names).unwrap();
            leaf.distinguished_name.push(DnType::CommonName, name);
            leaf.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let files = Identity {
                certificate: folder.join(format!("{name}.pem")),
                private_key: folder.join(format!("{name}-key.pem")),
            };
            std::fs::write(&files.certificate, leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
            write_private(&files.private_key, &key.serialize_pem());
            files
        };
        let server = issue("server", &["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        let client = issue("client", &[], ExtendedKeyUsagePurpose::ClientAuth);
        Self { roots, server, client }
    }
}

/// Writes or replaces a file of mode 0600.
pub fn write_private(file: &Path, text: &str) {
    let options = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    std::io::Write::write_all(&mut options.unwrap(), text.as_bytes()).unwrap();
}
