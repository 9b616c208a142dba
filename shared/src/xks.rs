//! The XKS proxy API on the wire: names, paths, requests, answers and errors.
//!
//! Guarantees: a value of a type in this module obeys the XKS Proxy API specification 1.0.3 (cited by section at each rule).
//! Assumes: signatures are checked elsewhere ([`crate::sigv4`]) before a body is parsed. Refuses: everything over its bound in
//! [`crate::limits`].

mod answer;
mod error;
mod json;
pub mod names;
mod path;
mod request;

pub use answer::{
    DecryptAnswer, EkmHealth, EkmStatus, EncryptAnswer, FleetError, HealthAnswer, KeyMetadataAnswer, KeyStatus,
};
pub use error::{ErrorMessage, ErrorName, XksError};
pub use names::{HostName, PathPrefix};
pub use path::{KeyOperation, Operation, PathError, RequestPath, Target};
pub use request::{
    DecryptRequest, EncryptRequest, HealthRequest, KeyMetadataRequest, RequestMetadata, parse_decrypt, parse_encrypt,
    parse_health, parse_key_metadata,
};
