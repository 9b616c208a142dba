//! How an external key is named and what it may do.

use minicbor::{Decode, Encode};

use crate::limits::EXTERNAL_KEY_ID_MAX;
use crate::xks::names::{NameError, validated_text};

validated_text! {
    /// An `externalKeyId`: 1 to 128 characters of `A-Z a-z 0-9 - . _` (specification, section "API operations").
    ///
    /// `.` and `..` are refused although each character is allowed: every URI parser on the way may remove them as dot segments
    /// (RFC 3986, section 5.2.4), so they cannot identify a key "unambiguously", as the same section demands.
    ExternalKeyId, NameError, check_external_key_id
}

fn check_external_key_id(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > EXTERNAL_KEY_ID_MAX {
        return Err(NameError::Length);
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) {
        return Err(NameError::Character);
    }
    if matches!(text, "." | "..") {
        return Err(NameError::Shape);
    }
    Ok(())
}

/// What an external key may be used for (`keyUsage`, section "`GetKeyMetadata`").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KeyUsage {
    /// `ENCRYPT`.
    #[n(0)]
    pub encrypt: bool,
    /// `DECRYPT`.
    #[n(1)]
    pub decrypt: bool,
}

impl KeyUsage {
    /// Both, which KMS demands of a key when a KMS key is created on it.
    pub const ENCRYPT_DECRYPT: Self = Self { encrypt: true, decrypt: true };
    /// Decryption only, as for a retired or imported key.
    pub const DECRYPT: Self = Self { encrypt: false, decrypt: true };
}

/// Where an external key is in its life. Only [`KeyState::Enabled`] keys work; all others answer `DISABLED` in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum KeyState {
    /// In service.
    #[n(0)]
    Enabled,
    /// Out of service until an administrator enables it.
    #[n(1)]
    Disabled,
    /// Out of service, and destroyed at a set time unless an administrator cancels.
    #[n(2)]
    PendingDestruction,
    /// Its material is gone; its id is never used again. For KMS there is no such key.
    #[n(3)]
    Destroyed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_key_ids() {
        let longest = "k".repeat(128);
        let too_long = "k".repeat(129);
        let cases: &[(&str, Result<(), NameError>)] = &[
            ("b42c7fbf-de61-441c-ae24-123456789012", Ok(())),
            ("A.z_0-9", Ok(())),
            ("...", Ok(())),
            ("a", Ok(())),
            (&longest, Ok(())),
            (&too_long, Err(NameError::Length)),
            ("", Err(NameError::Length)),
            (".", Err(NameError::Shape)),
            ("..", Err(NameError::Shape)),
            ("a/b", Err(NameError::Character)),
            ("a%2e", Err(NameError::Character)),
            ("a b", Err(NameError::Character)),
            ("\u{e9}", Err(NameError::Character)),
        ];
        for (text, expected) in cases {
            assert_eq!(ExternalKeyId::parse(text).map(|_| ()), *expected, "{text:?}");
        }
    }

    #[test]
    fn encodings() {
        assert_eq!(minicbor::to_vec(KeyUsage::ENCRYPT_DECRYPT).unwrap(), [0x82, 0xf5, 0xf5]);
        assert_eq!(minicbor::to_vec(KeyState::PendingDestruction).unwrap(), [2]);
        assert_eq!(minicbor::to_vec(KeyState::Destroyed).unwrap(), [3]);
        assert_eq!(minicbor::to_vec(ExternalKeyId::parse("k").unwrap()).unwrap(), [0x61, b'k']);
        assert!(minicbor::decode::<KeyState>(&[4]).is_err());
        assert!(minicbor::decode::<ExternalKeyId>(&[0x61, b'/']).is_err());
    }
}
