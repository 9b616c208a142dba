//! The four operations as types, so that a station of the pipeline can say which of them pass it.

use holdfast_shared::external_key::KeyUsage;
use holdfast_shared::xks::{
    DecryptRequest, EncryptRequest, HealthRequest, KeyMetadataRequest, Operation, RequestMetadata,
};

/// An operation of the API.
pub trait ApiOperation {
    /// The parsed body.
    type Body<'r>: HasMetadata;
}

/// A body with `requestMetadata`.
pub trait HasMetadata {
    /// `requestMetadata`.
    fn metadata(&self) -> &RequestMetadata<'_>;
}

/// An operation that names a key.
pub trait KeyOperation: ApiOperation {}

/// An operation that uses a key.
pub trait CryptographicOperation: KeyOperation {
    /// Its name.
    const OPERATION: Operation;

    /// Whether a key of this usage supports it.
    fn supported_by(usage: KeyUsage) -> bool;
}

macro_rules! operation {
    ($name:ident, $body:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug)]
        pub enum $name {}

        impl ApiOperation for $name {
            type Body<'r> = $body<'r>;
        }

        impl HasMetadata for $body<'_> {
            fn metadata(&self) -> &RequestMetadata<'_> {
                &self.metadata
            }
        }
    };
}

operation!(GetHealthStatus, HealthRequest, "`GetHealthStatus`.");
operation!(GetKeyMetadata, KeyMetadataRequest, "`GetKeyMetadata`.");
operation!(Encrypt, EncryptRequest, "Encrypt.");
operation!(Decrypt, DecryptRequest, "Decrypt.");

impl KeyOperation for GetKeyMetadata {}
impl KeyOperation for Encrypt {}
impl KeyOperation for Decrypt {}

impl CryptographicOperation for Encrypt {
    const OPERATION: Operation = Operation::Encrypt;

    fn supported_by(usage: KeyUsage) -> bool {
        usage.encrypt
    }
}

impl CryptographicOperation for Decrypt {
    const OPERATION: Operation = Operation::Decrypt;

    fn supported_by(usage: KeyUsage) -> bool {
        usage.decrypt
    }
}
