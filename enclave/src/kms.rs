//! A share in the keeping of AWS KMS: encrypted under a KMS key of the owner, given back to an attested enclave alone.
//!
//! ```text
//! ceremony: share ─Encrypt─▶ KMS ─▶ CiphertextBlob (kept with the key store; worth nothing without KMS)
//! unseal:   RecipientKey ─▶ document ─Decrypt─▶ KMS: key policy on PCRs ─▶ CiphertextForRecipient ─open, once─▶ share
//! ```
//!
//! Guarantees: requests go over TLS to the endpoint under the roots that the manifest names, signed on attested time; what KMS gives
//! back is encrypted to an RSA key that was made for this one answer, opens one message at most, and is zeroized; tries are
//! bounded. Assumes: the share is one of at least two, because KMS sees it in clear inside its own boundary; and the caller
//! checks it against its commitment, because whoever sees the document can encrypt anything to its key. Refuses: an answer in
//! clear, from another KMS key, over its bound, or in any form but KMS's; credentials that are missing or over.
//!
//! A share in KMS holds no lease: nothing here ends when KMS is not reached any more (docs/kms-share.md).

mod client;
mod credentials;
mod recipient;
mod wire;

pub use client::{KmsContext, KmsError, KmsShareClient};
pub use credentials::{AwsCredentials, CredentialsError, CredentialsSource};
pub use recipient::RecipientError;
pub use wire::Refusal;
