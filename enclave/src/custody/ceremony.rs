//! The ceremony: a root key is drawn in attested memory, deposited with the custodian, and the first version published.
//!
//! Guarantees: the root key comes from the NSM's and the kernel's entropy together and leaves only as shares encrypted to
//! custodians; version 1 comes last, so that a crash half-way is made up for by the next enclave, which finds its share and no
//! version. The custodian accepts one set of shares for each manifest; who comes second gets the first one's.

use holdfast_client::Connect;
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::command::{Outcome, ceremony_id};
use holdfast_shared::keystore::{self, Body, Place, TlsIdentity};
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::release::{Commitment, Share, ShareSet, seal_share};
use holdfast_shared::secrets::Secret;
use ring::rand::SystemRandom;

use super::session::Session;
use super::{CustodyError, Enclave, commands, identity, publish};
use crate::entropy;
use crate::nsm::Nsm;

/// The root key and its only sharing so far.
const FIRST_GENERATION: u32 = 1;

/// Draws the root key and deposits its share. Durable at the custodian when this returns.
pub(super) async fn deposit_root<C: Connect>(
    nsm: &Nsm,
    session: &Session<C>,
    manifest: &VerifiedManifest,
) -> Result<(Secret<32>, ShareSet), CustodyError> {
    let root = entropy::secret(nsm, "root key").await?;
    let custodian = manifest.home_custodian().ok_or(CustodyError::OtherAnswer)?;
    // With one share needed, the share is the root key.
    let share = Share { index: 1, value: root.duplicate() };
    let set = ShareSet {
        generation: FIRST_GENERATION,
        shares_needed: manifest.manifest().shares_needed,
        commitments: vec![Commitment(share.commitment())],
        kms_ciphertext: None,
    };
    let sealed = seal_share(&share, manifest.id(), custodian.id(), &custodian.encryption_key)?;
    match session.ask(&Ask::Deposit { set: set.clone(), share: sealed }).await?.0 {
        Reply::Deposited => Ok((root, set)),
        Reply::Conflict { .. } => Err(CustodyError::Refused("another enclave held the ceremony first".to_owned())),
        Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
        _ => Err(CustodyError::OtherAnswer),
    }
}

/// What the first version is, once it is published.
pub(super) struct FirstVersion {
    pub(super) register: Vec<u8>,
    pub(super) blob: Vec<u8>,
}

/// Makes and publishes version 1: a TLS key, a SigV4 credential for the first administrator, no external keys.
pub(super) async fn first_version<C: Connect>(
    enclave: &Enclave,
    session: &Session<C>,
    verified: &VerifiedManifest,
    root: &Secret<32>,
    set: &ShareSet,
) -> Result<FirstVersion, CustodyError> {
    let manifest = verified.manifest();
    let credential = identity::credential(&entropy::secret(&enclave.nsm, "secret access key").await?)?;
    let outcome = Outcome::Credential { credential: commands::issued(&credential) };
    let body = Body {
        host_name: manifest.host_name.clone(),
        path_prefix: manifest.path_prefix.clone(),
        tls: TlsIdentity { private_key: identity::tls_key()?, chain: Vec::new() },
        credentials: vec![credential],
        external_keys: Vec::new(),
        administrators: manifest.administrators.clone(),
        thresholds: manifest.thresholds,
        executed: Vec::new(),
        quota: None,
        client_authentication: None,
        sharing: None,
        manifest_sequence: None,
    };
    let administrator = manifest.administrators.first().ok_or(CustodyError::OtherAnswer)?;
    let key_store_id = verified.id();
    let result =
        publish::sealed_result(&enclave.nsm, key_store_id, ceremony_id(key_store_id), administrator, &outcome).await?;
    let place = Place { key_store_id, version: 1, previous: None, generation: set.generation };
    let sealed = keystore::seal(root, &place, &body, &SystemRandom::new())?;
    let ask =
        Ask::Publish { version: 1, previous: None, blob: sealed.bytes, results: vec![result], evidence: Vec::new() };
    match session.ask(&ask).await?.0 {
        Reply::Published { register } => {
            let Ask::Publish { blob, .. } = ask else { return Err(CustodyError::OtherAnswer) };
            Ok(FirstVersion { register, blob })
        }
        Reply::Conflict { .. } => Err(CustodyError::Refused("another enclave published the first version".to_owned())),
        Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
        _ => Err(CustodyError::OtherAnswer),
    }
}
