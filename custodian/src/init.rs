//! `init`: makes a custodian's keys, its TLS authority, its database, and the public record that goes into a manifest.
//!
//! Guarantees: nothing that exists is replaced; the public record is written last, so that its presence means that the rest
//! is complete. Refuses: a directory with anything in it, and a key-encryption key that does not work.

use std::path::PathBuf;

use holdfast_shared::hpke::{self, HpkeError};
use holdfast_shared::ids::CustodianId;
use holdfast_shared::signature::{SignatureError, SigningKey, VerifyingKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{Config, KeyPlaceConfig, TlsSource};
use crate::kek::{Kek, KekError, Pkcs11Key};
use crate::state::{self, StateDirectory, StateError};
use crate::store::{Store, StoreError};
use crate::tls::{self, TlsError};

/// What a manifest says about a custodian: the content of `custodian.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicRecord {
    /// For people.
    pub name: String,
    /// Verifies releases and register entries: an uncompressed P-384 point in hexadecimal.
    pub signing_key: VerifyingKey,
    /// Shares are encrypted to it: an uncompressed P-384 point in hexadecimal.
    pub encryption_key: hpke::PublicKey,
    /// `host:port`.
    pub address: String,
    /// Each one certificate in PEM.
    pub tls_roots: Vec<String>,
}

impl PublicRecord {
    /// The custodian's id.
    #[must_use]
    pub fn id(&self) -> CustodianId {
        CustodianId(self.signing_key.fingerprint())
    }
}

/// Why a custodian cannot be initialised.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The TLS authority or the configured certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key-encryption key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signing key.
    #[error("signing key: {0}")]
    Signature(#[from] SignatureError),
    /// The encryption key.
    #[error("encryption key: {0}")]
    Hpke(#[from] HpkeError),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Random,
    /// The public record cannot be written as JSON.
    #[error("custodian.json: {0}")]
    Json(#[from] serde_json::Error),
    /// The state directory was begun.
    #[error("{source}; {} is half made, and no manifest knows its keys: remove it, then run init again", directory.display())]
    HalfMade {
        /// The directory.
        directory: PathBuf,
        /// Why it was not completed.
        source: Box<InitError>,
    },
}

/// What [`prepare_key`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// [`init`] makes it, in a file.
    InFile,
    /// It was there, and works.
    Found,
    /// It was made, and works.
    Made,
}

/// Sees that a key-encryption key elsewhere than in a file works, before anything is made on this machine.
///
/// # Errors
/// [`InitError::Kek`].
pub async fn prepare_key(config: &Config, create: bool) -> Result<KeyState, InitError> {
    let place = &config.key_encryption_key;
    let mut found = KeyState::Found;
    match &place.place {
        KeyPlaceConfig::File => return Ok(KeyState::InFile),
        KeyPlaceConfig::Pkcs11(pkcs11) if create => {
            // Made first and looked at afterwards like one that was there.
            if Pkcs11Key::open(pkcs11.clone())?.create().await? {
                found = KeyState::Made;
            }
        }
        KeyPlaceConfig::Pkcs11(_) | KeyPlaceConfig::Transit(_) | KeyPlaceConfig::Kmip(_) => {}
    }
    Kek::open(place, &StateDirectory::new(config.state.clone()))?.probe().await?;
    Ok(found)
}

/// The configured server, if there is one, before anything is made on this machine.
async fn connect_empty(config: &Config) -> Result<Option<Store>, StoreError> {
    let Some(database) = &config.database else { return Ok(None) };
    let store = Store::connect(&database.server()?).await?;
    if store.is_empty().await? { Ok(Some(store)) } else { Err(StoreError::InUse) }
}

/// Makes everything that `serve` needs in the configured state directory.
///
/// # Errors
/// [`InitError`]; [`InitError::HalfMade`] where the directory is left for the operator to look at and remove.
pub async fn init(config: &Config, clock: &dyn Clock) -> Result<PublicRecord, InitError> {
    let state = StateDirectory::new(config.state.clone());
    tls::check_files(config)?;
    let server = connect_empty(config).await?;
    state.create()?;
    let half_made = |error| InitError::HalfMade { directory: config.state.clone(), source: Box::new(error) };
    fill(config, &state, server, clock).await.map_err(half_made)
}

/// Makes what is in a state directory, the public record last.
async fn fill(
    config: &Config,
    state: &StateDirectory,
    server: Option<Store>,
    clock: &dyn Clock,
) -> Result<PublicRecord, InitError> {
    let rng = SystemRandom::new();
    let pkcs8 = SigningKey::generate(&rng)?;
    let signing_key = SigningKey::from_pkcs8(&pkcs8, &rng)?.verifying_key()?;
    state::write_private(&state.signing_key(), pkcs8.expose())?;
    let encryption_key = hpke::PrivateKey::generate()?;
    state::write_private(&state.encryption_key(), encryption_key.to_bytes()?.expose())?;
    if config.key_encryption_key.place == KeyPlaceConfig::File {
        let mut key_encryption_key = Zeroizing::new([0; 32]);
        rng.fill(key_encryption_key.as_mut_slice()).map_err(|_| InitError::Random)?;
        state::write_private(&state.key_encryption_key(), key_encryption_key.as_slice())?;
    }

    if let TlsSource::OwnAuthority { .. } = config.tls {
        let id = CustodianId(signing_key.fingerprint());
        let (key, certificate) = tls::make_authority(id, clock.now_ms())?;
        state::write_private(&state.ca_key(), Zeroizing::new(key).as_bytes())?;
        state::write_public(&state.ca(), certificate.as_bytes())?;
    }
    let store = match server {
        Some(server) => server,
        None => Store::create(&state.database()).await?,
    };
    store.claim(CustodianId(signing_key.fingerprint())).await?;
    store.close().await;

    let record = PublicRecord {
        name: config.name.clone(),
        signing_key,
        encryption_key: *encryption_key.public_key(),
        address: config.address.clone(),
        tls_roots: tls::roots(config, state)?,
    };
    // The rest is on disk before the record that says so.
    state.sync()?;
    state::write_public(&state.public_record(), format!("{}\n", serde_json::to_string_pretty(&record)?).as_bytes())?;
    state.sync()?;
    Ok(record)
}
