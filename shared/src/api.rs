//! The custodian's HTTPS interface: paths, content type, and how it says no. Every request is a POST with a CBOR body.

use crate::cbor::message;

/// `Content-Type` of every request and answer.
pub const CONTENT_TYPE: &str = "application/cbor";
/// [`crate::release::ChallengeRequest`] → [`crate::release::ChallengeAnswer`].
pub const CHALLENGE: &str = "/v1/challenge";
/// [`crate::release::ReleaseRequest`] → an envelope with [`crate::release::ReleaseAnswer`].
pub const RELEASE: &str = "/v1/release";
/// [`crate::channel::ChannelMessage`] → [`crate::channel::ChannelMessage`].
pub const CHANNEL: &str = "/v1/channel";
/// A signed manifest → empty. Only manifests signed by an administrator whom the custodian's configuration names.
pub const MANIFESTS: &str = "/v1/manifests";
/// A [`crate::manifest::ManifestChain`] → empty: for a custodian that a successor brings in, which needs all manifests at once.
pub const MANIFEST_CHAINS: &str = "/v1/manifests/chains";
/// A signed successor → empty, once it is durable. It is *staged*: it comes into force with the version that adopts it.
pub const SUCCESSORS: &str = "/v1/manifests/successors";
/// A signed command → empty.
pub const COMMANDS: &str = "/v1/commands";
/// A signed block overlay → empty, once it is durable.
pub const BLOCKS: &str = "/v1/blocks";
/// A signed [`crate::policy::PolicyUpdate`] → empty, once it is durable.
pub const POLICIES: &str = "/v1/policies";
/// A signed [`crate::policy::ReleaseApproval`] → empty, once it is durable.
pub const APPROVALS: &str = "/v1/approvals";
/// A signed query → a signed answer.
pub const QUERIES: &str = "/v1/queries";

/// The body of an answer whose status is not 200.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Refusal {
    /// The kind, for programs.
    #[n(0)]
    pub code: RefusalCode,
    /// What was wrong and what to do, for people: printable ASCII, at most 511 characters.
    #[n(1)]
    pub reason: String,
}

message!(Refusal, 1024, "refusal", |refusal| {
    if refusal.reason.len() <= 511 && crate::manifest::is_printable(&refusal.reason) {
        Ok(())
    } else {
        Err("the reason must be printable ASCII of at most 511 characters")
    }
});

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum RefusalCode {
    /// 400: not a message of this interface.
    #[n(0)]
    Malformed,
    /// 403: signatures, attestation or policy.
    #[n(1)]
    Denied,
    /// 404: the key store, lease or path is unknown.
    #[n(2)]
    NotFound,
    /// 409: something else is there already.
    #[n(3)]
    Conflict,
    /// 429: too many requests.
    #[n(4)]
    TooMany,
    /// 500: the custodian's own trouble.
    #[n(5)]
    Internal,
}

impl RefusalCode {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooMany => 429,
            Self::Internal => 500,
        }
    }
}
