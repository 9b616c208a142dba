//! A key store whose manifest trusts an emulator, and documents of enclaves at that emulator.

use std::collections::BTreeMap;
use std::path::Path;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use holdfast_cli::commands::manifest::Settings as ManifestSettings;
use holdfast_devkit::nsm::{EmulatedRoot, Emulator, PcrSource, Settings};
use holdfast_devkit::up::configurations::{measured_content, measurements};
use holdfast_shared::hpke;
use holdfast_shared::manifest::{Custodian, DerCertificate, Thresholds};
use holdfast_shared::signature::VerifyingKey;
use holdfast_shared::xks::{HostName, PathPrefix};
use serde_bytes::ByteBuf;

/// What the enclaves measure that the manifest accepts.
pub(super) const CONFIGURATION: &str = r#"{"regions":["us-east-1"]}"#;
/// What others measure.
pub(super) const OTHER_CONFIGURATION: &str = r#"{"regions":["eu-west-1"]}"#;

/// An emulator with its root in a folder.
pub(super) fn emulator(folder: &Path) -> Emulator {
    let pcrs: BTreeMap<_, _> = (0..=2).map(|index| (index, PcrSource::Content(measured_content(index)))).collect();
    Emulator::new(EmulatedRoot::load_or_create(folder).unwrap(), Settings { pcrs, ..Settings::default() }).unwrap()
}

/// A manifest of one custodian with these keys, which trusts this root.
pub(super) fn manifest_settings(
    signing_key: VerifyingKey,
    encryption_key: hpke::PublicKey,
    emulated_root: &Path,
) -> ManifestSettings {
    let custodian = Custodian {
        name: "vault".to_owned(),
        signing_key,
        encryption_key,
        address: "localhost:9443".to_owned(),
        tls_roots: vec![DerCertificate(vec![1])],
    };
    ManifestSettings {
        name: "store".to_owned(),
        administrators: Vec::new(),
        custodians: vec![custodian],
        shares_needed: 1,
        hostile_tolerated: 0,
        kms_share: None,
        host_name: HostName::parse("localhost").unwrap(),
        path_prefix: PathPrefix::parse("").unwrap(),
        measurements: vec![measurements(CONFIGURATION)],
        emulated_root: Some(emulated_root.to_owned()),
        lease_ms: 60_000,
        thresholds: Thresholds::ONE,
    }
}

/// A document of an enclave that measured `configuration`.
pub(super) fn document(
    emulator: &Emulator,
    configuration: &str,
    nonce: &[u8],
    user_data: &[u8],
    key: Option<&[u8]>,
) -> Vec<u8> {
    let mut device = emulator.boot();
    let data = holdfast_shared::sha384(&[configuration.as_bytes()]).to_vec();
    device.process_request(Request::ExtendPCR { index: 16, data });
    device.process_request(Request::LockPCR { index: 16 });
    let field = |bytes: &[u8]| Some(ByteBuf::from(bytes.to_vec()));
    let request =
        Request::Attestation { nonce: field(nonce), user_data: field(user_data), public_key: key.and_then(field) };
    match device.process_request(request) {
        Response::Attestation { document } => document,
        other => panic!("{other:?}"),
    }
}
