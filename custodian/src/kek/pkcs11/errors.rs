//! What went wrong with a token, and what to do about it.

use cryptoki::error::{Error, RvError};

use crate::config::Pkcs11Config;
use crate::kek::KekError;
use crate::state::StateError;

/// Why a token did not do what it should.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The session, the token or the module: another session may do better.
    Session(String),
    /// The ciphertext is not of this key and associated data.
    OpenFailed,
    /// The module cannot be loaded.
    Module(String),
    /// No token of the label; the labels that there are.
    NoToken(Vec<String>),
    /// Several tokens or keys of one label.
    Several(&'static str, usize),
    /// The file with the PIN cannot be used.
    PinFile(String),
    /// Refused, now or before.
    PinRefused,
    /// No try is left, or only one.
    PinLocked(&'static str),
    /// No key of the label.
    NoKey,
    /// The key's attributes.
    KeyUnfit(&'static str),
    /// The token does not allow what was asked.
    NotAllowed(String),
    /// The token was to make the initialization vector.
    NoIv,
    /// The token was not to make the initialization vector.
    OwnIv,
    /// A ciphertext of another length.
    Shape,
    /// No randomness.
    Random,
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::PinFile(error.to_string())
    }
}

/// What an error of the module means.
pub(super) fn classify(error: &Error) -> Failure {
    let Error::Pkcs11(code, _) = error else { return Failure::Session(error.to_string()) };
    match code {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired => Failure::PinRefused,
        RvError::PinLocked => Failure::PinLocked("the token has locked the PIN"),
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::SignatureInvalid => {
            Failure::OpenFailed
        }
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::FunctionNotSupported
        | RvError::AttributeValueInvalid
        | RvError::AttributeTypeInvalid
        | RvError::TemplateInconsistent
        | RvError::TemplateIncomplete
        | RvError::TokenWriteProtected
        | RvError::ActionProhibited => Failure::NotAllowed(name(error)),
        _ => Failure::Session(name(error)),
    }
}

/// The module's error as its documentation names it: the library's own text explains at length.
fn name(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function:?} answered {code:?}"),
        other => other.to_string(),
    }
}

impl Failure {
    /// What is wrong and what to do.
    pub(super) fn explain(self, config: &Pkcs11Config) -> KekError {
        let Pkcs11Config { module, token, key, pin_file, .. } = config;
        let (module, pin_file) = (module.display(), pin_file.display());
        let unavailable = |what, remedy: &str| KekError::Unavailable { what, remedy: remedy.to_owned() };
        let misconfigured = |what, remedy: String| KekError::Misconfigured { what, remedy };
        match self {
            Self::OpenFailed => KekError::OpenFailed,
            Self::Random => KekError::Random,
            Self::Session(error) => unavailable(
                format!("token {token:?}: {error}"),
                "look whether the token is there and its service runs; it is opened again by itself",
            ),
            Self::NoToken(seen) => unavailable(
                format!("there is no token {token:?}; the module has {seen:?}"),
                "bring the token back, or correct key_encryption_key.pkcs11.token",
            ),
            Self::Module(error) => misconfigured(
                format!("{module}: {error}"),
                "key_encryption_key.pkcs11.module must name the manufacturer's PKCS #11 library".to_owned(),
            ),
            Self::Several(what, number) => misconfigured(
                format!("there are {number} {what} of one label"),
                format!("token {token:?} and key {key:?} must each be the only one: rename or remove the others"),
            ),
            Self::PinFile(error) => {
                misconfigured(error, "key_encryption_key.pkcs11.pin_file must hold the PIN".to_owned())
            }
            Self::PinRefused => misconfigured(
                format!("token {token:?} refuses the PIN in {pin_file}"),
                "correct that file; no PIN is tried twice, so that the token is not locked".to_owned(),
            ),
            Self::PinLocked(why) => KekError::Locked {
                what: format!("token {token:?}: {why}"),
                remedy: format!(
                    "let the token's security officer reset the PIN, or log in once with the manufacturer's tool, and see \
                     that {pin_file} holds the right one"
                ),
            },
            Self::NoKey => misconfigured(
                format!("token {token:?} has no AES key {key:?}"),
                "correct key_encryption_key.pkcs11.key; for a new custodian, run: holdfast-custodian init --create-key"
                    .to_owned(),
            ),
            Self::KeyUnfit(why) => misconfigured(
                format!("key {key:?} on token {token:?} {why}"),
                "name another label, and let `init --create-key` make the key in the token".to_owned(),
            ),
            Self::NotAllowed(error) => misconfigured(
                format!("token {token:?}: {error}"),
                "the token must allow CKM_AES_GCM with this key; see docs/key-encryption-key.md for its settings"
                    .to_owned(),
            ),
            Self::NoIv => misconfigured(
                format!("token {token:?} did not make an initialization vector"),
                "remove key_encryption_key.pkcs11.iv".to_owned(),
            ),
            Self::OwnIv => misconfigured(
                format!("token {token:?} makes its own initialization vectors"),
                "set key_encryption_key.pkcs11.iv = \"token\"".to_owned(),
            ),
            Self::Shape => misconfigured(
                format!("token {token:?} made a ciphertext of an unexpected length"),
                "its form of AES-GCM is not known here; see docs/key-encryption-key.md".to_owned(),
            ),
        }
    }
}
