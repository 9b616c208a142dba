//! Identifiers of fixed length: shown as lower-case hexadecimal, carried as bytes.

use core::fmt;
use core::str::FromStr;

/// Text that is not the hexadecimal form of an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct ParseIdError {
    /// Digits that the identifier has.
    pub expected: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; $length]);

        impl $name {
            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $length];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError { expected: 2 * $length })?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// SHA-256 of the first manifest of a key store. It commits to custodians and administrators, so that a host cannot put
    /// others under the same id.
    KeyStoreId, 32
);
id!(
    /// SHA-256 of a custodian's signing key.
    CustodianId, 32
);
id!(
    /// SHA-256 of an administrator's signing key.
    AdministratorId, 32
);
id!(
    /// SHA-256 of a whole sealed key store, header and ciphertext.
    BlobId, 32
);
id!(
    /// Chosen at random by the administrator who issues a command.
    CommandId, 16
);
id!(
    /// Chosen at random by the custodian that grants a lease.
    LeaseId, 16
);
id!(
    /// Chosen at random by an enclave each time it boots.
    BootId, 16
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let id = CommandId([0xA5; 16]);
        assert_eq!(id.to_string(), "a5".repeat(16));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::from_str::<CommandId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert_eq!("a5".parse::<CommandId>(), Err(ParseIdError { expected: 32 }));
        assert_eq!(crate::cbor::encode(&id).as_slice()[0], 0x50, "a byte string of 16");
    }
}
