//! What the emulator remembers: key stores, keys, aliases.
//!
//! Guarantees: one file that only its owner may read, replaced as a whole and synced before a change is answered, so that a crash
//! loses nothing that a caller was told; one emulator to a folder. Refuses: a state of another region or account, since the names of
//! its keys hold both.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use holdfast_cli::files;
use holdfast_shared::secrets::SecretBytes;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::KmsError;
use crate::aws_json::{Answer, Caller, uuid};

const STATE_FILE: &str = "state.json";
const LOCK_FILE: &str = "lock";

/// Everything. It has no `Debug`, since it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Region of all names.
    pub region: String,
    /// Account of all names.
    pub account: String,
    /// The caller's access key id.
    pub access_key_id: String,
    /// The caller's secret access key.
    pub secret_access_key: String,
    /// By id.
    pub stores: BTreeMap<String, Store>,
    /// By id.
    pub keys: BTreeMap<String, Key>,
    /// By name, such as `alias/payments`.
    pub aliases: BTreeMap<String, Alias>,
}

/// An external key store.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// `cks-` and 17 hexadecimal digits.
    pub id: String,
    /// `CustomKeyStoreName`.
    pub name: String,
    /// How and where KMS reaches the proxy.
    pub proxy: ProxyConfiguration,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its connection.
    pub connection: Connection,
}

/// How and where KMS reaches a proxy, and how it signs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfiguration {
    /// `PUBLIC_ENDPOINT` or `VPC_ENDPOINT_SERVICE`.
    pub connectivity: String,
    /// `https://` and a name.
    pub endpoint: String,
    /// Ends in `/kms/xks/v1`.
    pub path: String,
    /// With VPC connectivity.
    pub vpc_service_name: Option<String>,
    /// With VPC connectivity, where it is another account's.
    pub vpc_service_owner: Option<String>,
    /// Public half of the credential.
    pub access_key_id: String,
    /// Secret half of the credential.
    pub secret_access_key: String,
}

impl ProxyConfiguration {
    /// The name in the endpoint.
    #[must_use]
    pub fn host(&self) -> &str {
        self.endpoint.strip_prefix("https://").unwrap_or(&self.endpoint)
    }
}

/// `ConnectionState`, and what belongs to it. The emulator disconnects at once, so there is no `DISCONNECTING`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// Never connected, or disconnected by order.
    Disconnected,
    /// Being tried.
    Connecting {
        /// Tells one order from another.
        attempt: String,
    },
    /// Tried with success.
    Connected,
    /// Tried without.
    Failed {
        /// `ConnectionErrorCode`.
        code: String,
    },
}

impl Connection {
    /// As the API names it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Disconnected => "DISCONNECTED",
            Self::Connecting { .. } => "CONNECTING",
            Self::Connected => "CONNECTED",
            Self::Failed { .. } => "FAILED",
        }
    }
}

/// A KMS key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// A UUID.
    pub id: String,
    /// In which key store.
    pub store_id: String,
    /// The external key.
    pub xks_key_id: String,
    /// What its maker wrote.
    pub description: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whether it may be used.
    pub is_enabled: bool,
    /// When it is deleted, in milliseconds since 1970, if that was ordered.
    pub deletion_ms: Option<u64>,
    /// KMS's own half of double encryption: 32 bytes in hexadecimal digits.
    pub material: String,
}

/// Another name of a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// Which.
    pub key_id: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it last changed, in milliseconds since 1970.
    pub updated_ms: u64,
}

impl State {
    fn new(region: &str, account: &str) -> Result<Self, KmsError> {
        Ok(Self {
            region: region.to_owned(),
            account: account.to_owned(),
            access_key_id: format!("AKIA{}", &base32(&random::<10>()?)),
            secret_access_key: hex::encode(random::<20>()?),
            stores: BTreeMap::new(),
            keys: BTreeMap::new(),
            aliases: BTreeMap::new(),
        })
    }

    /// Forgets the keys whose time has come.
    fn delete_due(&mut self, now_ms: u64) {
        self.keys.retain(|_, key| key.deletion_ms.is_none_or(|at_ms| at_ms > now_ms));
        let keys = &self.keys;
        self.aliases.retain(|_, alias| keys.contains_key(&alias.key_id));
    }
}

/// The state and its file.
pub struct Keeper {
    path: PathBuf,
    state: Mutex<State>,
    _lock: File,
}

impl Keeper {
    /// Reads the state of a folder, or begins one.
    ///
    /// # Errors
    /// [`KmsError`].
    pub fn open(folder: &Path, region: &str, account: &str) -> Result<Self, KmsError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(KmsError::at(folder))?;
        let lock_path = folder.join(LOCK_FILE);
        let lock = File::create(&lock_path).map_err(KmsError::at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(KmsError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(KmsError::at(&lock_path)(source)),
        }
        let path = folder.join(STATE_FILE);
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| KmsError::File { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::new(region, account)?,
            Err(error) => return Err(KmsError::at(&path)(error)),
        };
        for (flag, was, is) in [("--region", &state.region, region), ("--account", &state.account, account)] {
            if was != is {
                return Err(KmsError::Contradiction { path, flag, was: was.clone() });
            }
        }
        let keeper = Self { path, state: Mutex::new(state), _lock: lock };
        keeper.write(&keeper.lock()).map_err(|error| KmsError::File { path: keeper.path.clone(), reason: error })?;
        Ok(keeper)
    }

    /// Who may ask.
    #[must_use]
    pub fn caller(&self, principal_arn: &str) -> Caller {
        let state = self.lock();
        Caller {
            access_key_id: state.access_key_id.clone(),
            secret_access_key: SecretBytes::new(state.secret_access_key.clone().into_bytes()),
            session_token: None,
            principal_arn: principal_arn.to_owned(),
        }
    }

    /// Looks at the state.
    pub fn read<T>(&self, now_ms: u64, look: impl FnOnce(&State) -> T) -> T {
        let mut state = self.lock();
        // What is due is gone from here on; the file follows with the next change.
        state.delete_due(now_ms);
        look(&state)
    }

    /// Changes the state; where `change` or the disk refuses, it stays as it was.
    ///
    /// # Errors
    /// What `change` returns, or `KMSInternalException`.
    pub fn change<T>(&self, now_ms: u64, change: impl FnOnce(&mut State) -> Result<T, Answer>) -> Result<T, Answer> {
        let mut state = self.lock();
        let mut next = state.clone();
        next.delete_due(now_ms);
        let result = change(&mut next)?;
        self.write(&next).map_err(|reason| {
            eprintln!("kms: {}: {reason}", self.path.display());
            Answer::internal("the emulator cannot write its state")
        })?;
        *state = next;
        Ok(result)
    }

    fn write(&self, state: &State) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(state).map_err(|error| error.to_string())?;
        files::replace(&self.path, &text).map_err(|error| error.to_string())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random bytes.
///
/// # Errors
/// [`KmsError::Random`].
pub fn random<const N: usize>() -> Result<[u8; N], KmsError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KmsError::Random)?;
    Ok(bytes)
}

/// `cks-` and 17 hexadecimal digits.
#[must_use]
pub fn new_store_id() -> String {
    let digits: String = uuid().chars().filter(char::is_ascii_hexdigit).take(17).collect();
    format!("cks-{digits}")
}

/// RFC 4648, section 6, of whole groups of five bits.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits = bytes.iter().flat_map(|byte| (0..8_u32).rev().map(move |bit| byte >> bit & 1)).collect::<Vec<u8>>();
    let values = bits.chunks_exact(5).map(|five| five.iter().fold(0_u8, |value, bit| value << 1 | bit));
    values.filter_map(|value| LETTERS.get(usize::from(value)).copied().map(char::from)).collect()
}
