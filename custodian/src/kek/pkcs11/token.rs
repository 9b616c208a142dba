//! The token: its module, the login, the key and its attributes.

use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use holdfast_shared::secrets::SecretBytes;

use super::errors::{Failure, classify};
use crate::config::Pkcs11Config;
use crate::state;

/// Bytes of an AES-256 key.
const KEY_LEN: u64 = 32;

/// A session that is logged in, and the key in it.
pub(super) struct Opened {
    // Before the module: a session closes itself when it is dropped.
    pub(super) session: Session,
    pub(super) key: ObjectHandle,
    _module: Arc<Loaded>,
}

/// A module that was loaded and initialised. Finalised when nothing here uses it any more.
struct Loaded {
    module: Pkcs11,
    /// Whether it was initialised here: who did that ends it.
    ours: bool,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = self.module.clone().finalize()
        {
            tracing::debug!("PKCS #11 module: {error}");
        }
    }
}

/// A token, by its label.
pub(super) struct Token {
    config: Pkcs11Config,
    module: Option<Arc<Loaded>>,
    /// The PIN that was refused, and how.
    refused: Option<(SecretBytes, Failure)>,
}

impl Token {
    pub(super) const fn new(config: Pkcs11Config) -> Self {
        Self { config, module: None, refused: None }
    }

    /// Loads the module anew at the next call, unless a session is in use: to end the module then would end it under its feet.
    pub(super) fn reload(&mut self) {
        if self.module.as_ref().is_some_and(|module| Arc::strong_count(module) == 1) {
            self.module = None;
        }
    }

    /// A session that is logged in, with the key.
    pub(super) fn open(&mut self) -> Result<Opened, Failure> {
        let (module, session) = self.log_in()?;
        let key = find_key(&session, &self.config.key)?.ok_or(Failure::NoKey)?;
        check_key(&session, key)?;
        Ok(Opened { session, key, _module: module })
    }

    /// Makes the key if there is none.
    pub(super) fn create_key(&mut self) -> Result<bool, Failure> {
        let (_module, session) = self.log_in()?;
        if find_key(&session, &self.config.key)?.is_some() {
            return Ok(false);
        }
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(KEY_LEN.into()),
            Attribute::Label(self.config.key.as_bytes().to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            // Neither takes this key other keys out of the token, nor brings it any in.
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
        ];
        let key = session.generate_key(&Mechanism::AesKeyGen, &template).map_err(|error| classify(&error))?;
        check_key(&session, key)?;
        Ok(true)
    }

    fn log_in(&mut self) -> Result<(Arc<Loaded>, Session), Failure> {
        let module = self.module()?;
        let slot = self.slot(&module.module)?;
        // Read-write, since some modules have no other sessions (AWS CloudHSM, Client SDK 5).
        let session = module.module.open_rw_session(slot).map_err(|error| classify(&error))?;
        let pin = state::read_private(&self.config.pin_file)?;
        let pin = SecretBytes::new(pin.expose().trim_ascii_end().to_vec());
        if let Some((refused, failure)) = &self.refused
            && *refused == pin
        {
            return Err(failure.clone());
        }
        let info = module.module.get_token_info(slot).map_err(|error| classify(&error))?;
        if info.user_pin_locked() {
            return Err(Failure::PinLocked("the token has locked the PIN"));
        }
        if info.user_pin_final_try() {
            return Err(Failure::PinLocked(
                "only one try is left before the token locks the PIN, and it is not made here",
            ));
        }
        let offered = RawAuthPin::new(Box::new(pin.expose().to_vec()));
        match session.login_with_raw(UserType::User, &offered) {
            // Another session of ours is logged in, and the login is the token's.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                self.refused = None;
                Ok((module, session))
            }
            Err(error) => {
                let failure = classify(&error);
                if matches!(failure, Failure::PinRefused | Failure::PinLocked(_)) {
                    self.refused = Some((pin, failure.clone()));
                }
                Err(failure)
            }
        }
    }

    fn module(&mut self) -> Result<Arc<Loaded>, Failure> {
        if let Some(module) = &self.module {
            return Ok(Arc::clone(module));
        }
        let module = Pkcs11::new(&self.config.module).map_err(|error| Failure::Module(error.to_string()))?;
        let ours = match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) => true,
            // By another key on the same module in this process.
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => false,
            Err(error) => return Err(classify(&error)),
        };
        Ok(Arc::clone(self.module.insert(Arc::new(Loaded { module, ours }))))
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, Failure> {
        let mut seen = Vec::new();
        let mut found = Vec::new();
        for slot in module.get_slots_with_token().map_err(|error| classify(&error))? {
            // A slot whose token was just taken away has none.
            let Ok(info) = module.get_token_info(slot) else { continue };
            if info.label() == self.config.token {
                found.push(slot);
            } else if info.token_initialized() {
                seen.push(info.label().to_owned());
            }
        }
        match found.as_slice() {
            [slot] => Ok(*slot),
            [] => Err(Failure::NoToken(seen)),
            several => Err(Failure::Several("tokens", several.len())),
        }
    }
}

fn find_key(session: &Session, label: &str) -> Result<Option<ObjectHandle>, Failure> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    match session.find_objects(&template).map_err(|error| classify(&error))?.as_slice() {
        [] => Ok(None),
        [key] => Ok(Some(*key)),
        several => Err(Failure::Several("keys", several.len())),
    }
}

/// An attribute that the token does not tell counts as the worse of its values.
fn check_key(session: &Session, key: ObjectHandle) -> Result<(), Failure> {
    let wanted = [
        AttributeType::Token,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::ValueLen,
    ];
    let told = session.get_attributes(key, &wanted).map_err(|error| classify(&error))?;
    let rules = [
        (Attribute::Sensitive(true), "is not sensitive (CKA_SENSITIVE): whoever has the PIN can read it"),
        (
            Attribute::Extractable(false),
            "is extractable (CKA_EXTRACTABLE): whoever has the PIN can take it out of the token",
        ),
        (Attribute::Token(true), "does not stay in the token (CKA_TOKEN)"),
        (Attribute::Encrypt(true), "may not encrypt (CKA_ENCRYPT)"),
        (Attribute::Decrypt(true), "may not decrypt (CKA_DECRYPT)"),
        (Attribute::ValueLen(KEY_LEN.into()), "does not have 256 bits (CKA_VALUE_LEN)"),
    ];
    match rules.into_iter().find(|(rule, _)| !told.contains(rule)) {
        Some((_, why)) => Err(Failure::KeyUnfit(why)),
        None => Ok(()),
    }
}
